"""The sum tree against its definition and against every known way to cheat with one."""

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence import sumtree
from ledger.evidence.errors import InclusionError, MalformedProofError, MalformedRecordError
from ledger.evidence.sumtree import SumLine, SumNode, SumProof, SumRoot, SumTree


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def line_of(number: int, credited_bytes: int = 0, amount_stroops: int = 0) -> SumLine:
    return SumLine(
        subject=hashlib.sha256(b"subject %d" % number).digest(),
        salt=hashlib.sha256(b"salt %d" % number).digest(),
        credited_bytes=credited_bytes,
        amount_stroops=amount_stroops,
    )


def lines_of(count: int) -> list[SumLine]:
    return [line_of(number, 1009 * number + 7, 13 * number + 2) for number in range(count)]


def defined(lines: list[SumLine]) -> tuple[bytes, int, int]:
    """Top hash and sums as the module's head defines them, recursively."""
    if not lines:
        return bytes(32), 0, 0
    if len(lines) == 1:
        line = lines[0]
        content = line.salt + line.subject + u64(line.credited_bytes) + u64(line.amount_stroops)
        value = hashlib.sha256(b"swl-sum-leaf\0\0\0\0" + content).digest()
        return value, line.credited_bytes, line.amount_stroops
    k = 1
    while k * 2 < len(lines):
        k *= 2
    left, right = defined(lines[:k]), defined(lines[k:])
    content = b"".join(side[0] + u64(side[1]) + u64(side[2]) for side in (left, right))
    value = hashlib.sha256(b"swl-sum-node\0\0\0\0" + content).digest()
    return value, left[1] + right[1], left[2] + right[2]


def defined_root(lines: list[SumLine]) -> SumRoot:
    lines = sorted(lines, key=lambda line: line.subject)
    top, total_bytes, total_stroops = defined(lines)
    content = u64(len(lines)) + u64(total_bytes) + u64(total_stroops) + top
    return SumRoot(
        hash=hashlib.sha256(b"swl-sum-root\0\0\0\0" + content).digest(),
        total_bytes=total_bytes,
        total_stroops=total_stroops,
        count=len(lines),
    )


def test_known_roots():
    # Computed once from the definition in the module's head; a change is a new format.
    assert SumTree([]).root().hash.hex() == (
        "9c81f63acbc4d7f8e3337e5ea1c7522259b037447b91902e88eefa8bcf9c8a7c"
    )
    root = SumTree(lines_of(5)).root()
    assert (root.total_bytes, root.total_stroops, root.count) == (10125, 140, 5)
    assert root.hash.hex() == "b119aeb0c17285fee3a7abc36724951121ced9f23eab74b41bd5d6efc37dfdeb"


@pytest.mark.parametrize("count", range(71))
def test_growing_tree_proves_every_line_and_no_flipped_proof(count):
    lines = lines_of(count)
    tree = SumTree(lines)
    root = tree.root()
    assert root == defined_root(lines)
    for line in lines:
        proof = tree.prove_line(line.subject)
        sumtree.check_line(line, proof, root)
        content = sumtree.format_sum_proof(proof)
        assert sumtree.parse_sum_proof(content) == proof
        # 40 and 48 share only 8: over the sizes every word of a sibling gets its turn.
        for at in range(0, len(content), 40):
            broken = bytearray(content)
            broken[at] ^= 1 << (line.credited_bytes % 8)
            with pytest.raises((InclusionError, MalformedProofError)):
                sumtree.check_line(line, sumtree.parse_sum_proof(bytes(broken)), root)


def test_line_with_another_value_is_not_in_the_tree():
    tree = SumTree(lines_of(9))
    line = tree.lines[4]
    proof, root = tree.prove_line(line.subject), tree.root()
    for change in (
        {"credited_bytes": line.credited_bytes + 1},
        {"amount_stroops": line.amount_stroops + 1},
        {"salt": bytes(32)},
        {"subject": bytes(32)},
    ):
        with pytest.raises(InclusionError):
            sumtree.check_line(dataclasses.replace(line, **change), proof, root)


@pytest.mark.parametrize(
    "change",
    [{"total_bytes": 1}, {"total_stroops": 1}, {"hash": bytes(32)}, {"count": 8}, {"count": 10}],
)
def test_root_with_another_total_is_not_proven(change):
    tree = SumTree(lines_of(9))
    line = tree.lines[8]
    lie = dataclasses.replace(tree.root(), **change)
    with pytest.raises(InclusionError):
        sumtree.check_line(line, tree.prove_line(line.subject), lie)


@pytest.mark.parametrize("field", ["credited_bytes", "amount_stroops"])
@pytest.mark.parametrize("value", [-1, 2**63])
def test_negative_or_too_large_line_is_malformed(field, value):
    with pytest.raises(MalformedRecordError):
        dataclasses.replace(line_of(1), **{field: value})


@pytest.mark.parametrize("field", ["total_bytes", "total_stroops"])
@pytest.mark.parametrize("value", [-1, 2**63])
def test_negative_or_too_large_sum_is_malformed(field, value):
    node = sumtree.hash_line(line_of(1))
    with pytest.raises(MalformedRecordError):
        dataclasses.replace(node, **{field: value})
    with pytest.raises(MalformedRecordError):
        dataclasses.replace(SumTree([]).root(), **{field: value})


@pytest.mark.parametrize(
    "values", [((2**62, 0), (2**62, 0)), ((0, 2**63 - 1), (0, 1)), ((2**63 - 1, 0),) * 3]
)
def test_overflowing_total_is_refused(values):
    with pytest.raises(MalformedRecordError):
        SumTree([line_of(number, *value) for number, value in enumerate(values)])


def test_largest_total_still_fits():
    root = SumTree([line_of(0, 2**63 - 2, 1), line_of(1, 1, 2**63 - 2)]).root()
    assert (root.total_bytes, root.total_stroops) == (2**63 - 1, 2**63 - 1)


def test_proof_that_would_wrap_the_sum_is_refused():
    line = line_of(0, 5, 5)
    sibling = SumNode(hash=bytes(32), total_bytes=2**63 - 1, total_stroops=0)
    proof = SumProof(line_index=0, count=2, siblings=(sibling,))
    root = SumRoot(hash=bytes(32), total_bytes=4, total_stroops=5, count=2)
    with pytest.raises(InclusionError, match="2\\*\\*63"):
        sumtree.check_line(line, proof, root)


def test_sibling_whose_field_is_out_of_range_is_malformed():
    tree = SumTree(lines_of(2))
    content = bytearray(sumtree.format_sum_proof(tree.prove_line(tree.lines[0].subject)))
    content[-1] |= 0x80
    with pytest.raises(MalformedProofError, match="total_stroops"):
        sumtree.parse_sum_proof(bytes(content))


def test_swapped_child_sums_change_the_root():
    # The same total, moved between the children: a tree that binds only the total accepts this.
    left = SumNode(hash=b"l" * 32, total_bytes=10, total_stroops=3)
    right = SumNode(hash=b"r" * 32, total_bytes=20, total_stroops=4)
    swapped_left = dataclasses.replace(left, total_bytes=20, total_stroops=4)
    swapped_right = dataclasses.replace(right, total_bytes=10, total_stroops=3)
    honest = sumtree.join_nodes(left, right)
    lie = sumtree.join_nodes(swapped_left, swapped_right)
    assert honest.total_bytes == lie.total_bytes
    assert honest.hash != lie.hash
    assert sumtree.join_nodes(right, left).hash != honest.hash


def test_sum_moved_between_siblings_of_a_proof_is_refused():
    tree = SumTree(lines_of(8))
    line = tree.lines[0]
    proof = tree.prove_line(line.subject)
    first, second, third = proof.siblings
    moved = (
        dataclasses.replace(first, total_bytes=first.total_bytes + 1),
        dataclasses.replace(second, total_bytes=second.total_bytes - 1),
        third,
    )
    with pytest.raises(InclusionError):
        sumtree.check_line(line, dataclasses.replace(proof, siblings=moved), tree.root())


def test_omitted_line_changes_totals_and_has_no_proof():
    lines = lines_of(6)
    whole, cut = SumTree(lines), SumTree(lines[:-1])
    assert cut.root() != whole.root()
    with pytest.raises(KeyError):
        cut.prove_line(lines[-1].subject)
    with pytest.raises(InclusionError):
        sumtree.check_line(lines[-1], whole.prove_line(lines[-1].subject), cut.root())
    # Nor with the honest totals beside the cut tree's hash.
    lie = dataclasses.replace(whole.root(), hash=cut.root().hash)
    with pytest.raises(InclusionError):
        sumtree.check_line(lines[-1], whole.prove_line(lines[-1].subject), lie)


def test_two_lines_of_one_subject_are_refused():
    with pytest.raises(MalformedRecordError, match="one line a subject"):
        SumTree([line_of(1, 5, 5), dataclasses.replace(line_of(1, 6, 6), salt=bytes(32))])


def test_one_leaf_cannot_be_shown_to_two_parties():
    # Equal amounts, other subjects: the proof of one is not the proof of the other.
    tree = SumTree([line_of(1, 5, 5), line_of(2, 5, 5)])
    first, second = tree.lines
    with pytest.raises(InclusionError):
        sumtree.check_line(second, tree.prove_line(first.subject), tree.root())


def test_inner_node_is_not_a_line():
    # A leaf's preimage is 96 bytes under one tag, a node's 112 under another.
    tree = SumTree(lines_of(2))
    left, right = map(sumtree.hash_line, tree.lines)
    assert sumtree.join_nodes(left, right).hash not in {left.hash, right.hash}
    root = tree.root()
    single = SumProof(line_index=0, count=1, siblings=())
    with pytest.raises(InclusionError):
        sumtree.check_line(tree.lines[0], single, root)


def test_order_of_arrival_does_not_matter():
    lines = lines_of(11)
    assert SumTree(lines).root() == SumTree(reversed(lines)).root()


def test_line_and_proof_of_the_largest_tree_fit_two_kibibytes():
    node = SumNode(hash=bytes(32), total_bytes=0, total_stroops=0)
    proof = SumProof(line_index=0, count=2**40, siblings=(node,) * 40)
    line_bytes = 32 + 32 + 8 + 8
    assert len(sumtree.format_sum_proof(proof)) + line_bytes <= 2048


@pytest.mark.parametrize(
    ("line_index", "count", "depth"),
    [(0, 0, 0), (2, 2, 1), (-1, 2, 1), (0, 2, 0), (0, 2, 2), (4, 5, 3), (0, 2**40 + 1, 41)],
)
def test_proof_of_impossible_shape_is_malformed(line_index, count, depth):
    node = SumNode(hash=bytes(32), total_bytes=0, total_stroops=0)
    with pytest.raises(MalformedProofError):
        SumProof(line_index=line_index, count=count, siblings=(node,) * depth)


@pytest.mark.parametrize("cut", [0, 1, 31, 33, 79, 81])
def test_proof_of_another_length_is_malformed(cut):
    tree = SumTree(lines_of(3))
    content = sumtree.format_sum_proof(tree.prove_line(tree.lines[0].subject)) + bytes(48)
    with pytest.raises(MalformedProofError):
        sumtree.parse_sum_proof(content[:cut])
    with pytest.raises(MalformedProofError):
        sumtree.parse_sum_proof(content)


def test_proof_under_another_tag_is_malformed():
    content = bytearray(
        sumtree.format_sum_proof(SumTree([line_of(1)]).prove_line(line_of(1).subject))
    )
    content[0] ^= 1
    with pytest.raises(MalformedProofError, match="tag"):
        sumtree.parse_sum_proof(bytes(content))


@pytest.mark.parametrize(("field", "length"), [("subject", 31), ("salt", 33)])
def test_line_field_of_another_length_is_malformed(field, length):
    with pytest.raises(MalformedRecordError):
        dataclasses.replace(line_of(1), **{field: bytes(length)})


@given(
    st.dictionaries(
        st.binary(min_size=32, max_size=32),
        st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)),
        max_size=40,
    )
)
def test_totals_are_the_sums_of_the_lines(values):
    lines = [
        SumLine(subject=subject, salt=bytes(32), credited_bytes=a, amount_stroops=b)
        for subject, (a, b) in values.items()
    ]
    tree = SumTree(lines)
    root = tree.root()
    assert root == defined_root(lines)
    assert root.total_bytes == sum(line.credited_bytes for line in lines)
    assert root.total_stroops == sum(line.amount_stroops for line in lines)
    for line in lines:
        sumtree.check_line(line, tree.prove_line(line.subject), root)
