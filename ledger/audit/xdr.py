"""XDR values off the front of untrusted bytes, and the small types that Stellar makes of them.

Strict: padding is zeros, flags are 0 or 1, counts are bounded, nothing is left at the end. It
knows no transaction and no operation. Source: RFC 4506; Stellar-types.x and
Stellar-ledger-entries.x of stellar/stellar-xdr.
"""

import struct

from ledger.evidence.errors import MalformedError

Asset = tuple[str, bytes]
"""Code and issuer account."""

NATIVE: Asset = ("XLM", bytes(32))
"""XLM, written with an issuer of zeros."""


class MalformedXdrError(MalformedError):
    """The bytes are not the XDR they should be, or hold an operation this reader does not know."""


class XdrReader:
    """Takes XDR values (RFC 4506) off the front of untrusted bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if not 0 <= size <= len(self.data) - self.at:
            raise MalformedXdrError("xdr", got=f"{len(self.data) - self.at} bytes", want=f"{size}")
        self.at += size
        return self.data[self.at - size : self.at]

    def uint(self) -> int:
        """Return an unsigned 32-bit integer."""
        return int.from_bytes(self.take(4), "big")

    def int32(self) -> int:
        """Return a signed 32-bit integer."""
        return int(struct.unpack(">i", self.take(4))[0])

    def int64(self) -> int:
        """Return a signed 64-bit integer."""
        return int(struct.unpack(">q", self.take(8))[0])

    def amount(self) -> int:
        """Return a signed 64-bit integer that is not negative."""
        number = self.int64()
        if number < 0:
            raise MalformedXdrError("xdr.amount", got=number, want="at least 0")
        return number

    def choice(self, field: str, limit: int) -> int:
        """Return a union's discriminant, 0 to `limit`."""
        kind = self.uint()
        if kind > limit:
            raise MalformedXdrError(field, got=kind, want=f"0 to {limit}")
        return kind

    def count(self, limit: int) -> int:
        """Return an array's length, at most `limit`."""
        number = self.uint()
        if number > limit:
            raise MalformedXdrError("xdr.count", got=number, want=f"at most {limit}")
        return number

    def opaque(self, limit: int) -> bytes:
        """Return variable-length bytes; padding must be zeros."""
        size = self.count(limit)
        data = self.take(size)
        if self.take(-size % 4).strip(b"\0"):
            raise MalformedXdrError("xdr.padding", got="other bytes", want="zeros")
        return data

    def present(self) -> bool:
        """Return whether an optional value follows."""
        return self.choice("xdr.optional", 1) == 1

    def account(self) -> bytes:
        """Return an AccountID's key."""
        self.choice("xdr.account", 0)
        return self.take(32)

    def muxed_account(self) -> bytes:
        """Return a MuxedAccount's key."""
        return self.muxed_address()[0]

    def muxed_address(self) -> tuple[bytes, int | None]:
        """Return a MuxedAccount's key, and its id if it has one."""
        kind = self.uint()
        muxed_id: int | None = None
        if kind == 0x100:
            muxed_id = int.from_bytes(self.take(8), "big")
        elif kind != 0:
            raise MalformedXdrError("xdr.muxed_account", got=kind, want="0 or 256")
        return self.take(32), muxed_id

    def asset(self) -> Asset:
        """Return (code, issuer); ("XLM", zeros) for the native asset."""
        kind = self.choice("xdr.asset", 2)
        return NATIVE if kind == 0 else (self._asset_code(kind), self.account())

    def asset_code(self) -> str:
        """Return an AssetCode: the code of an asset whose issuer is known."""
        kind = self.choice("xdr.asset_code", 2)
        if kind == 0:
            raise MalformedXdrError("xdr.asset_code", got=kind, want="1 or 2")
        return self._asset_code(kind)

    def _asset_code(self, kind: int) -> str:
        code = self.take(4 if kind == 1 else 12).rstrip(b"\0")
        if not code.isalnum():
            raise MalformedXdrError("xdr.asset.code", got=code, want="letters and digits")
        if kind == 2 and len(code) <= 4:
            raise MalformedXdrError("xdr.asset.code", got=code, want="5 to 12 characters")
        return code.decode("ascii")

    def skip_signer_key(self) -> None:
        """Read past a SignerKey."""
        kind = self.choice("xdr.signer_key", 3)
        self.take(32)
        if kind == 3:
            self.opaque(64)

    def finish(self) -> None:
        """Raise if bytes are left."""
        if self.at != len(self.data):
            raise MalformedXdrError("xdr", got=f"{len(self.data) - self.at} bytes more", want="end")
