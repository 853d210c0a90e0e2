"""Compose: from a closed epoch and the log to the contents of its audit file.

What the operator runs after the anchor; pure, so that a rebuild from the same inputs gives the same
bytes. The verifier does not use it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, overload

from ledger.audit.counts import CountEvidence, format_count_evidence
from ledger.audit.file import AuditContents, BundleCodes, LogProof, ProvenLeaf
from ledger.books.bundle_check import BundleCheck
from ledger.books.epoch import EpochInputs, Result, Seal
from ledger.books.gathering import gather_checks
from ledger.books.journal import format_journal
from ledger.books.state import format_state
from ledger.books.statements import format_statements
from ledger.books.transactions import NetworkFact, format_fact
from ledger.evidence.merkle import HashTree, RootBuilder, leaf_hash


class EpochLog(Protocol):
    """The log up to and including one epoch's leaves, as far as its audit file needs it."""

    @property
    def epoch_leaves(self) -> Sequence[bytes]:
        """The epoch's leaves, in order."""

    @property
    def frontier(self) -> bytes:
        """State of a `RootBuilder` over the log before them."""

    @property
    def activation_index(self) -> int:
        """Index of the activation leaf in force."""

    @property
    def previous_result_index(self) -> int | None:
        """Index of the result leaf of the epoch before; None for the log's first epoch."""

    def prove(self, leaf_index: int) -> ProvenLeaf:
        """Return a leaf with its inclusion proof in this log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView:
    """A log that is in memory as a whole."""

    leaves: Sequence[bytes]
    """All leaves, from index 0."""

    first_leaf_index: int
    """Index of the epoch's first leaf."""

    activation_index: int
    """Index of the activation leaf in force."""

    previous_result_index: int | None
    """Index of the result leaf of the epoch before; None for the log's first epoch."""

    _tree: HashTree = field(init=False, repr=False, compare=False)
    """Over all leaves; built once for all proofs."""

    def __post_init__(self) -> None:
        # A frozen record sets what it derives from its fields past its own guard.
        object.__setattr__(self, "_tree", HashTree(leaf_hash(leaf) for leaf in self.leaves))

    @property
    def epoch_leaves(self) -> Sequence[bytes]:
        """The epoch's leaves, in order."""
        return self.leaves[self.first_leaf_index :]

    @property
    def frontier(self) -> bytes:
        """State of a `RootBuilder` over the log before them."""
        before = RootBuilder()
        for leaf in self.leaves[: self.first_leaf_index]:
            before.append(leaf)
        return before.export_state()

    def prove(self, leaf_index: int) -> ProvenLeaf:
        """Return a leaf with its inclusion proof in this log."""
        hashes = tuple(self._tree.prove_inclusion(leaf_index))
        proof = LogProof(leaf_index=leaf_index, hashes=hashes)
        return ProvenLeaf(leaf=self.leaves[leaf_index], proof=proof)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """The signed texts around an epoch."""

    trust_digest: bytes
    """Digest of the published trust file."""

    issuing_binding: bytes
    """Signed binding of the issuing key."""

    previous_checkpoint: bytes
    """Signed note; empty before the first epoch."""

    checkpoint: bytes
    """Signed note after the epoch's leaves."""


class RawBundles(Sequence[bytes]):
    """The bytes of a seal's bundles, each got when it is looked at."""

    def __init__(self, checks: Sequence[BundleCheck]) -> None:
        """Take the bundles without looking at one."""
        self._checks = checks

    def __len__(self) -> int:
        return len(self._checks)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[bytes, ...]: ...

    def __getitem__(self, index: int | slice) -> bytes | tuple[bytes, ...]:
        if isinstance(index, slice):
            return tuple(check.raw for check in self._checks[index])
        return self._checks[index].raw

    def __iter__(self) -> Iterator[bytes]:
        return (check.raw for check in self._checks)


def compose_contents(
    *,
    inputs: EpochInputs,
    seal: Seal,
    result: Result,
    log: EpochLog,
    notes: Notes,
    counts: Sequence[CountEvidence],
    anchor: NetworkFact,
) -> AuditContents:
    """Return the contents of an epoch's audit file.

    Args:
        inputs: What the epoch was computed from.
        seal: Its seal.
        result: Its result.
        log: The log up to the epoch's last leaf.
        notes: Checkpoints, issuing binding, trust digest.
        counts: Evidence for late lanes, in any order.
        anchor: The fact that anchored the checkpoint.
    """
    previous = log.previous_result_index
    return AuditContents(
        network_id=inputs.terms.value.network_id,
        broadcaster_account=inputs.terms.value.broadcaster_account,
        epoch=inputs.epoch,
        trust_digest=notes.trust_digest,
        terms=inputs.terms.raw,
        issuing_binding=notes.issuing_binding,
        rule=inputs.rule.source,
        activation=log.prove(log.activation_index),
        previous_checkpoint=notes.previous_checkpoint,
        frontier=log.frontier,
        previous_result=None if previous is None else log.prove(previous),
        leaves=tuple(log.epoch_leaves),
        checkpoint=notes.checkpoint,
        bundles=RawBundles(inputs.checks),
        codes=tuple(
            BundleCodes(bundle_code=int(check.code), receipt_codes=tuple(map(int, codes)))
            for check, codes in zip(
                gather_checks(inputs.checks).heads, seal.judgement.codes, strict=True
            )
        ),
        counts=tuple(
            format_count_evidence(piece)
            for piece in sorted(counts, key=lambda piece: piece.lane_digest)
        ),
        salt_key=inputs.salt_key,
        opening_state=format_state(inputs.opening),
        facts=tuple(format_fact(fact) for fact in inputs.facts),
        journal=format_journal(result.entries),
        statements=format_statements(result.lines),
        closing_state=format_state(result.closing),
        anchor=format_fact(anchor),
        instructions=tuple(signed.raw for signed in inputs.instructions),
    )
