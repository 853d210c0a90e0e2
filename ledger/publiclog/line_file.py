"""A statement's line as one `.tlog-proof`: the log's proof of the result, and the line under it.

The proof shows that the epoch's result leaf is in the log (c2sp.org/tlog-proof). Its `extra` holds,
in this order: the result leaf, the line (subject, salt, bytes, stroops), its path in the sum tree
(`ledger.evidence.sumtree`). Extra data is not authenticated by itself: the leaf is proven by the
proof, and the line by the leaf's sum root, so nothing rests on it. Any reader of tlog-proofs can
check the first half with the leaf, this module checks both.
"""

from dataclasses import dataclass
from typing import Final

from ledger.audit.errors import DisprovenError, UndecidableError
from ledger.audit.trust import Trust
from ledger.evidence.encoding import Layout
from ledger.evidence.errors import EvidenceError, MalformedError, MalformedProofError
from ledger.evidence.leaf import RESULT_LEAF
from ledger.evidence.note import Note, format_note
from ledger.evidence.sumtree import (
    SumLine,
    SumProof,
    SumRoot,
    check_line,
    format_sum_proof,
    parse_sum_proof,
)
from ledger.evidence.tlog_proof import (
    TlogProof,
    check_tlog_proof,
    format_tlog_proof,
    parse_tlog_proof,
)
from ledger.publiclog.log_keys import SignedHead, keys_of_trust

LINE_CHARACTERS_MAX: Final = 1 << 20
"""A file is at most this long: extra data of a leaf's length, and a note."""

_LINE: Final = Layout(
    "line",
    [
        ("subject", "bytes32"),
        ("salt", "bytes32"),
        ("credited_bytes", "u64"),
        ("amount_stroops", "u64"),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenLine:
    """A line that stands under a total in the log."""

    epoch: int
    line: SumLine
    tree_size: int
    """Leaves of the checkpoint it is proven against."""

    total_bytes: int
    """Bytes of all lines."""

    total_stroops: int
    """Stroops of all lines."""


def format_line_file(
    line: SumLine,
    sum_proof: SumProof,
    *,
    result_leaf: bytes,
    leaf_index: int,
    hashes: tuple[bytes, ...],
    note: Note,
) -> bytes:
    """Return the file of a line.

    Raises:
        MalformedRecordError: A field is out of range.
    """
    extra = result_leaf + _LINE.pack(line) + format_sum_proof(sum_proof)
    proof = TlogProof(leaf_index=leaf_index, hashes=hashes, note=note, extra=extra)
    return format_tlog_proof(proof)


def check_line_file(content: bytes, trust: Trust) -> ProvenLine:
    """Check the file of a line against the reader's trust.

    Raises:
        DisprovenError: The line is not shown to be in the trusted log.
        UndecidableError: It is no such file.
    """
    try:
        proof = parse_tlog_proof(content)
        leaf_bytes, line, sum_proof = _split(proof.extra)
        leaf = RESULT_LEAF.parse_body(leaf_bytes)
    except MalformedError as error:
        raise UndecidableError(f"line: {error}") from error
    try:
        verified = check_tlog_proof(
            proof, leaf_bytes, origin=trust.log_origin, known_keys=trust.log_verifier_keys()
        )
        root = SumRoot(
            hash=leaf.sum_tree_hash,
            total_bytes=leaf.sum_tree_bytes,
            total_stroops=leaf.sum_tree_stroops,
            count=sum_proof.count,
        )
        check_line(line, sum_proof, root)
    except EvidenceError as error:
        raise DisprovenError(f"line: {error}") from error
    head = SignedHead(
        checkpoint=verified.checkpoint, note=format_note(proof.note), signers=verified.signers
    )
    keys_of_trust(trust).require_key_from(head, leaf.epoch)
    if leaf.network_id != trust.network_id:
        raise DisprovenError("line: got a result of another network")
    return ProvenLine(
        epoch=leaf.epoch,
        line=line,
        tree_size=verified.checkpoint.tree_size,
        total_bytes=root.total_bytes,
        total_stroops=root.total_stroops,
    )


def _split(extra: bytes) -> tuple[bytes, SumLine, SumProof]:
    leaf_end = RESULT_LEAF.body_size
    line_end = leaf_end + _LINE.size
    if len(extra) < line_end:
        raise MalformedProofError("line", got=f"{len(extra)} bytes of extra", want="a line's")
    line = SumLine(**_LINE.unpack(extra[leaf_end:line_end]))
    return extra[:leaf_end], line, parse_sum_proof(extra[line_end:])
