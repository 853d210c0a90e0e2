"""Tiles: paths, growth at every size, reading back, and every way to bend a file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence import merkle, tile
from ledger.evidence.errors import InclusionError, MalformedTileError
from ledger.evidence.tile import TilePath


def no_file(path: str) -> None:
    raise AssertionError(f"read {path}")


def numbered_leaves(count: int) -> list[bytes]:
    return [b"leaf %d" % number for number in range(count)]


def files_of(leaves: list[bytes]) -> dict[str, bytes]:
    return dict(tile.growth_files(old_size=0, new_leaves=leaves, read_file=no_file))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (TilePath(level=0, tile_index=0), "tile/0/000"),
        (TilePath(level=0, tile_index=0, width=1), "tile/0/000.p/1"),
        (TilePath(level=1, tile_index=999, width=255), "tile/1/999.p/255"),
        (TilePath(level=2, tile_index=1000), "tile/2/x001/000"),
        (TilePath(level=63, tile_index=1234067), "tile/63/x001/x234/067"),
        (TilePath(level=None, tile_index=1234067, width=7), "tile/entries/x001/x234/067.p/7"),
    ],
)
def test_path_prints_as_the_specification_says(path, text):
    assert tile.format_tile_path(path) == text
    assert tile.parse_tile_path(text) == path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tile/0",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/1000",
        "tile/0/x000",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x001/x002",
        "tile/00/000",
        "tile/01/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/entry/000",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/",
        "tile/0/000.p",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/0/../000",
        "tile/0/٠٠٠",
        "tile/0/" + "x999/" * 6 + "999",
    ],
)
def test_bent_path_is_malformed(text):
    with pytest.raises(MalformedTileError):
        tile.parse_tile_path(text)


@given(st.none() | st.integers(0, 63), st.integers(0, 2**55 - 1), st.integers(1, 256))
def test_any_path_parses_to_itself(level, tile_index, width):
    path = TilePath(level=level, tile_index=tile_index, width=width)
    assert tile.parse_tile_path(tile.format_tile_path(path)) == path


def test_files_of_the_specification_s_example_of_70000_leaves():
    paths = [tile.format_tile_path(path) for path in tile.growth_paths(0, 70_000)]
    hash_tiles = [path for path in paths if "entries" not in path]
    assert len([path for path in hash_tiles if path.startswith("tile/0/")]) == 274
    assert hash_tiles[272:] == [
        "tile/0/272",
        "tile/0/273.p/112",
        "tile/1/000",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ]


def test_size_256_has_a_full_tile_and_one_hash_above():
    files = files_of(numbered_leaves(256))
    assert sorted(files) == ["tile/0/000", "tile/1/000.p/1", "tile/entries/000"]
    assert files["tile/1/000.p/1"] == merkle.root_hash(numbered_leaves(256))


def test_hashes_are_those_of_the_specification():
    leaves = numbered_leaves(600)
    files = files_of(leaves)
    assert files["tile/0/002.p/88"] == b"".join(map(merkle.leaf_hash, leaves[512:]))
    assert files["tile/1/000.p/2"] == (
        merkle.root_hash(leaves[:256]) + merkle.root_hash(leaves[256:512])
    )
    assert files["tile/entries/000"].startswith(b"\x00\x06leaf 0\x00\x06leaf 1")


def test_growing_log_leaf_by_leaf_keeps_every_file_right():
    leaves = numbered_leaves(600)
    files: dict[str, bytes] = {}
    for size in range(1, 601):
        new = dict(
            tile.growth_files(
                old_size=size - 1, new_leaves=leaves[size - 1 : size], read_file=files.get
            )
        )
        assert list(new) == [
            tile.format_tile_path(path) for path in tile.growth_paths(size - 1, size)
        ]
        assert not [path for path in new if path in files], "a published file changed"
        files.update(new)
        root = merkle.root_hash(leaves[:size])
        assert tile.root_of_tiles(size, files.get) == root
        if size % 64 in {0, 1}:
            assert list(tile.read_leaves(size, files.get)) == leaves[:size]
            assert tile.check_tiles(leaves[:size], files.get) == root


@pytest.mark.parametrize(
    ("old_size", "new_size"),
    [(0, 0), (5, 5), (0, 1), (3, 255), (255, 256), (256, 257), (250, 600), (512, 1100), (1, 770)],
)
def test_growth_from_old_files_equals_growth_from_all_leaves(old_size, new_size):
    leaves = numbered_leaves(new_size)
    old_files = files_of(leaves[:old_size])
    grown = list(
        tile.growth_files(old_size=old_size, new_leaves=leaves[old_size:], read_file=old_files.get)
    )
    assert grown == list(tile.growth_files_of(leaves, old_size))
    assert grown == list(tile.growth_files_of([*leaves, b"later"], old_size, new_size))
    assert [path for path, _ in grown] == [
        tile.format_tile_path(path) for path in tile.growth_paths(old_size, new_size)
    ]
    merged = old_files | dict(grown)
    assert tile.check_tiles(leaves, merged.get) == merkle.root_hash(leaves)
    assert merged.items() >= files_of(leaves).items()


def test_three_levels_are_right():
    leaves = [number.to_bytes(3, "big") for number in range(65_536 + 300)]
    files = files_of(leaves)
    assert "tile/1/000" in files
    assert files["tile/2/000.p/1"] == merkle.root_hash(leaves[:65_536])
    assert tile.root_of_tiles(len(leaves), files.get) == merkle.root_hash(leaves)
    more = dict(
        tile.growth_files(old_size=len(leaves), new_leaves=[b"x"] * 500, read_file=files.get)
    )
    files.update(more)
    grown = [*leaves, *[b"x"] * 500]
    assert tile.root_of_tiles(len(grown), files.get) == merkle.root_hash(grown)


def test_deleted_partial_file_is_read_from_the_full_one():
    leaves = numbered_leaves(300)
    files = files_of(leaves)
    assert list(tile.read_leaves(20, files.get)) == leaves[:20]
    assert tile.root_of_tiles(20, files.get) == merkle.root_hash(leaves[:20])


@pytest.mark.parametrize("first", [0, 1, 255, 256, 257, 299, 300])
def test_leaves_are_read_from_any_place(first):
    leaves = numbered_leaves(300)
    assert list(tile.read_leaves(300, files_of(leaves).get, first=first)) == leaves[first:]


def test_missing_file_is_named():
    files = files_of(numbered_leaves(300))
    del files["tile/entries/001.p/44"], files["tile/0/001.p/44"]
    with pytest.raises(MalformedTileError, match=r"tile/entries/001\.p/44"):
        list(tile.read_leaves(300, files.get))
    with pytest.raises(MalformedTileError, match=r"tile/0/001\.p/44"):
        tile.root_of_tiles(300, files.get)
    with pytest.raises(MalformedTileError, match=r"tile/entries/001\.p/44"):
        list(tile.growth_files(old_size=300, new_leaves=[b"x"], read_file=files.get))


def test_flipped_bit_of_any_tile_is_noticed():
    leaves = numbered_leaves(300)
    files = files_of(leaves)
    for path in [path for path in files if "entries" not in path]:
        for at in (0, len(files[path]) - 1):
            broken = bytearray(files[path])
            broken[at] ^= 1
            with pytest.raises(InclusionError, match=path):
                tile.check_tiles(leaves, (files | {path: bytes(broken)}).get)


def test_flipped_bit_of_any_bundle_is_noticed():
    leaves = numbered_leaves(3)
    files = files_of(leaves)
    path = "tile/entries/000.p/3"
    for at in range(len(files[path])):
        broken = bytearray(files[path])
        broken[at] ^= 1
        with pytest.raises((InclusionError, MalformedTileError)):
            tile.check_tiles(tile.read_leaves(3, (files | {path: bytes(broken)}).get), files.get)


@pytest.mark.parametrize(
    ("content", "width"),
    [
        (b"", 1),
        (b"\x00", 1),
        (b"\x00\x01", 1),
        (b"\x00\x01a", 2),
        (b"\x00\x01a\x00", 2),
        (b"\x00\x01a\x00\x01b", 1),
        (b"\x00\x01ab", 1),
        (b"\x00\x00\x00", 1),
    ],
)
def test_bent_bundle_is_malformed(content, width):
    with pytest.raises(MalformedTileError):
        tile.parse_entry_bundle(content, width)


@pytest.mark.parametrize("content", [b"\x00\x01a\x00", b"\x00\x01a\x00\x02b"])
def test_bundle_that_ends_inside_a_leaf_says_in_which(content):
    with pytest.raises(MalformedTileError, match="inside leaf 1"):
        tile.parse_entry_bundle(content, 2)


@pytest.mark.parametrize(("length", "width"), [(0, 1), (31, 1), (33, 1), (64, 1), (8191, 256)])
def test_tile_of_another_length_is_malformed(length, width):
    with pytest.raises(MalformedTileError):
        tile.parse_tile(bytes(length), width)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_any_bundle_parses_to_itself(leaves):
    content = tile.format_entry_bundle(leaves)
    assert tile.parse_entry_bundle(content, len(leaves)) == leaves


@given(st.binary(max_size=60), st.integers(1, 6))
def test_any_bundle_that_parses_prints_back(content, width):
    try:
        leaves = tile.parse_entry_bundle(content, width)
    except MalformedTileError:
        return
    assert tile.format_entry_bundle(leaves) == content


def test_longest_leaf_fits_and_a_longer_one_writes_nothing():
    longest = bytes(65_535)
    files = files_of([longest])
    assert list(tile.read_leaves(1, files.get)) == [longest]
    growth = tile.growth_files(
        old_size=0, new_leaves=[*numbered_leaves(256), longest + b"x"], read_file=no_file
    )
    with pytest.raises(ValueError, match="65535"):
        next(growth)
    with pytest.raises(ValueError, match="65535"):
        tile.format_entry_bundle([longest + b"x"])


def test_wrong_arguments_are_refused():
    for call in (
        lambda: tile.format_tile([]),
        lambda: tile.format_tile([bytes(31)]),
        lambda: tile.format_tile([bytes(32)] * 257),
        lambda: tile.format_entry_bundle([]),
        lambda: tile.format_entry_bundle([b""] * 257),
        lambda: list(tile.growth_paths(2, 1)),
        lambda: list(tile.growth_paths(0, 2**63)),
        lambda: list(tile.growth_files(old_size=-1, new_leaves=[b""], read_file=no_file)),
        lambda: list(tile.growth_files(old_size=2**63 - 1, new_leaves=[b""], read_file=no_file)),
        lambda: list(tile.growth_files_of([b""], 2)),
        lambda: list(tile.growth_files_of([b""], 0, 2)),
        lambda: tile.root_of_tiles(-1, no_file),
        lambda: list(tile.read_leaves(1, no_file, first=2)),
    ):
        with pytest.raises(ValueError, match="want"):
            call()


def test_empty_log_has_the_empty_root_and_no_file():
    assert files_of([]) == {}
    assert tile.root_of_tiles(0, no_file) == merkle.EMPTY_ROOT
    assert list(tile.read_leaves(0, no_file)) == []
