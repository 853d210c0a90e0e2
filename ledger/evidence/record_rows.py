"""Rows: many signed records of one type in one run of bytes, checked at once, parsed on demand.

A bundle of a thousand receipts is one array: what a parser checks of each record alone (tag, flags,
ranges, padding, the record's own rule) is checked here for all of them with a few passes over the
bytes, and no object is made until somebody asks for one. The verdict is the record type's: when a
pass finds anything odd, each record is parsed alone, and the first malformed one is named. Not
here: the order of records (`bundle`), signatures (`keys.verify_rows`).
"""

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import sha256
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

from ledger.evidence.encoding import MAGIC, TAG_SIZE, VERSION, RecordType, Signed
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.keys import SIGNATURE_SIZE

RecordT = TypeVar("RecordT")

_FLAGS_AT = SIGNATURE_SIZE + len(MAGIC) + 2


def row_struct(record: RecordType[Any]) -> struct.Struct:
    """Return the struct of a whole signed record as a row.

    A row is flags, network id, and then the layout's fields in their order; the signature, magic,
    version and type are passed over.

    Raises:
        ValueError: The record has not exactly one signer.
    """
    if record.signers != 1:
        raise ValueError(f"{record.layout.name}: got {record.signers} signers, want 1")
    fields = "".join(field.code for field in record.layout.fields)
    return struct.Struct(f"<{_FLAGS_AT}xH32s{fields}")


def row_fields(record: RecordType[Any]) -> tuple[str, ...]:
    """Return the names of a row's items, in order."""
    return ("flags", "network_id", *(field.name for field in record.layout.fields))


def part_struct(record: RecordType[Any], *names: str) -> struct.Struct:
    """Return the struct of a whole signed record that takes only some items of a row, in order."""
    items = [("flags", "H", 2), ("network_id", "32s", 32)]
    items += [(field.name, field.code, field.size) for field in record.layout.fields]
    codes = (code if name in names else f"{size}x" for name, code, size in items)
    return struct.Struct(f"<{_FLAGS_AT}x" + "".join(codes))


@cache
def _body_struct(size: int) -> struct.Struct:
    """Struct of a whole signed record that takes its body."""
    return struct.Struct(f"{SIGNATURE_SIZE}x{size - SIGNATURE_SIZE}s")


@cache
def _known_flags(allowed: int) -> bytes:
    """Every value of the flags' lower byte that has allowed bits only."""
    return bytes(flags for flags in range(256) if not flags & ~allowed)


class RecordRows(Sequence[Signed[RecordT]], Generic[RecordT]):
    """Signed records of one type over the bytes they came in; immutable.

    A subclass names the record type and adds the record's own rule.
    """

    __slots__ = ("_buffer", "_count", "_digests", "_start")

    record: ClassVar[RecordType[Any]]
    """The type of every record."""

    layout: ClassVar[struct.Struct]
    """`row_struct` of the type."""

    def __init__(self, buffer: bytes, start: int = 0, count: int | None = None) -> None:
        """Take records out of bytes without copying them.

        Args:
            buffer: Holds the records.
            start: Offset of the first one.
            count: How many; None: all that is left of the buffer.

        Raises:
            MalformedRecordError: Bytes are missing or left over, or a record is not canonical.
        """
        size = self.record.size
        name = self.record.layout.name
        left = len(buffer) - start
        if count is None:
            count, over = divmod(left, size)
            if over:
                raise MalformedRecordError(name, got=f"{left} bytes", want=f"a multiple of {size}")
        elif left < count * size:
            raise MalformedRecordError(name, got=f"{left} bytes", want=f"{count * size} bytes")
        self._buffer = bytes(buffer)
        self._start = start
        self._count = count
        self._digests: tuple[bytes, ...] | None = None
        if not self._is_canonical():
            self._raise_first_malformed()

    @classmethod
    def of(cls, records: Sequence[Signed[RecordT]]) -> Self:
        """Return rows of these records; themselves if they are rows already.

        Raises:
            MalformedRecordError: The bytes of one are not canonical.
        """
        if isinstance(records, cls):
            return records
        return cls(b"".join(record.raw for record in records))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Signed[RecordT]: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Signed[RecordT], ...]: ...

    def __getitem__(self, index: int | slice) -> Signed[RecordT] | tuple[Signed[RecordT], ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(self._count)))
        if not -self._count <= index < self._count:
            raise IndexError(f"{self.record.layout.name}: got {index}, want under {self._count}")
        signed: Signed[RecordT] = self.record.parse(self.raw(index % self._count))
        return signed

    def __iter__(self) -> Iterator[Signed[RecordT]]:
        return (self[at] for at in range(self._count))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self.raw_all() == other.raw_all()

    def __hash__(self) -> int:
        return int.from_bytes(sha256(self.raw_all()).digest()[:8], "little")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._count} records)"

    @property
    def buffer(self) -> bytes:
        """The bytes that hold the records, and maybe more."""
        return self._buffer

    @property
    def start(self) -> int:
        """Offset of the first record in `buffer`; each takes `record.size` bytes."""
        return self._start

    def raw_all(self) -> bytes:
        """Return all records' bytes, one after another."""
        return self._buffer[self._start : self._start + self._count * self.record.size]

    def raw(self, index: int) -> bytes:
        """Return a record as it came: signature, then body."""
        at = self._start + index * self.record.size
        return self._buffer[at : at + self.record.size]

    def raws(self) -> Iterator[bytes]:
        """Yield every record as it came."""
        buffer, size = self._buffer, self.record.size
        places = range(self._start, self._start + self._count * size, size)
        return (buffer[at : at + size] for at in places)

    def signature(self, index: int) -> bytes:
        """Return a record's signature."""
        at = self._start + index * self.record.size
        return self._buffer[at : at + SIGNATURE_SIZE]

    def body(self, index: int) -> bytes:
        """Return a record's signed bytes."""
        at = self._start + index * self.record.size
        return self._buffer[at + SIGNATURE_SIZE : at + self.record.size]

    def digests(self) -> tuple[bytes, ...]:
        """Return every record's digest, SHA-256 of its body; kept once made."""
        if self._digests is None:
            bodies = self.rows(_body_struct(self.record.size))
            self._digests = tuple([sha256(body).digest() for (body,) in bodies])
        return self._digests

    def rows(self, layout: struct.Struct | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield every record as a plain tuple: flags, network id, the layout's fields in order.

        Text fields come as their padded bytes.

        Args:
            layout: A struct of the record's size that takes fewer fields, made by `part_struct`.
        """
        size = self.record.size
        view = memoryview(self._buffer)[self._start : self._start + self._count * size]
        return (layout or self.layout).iter_unpack(view)

    def row(self, index: int) -> tuple[Any, ...]:
        """Return one record as a plain tuple, like `rows`."""
        return self.layout.unpack_from(self._buffer, self._start + index * self.record.size)

    def column(self, offset: int) -> bytes:
        """Return the byte at an offset of every record, the signature included."""
        size = self.record.size
        return self._buffer[self._start + offset : self._start + self._count * size : size]

    def _keeps_rule(self) -> bool:
        """Tell whether all records keep what the record type's dataclass demands."""
        return True

    def _is_canonical(self) -> bool:
        """Tell whether every record is canonical, by columns."""
        if not self._count:
            return True
        prefix = MAGIC + bytes([VERSION, self.record.code])
        for offset, wanted in enumerate(prefix, SIGNATURE_SIZE):
            if self.column(offset) != bytes([wanted]) * self._count:
                return False
        known = _known_flags(self.record.allowed_flags)
        if self.column(_FLAGS_AT).strip(known) or any(self.column(_FLAGS_AT + 1)):
            return False
        for at, field in self.record.layout.offsets():
            offset = SIGNATURE_SIZE + TAG_SIZE + at
            if field.kind == "u64" and not self.column(offset + 7).isascii():
                return False
            if field.kind.startswith("text") and not self._are_texts(offset, field.size):
                return False
        return self._keeps_rule()

    def _are_texts(self, offset: int, size: int) -> bool:
        """Tell whether a text field holds padded text of plain ASCII in all records."""
        for value in dict.fromkeys(
            zip(*(self.column(offset + at) for at in range(size)), strict=True)
        ):
            text, _, padding = bytes(value).partition(b"\0")
            if not text.isascii() or padding.strip(b"\0"):
                return False
        return True

    def _raise_first_malformed(self) -> None:
        """Parse each record alone: its own error is the one to tell; none if all are well."""
        for at in range(self._count):
            self.record.parse(self.raw(at))
