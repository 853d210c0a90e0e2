"""Line proofs: what lets a payee check, with its trust file alone, that its lines are in the log.

Per epoch: the line's salt and sums, its path in the sum tree, the result leaf that states the
tree's root and totals, and the result leaf's proof in the log (c2sp.org/tlog-proof with the signed
checkpoint). Checked: the log's signature, the leaf's place, epoch and network, the line under the
leaf's totals. Not shown by a proof: that no other line was left out; the audit file shows that.

    {"format": "swarmledger-line-proof/1", "subject": "<64 hex digits>",
     "lines": [{"epoch": n, "salt": hex, "credited_bytes": n, "charge_stroops": n,
                "sum_proof": hex, "result_leaf": hex, "log_proof": text}, …]}
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ledger.audit.trust import Trust
from ledger.evidence.errors import InclusionError, MalformedProofError
from ledger.evidence.leaf import RESULT_LEAF
from ledger.evidence.merkle import fold_subtrees, largest_power_of_two_below, root_hash
from ledger.evidence.note import parse_note
from ledger.evidence.sumtree import (
    SumLine,
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
from ledger.publiclog.line_file import format_line_file
from ledger.reports.figures import EpochFigures, ResultPlace

LINE_PROOF_FORMAT = "swarmledger-line-proof/1"
LINE_PROOF_SIZE_MAX = 256 << 20
"""Longest file in characters."""

_LINE_FIELDS = {
    "epoch",
    "salt",
    "credited_bytes",
    "charge_stroops",
    "sum_proof",
    "result_leaf",
    "log_proof",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedLine:
    """A line that a proof showed to be in the log."""

    epoch: int
    credited_bytes: int
    charge_stroops: int
    tree_size: int
    """Of the checkpoint it was proven against."""


def format_line_proofs(figures: Sequence[EpochFigures], subject: bytes) -> str:
    """Return the proofs of a party's lines as JSON text, ending in a newline."""
    document = {
        "format": LINE_PROOF_FORMAT,
        "subject": subject.hex(),
        "lines": [_line_document(epoch, subject) for epoch in figures if _has_line(epoch, subject)],
    }
    return json.dumps(document, indent=1) + "\n"


def format_line_files(figures: Sequence[EpochFigures], subject: bytes) -> dict[int, str]:
    """Return one `.tlog-proof` a line (`ledger.publiclog.line_file`), by epoch."""
    files: dict[int, str] = {}
    for epoch in figures:
        if _has_line(epoch, subject):
            place = epoch.result_place
            content = format_line_file(
                next(line for line in epoch.sum_tree.lines if line.subject == subject),
                epoch.sum_tree.prove_line(subject),
                result_leaf=place.leaf,
                leaf_index=place.leaf_index,
                hashes=tuple(_prove_leaf(place)),
                note=parse_note(place.checkpoint_note),
            )
            files[epoch.epoch] = content.decode()
    return files


def _has_line(epoch: EpochFigures, subject: bytes) -> bool:
    return any(line.subject == subject for line in epoch.lines)


def _line_document(epoch: EpochFigures, subject: bytes) -> dict[str, Any]:
    line = next(line for line in epoch.sum_tree.lines if line.subject == subject)
    place = epoch.result_place
    log_proof = TlogProof(
        leaf_index=place.leaf_index,
        hashes=tuple(_prove_leaf(place)),
        note=parse_note(place.checkpoint_note),
    )
    return {
        "epoch": epoch.epoch,
        "salt": line.salt.hex(),
        "credited_bytes": line.credited_bytes,
        "charge_stroops": line.amount_stroops,
        "sum_proof": format_sum_proof(epoch.sum_tree.prove_line(subject)).hex(),
        "result_leaf": place.leaf.hex(),
        "log_proof": format_tlog_proof(log_proof).decode(),
    }


def _prove_leaf(place: ResultPlace) -> list[bytes]:
    """Inclusion proof (RFC 6962 §2.1.1) of a new leaf, from the frontier and the new leaves."""
    hashes: list[bytes] = []
    begin, end = 0, place.first_leaf_index + len(place.leaves)
    while end - begin > 1:
        middle = begin + largest_power_of_two_below(end - begin)
        if place.leaf_index < middle:
            hashes.append(_range_hash(place, middle, end))
            end = middle
        else:
            hashes.append(_range_hash(place, begin, middle))
            begin = middle
    return hashes[::-1]


def _range_hash(place: ResultPlace, begin: int, end: int) -> bytes:
    """Root over leaves begin..end - 1; a range of old leaves alone is one of the frontier's."""
    old = place.first_leaf_index
    if begin >= old:
        return root_hash(place.leaves[begin - old : end - old])
    starts: dict[tuple[int, int], bytes] = {}
    at = 0
    for subtree in place.frontier:
        size = 1 << ((old - at).bit_length() - 1)
        starts[at, at + size] = subtree
        at += size
    if (begin, end) in starts:
        return starts[begin, end]
    middle = begin + largest_power_of_two_below(end - begin)
    return fold_subtrees([_range_hash(place, begin, middle), _range_hash(place, middle, end)])


def check_line_proofs(text: str, trust: Trust) -> list[CheckedLine]:
    """Check every line of a proof file against the reader's trust.

    Returns:
        The lines, by epoch.

    Raises:
        MalformedProofError: The text is not in the format.
        EvidenceError: A line is not shown to be in the trusted log; says which epoch's.
    """
    subject, lines = _parse(text)
    checked = [_check_one(line, subject, trust) for line in lines]
    epochs = [line.epoch for line in checked]
    if epochs != sorted(set(epochs)):
        raise MalformedProofError("line_proof.epochs", got=epochs, want="each once, ascending")
    return checked


def _check_one(line: dict[str, Any], subject: bytes, trust: Trust) -> CheckedLine:
    epoch = line["epoch"]
    leaf_bytes = line["result_leaf"]
    verified = check_tlog_proof(
        parse_tlog_proof(line["log_proof"].encode()),
        leaf_bytes,
        origin=trust.log_origin,
        known_keys=[
            key for key in trust.log_verifier_keys() if _signs(trust, key.public_key, epoch)
        ],
    )
    leaf = RESULT_LEAF.parse_body(leaf_bytes)
    if (leaf.epoch, leaf.network_id) != (epoch, trust.network_id):
        raise InclusionError(f"epoch {epoch}: the leaf is of epoch {leaf.epoch} or another network")
    proof = parse_sum_proof(line["sum_proof"])
    root = SumRoot(
        hash=leaf.sum_tree_hash,
        total_bytes=leaf.sum_tree_bytes,
        total_stroops=leaf.sum_tree_stroops,
        count=proof.count,
    )
    sum_line = SumLine(
        subject=subject,
        salt=line["salt"],
        credited_bytes=line["credited_bytes"],
        amount_stroops=line["charge_stroops"],
    )
    check_line(sum_line, proof, root)
    return CheckedLine(
        epoch=epoch,
        credited_bytes=sum_line.credited_bytes,
        charge_stroops=sum_line.amount_stroops,
        tree_size=verified.checkpoint.tree_size,
    )


def _signs(trust: Trust, key: bytes, epoch: int) -> bool:
    return trust.log_key_at(epoch) == key


def _parse(text: str) -> tuple[bytes, list[dict[str, Any]]]:
    try:
        document = json.loads(text) if len(text) <= LINE_PROOF_SIZE_MAX else None
    except (ValueError, RecursionError) as error:
        raise MalformedProofError("line_proof", got=str(error), want="JSON") from None
    if not isinstance(document, dict) or set(document) != {"format", "subject", "lines"}:
        raise MalformedProofError("line_proof", got=text[:80], want="format, subject, lines")
    if document["format"] != LINE_PROOF_FORMAT or not isinstance(document["lines"], list):
        raise MalformedProofError(
            "line_proof.format", got=document["format"], want=LINE_PROOF_FORMAT
        )
    lines = [dict(_line_values(place, line)) for place, line in enumerate(document["lines"])]
    return _hex("line_proof.subject", document["subject"]), lines


def _line_values(place: int, line: Any) -> Iterator[tuple[str, Any]]:
    name = f"line_proof.lines[{place}]"
    if not isinstance(line, dict) or set(line) != _LINE_FIELDS:
        raise MalformedProofError(name, got=line, want="exactly the fields of the format")
    readers: dict[str, Callable[[str, Any], Any]] = {
        "epoch": _integer,
        "credited_bytes": _integer,
        "charge_stroops": _integer,
        "log_proof": _text,
    }
    for field, value in line.items():
        reader: Callable[[str, Any], Any] = readers.get(field, _hex)
        yield field, reader(f"{name}.{field}", value)


def _integer(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise MalformedProofError(name, got=value, want="0..2**63-1")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise MalformedProofError(name, got=value, want="text")
    return value


def _hex(name: str, value: Any) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else None
    except ValueError:
        data = None
    if data is None or data.hex() != value:
        raise MalformedProofError(name, got=value, want="lower-case hex digits")
    return data
