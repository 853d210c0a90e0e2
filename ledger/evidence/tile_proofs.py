"""Proofs out of a log's tiles, without the leaves: inclusion, consistency, and whole ranges.

A tile reader hashes what it needs: the hash of a full subtree stands in a tile, or is folded from
at most 128 hashes of one. So any proof costs O(log n) files, of a mirror or over HTTP. A range
proof shows a run of consecutive leaves complete: everything between two places of the log, with the
hashes of what lies beside it, leads to the root.

Files are believed as they are read: whoever takes a proof checks it against a signed root
(`merkle.check_inclusion`, `merkle.check_consistency`, `root_of_range`). Layout: c2sp.org/tlog-tiles
and RFC 6962 §2.1.
"""

from collections.abc import Iterator, Sequence

from ledger.evidence.errors import InclusionError, MalformedTileError
from ledger.evidence.merkle import (
    HASH_BYTES,
    TREE_SIZE_LIMIT,
    ProvingTree,
    largest_power_of_two_below,
    node_hash,
    root_of_hashes,
)
from ledger.evidence.tile import (
    TILE_WIDTH,
    ReadFile,
    TilePath,
    format_tile_path,
    parse_entry_bundle,
    parse_tile,
)

_HEIGHT = 8


class TileReader(ProvingTree):
    """Hashes of a log of a fixed size from its files; a tile is read once, a bundle while it lasts.

    Raises:
        ValueError: not `0 <= tree_size < 2**63`.
    """

    __slots__ = ("_bundle", "_read_file", "_size", "_tiles")

    def __init__(self, tree_size: int, read_file: ReadFile) -> None:
        if not 0 <= tree_size < TREE_SIZE_LIMIT:
            raise ValueError(f"tree_size: got {tree_size}, want 0 <= tree_size < 2**63")
        self._size = tree_size
        self._read_file = read_file
        self._tiles: dict[tuple[int, int], list[bytes]] = {}
        self._bundle: tuple[int, list[bytes]] = (-1, [])

    @property
    def size(self) -> int:
        """Leaves in the log."""
        return self._size

    def prove_range(self, first: int, end: int) -> list[bytes]:
        """Hashes beside leaves `first` to `end` - 1, left to right: `root_of_range` takes them.

        Raises:
            MalformedTileError: a tile is missing or malformed.
            ValueError: not `0 <= first < end <= tree_size`.
        """
        return [self._range_hash(begin, stop) for begin, stop in _beside(first, end, self._size)]

    def leaf_hashes(self, first: int, end: int) -> list[bytes]:
        """Leaf hashes of a run of leaves.

        Raises:
            MalformedTileError: a tile is missing or malformed.
            ValueError: the log has fewer leaves.
        """
        self._require_size(end)
        return [self._full_hash(0, index) for index in range(first, end)]

    def leaf(self, leaf_index: int) -> bytes:
        """One leaf, from its entry bundle.

        Raises:
            MalformedTileError: the bundle is missing or malformed.
            ValueError: the log has fewer leaves.
        """
        if not 0 <= leaf_index < self._size:
            raise ValueError(f"leaf_index: got {leaf_index}, want 0 <= index < {self._size}")
        tile_index, place = divmod(leaf_index, TILE_WIDTH)
        if self._bundle[0] != tile_index:
            width = min(TILE_WIDTH, self._size - tile_index * TILE_WIDTH)
            content, found_width = self._find(None, tile_index, width)
            self._bundle = tile_index, parse_entry_bundle(content, found_width)
        return self._bundle[1][place]

    def _full_hash(self, height: int, place: int) -> bytes:
        """Hash of the full subtree of 2**height leaves at this place."""
        level, rest = divmod(height, _HEIGHT)
        first = place << rest
        tile_index, offset = divmod(first, TILE_WIDTH)
        row = self._tile(level, tile_index)
        return root_of_hashes(row[offset : offset + (1 << rest)])

    def _tile(self, level: int, tile_index: int) -> list[bytes]:
        known = self._tiles.get((level, tile_index))
        if known is not None:
            return known
        count = self._size >> (_HEIGHT * level)
        width = min(TILE_WIDTH, count - tile_index * TILE_WIDTH)
        content, found_width = self._find(level, tile_index, width)
        row = parse_tile(content, found_width)[:width]
        self._tiles[level, tile_index] = row
        return row

    def _find(self, level: int | None, tile_index: int, width: int) -> tuple[bytes, int]:
        # A partial file may be deleted once the full one exists (tlog-tiles, "Partial Tiles").
        for found_width in sorted({width, TILE_WIDTH}):
            path = TilePath(level=level, tile_index=tile_index, width=found_width)
            content = self._read_file(format_tile_path(path))
            if content is not None:
                return content, found_width
        path = TilePath(level=level, tile_index=tile_index, width=width)
        raise MalformedTileError(format_tile_path(path), got="no file", want=f"{width} entries")


def root_of_range(
    first: int, leaf_hashes: Sequence[bytes], tree_size: int, hashes: Sequence[bytes]
) -> bytes:
    """Root that a run of leaves and the hashes beside it lead to.

    It is the root of the log only if the run is, leaf for leaf, what stands there.

    Args:
        first: Index of the run's first leaf.
        leaf_hashes: Leaf hashes of the run; at least one.
        tree_size: Leaves in the log.
        hashes: What `TileReader.prove_range` gave.

    Raises:
        InclusionError: too few or too many hashes, one of another length, or an empty run.
    """
    end = first + len(leaf_hashes)
    if not 0 <= first < end <= tree_size < TREE_SIZE_LIMIT:
        raise InclusionError(
            f"range: got leaves {first} to {end} of {tree_size}, want some of the log's"
        )
    if any(len(value) != HASH_BYTES for value in (*leaf_hashes, *hashes)):
        raise InclusionError("range proof: got a hash of another length, want 32 bytes each")
    beside = list(_beside(first, end, tree_size))
    if len(beside) != len(hashes):
        raise InclusionError(f"range proof: got {len(hashes)} hashes, want {len(beside)}")
    known = dict(zip(beside, hashes, strict=True))

    def fold(begin: int, stop: int) -> bytes:
        if (begin, stop) in known:
            return known[begin, stop]
        if first <= begin and stop <= end:
            return root_of_hashes(leaf_hashes[begin - first : stop - first])
        middle = begin + largest_power_of_two_below(stop - begin)
        return node_hash(fold(begin, middle), fold(middle, stop))

    return fold(0, tree_size)


def _beside(first: int, end: int, tree_size: int) -> Iterator[tuple[int, int]]:
    """Subtrees of the log outside a run of leaves, largest possible, left to right."""
    if not 0 <= first < end <= tree_size:
        raise ValueError(f"range: got {first} to {end}, want 0 <= first < end <= {tree_size}")
    waiting = [(0, tree_size)]
    while waiting:
        begin, stop = waiting.pop()
        if stop <= first or end <= begin:
            yield begin, stop
        elif not (first <= begin and stop <= end):
            middle = begin + largest_power_of_two_below(stop - begin)
            waiting += [(middle, stop), (begin, middle)]
