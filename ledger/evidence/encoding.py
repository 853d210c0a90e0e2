"""Fixed-width little-endian records: signatures first, then a body that opens with its domain tag.

The bytes on the wire are the bytes verified and the bytes hashed. Every body starts with the same
40-byte tag: magic, version, type, flags, network id; so no record can be taken for another, nor a
testnet's for the main network's. There is exactly one encoding of a value: parsing refuses
whatever would not print back identically (unknown flags, text after its padding, numbers over
2**63 - 1).

A module of this package describes its record once, as a dataclass and a `RecordType`; layouts with
offsets are in FORMATS.md, which a test compares with the record types.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from hashlib import sha256
from itertools import accumulate
from typing import Any, Generic, TypeVar

from ledger.evidence.errors import BadSignatureError, MalformedRecordError
from ledger.evidence.keys import KEY_SIZE, SIGNATURE_SIZE, sign, verify
from ledger.evidence.units import AMOUNT_MAX

MAGIC = b"SWLG"
VERSION = 1
TAG_SIZE = 40
"""Bytes of the domain tag: magic 4, version 1, type 1, flags 2, network id 32."""

ZERO_KEY = bytes(KEY_SIZE)
"""Stands where an optional key or account is absent."""

_TAG = struct.Struct("<4sBBH32s")
_INTEGERS = {"u8": ("B", 1), "u16": ("H", 2), "u32": ("I", 4), "u64": ("Q", 8)}

RecordT = TypeVar("RecordT")


class RecordCode(IntEnum):
    """The type byte of every record; a number is never given twice."""

    TERMS = 1
    BINDING = 2
    ENTITLEMENT = 3
    RECEIPT = 4
    HEARTBEAT = 5
    BUNDLE = 6
    PROMISE = 7
    CLOCK = 8
    HELLO = 9
    PROOF_OF_KEY = 10
    ACKNOWLEDGEMENT = 11
    STREAM = 12
    SEGMENT = 13
    RECEIPT_STEP = 14
    ACKNOWLEDGEMENT_STEP = 15
    CONNECTIONS = 16
    RELAY = 17
    PEERS = 18
    RELAY_FETCH = 19
    PROVISIONAL = 20
    PAYEE_INSTRUCTION = 21
    REFUND = 22
    READINESS = 23
    RULING = 24
    LEAF_BUNDLE = 32
    LEAF_SEAL = 33
    LEAF_RESULT = 34
    LEAF_PAYOUT = 35
    LEAF_ACTIVATION = 36
    LEAF_CORRECTION = 37
    STATE = 48
    FACT = 49
    AUDIT_FILE = 50
    TRUST = 51


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a layout.

    Kinds: `u8 u16 u32 u64` little-endian integers (u64 at most 2**63 - 1), `bytesN` exactly N
    bytes, `textN` UTF-8 padded with zero bytes to N.
    """

    name: str
    kind: str

    @property
    def size(self) -> int:
        """Bytes the field takes."""
        if self.kind in _INTEGERS:
            return _INTEGERS[self.kind][1]
        return int(self.kind.removeprefix("bytes").removeprefix("text"))

    @property
    def code(self) -> str:
        """The field's struct format."""
        return _INTEGERS[self.kind][0] if self.kind in _INTEGERS else f"{self.size}s"


class Layout:
    """A sequence of fixed-width fields: values to bytes and back, strictly."""

    def __init__(self, name: str, layout: Sequence[tuple[str, str]]) -> None:
        self.name = name
        self.fields = tuple(Field(field, kind) for field, kind in layout)
        self._struct = struct.Struct("<" + "".join(field.code for field in self.fields))
        self.size = self._struct.size
        ends = accumulate((field.size for field in self.fields), initial=0)
        self._offsets = tuple(zip(ends, self.fields, strict=False))
        self._names = tuple(field.name for field in self.fields)
        # Of an integer its limit, of bytes their length below zero, of text nothing.
        self._bounds = tuple(_bound_of(field) for field in self.fields)
        self._wide = tuple(at for at, field in enumerate(self.fields) if field.kind == "u64")
        self._texts = tuple(
            at for at, field in enumerate(self.fields) if field.kind.startswith("text")
        )

    def offsets(self) -> Iterator[tuple[int, Field]]:
        """Return each field with its offset from the layout's start."""
        return iter(self._offsets)

    def pack(self, value: object) -> bytes:
        """Return the bytes of an object that has an attribute per field.

        Raises:
            MalformedRecordError: A value does not fit its field.
        """
        return self.pack_values([getattr(value, name) for name in self._names])

    def pack_values(self, values: Sequence[Any]) -> bytes:
        """Return the bytes of the fields' values, given in the layout's order.

        Raises:
            MalformedRecordError: A value does not fit its field.
        """
        for value, bound in zip(values, self._bounds, strict=True):
            if type(value) is int and bound is not None:
                if 0 <= value <= bound:
                    continue
            elif type(value) is bytes and bound is not None and len(value) == -bound:
                continue
            return self._pack_strictly(values)
        return self._struct.pack(*values)

    def _pack_strictly(self, values: Sequence[Any]) -> bytes:
        """Look at each value alone: what is no plain integer or bytes, or does not fit."""
        return self._struct.pack(
            *(self._to_wire(field, value) for field, value in zip(self.fields, values, strict=True))
        )

    def unpack(self, data: bytes) -> dict[str, Any]:
        """Return the values of exactly `size` bytes, by field name.

        Raises:
            MalformedRecordError: The size is wrong, or a field is not canonical.
        """
        return dict(zip(self._names, self.unpack_values(data), strict=True))

    def unpack_values(self, data: bytes) -> list[Any]:
        """Return the values of exactly `size` bytes in the layout's order.

        Raises:
            MalformedRecordError: The size is wrong, or a field is not canonical.
        """
        if len(data) != self.size:
            raise MalformedRecordError(self.name, got=f"{len(data)} bytes", want=f"{self.size}")
        values: list[Any] = list(self._struct.unpack(data))
        for at in self._wide:
            if values[at] > AMOUNT_MAX:
                self._from_wire(self.fields[at], values[at])
        for at in self._texts:
            values[at] = self._from_wire(self.fields[at], values[at])
        return values

    def _to_wire(self, field: Field, value: Any) -> int | bytes:
        where = f"{self.name}.{field.name}"
        if field.kind in _INTEGERS:
            limit = min(AMOUNT_MAX, (1 << (8 * field.size)) - 1)
            if not isinstance(value, int) or not 0 <= value <= limit:
                raise MalformedRecordError(where, got=value, want=f"0..{limit}")
            return int(value)
        if field.kind.startswith("text"):
            return _encode_text(where, field, value)
        if not isinstance(value, bytes) or len(value) != field.size:
            raise MalformedRecordError(where, got=value, want=f"{field.size} bytes")
        return value

    def _from_wire(self, field: Field, value: Any) -> int | str | bytes:
        where = f"{self.name}.{field.name}"
        if field.kind in _INTEGERS:
            if value > AMOUNT_MAX:
                raise MalformedRecordError(where, got=value, want=f"0..{AMOUNT_MAX}")
            return int(value)
        if field.kind.startswith("text"):
            text, _, padding = value.partition(b"\0")
            if padding.strip(b"\0"):
                raise MalformedRecordError(where, got=value, want="zero bytes after the text")
            try:
                return str(text, "utf-8")
            except UnicodeDecodeError:
                raise MalformedRecordError(where, got=value, want="UTF-8") from None
        return bytes(value)


def _bound_of(field: Field) -> int | None:
    if field.kind in _INTEGERS:
        return min(AMOUNT_MAX, (1 << (8 * field.size)) - 1)
    return None if field.kind.startswith("text") else -field.size


def _encode_text(where: str, field: Field, value: object) -> bytes:
    try:
        encoded = value.encode() if isinstance(value, str) else b"\0"
    except UnicodeEncodeError:  # half of a surrogate pair, as from undecodable arguments
        encoded = b"\0"
    if len(encoded) > field.size or b"\0" in encoded:
        raise MalformedRecordError(
            where, got=value, want=f"at most {field.size} bytes of text without NUL"
        )
    return encoded


def format_tag(code: RecordCode, network_id: bytes, flags: int = 0) -> bytes:
    """Return the 40-byte domain tag that opens a body.

    Raises:
        MalformedRecordError: The network id is not 32 bytes.
    """
    if len(network_id) != KEY_SIZE:
        raise MalformedRecordError(f"{code.name}.network_id", got=network_id, want="32 bytes")
    return _TAG.pack(MAGIC, VERSION, code, flags, network_id)


def parse_tag(code: RecordCode, body: bytes, allowed_flags: int = 0) -> tuple[int, bytes]:
    """Return (flags, network id) of a body's domain tag.

    Raises:
        MalformedRecordError: Too short, other magic, version or type, or an unknown flag.
    """
    name = code.name.lower()
    if len(body) < TAG_SIZE:
        raise MalformedRecordError(name, got=f"{len(body)} bytes", want=f"at least {TAG_SIZE}")
    magic, version, type_code, flags, network_id = _TAG.unpack_from(body)
    if (magic, version, type_code) != (MAGIC, VERSION, code):
        raise MalformedRecordError(
            f"{name}.tag", got=(magic, version, type_code), want=f"{(MAGIC, VERSION, int(code))}"
        )
    if flags & ~allowed_flags:
        raise MalformedRecordError(f"{name}.flags", got=flags, want=f"only bits {allowed_flags:#x}")
    return flags, network_id


@dataclass(frozen=True, slots=True)
class Signed(Generic[RecordT]):
    """A record as it came: what it says, and the exact bytes that say so."""

    value: RecordT
    """The parsed body."""

    raw: bytes
    """Signatures, then the body."""

    signatures: tuple[bytes, ...]
    """64 bytes each, in the order of the record type's signers."""

    _digest: bytes = field(default=b"", init=False, repr=False, compare=False)

    @property
    def body(self) -> bytes:
        """The signed bytes."""
        return self.raw[SIGNATURE_SIZE * len(self.signatures) :]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the body: the record's name; independent of signature bytes."""
        if not self._digest:
            # Kept, for a bundle's body is large; hashed where it is, for the same reason.
            body = memoryview(self.raw)[SIGNATURE_SIZE * len(self.signatures) :]
            object.__setattr__(self, "_digest", sha256(body).digest())
        return self._digest

    def remember_digest(self, digest: bytes) -> None:
        """Keep the digest of just these bytes, found before they were parsed."""
        object.__setattr__(self, "_digest", digest)


class RecordType(Generic[RecordT]):
    """Binds a dataclass to its type code and layout; formats, parses, signs and verifies it.

    The dataclass has `network_id` and, if the type allows flags, `flags`; every other layout field
    is an attribute of the same name.
    """

    def __init__(
        self,
        record: type[RecordT],
        code: RecordCode,
        layout: Sequence[tuple[str, str]],
        *,
        signers: int = 1,
        flags: int = 0,
    ) -> None:
        self.code = code
        self.layout = Layout(code.name.lower(), layout)
        self.signers = signers
        self.allowed_flags = flags
        self._record = record
        self.body_size = TAG_SIZE + self.layout.size
        self.size = SIGNATURE_SIZE * signers + self.body_size
        expected = {"network_id", *(field.name for field in self.layout.fields)}
        expected |= {"flags"} if flags else set()
        declared = {field.name for field in fields(record)}  # type: ignore[arg-type]
        if declared != expected:
            raise AssertionError(f"{code.name}: layout and dataclass differ: {declared ^ expected}")

    def format_body(self, value: RecordT) -> bytes:
        """Return the bytes that are signed.

        Raises:
            MalformedRecordError: A value does not fit its field, or a flag is unknown.
        """
        flags = getattr(value, "flags", 0)
        if flags & ~self.allowed_flags:
            raise MalformedRecordError(f"{self.layout.name}.flags", got=flags, want="known flags")
        network_id: bytes = getattr(value, "network_id")  # noqa: B009 - generic over records
        return format_tag(self.code, network_id, flags) + self.layout.pack(value)

    def parse_body(self, body: bytes) -> RecordT:
        """Return the record of exactly `body_size` bytes.

        Raises:
            MalformedRecordError: Anything that would not print back identically.
        """
        flags, network_id = parse_tag(self.code, body, self.allowed_flags)
        values = self.layout.unpack(body[TAG_SIZE:])
        values["network_id"] = network_id
        if self.allowed_flags:
            values["flags"] = flags
        return self._record(**values)

    def sign(self, value: RecordT, *seeds: bytes) -> Signed[RecordT]:
        """Return the record signed by each seed, in the order of the type's signers."""
        body = self.format_body(value)
        if len(seeds) != self.signers:
            raise ValueError(f"{self.layout.name}: got {len(seeds)} seeds, want {self.signers}")
        signatures = tuple(sign(seed, body) for seed in seeds)
        return Signed(value, b"".join(signatures) + body, signatures)

    def parse(self, raw: bytes) -> Signed[RecordT]:
        """Return a signed record of exactly `size` bytes; signatures are not verified yet.

        Raises:
            MalformedRecordError: The size is wrong or the body is malformed.
        """
        if len(raw) != self.size:
            raise MalformedRecordError(
                self.layout.name, got=f"{len(raw)} bytes", want=f"{self.size} bytes"
            )
        split = SIGNATURE_SIZE * self.signers
        signatures = tuple(raw[at : at + SIGNATURE_SIZE] for at in range(0, split, SIGNATURE_SIZE))
        return Signed(self.parse_body(raw[split:]), bytes(raw), signatures)

    def is_signed_by(self, signed: Signed[RecordT], *public_keys: bytes) -> bool:
        """Tell whether every signature is valid under the key of its place."""
        return len(public_keys) == len(signed.signatures) and all(
            verify(key, signed.body, signature)
            for key, signature in zip(public_keys, signed.signatures, strict=True)
        )

    def require_signed_by(self, signed: Signed[RecordT], *public_keys: bytes) -> None:
        """Raise unless every signature is valid under the key of its place.

        Raises:
            BadSignatureError: A signature is not valid.
        """
        if not self.is_signed_by(signed, *public_keys):
            names = ", ".join(key.hex()[:16] for key in public_keys)
            raise BadSignatureError(f"{self.layout.name}: signature not valid under key {names}")


class Reader:
    """Takes fields off the front of untrusted bytes; never past the end."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = data
        self._at = 0

    def take(self, size: int, field: str) -> bytes:
        """Return the next `size` bytes.

        Raises:
            MalformedRecordError: Fewer are left.
        """
        return self._data[self.skip(size, field) : self._at]

    def skip(self, size: int, field: str) -> int:
        """Pass over the next `size` bytes; return the offset at which they begin.

        Raises:
            MalformedRecordError: Fewer are left.
        """
        if size > len(self._data) - self._at:
            raise MalformedRecordError(
                f"{self._name}.{field}",
                got=f"{len(self._data) - self._at} bytes left",
                want=f"{size} bytes",
            )
        self._at += size
        return self._at - size

    def integer(self, size: int, field: str, *, limit: int = AMOUNT_MAX) -> int:
        """Return the next little-endian unsigned integer of `size` bytes, at most `limit`.

        Raises:
            MalformedRecordError: Too few bytes, or the number is over the limit.
        """
        number = int.from_bytes(self.take(size, field), "little")
        if number > limit:
            raise MalformedRecordError(f"{self._name}.{field}", got=number, want=f"at most {limit}")
        return number

    def counted(self, field: str, *, limit: int) -> bytes:
        """Return the next byte string that is prefixed by its u32 length, at most `limit`."""
        return self.take(self.integer(4, f"{field} length", limit=limit), field)

    def rest(self) -> bytes:
        """Return all bytes that are left."""
        return self.take(len(self._data) - self._at, "rest")

    def finish(self) -> None:
        """Raise unless everything was taken.

        Raises:
            MalformedRecordError: Bytes are left over.
        """
        if self._at != len(self._data):
            raise MalformedRecordError(
                self._name, got=f"{len(self._data) - self._at} bytes too many", want="none"
            )


def format_counted(data: bytes) -> bytes:
    """Return a byte string with its u32 little-endian length in front."""
    return len(data).to_bytes(4, "little") + data
