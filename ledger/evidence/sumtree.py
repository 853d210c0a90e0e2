"""The Merkle sum tree: each party checks that its line is inside the total that is paid.

Every leaf is a party's line: bytes and stroops of one epoch, salted so that nobody can guess a
line from its hash. A node's hash binds both children's hashes *and* both children's sums, so a
total cannot be moved from one side to the other, and the root binds the totals and the number of
lines. Layout, all integers u64 little-endian, all hashes SHA-256:

    leaf hash = SHA-256("swl-sum-leaf" 0⁴ ‖ salt₃₂ ‖ subject₃₂ ‖ bytes ‖ stroops)       96 bytes
    node hash = SHA-256("swl-sum-node" 0⁴ ‖ left hash ‖ left bytes ‖ left stroops
                                          ‖ right hash ‖ right bytes ‖ right stroops)  112 bytes
    root hash = SHA-256("swl-sum-root" 0⁴ ‖ count ‖ bytes ‖ stroops ‖ top hash)         72 bytes

0⁴ are four zero bytes. The tree has the shape of RFC 6962 §2.1; lines stand in ascending order of
their subject, one line a subject. The top hash of a tree without lines is 32 zero bytes. Every
value and every sum is at least 0 and below 2**63.

    proof = "swl-sum-path" 0⁴ ‖ line index ‖ count ‖ siblings, leaf to root, each
            hash₃₂ ‖ bytes ‖ stroops                                        32 + 48 × depth bytes

A proof shows its reader the sums of the subtrees beside its path, the first of which may be one
other party's line without its subject. What it does not show: that no line was left out or
doubled under another subject. Whoever has all lines (the auditor) rebuilds the tree for that.

Source: design of this project; failure modes of proofs of liabilities are the test cases.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ledger.evidence.errors import InclusionError, MalformedProofError, MalformedRecordError
from ledger.evidence.merkle import HASH_BYTES, sibling_sides

SALT_BYTES = 32
SUBJECT_BYTES = 32
SUM_LIMIT = 2**63
"""Values and sums are below this, so they fit a signed 64-bit column and cannot wrap."""

COUNT_LIMIT = 2**40
"""A tree has at most this many lines; keeps line and proof together within 2 KiB."""

_LEAF = struct.Struct("<16s32s32sQQ")
_NODE = struct.Struct("<16s32sQQ32sQQ")
_ROOT = struct.Struct("<16sQQQ32s")
_PROOF = struct.Struct("<16sQQ")
_SIBLING = struct.Struct("<32sQQ")
_LEAF_TAG = b"swl-sum-leaf".ljust(16, b"\0")
_NODE_TAG = b"swl-sum-node".ljust(16, b"\0")
_ROOT_TAG = b"swl-sum-root".ljust(16, b"\0")
_PROOF_TAG = b"swl-sum-path".ljust(16, b"\0")
_EMPTY_TOP_HASH = bytes(HASH_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumLine:
    """One party's line of an epoch.

    Raises:
        MalformedRecordError: a field is out of range.
    """

    subject: bytes
    """Whose line it is, such as the raw public key of an account; 32 bytes."""

    salt: bytes
    """Keeps the line unguessable; 32 bytes, known to the party and the auditor."""

    credited_bytes: int
    """Bytes of this line; 0 to 2**63 - 1."""

    amount_stroops: int
    """Money of this line; 0 to 2**63 - 1."""

    def __post_init__(self) -> None:
        _require_length("sum_line.subject", self.subject, SUBJECT_BYTES)
        _require_length("sum_line.salt", self.salt, SALT_BYTES)
        _require_sum("sum_line.credited_bytes", self.credited_bytes)
        _require_sum("sum_line.amount_stroops", self.amount_stroops)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumNode:
    """A subtree: its hash and its sums.

    Raises:
        MalformedRecordError: a field is out of range.
    """

    hash: bytes
    """Leaf or node hash; 32 bytes."""

    total_bytes: int
    """Bytes of all lines below; 0 to 2**63 - 1."""

    total_stroops: int
    """Money of all lines below; 0 to 2**63 - 1."""

    def __post_init__(self) -> None:
        _require_length("sum_node.hash", self.hash, HASH_BYTES)
        _require_sum("sum_node.total_bytes", self.total_bytes)
        _require_sum("sum_node.total_stroops", self.total_stroops)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumRoot:
    """What a sum tree commits to. The hash alone already binds the other three.

    Raises:
        MalformedRecordError: a field is out of range.
    """

    hash: bytes
    """Root hash; 32 bytes."""

    total_bytes: int
    """Bytes of all lines; 0 to 2**63 - 1."""

    total_stroops: int
    """Money of all lines; 0 to 2**63 - 1."""

    count: int
    """Number of lines; 0 to 2**40."""

    def __post_init__(self) -> None:
        _require_length("sum_root.hash", self.hash, HASH_BYTES)
        _require_sum("sum_root.total_bytes", self.total_bytes)
        _require_sum("sum_root.total_stroops", self.total_stroops)
        _require_count("sum_root.count", self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumProof:
    """Path of one line to the root.

    Raises:
        MalformedProofError: index, count and number of siblings do not go together.
    """

    line_index: int
    """Place of the line in ascending order of subjects; 0 ≤ line_index < count."""

    count: int
    """Number of lines in the tree; 1 to 2**40."""

    siblings: tuple[SumNode, ...]
    """Subtrees beside the path, leaf to root."""

    def __post_init__(self) -> None:
        if not 0 <= self.line_index < self.count <= COUNT_LIMIT:
            raise MalformedProofError(
                "sum_proof.line_index",
                got=self.line_index,
                want=f"0 <= line_index < count {self.count} <= 2**40",
            )
        depth = len(sibling_sides(self.line_index, self.count))
        if len(self.siblings) != depth:
            raise MalformedProofError(
                "sum_proof.siblings", got=len(self.siblings), want=f"{depth} subtrees"
            )


class SumTree:
    """All lines of an epoch, ordered by subject, with every level stored.

    Raises:
        MalformedRecordError: two lines of one subject, too many lines, or a sum of 2**63 or more.
    """

    __slots__ = ("_levels", "_lines", "_places")

    def __init__(self, lines: Iterable[SumLine]) -> None:
        self._lines = sorted(lines, key=lambda line: line.subject)
        _require_count("sum_tree.count", len(self._lines))
        self._places = {line.subject: place for place, line in enumerate(self._lines)}
        if len(self._places) != len(self._lines):
            raise MalformedRecordError(
                "sum_tree.subjects",
                got=f"{len(self._lines)} lines of {len(self._places)} subjects",
                want="one line a subject",
            )
        self._levels = [[hash_line(line) for line in self._lines]]
        # Pairing neighbours and carrying an odd last node up gives the shape of RFC 6962.
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            above = [
                join_nodes(below[place], below[place + 1]) for place in range(0, len(below) - 1, 2)
            ]
            if len(below) % 2 == 1:
                above.append(below[-1])
            self._levels.append(above)

    @property
    def lines(self) -> Sequence[SumLine]:
        """The lines in their order in the tree."""
        return tuple(self._lines)

    def root(self) -> SumRoot:
        """Root of the tree."""
        top = self._levels[-1][0] if self._lines else _empty_top()
        return close_root(top, len(self._lines))

    def prove_line(self, subject: bytes) -> SumProof:
        """Proof of the line of this subject.

        Raises:
            KeyError: the tree has no line of this subject.
        """
        line_index = place = self._places[subject]
        siblings: list[SumNode] = []
        for level in self._levels[:-1]:
            if place ^ 1 < len(level):
                siblings.append(level[place ^ 1])
            place >>= 1
        return SumProof(line_index=line_index, count=len(self._lines), siblings=tuple(siblings))


def check_line(line: SumLine, proof: SumProof, root: SumRoot) -> None:
    """Check that the line is one of those that `root` sums up.

    Raises:
        InclusionError: it is not, the totals differ, or a sum on the path leaves its range.
    """
    node = hash_line(line)
    sides = sibling_sides(proof.line_index, proof.count)
    try:
        for sibling, sibling_is_right in zip(proof.siblings, sides, strict=True):
            node = join_nodes(node, sibling) if sibling_is_right else join_nodes(sibling, node)
    except MalformedRecordError as error:
        raise InclusionError(f"sum proof of line {proof.line_index}: {error}") from error
    found = close_root(node, proof.count)
    if found != root:
        raise InclusionError(
            f"sum root of line {proof.line_index}: got {_describe(found)}, want {_describe(root)}"
        )


def hash_line(line: SumLine) -> SumNode:
    """Leaf of the tree for this line."""
    content = _LEAF.pack(
        _LEAF_TAG, line.salt, line.subject, line.credited_bytes, line.amount_stroops
    )
    return SumNode(
        hash=hashlib.sha256(content).digest(),
        total_bytes=line.credited_bytes,
        total_stroops=line.amount_stroops,
    )


def join_nodes(left: SumNode, right: SumNode) -> SumNode:
    """Parent of two subtrees; binds both hashes and all four sums.

    Raises:
        MalformedRecordError: a sum reaches 2**63.
    """
    content = _NODE.pack(
        _NODE_TAG,
        left.hash,
        left.total_bytes,
        left.total_stroops,
        right.hash,
        right.total_bytes,
        right.total_stroops,
    )
    return SumNode(
        hash=hashlib.sha256(content).digest(),
        total_bytes=left.total_bytes + right.total_bytes,
        total_stroops=left.total_stroops + right.total_stroops,
    )


def close_root(top: SumNode, count: int) -> SumRoot:
    """Root over the topmost subtree; binds the totals and the number of lines."""
    content = _ROOT.pack(_ROOT_TAG, count, top.total_bytes, top.total_stroops, top.hash)
    return SumRoot(
        hash=hashlib.sha256(content).digest(),
        total_bytes=top.total_bytes,
        total_stroops=top.total_stroops,
        count=count,
    )


def format_sum_proof(proof: SumProof) -> bytes:
    """Print a proof in the layout of the module's head."""
    parts = [_PROOF.pack(_PROOF_TAG, proof.line_index, proof.count)]
    parts.extend(
        _SIBLING.pack(node.hash, node.total_bytes, node.total_stroops) for node in proof.siblings
    )
    return b"".join(parts)


def parse_sum_proof(content: bytes) -> SumProof:
    """Parse what `format_sum_proof` printed, and nothing else.

    Raises:
        MalformedProofError: anything else.
    """
    rest = len(content) - _PROOF.size
    if rest < 0 or rest % _SIBLING.size:
        raise MalformedProofError("sum_proof", got=len(content), want="32 + 48 × depth bytes")
    tag, line_index, count = _PROOF.unpack_from(content)
    if tag != _PROOF_TAG:
        raise MalformedProofError("sum_proof.tag", got=tag, want=repr(_PROOF_TAG))
    try:
        siblings = tuple(
            SumNode(hash=value, total_bytes=total_bytes, total_stroops=total_stroops)
            for value, total_bytes, total_stroops in _SIBLING.iter_unpack(content[_PROOF.size :])
        )
    except MalformedRecordError as error:
        raise MalformedProofError(
            f"sum_proof.{error.field}", got=error.got, want=error.want
        ) from error
    return SumProof(line_index=line_index, count=count, siblings=siblings)


def _empty_top() -> SumNode:
    return SumNode(hash=_EMPTY_TOP_HASH, total_bytes=0, total_stroops=0)


def _describe(root: SumRoot) -> str:
    return (
        f"{root.hash.hex()} with {root.total_bytes} bytes, "
        f"{root.total_stroops} stroops, {root.count} lines"
    )


def _require_length(field: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise MalformedRecordError(field, got=f"{len(value)} bytes", want=f"{length} bytes")


def _require_sum(field: str, value: int) -> None:
    if not 0 <= value < SUM_LIMIT:
        raise MalformedRecordError(field, got=value, want="0 <= value < 2**63")


def _require_count(field: str, value: int) -> None:
    if not 0 <= value <= COUNT_LIMIT:
        raise MalformedRecordError(field, got=value, want="0 <= count <= 2**40")
