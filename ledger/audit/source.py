"""Sources: where an audit file's bytes come from, so that a large file is never whole in memory.

A source is asked for ranges. Items of a large section are found once and read again when somebody
looks at them. Not here: opening files (`command`), what sections mean (`file`).
"""

from array import array
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Protocol, overload

from ledger.evidence.errors import MalformedRecordError


class ByteSource(Protocol):
    """Bytes of known number, read in any order."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes from `offset`; the caller asks for nothing beyond the end."""


class MemorySource:
    """Bytes that are in memory anyway."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self._data)

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`."""
        return self._data[offset : offset + size]


class SourceItems(Sequence[bytes]):
    """Byte strings within a source, each read when it is asked for."""

    __slots__ = ("_offsets", "_sizes", "_source")

    def __init__(self, source: ByteSource, offsets: "array[int]", sizes: "array[int]") -> None:
        self._source = source
        self._offsets = offsets
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[bytes, ...]: ...

    def __getitem__(self, index: int | slice) -> bytes | tuple[bytes, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        return self._source.read(self._offsets[index], self._sizes[index])

    def __iter__(self) -> Iterator[bytes]:
        return (self[at] for at in range(len(self)))

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield offset and size of each item in its source."""
        return zip(self._offsets, self._sizes, strict=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SourceItems | tuple):
            return NotImplemented
        return len(self) == len(other) and all(
            one == another for one, another in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # equal to tuples of the same bytes, not hashed so


def find_items(
    source: ByteSource, offset: int, size: int, *, what: str, count_max: int, item_max: int
) -> tuple[SourceItems, bytes]:
    """Find the items of a section: u32 count, then each with its u32 length in front.

    Args:
        source: Where the section is.
        offset: Its first byte.
        size: Its size.
        what: The section's name, for errors.
        count_max: Most items.
        item_max: Longest item in bytes.

    Returns:
        The items, and the SHA-256 of the section, both from one reading.

    Raises:
        MalformedRecordError: Anything that would not print back identically.
    """
    end = offset + size
    digest = sha256()
    count = _read_number(source, offset, end, f"{what}.count", count_max)
    digest.update(source.read(offset, 4))
    at = offset + 4
    offsets, sizes = array("Q"), array("I")
    for _ in range(count):
        length = _read_number(source, at, end, f"{what}.item length", item_max)
        if length > end - at - 4:
            left = f"{end - at - 4} bytes left"
            raise MalformedRecordError(f"{what}.item", got=left, want=f"{length} bytes")
        digest.update(source.read(at, 4 + length))
        offsets.append(at + 4)
        sizes.append(length)
        at += 4 + length
    if at != end:
        raise MalformedRecordError(what, got=f"{end - at} bytes too many", want="none")
    return SourceItems(source, offsets, sizes), digest.digest()


def _read_number(source: ByteSource, at: int, end: int, field: str, limit: int) -> int:
    if end - at < 4:
        raise MalformedRecordError(field, got=f"{end - at} bytes left", want="4 bytes")
    number = int.from_bytes(source.read(at, 4), "little")
    if number > limit:
        raise MalformedRecordError(field, got=number, want=f"at most {limit}")
    return number
