"""Proofs read from tiles are those of the tree over the same leaves."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.errors import InclusionError, MalformedTileError
from ledger.evidence.merkle import HashTree, leaf_hash
from ledger.evidence.tile import growth_files_of
from ledger.evidence.tile_proofs import TileReader, root_of_range

SIZE = 70_001
LEAVES = [b"leaf %d" % index for index in range(SIZE)]
TREE = HashTree(leaf_hash(leaf) for leaf in LEAVES)
FILES = dict(growth_files_of(LEAVES, 0))


def reader_of(size: int) -> TileReader:
    """A reader of a log that grew on: full files stand in for partial ones."""
    return TileReader(
        size, FILES.get if size == SIZE else dict(growth_files_of(LEAVES[:size], 0)).get
    )


@given(st.integers(0, SIZE - 1))
def test_inclusion_from_tiles_is_that_of_the_tree(index: int) -> None:
    assert reader_of(SIZE).prove_inclusion(index) == TREE.prove_inclusion(index)
    assert reader_of(SIZE).leaf(index) == LEAVES[index]


@given(st.integers(0, SIZE), st.integers(0, SIZE))
def test_consistency_from_tiles_is_that_of_the_tree(one: int, other: int) -> None:
    old, new = sorted((one, other))
    reader = reader_of(SIZE)
    assert reader.prove_consistency(old, new) == TREE.prove_consistency(old, new)
    assert reader.root(new) == TREE.root(new)


@given(st.integers(1, 600), st.data())
def test_a_run_of_leaves_leads_to_the_root_and_a_changed_run_does_not(size, data) -> None:
    first = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(first + 1, size))
    reader = reader_of(size)
    hashes = reader.prove_range(first, end)
    run = [leaf_hash(leaf) for leaf in LEAVES[first:end]]
    assert reader.leaf_hashes(first, end) == run
    assert root_of_range(first, run, size, hashes) == TREE.root(size)
    place = data.draw(st.integers(0, len(run) - 1))
    changed = [*run[:place], leaf_hash(b"another"), *run[place + 1 :]]
    assert root_of_range(first, changed, size, hashes) != TREE.root(size)


def test_a_run_with_a_leaf_left_out_is_refused() -> None:
    hashes = reader_of(300).prove_range(10, 20)
    run = [leaf_hash(leaf) for leaf in LEAVES[10:19]]
    with contextlib.suppress(InclusionError):
        assert root_of_range(10, run, 300, hashes) != TREE.root(300)


@pytest.mark.parametrize("hashes", [[], [bytes(32)] * 40, [bytes(31)]])
def test_hashes_that_do_not_fit_the_run_are_refused(hashes: list[bytes]) -> None:
    with pytest.raises(InclusionError):
        root_of_range(1, [leaf_hash(b"x")], 2, [*hashes, bytes(32), bytes(32)])


def test_a_missing_tile_is_named() -> None:
    with pytest.raises(MalformedTileError, match="tile/1/"):
        TileReader(SIZE, {}.get).prove_inclusion(5)
