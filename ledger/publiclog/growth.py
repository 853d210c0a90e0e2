"""A log's new files out of its entry bundles, a piece at a time: any size in bounded memory.

Leaves are read from the source, everything else is computed: the hash tiles that a mirror keeps are
its own, and the source's are only compared with them. One piece is eight entry bundles, 2,048
leaves: at most 135 MB if every leaf is as long as the format allows.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ledger.evidence.tile import (
    TILE_WIDTH,
    ReadFile,
    TilePath,
    growth_files,
    parse_tile_path,
    read_leaves,
)

PIECE_LEAVES: Final = 8 * TILE_WIDTH
_HEIGHT: Final = 8


def grown_files(
    *,
    old_size: int,
    new_size: int,
    read_old: ReadFile,
    read_new: ReadFile,
    take_leaves: Callable[[Sequence[bytes]], None],
) -> Iterator[tuple[TilePath, str, bytes]]:
    """Files that a log growing from `old_size` to `new_size` leaves adds, in order.

    Args:
        old_size: Leaves before; their files are believed.
        new_size: Leaves after.
        read_old: Reads the files before.
        read_new: Reads the entry bundles after.
        take_leaves: Gets the new leaves, piece by piece, before their files come.

    Yields:
        Place, path and content. Partial files at `new_size` only, never those in between.

    Raises:
        MalformedTileError: A bundle, or a file of the old right edge, is missing or malformed.
        ValueError: A leaf is over 65,535 bytes.
    """
    # A level's newest partial tile, until there is another: most pieces change the lowest only.
    edges: dict[int | None, tuple[str, bytes]] = {}

    def read_edge(path: str) -> bytes | None:
        text, content = edges.get(parse_tile_path(path).level, ("", b""))
        return content if text == path else read_old(path)

    at = old_size
    while at < new_size:
        end = min(new_size, at - at % PIECE_LEAVES + PIECE_LEAVES)
        # `end` is the log's size or begins a bundle, so only its last bundle may be partial.
        leaves = list(read_leaves(end, read_new, first=at))
        take_leaves(leaves)
        for text, content in growth_files(old_size=at, new_leaves=leaves, read_file=read_edge):
            path = parse_tile_path(text)
            if path.is_partial:
                edges[path.level] = text, content
            if not path.is_partial or is_edge_of(path, new_size):
                yield path, text, content
        at = end


def is_edge_of(path: TilePath, tree_size: int) -> bool:
    """Tell whether a partial file is the right edge of a log of this size."""
    count = tree_size >> (_HEIGHT * (path.level or 0))
    return (path.tile_index, path.width) == divmod(count, TILE_WIDTH)
