"""Files made piece by piece are those made at once, of a log with three levels of tiles."""

import pytest

from ledger.evidence.tile import format_tile_path, growth_files_of
from ledger.publiclog.growth import PIECE_LEAVES, grown_files

SIZE = 2 * 256 * 256 + 3 * PIECE_LEAVES + 77
LEAVES = [index.to_bytes(4, "big") for index in range(SIZE)]


@pytest.mark.parametrize("old_size", [0, 255, 65_536, 131_071, SIZE - 1])
def test_pieces_give_the_files_that_one_growth_gives(old_size: int) -> None:
    whole = dict(growth_files_of(LEAVES, old_size))
    old = dict(growth_files_of(LEAVES[:old_size], 0))
    taken: list[bytes] = []
    most = 0

    def take(leaves) -> None:
        nonlocal most
        most = max(most, len(leaves))
        taken.extend(leaves)

    files = {}
    for path, text, content in grown_files(
        old_size=old_size, new_size=SIZE, read_old=old.get, read_new=whole.get, take_leaves=take
    ):
        assert format_tile_path(path) == text
        files[text] = content
    assert files == whole
    assert (taken, most <= PIECE_LEAVES) == (LEAVES[old_size:], True)
