"""Reader and writer of XDR (RFC 4506), only what ledger entries and results need.

Works on plain integers and bytes, so that an entry costs microseconds; envelopes are decoded by
stellar_sdk.
"""

from __future__ import annotations

import struct
from typing import Final

_I32: Final = struct.Struct(">i")
_U32: Final = struct.Struct(">I")
_I64: Final = struct.Struct(">q")
_U64: Final = struct.Struct(">Q")

NATIVE_ASSET: Final = b"\0\0\0\0"
INT64_MAX: Final = 2**63 - 1
UINT32_MAX: Final = 2**32 - 1


class XdrError(ValueError):
    """Bytes that are not the XDR value they should be."""


def i32(value: int) -> bytes:
    """Signed 32-bit integer."""
    return _I32.pack(value)


def u32(value: int) -> bytes:
    """Unsigned 32-bit integer."""
    return _U32.pack(value)


def i64(value: int) -> bytes:
    """Signed 64-bit integer."""
    return _I64.pack(value)


def u64(value: int) -> bytes:
    """Unsigned 64-bit integer."""
    return _U64.pack(value)


def opaque(value: bytes) -> bytes:
    """Variable-length opaque: length, bytes, zero padding to four."""
    return _U32.pack(len(value)) + value + bytes(-len(value) % 4)


def account_id(key: bytes) -> bytes:
    """AccountID: public-key type ed25519 and 32 bytes."""
    return NATIVE_ASSET + key


def optional_account(key: bytes | None) -> bytes:
    """AccountID*, the XDR optional."""
    return u32(0) if key is None else u32(1) + account_id(key)


class Reader:
    """Cursor over XDR bytes; every read raises XdrError past the end."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    def take(self, size: int) -> bytes:
        """Fixed-length opaque of a multiple of four bytes."""
        end = self.position + size
        if end > len(self.data):
            raise XdrError(f"xdr: got {len(self.data)} bytes, want at least {end}")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def i32(self) -> int:
        """Signed 32-bit integer."""
        value: int = _I32.unpack(self.take(4))[0]
        return value

    def u32(self) -> int:
        """Unsigned 32-bit integer."""
        value: int = _U32.unpack(self.take(4))[0]
        return value

    def i64(self) -> int:
        """Signed 64-bit integer."""
        value: int = _I64.unpack(self.take(8))[0]
        return value

    def u64(self) -> int:
        """Unsigned 64-bit integer."""
        value: int = _U64.unpack(self.take(8))[0]
        return value

    def opaque(self) -> bytes:
        """Variable-length opaque."""
        size = self.u32()
        value = self.take(size)
        if any(self.take(-size % 4)):
            raise XdrError("xdr padding: got non-zero, want zero")
        return value

    def account(self) -> bytes:
        """AccountID as its 32 key bytes."""
        kind = self.i32()
        if kind != 0:
            raise XdrError(f"account id type: got {kind}, want 0")
        return self.take(32)

    def optional_account(self) -> bytes | None:
        """AccountID* as 32 key bytes or None."""
        return self.account() if self.u32() else None

    def asset(self) -> bytes:
        """Asset, or trust line asset, as its raw XDR."""
        start = self.position
        kind = self.i32()
        sizes = {0: 0, 1: 40, 2: 48, 3: 32}
        if kind not in sizes:
            raise XdrError(f"asset type: got {kind}, want 0 to 3")
        self.take(sizes[kind])
        return self.data[start : self.position]

    def signer_key(self) -> bytes:
        """SignerKey as its raw XDR."""
        start = self.position
        kind = self.i32()
        if kind not in (0, 1, 2, 3):
            raise XdrError(f"signer key type: got {kind}, want 0 to 3")
        self.take(32)
        if kind == 3:
            self.opaque()
        return self.data[start : self.position]

    def end(self) -> None:
        """Refuse trailing bytes."""
        if self.position != len(self.data):
            left = len(self.data) - self.position
            raise XdrError(f"xdr: got {left} trailing bytes, want none")


def asset_issuer(asset: bytes) -> bytes | None:
    """Issuer key of a credit asset, None for the native one and pool shares."""
    return asset[-32:] if asset[3] in (1, 2) else None


def asset_code(asset: bytes) -> str:
    """Asset code without its padding, empty for the native asset."""
    if asset[3] == 0:
        return ""
    return asset[4 : 8 if asset[3] == 1 else 16].rstrip(b"\0").decode("ascii", "replace")


def asset_is_valid(asset: bytes) -> bool:
    """Protocol rule: code alphanumeric, zeros only at its end, 4-type 1-4 and 12-type 5-12 long."""
    if asset[3] not in (1, 2):
        return asset[3] == 0
    code = asset[4 : 8 if asset[3] == 1 else 16]
    text = code.rstrip(b"\0")
    least = 1 if asset[3] == 1 else 5
    return len(text) >= least and all(byte < 128 and chr(byte).isalnum() for byte in text)
