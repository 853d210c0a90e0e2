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
from ledger.evidence.receipt import Receipt


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


@dataclass(frozen=True, slots=True)
class Receipted:
    """What one payee's receipts of all lanes come to."""

    is_cdn: bool
    bytes_total: int


def sum_receipted(epochs: Sequence[ClosedEpoch]) -> dict[bytes, Receipted]:
    """Return receipted bytes by payee key: each lane's highest receipt, once over all files."""
    highest: dict[bytes, Receipt] = {}
    for epoch in epochs:
        for raw in epoch.contents.bundles:
            for signed in parse_bundle(raw).value.receipts:
                receipt = signed.value
                known = highest.get(receipt.lane_digest)
                if known is None or known.sequence < receipt.sequence:
                    highest[receipt.lane_digest] = receipt
    sums: dict[bytes, Receipted] = {}
    for receipt in highest.values():
        before = sums.get(receipt.payee_key, Receipted(receipt.is_cdn, 0))
        total = before.bytes_total + receipt.bytes_total
        sums[receipt.payee_key] = Receipted(receipt.is_cdn, total)
    return sums
