"""Audit files of a demo as they appear: what was receipted, credited and how the books closed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger.audit.file import AuditContents, parse_audit_file
from ledger.audit.stellar_xdr import read_transaction
from ledger.books.state import State, parse_state
from ledger.books.transactions import parse_fact
from ledger.embedded.summary import EpochSummary
from ledger.evidence.bundle import parse_bundle
from ledger.evidence.checkpoint import parse_checkpoint
from ledger.evidence.encoding import RecordCode
from ledger.evidence.leaf import RESULT_LEAF, ResultLeaf, code_of_leaf
from ledger.evidence.note import parse_note


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedEpoch:
    """One epoch's audit file, read without the verifier."""

    path: Path
    contents: AuditContents
    closing: State
    result: ResultLeaf

    @property
    def epoch(self) -> int:
        """Its number."""
        return self.contents.epoch

    @property
    def receipt_count(self) -> int:
        """Receipts in its bundles."""
        return sum(len(codes.receipt_codes) for codes in self.contents.codes)

    def is_at_rest(self, threshold_stroops: int) -> bool:
        """Tell whether nothing is undecided and nobody is owed as much as the threshold."""
        owed = (payee.owed_stroops for payee in self.closing.payees.values())
        return not self.closing.batches and all(amount < threshold_stroops for amount in owed)

    def summarise(self, verdict: str) -> EpochSummary:
        """Return its line of the summary."""
        anchor = read_transaction(parse_fact(self.contents.anchor))
        checkpoint = parse_checkpoint(parse_note(self.contents.checkpoint).text)
        return EpochSummary(
            epoch=self.epoch,
            root=checkpoint.root_hash.hex(),
            anchor_tx=anchor.tx_hash.hex(),
            audit_file=self.path.name,
            receipts=self.receipt_count,
            bytes_p2p=self.result.bytes_p2p_credited,
            bytes_cdn=self.result.bytes_cdn_credited,
            verdict=verdict,
        )


def read_closed_epoch(path: Path) -> ClosedEpoch:
    """Read an epoch's audit file."""
    contents = parse_audit_file(path.read_bytes()).contents
    result = next(
        RESULT_LEAF.parse_body(leaf)
        for leaf in contents.leaves
        if code_of_leaf(leaf) == RecordCode.LEAF_RESULT
    )
    return ClosedEpoch(
        path=path,
        contents=contents,
        closing=parse_state(contents.closing_state),
        result=result,
    )


def sum_receipted(epochs: Sequence[ClosedEpoch]) -> dict[str, int]:
    """Return receipted bytes by source: each lane's highest receipt, once over all files."""
    highest: dict[bytes, tuple[int, int, bool]] = {}
    for epoch in epochs:
        for raw in epoch.contents.bundles:
            for signed in parse_bundle(raw).value.receipts:
                receipt = signed.value
                claim = (receipt.sequence, receipt.bytes_total, receipt.is_cdn)
                known = highest.get(receipt.lane_digest, claim)
                highest[receipt.lane_digest] = max(known, claim)
    return {
        "p2p": sum(size for _, size, is_cdn in highest.values() if not is_cdn),
        "cdn": sum(size for _, size, is_cdn in highest.values() if is_cdn),
    }
