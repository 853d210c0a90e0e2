"""The log as static files: hash tiles and entry bundles of c2sp.org/tlog-tiles.

    tile/<L>/<N>[.p/<W>]          256 (or W) hashes of 32 bytes: the hashes of consecutive subtrees
                                  of 256**L leaves each
    tile/entries/<N>[.p/<W>]      256 (or W) leaves, each u16 big-endian length ‖ bytes

N is printed in groups of three digits, all but the last with an `x`: 1234067 is `x001/x234/067`.
A full file never changes. A partial one (W of 1 to 255) belongs to a tree size at which the log
was published, and is never hashed into the level above. Empty tiles do not exist.

`growth_files` makes the files of a tree that grew, from its new leaves and the right edge of the
old files; `read_leaves` gets the leaves back. Nothing here opens a file: reading is a callable,
writing is the caller's (files first, in the order given, the checkpoint last).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ledger.evidence.errors import InclusionError, MalformedTileError
from ledger.evidence.merkle import (
    HASH_BYTES,
    TREE_SIZE_LIMIT,
    RootBuilder,
    fold_subtrees,
    leaf_hash,
    root_of_hashes,
)

TILE_WIDTH = 256
"""Hashes in a full tile, leaves in a full entry bundle."""

LEAF_BYTES_MAX = 65_535
"""A leaf is at most this long: its length is a u16."""

LEVEL_MAX = 63
"""Highest level a path may name; a tree below 2**63 leaves needs 0 to 7."""

ReadFile = Callable[[str], bytes | None]
"""Content of the file at a path of the log, None if there is none."""

_PATH = re.compile(
    r"tile/(?P<level>entries|[0-9]{1,2})/(?P<groups>(?:x[0-9]{3}/)*[0-9]{3})"
    r"(?:\.p/(?P<width>[0-9]{1,3}))?",
    re.ASCII,
)
_HEIGHT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePath:
    """Which file of the log.

    Raises:
        MalformedTileError: a field is out of range.
    """

    level: int | None
    """Level of a hash tile, 0 to 63; None for an entry bundle."""

    tile_index: int
    """Place of the tile in its level, from 0; below 2**55."""

    width: int = TILE_WIDTH
    """Hashes or leaves in it; 1 to 255 in a partial tile, 256 in a full one."""

    def __post_init__(self) -> None:
        if self.level is not None and not 0 <= self.level <= LEVEL_MAX:
            raise MalformedTileError("tile.level", got=self.level, want=f"0 to {LEVEL_MAX}")
        if not 0 <= self.tile_index < TREE_SIZE_LIMIT // TILE_WIDTH:
            raise MalformedTileError("tile.index", got=self.tile_index, want="0 to 2**55 - 1")
        if not 1 <= self.width <= TILE_WIDTH:
            raise MalformedTileError("tile.width", got=self.width, want=f"1 to {TILE_WIDTH}")

    @property
    def is_partial(self) -> bool:
        """Is it narrower than a full tile?"""
        return self.width < TILE_WIDTH


def format_tile_path(path: TilePath) -> str:
    """Print a path, relative to the log's prefix."""
    digits = str(path.tile_index)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    name = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    level = "entries" if path.level is None else str(path.level)
    suffix = f".p/{path.width}" if path.is_partial else ""
    return f"tile/{level}/{name}{suffix}"


def parse_tile_path(text: str) -> TilePath:
    """Parse what `format_tile_path` prints, and nothing else.

    Raises:
        MalformedTileError: anything else, such as a superfluous zero group or `.p/256`.
    """
    found = _PATH.fullmatch(text)
    if found is None:
        raise MalformedTileError("tile.path", got=text, want="tile/<L>/<N>[.p/<W>]")
    level, groups, width = found.group("level", "groups", "width")
    path = TilePath(
        level=None if level == "entries" else int(level),
        tile_index=int(groups.replace("x", "").replace("/", "")),
        width=TILE_WIDTH if width is None else int(width),
    )
    if format_tile_path(path) != text:
        raise MalformedTileError("tile.path", got=text, want=format_tile_path(path))
    return path


def format_tile(hashes: Sequence[bytes]) -> bytes:
    """Print a hash tile.

    Raises:
        ValueError: not 1 to 256 hashes of 32 bytes.
    """
    if not 1 <= len(hashes) <= TILE_WIDTH or any(len(value) != HASH_BYTES for value in hashes):
        raise ValueError(f"tile: got {len(hashes)} hashes, want 1 to 256 of 32 bytes each")
    return b"".join(hashes)


def parse_tile(content: bytes, width: int) -> list[bytes]:
    """Hashes of a tile of this width.

    Raises:
        MalformedTileError: the content has another length.
    """
    if len(content) != width * HASH_BYTES:
        raise MalformedTileError(
            "tile", got=f"{len(content)} bytes", want=f"{width} hashes of 32 bytes"
        )
    return [content[at : at + HASH_BYTES] for at in range(0, len(content), HASH_BYTES)]


def format_entry_bundle(leaves: Sequence[bytes]) -> bytes:
    """Print an entry bundle.

    Raises:
        ValueError: not 1 to 256 leaves of at most 65,535 bytes.
    """
    if not 1 <= len(leaves) <= TILE_WIDTH:
        raise ValueError(f"entry bundle: got {len(leaves)} leaves, want 1 to 256")
    _require_leaves(leaves)
    parts: list[bytes] = []
    for leaf in leaves:
        parts += (len(leaf).to_bytes(2, "big"), leaf)
    return b"".join(parts)


def parse_entry_bundle(content: bytes, width: int) -> list[bytes]:
    """Leaves of an entry bundle of this width.

    Raises:
        MalformedTileError: it holds fewer or more leaves, or ends inside one.
    """
    leaves: list[bytes] = []
    at = 0
    while at < len(content) and len(leaves) < width:
        begin = at + 2
        at = begin + int.from_bytes(content[at:begin], "big")
        if begin > len(content) or at > len(content):
            raise MalformedTileError(
                "entry_bundle", got=f"an end inside leaf {len(leaves)}", want="whole leaves"
            )
        leaves.append(content[begin:at])
    if len(leaves) != width or at != len(content):
        raise MalformedTileError(
            "entry_bundle",
            got=f"{len(leaves)} leaves and {len(content) - at} bytes more",
            want=f"{width} leaves",
        )
    return leaves


def growth_paths(old_size: int, new_size: int) -> Iterator[TilePath]:
    """Files that a tree growing from `old_size` to `new_size` leaves must write, in order.

    Entry bundles first, then the tiles from the leaves up. Nothing for equal sizes.

    Raises:
        ValueError: not `0 <= old_size <= new_size < 2**63`.
    """
    if not 0 <= old_size <= new_size < TREE_SIZE_LIMIT:
        raise ValueError(f"sizes: got {old_size} and {new_size}, want rising below 2**63")
    yield from _level_paths(None, old_size, new_size)
    level = 0
    while new_size >> (_HEIGHT * level):
        shift = _HEIGHT * level
        yield from _level_paths(level, old_size >> shift, new_size >> shift)
        level += 1


def growth_files(
    *, old_size: int, new_leaves: Sequence[bytes], read_file: ReadFile
) -> Iterator[tuple[str, bytes]]:
    """Path and content of every file to write when `new_leaves` follow `old_size` leaves.

    The old files are trusted: check them with `root_of_tiles` against the root they should have.
    A file written twice gets the same bytes, so a writer that died starts over.

    Args:
        old_size: Leaves in the log before.
        new_leaves: The leaves that follow, in order.
        read_file: Reads the old right edge; not called when `old_size` is 0.

    Raises:
        MalformedTileError: a file of the old right edge is missing or malformed.
        ValueError: a leaf is over 65,535 bytes, or the tree would be too large.
    """
    if not 0 <= old_size <= old_size + len(new_leaves) < TREE_SIZE_LIMIT:
        raise ValueError(f"old_size: got {old_size}, want a tree below 2**63 leaves")
    # All leaves before the first file: a log never gets half of what it cannot hold.
    _require_leaves(new_leaves)
    if not new_leaves:
        return
    first_tile, kept = divmod(old_size, TILE_WIDTH)
    leaves = [*_read_bundle(first_tile, kept, read_file), *new_leaves]
    for offset in range(0, len(leaves), TILE_WIDTH):
        chunk = leaves[offset : offset + TILE_WIDTH]
        path = TilePath(level=None, tile_index=first_tile + offset // TILE_WIDTH, width=len(chunk))
        yield format_tile_path(path), format_entry_bundle(chunk)
    hashes = [leaf_hash(leaf) for leaf in new_leaves]
    level = 0
    while hashes:
        first_tile, kept = divmod(old_size >> (_HEIGHT * level), TILE_WIDTH)
        row = [*_read_tile(level, first_tile, kept, read_file), *hashes]
        hashes = []
        for offset in range(0, len(row), TILE_WIDTH):
            full_or_last = row[offset : offset + TILE_WIDTH]
            path = TilePath(
                level=level,
                tile_index=first_tile + offset // TILE_WIDTH,
                width=len(full_or_last),
            )
            yield format_tile_path(path), format_tile(full_or_last)
            if not path.is_partial:
                hashes.append(root_of_hashes(full_or_last))
        level += 1


def growth_files_of(
    leaves: Sequence[bytes], old_size: int, new_size: int | None = None
) -> Iterator[tuple[str, bytes]]:
    """The same from all leaves of the log, without old files; hashes the whole log.

    Raises:
        ValueError: not `0 <= old_size <= new_size <= len(leaves)`, or a leaf is over 65,535 bytes.
    """
    size = len(leaves) if new_size is None else new_size
    if not 0 <= old_size <= size <= len(leaves):
        raise ValueError(f"sizes: got {old_size} and {size}, want rising to {len(leaves)}")
    old_files = dict(
        growth_files(old_size=0, new_leaves=leaves[:old_size], read_file=lambda _path: None)
    )
    yield from growth_files(
        old_size=old_size, new_leaves=leaves[old_size:size], read_file=old_files.get
    )


def root_of_tiles(tree_size: int, read_file: ReadFile) -> bytes:
    """Root of a log of `tree_size` leaves from the right edge of its tiles; O(log n) files.

    Raises:
        MalformedTileError: a tile of the edge is missing or malformed.
        ValueError: not `0 <= tree_size < 2**63`.
    """
    if not 0 <= tree_size < TREE_SIZE_LIMIT:
        raise ValueError(f"tree_size: got {tree_size}, want 0 <= tree_size < 2**63")
    subtrees: list[bytes] = []
    for level in reversed(range(-(-tree_size.bit_length() // _HEIGHT))):
        tile_index, width = divmod(tree_size >> (_HEIGHT * level), TILE_WIDTH)
        builder = RootBuilder()
        for value in _read_tile(level, tile_index, width, read_file):
            builder.append_hash(value)
        subtrees += builder.subtrees
    return fold_subtrees(subtrees)


def read_leaves(tree_size: int, read_file: ReadFile, *, first: int = 0) -> Iterator[bytes]:
    """Leaves `first` to `tree_size` of a log from its entry bundles.

    They are as trustworthy as the files: the caller checks their root against a checkpoint.

    Args:
        tree_size: Leaves in the log, from its checkpoint.
        read_file: Reads a file of the log.
        first: Leaf to start at, 0 ≤ first ≤ tree_size.

    Raises:
        MalformedTileError: a bundle is missing or malformed.
        ValueError: `first` or `tree_size` is out of range.
    """
    if not 0 <= first <= tree_size < TREE_SIZE_LIMIT:
        raise ValueError(f"first: got {first}, want 0 <= first <= tree_size {tree_size} < 2**63")
    begin = first // TILE_WIDTH * TILE_WIDTH
    while begin < tree_size:
        width = min(TILE_WIDTH, tree_size - begin)
        bundle = _read_bundle(begin // TILE_WIDTH, width, read_file)
        yield from bundle[max(0, first - begin) :]
        begin += TILE_WIDTH


def check_tiles(leaves: Iterable[bytes], read_file: ReadFile) -> bytes:
    """Check that every hash tile of a log is what its leaves say; returns the root.

    Raises:
        MalformedTileError: a tile is missing or malformed.
        InclusionError: a tile holds another hash.
    """
    hashes = [leaf_hash(leaf) for leaf in leaves]
    root = root_of_hashes(hashes)
    level = 0
    while hashes:
        row, hashes = hashes, []
        for offset in range(0, len(row), TILE_WIDTH):
            want = row[offset : offset + TILE_WIDTH]
            tile_index = offset // TILE_WIDTH
            if _read_tile(level, tile_index, len(want), read_file) != want:
                path = TilePath(level=level, tile_index=tile_index, width=len(want))
                raise InclusionError(
                    f"{format_tile_path(path)}: got other hashes, want those of the leaves"
                )
            if len(want) == TILE_WIDTH:
                hashes.append(root_of_hashes(want))
        level += 1
    return root


def _require_leaves(leaves: Sequence[bytes]) -> None:
    for leaf in leaves:
        if len(leaf) > LEAF_BYTES_MAX:
            raise ValueError(f"leaf: got {len(leaf)} bytes, want at most {LEAF_BYTES_MAX}")


def _level_paths(level: int | None, old_count: int, new_count: int) -> Iterator[TilePath]:
    if old_count == new_count:
        return
    last, width = divmod(new_count, TILE_WIDTH)
    for tile_index in range(old_count // TILE_WIDTH, last):
        yield TilePath(level=level, tile_index=tile_index)
    if width:
        yield TilePath(level=level, tile_index=last, width=width)


def _read_bundle(tile_index: int, width: int, read_file: ReadFile) -> list[bytes]:
    if not width:
        return []
    content, found_width = _read(None, tile_index, width, read_file)
    return parse_entry_bundle(content, found_width)[:width]


def _read_tile(level: int, tile_index: int, width: int, read_file: ReadFile) -> list[bytes]:
    if not width:
        return []
    content, found_width = _read(level, tile_index, width, read_file)
    return parse_tile(content, found_width)[:width]


def _read(level: int | None, tile_index: int, width: int, read_file: ReadFile) -> tuple[bytes, int]:
    # A partial file may be deleted once the full one exists (tlog-tiles, "Partial Tiles").
    for found_width in sorted({width, TILE_WIDTH}):
        path = TilePath(level=level, tile_index=tile_index, width=found_width)
        content = read_file(format_tile_path(path))
        if content is not None:
            return content, found_width
    path = TilePath(level=level, tile_index=tile_index, width=width)
    raise MalformedTileError(format_tile_path(path), got="no file", want=f"{width} entries")
