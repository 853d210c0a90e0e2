"""The Merkle tree against RFC 6962's recursive definition and known vectors."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence import merkle
from ledger.evidence.errors import ConsistencyError, InclusionError, MalformedRecordError

# Certificate Transparency's test leaves and the roots of their first 1..8.
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
GROWN_SIZE = 70


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962 §2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], *, whole: bool) -> list[bytes]:
    """RFC 6962 §2.1.2, word for word."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*subproof(m, leaves[:k], whole=whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], whole=False), mth(leaves[:k])]


def flipped(value: bytes, bit: int = 0) -> bytes:
    return bytes([value[0] ^ (1 << bit)]) + value[1:]


def numbered_leaves(count: int) -> list[bytes]:
    return [b"leaf %d" % number for number in range(count)]


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_of_certificate_transparency(size):
    leaves = CT_LEAVES[:size]
    assert merkle.root_hash(leaves).hex() == CT_ROOTS[size - 1]
    assert merkle.HashTree(map(merkle.leaf_hash, CT_LEAVES)).root(size).hex() == CT_ROOTS[size - 1]


def test_root_of_nothing_is_the_hash_of_nothing():
    expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert merkle.root_hash([]).hex() == expected
    assert merkle.RootBuilder().root() == merkle.HashTree().root() == merkle.EMPTY_ROOT


def test_known_inclusion_proof_of_certificate_transparency():
    hashes = [merkle.leaf_hash(leaf) for leaf in CT_LEAVES]
    assert [value.hex() for value in merkle.prove_inclusion(hashes, 5)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_known_consistency_proof_of_certificate_transparency():
    hashes = [merkle.leaf_hash(leaf) for leaf in CT_LEAVES]
    assert [value.hex() for value in merkle.prove_consistency(hashes, 6, 8)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_growing_tree_proves_every_leaf_at_every_size_and_no_flipped_hash():
    leaves = numbered_leaves(GROWN_SIZE)
    tree = merkle.HashTree()
    builder = merkle.RootBuilder()
    for size in range(1, GROWN_SIZE + 1):
        tree.append(leaves[size - 1])
        builder.append(leaves[size - 1])
        root = mth(leaves[:size])
        assert tree.root() == builder.root() == root
        for index in range(size):
            value = merkle.leaf_hash(leaves[index])
            proof = tree.prove_inclusion(index)
            assert proof == path(index, leaves[:size])
            merkle.check_inclusion(value, index, size, proof, root)
            for place in range(len(proof)):
                broken = [*proof]
                broken[place] = flipped(broken[place], index % 8)
                with pytest.raises(InclusionError):
                    merkle.check_inclusion(value, index, size, broken, root)
            for lie in (
                (flipped(value), index, proof, root),
                (value, index, proof, flipped(root)),
                (value, index + 1, proof, root),
                (value, index, [*proof, value], root),
                (value, index, proof[:-1], root),
            ):
                if lie[2] != proof or lie[:2] != (value, index) or lie[3] != root:
                    with pytest.raises(InclusionError):
                        merkle.check_inclusion(lie[0], lie[1], size, lie[2], lie[3])


def test_growing_tree_proves_every_prefix_at_every_size_and_no_flipped_hash():
    leaves = numbered_leaves(GROWN_SIZE)
    tree = merkle.HashTree(map(merkle.leaf_hash, leaves))
    roots = [mth(leaves[:size]) for size in range(GROWN_SIZE + 1)]
    for new_size in range(1, GROWN_SIZE + 1):
        merkle.check_consistency(0, roots[0], new_size, roots[new_size], [])
        for old_size in range(1, new_size + 1):
            proof = tree.prove_consistency(old_size, new_size)
            assert proof == subproof(old_size, leaves[:new_size], whole=True)
            merkle.check_consistency(old_size, roots[old_size], new_size, roots[new_size], proof)
            for place in range(len(proof)):
                broken = [*proof]
                broken[place] = flipped(broken[place], old_size % 8)
                with pytest.raises(ConsistencyError):
                    merkle.check_consistency(
                        old_size, roots[old_size], new_size, roots[new_size], broken
                    )
            for old_root, new_root, lie in (
                (flipped(roots[old_size]), roots[new_size], proof),
                (roots[old_size], flipped(roots[new_size]), proof),
                (roots[old_size], roots[new_size], [*proof, roots[1]]),
            ):
                with pytest.raises(ConsistencyError):
                    merkle.check_consistency(old_size, old_root, new_size, new_root, lie)
            if proof:
                with pytest.raises(ConsistencyError):
                    merkle.check_consistency(
                        old_size, roots[old_size], new_size, roots[new_size], proof[:-1]
                    )


def test_rewritten_leaf_breaks_consistency():
    leaves = numbered_leaves(20)
    old_root = merkle.root_hash(leaves[:13])
    leaves[5] = b"another"
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    with pytest.raises(ConsistencyError):
        merkle.check_consistency(
            13, old_root, 20, merkle.root_hash(leaves), merkle.prove_consistency(hashes, 13)
        )


def test_inner_node_does_not_pass_for_a_leaf():
    leaves = numbered_leaves(4)
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    inner = merkle.node_hash(hashes[0], hashes[1])
    right = merkle.node_hash(hashes[2], hashes[3])
    merkle.check_inclusion(inner, 0, 2, [right], merkle.root_hash(leaves))
    with pytest.raises(InclusionError):
        merkle.check_inclusion(
            merkle.leaf_hash(hashes[0] + hashes[1]), 0, 2, [right], merkle.root_hash(leaves)
        )


@pytest.mark.parametrize(("index", "size"), [(-1, 1), (1, 1), (0, 0), (0, 2**63)])
def test_leaf_index_outside_the_tree_is_not_included(index, size):
    with pytest.raises(InclusionError):
        merkle.check_inclusion(bytes(32), index, size, [], bytes(32))


def test_hash_of_another_length_is_refused():
    left, right = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    root = merkle.node_hash(left, right)
    # node_hash only concatenates: without the length check these would verify.
    with pytest.raises(InclusionError):
        merkle.check_inclusion(left + right[:1], 0, 2, [right[1:]], root)
    with pytest.raises(ConsistencyError):
        merkle.check_consistency(1, left + right[:1], 2, root, [right[1:]])
    with pytest.raises(ValueError, match="want 32"):
        merkle.RootBuilder().append_hash(bytes(31))
    with pytest.raises(ValueError, match="want 32"):
        merkle.HashTree().append_hash(bytes(33))


def test_shrinking_tree_is_inconsistent():
    roots = [merkle.root_hash(numbered_leaves(size)) for size in range(4)]
    with pytest.raises(ConsistencyError):
        merkle.check_consistency(3, roots[3], 2, roots[2], [])
    with pytest.raises(ConsistencyError):
        merkle.check_consistency(-1, roots[0], 2, roots[2], [])


def test_consistency_proof_of_other_sizes_is_refused():
    leaves = numbered_leaves(8)
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    roots = [merkle.root_hash(leaves[:size]) for size in range(9)]
    # Hashes lead to the claimed roots each time; only the claimed sizes are lies.
    with pytest.raises(ConsistencyError, match="want more"):
        merkle.check_consistency(1, roots[1], 4, roots[2], merkle.prove_consistency(hashes, 1, 2))
    with pytest.raises(ConsistencyError, match="want fewer"):
        merkle.check_consistency(3, roots[7], 4, roots[8], merkle.prove_consistency(hashes, 7, 8))
    with pytest.raises(ConsistencyError, match="at least one"):
        merkle.check_consistency(3, roots[3], 5, roots[5], [])


def test_size_zero_with_a_root_of_its_own_is_inconsistent():
    with pytest.raises(ConsistencyError):
        merkle.check_consistency(0, bytes(32), 1, merkle.root_hash([b"a"]), [])
    with pytest.raises(ConsistencyError):
        merkle.check_consistency(0, bytes(32), 0, bytes(32), [])


def test_proofs_outside_the_tree_cannot_be_asked_for():
    hashes = [merkle.leaf_hash(leaf) for leaf in CT_LEAVES]
    for call in (
        lambda: merkle.prove_inclusion(hashes, 8),
        lambda: merkle.prove_inclusion(hashes, 4, 4),
        lambda: merkle.prove_inclusion(hashes, -1),
        lambda: merkle.prove_inclusion(hashes, 0, 9),
        lambda: merkle.prove_consistency(hashes, 9),
        lambda: merkle.prove_consistency(hashes, 1, 9),
        lambda: merkle.prove_consistency(hashes, -1),
        lambda: merkle.HashTree(hashes).root(9),
        lambda: merkle.sibling_sides(3, 3),
    ):
        with pytest.raises(ValueError, match="want"):
            call()


@given(st.lists(st.binary(max_size=40), max_size=200), st.integers(0, 200))
def test_builder_restored_at_any_moment_continues_the_same_tree(leaves, cut):
    first = merkle.RootBuilder()
    for leaf in leaves[:cut]:
        first.append(leaf)
    state = first.export_state()
    second = merkle.RootBuilder.restore(state)
    assert second.export_state() == state
    for leaf in leaves[cut:]:
        second.append(leaf)
    first.extend(leaves[cut:])
    assert first.export_state() == second.export_state()
    assert second.size == len(leaves)
    assert second.root() == merkle.root_hash(leaves) == mth(leaves)


@pytest.mark.parametrize(
    "state",
    [
        b"",
        bytes(7),
        bytes(8) + bytes(32),
        (3).to_bytes(8, "little") + bytes(32),
        (3).to_bytes(8, "little") + bytes(65),
        (2**63).to_bytes(8, "little") + bytes(32),
    ],
)
def test_builder_state_of_wrong_length_is_malformed(state):
    with pytest.raises(MalformedRecordError):
        merkle.RootBuilder.restore(state)


def test_full_builder_takes_no_more():
    state = (2**63 - 1).to_bytes(8, "little") + bytes(32 * 63)
    with pytest.raises(ValueError, match="below"):
        merkle.RootBuilder.restore(state).append(b"")
    almost = merkle.RootBuilder.restore((2**63 - 2).to_bytes(8, "little") + bytes(32 * 62))
    with pytest.raises(ValueError, match="below"):
        almost.extend([b"", b""])
    assert almost.size == 2**63 - 2


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=120), st.data())
def test_any_size_of_a_tree_proves_what_the_definition_says(leaves, data):
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    size = data.draw(st.integers(1, len(leaves)))
    index = data.draw(st.integers(0, size - 1))
    old_size = data.draw(st.integers(1, size))
    assert merkle.root_of_hashes(hashes[:size]) == mth(leaves[:size])
    assert merkle.prove_inclusion(hashes, index, size) == path(index, leaves[:size])
    assert merkle.prove_consistency(hashes, old_size, size) == subproof(
        old_size, leaves[:size], whole=True
    )
