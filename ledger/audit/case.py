"""Case: an audit file under verification, and what the steps have proven of it so far.

Later steps use what earlier ones proved. Reading a value before the step that proves it is an error
of the verifier itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from contracts.registry import Rule
from ledger.audit.file import AuditContents, AuditFile
from ledger.audit.trust import Trust
from ledger.books.bundle_check import BundleCheck, check_bundle
from ledger.books.epoch import EpochInputs, Result, Seal
from ledger.books.gathering import GatheredChecks
from ledger.books.judgement import LaneCount
from ledger.books.state import State
from ledger.books.transactions import AppliedTransaction, NetworkFact
from ledger.evidence.checkpoint import Checkpoint
from ledger.evidence.encoding import Signed
from ledger.evidence.instruction import Instruction
from ledger.evidence.leaf import Activation, ResultLeaf, SealLeaf
from ledger.evidence.recent import RecentSet
from ledger.evidence.terms import Terms

ValueT = TypeVar("ValueT")


BundleChecker = Callable[[Sequence[bytes], Signed[Terms], int, int], Iterator[BundleCheck]]
"""Yields the check of each bundle in order, given terms, epoch and the issuing key's last epoch."""

_ENTITLEMENTS_REMEMBERED = 1 << 18
"""Signatures of entitlements that are known to be good; a viewer's stands in many bundles."""


def check_bundles_in_turn(
    bundles: Sequence[bytes], terms: Signed[Terms], epoch: int, issued_through: int
) -> Iterator[BundleCheck]:
    """Yield the check of each bundle, one after the other."""
    known: RecentSet[bytes] = RecentSet(_ENTITLEMENTS_REMEMBERED)
    for raw in bundles:
        yield check_bundle(raw, terms, epoch, issued_through=issued_through, known=known)


@dataclass(slots=True)
class Case:
    """The file, the trust, and the findings."""

    file: AuditFile
    trust: Trust
    check_bundles: BundleChecker = check_bundles_in_turn
    terms: Signed[Terms] | None = None
    checkpoint: Checkpoint | None = None
    previous_checkpoint: Checkpoint | None = None
    seal_leaf: SealLeaf | None = None
    result_leaf: ResultLeaf | None = None
    rule: Rule | None = None
    activations: tuple[Signed[Activation], ...] = ()
    opening: State | None = None
    gathered: GatheredChecks | None = None
    facts: tuple[NetworkFact, ...] = ()
    transactions: tuple[AppliedTransaction, ...] = ()
    counted_before: Mapping[bytes, LaneCount] = field(default_factory=dict)
    instructions: tuple[Signed[Instruction], ...] = ()
    dao_key: bytes | None = None
    inputs: EpochInputs | None = None
    seal: Seal | None = None
    result: Result | None = None

    @property
    def contents(self) -> AuditContents:
        """The file's contents."""
        return self.file.contents

    @property
    def checks(self) -> GatheredChecks:
        """The epoch's bundles with their verdicts, once proven."""
        return proven(self.gathered)

    @property
    def epoch(self) -> int:
        """Epoch of the file."""
        return self.contents.epoch

    @property
    def is_first_epoch(self) -> bool:
        """Whether the log begins with this epoch."""
        return self.epoch == self.trust.first_epoch


def proven(value: ValueT | None) -> ValueT:
    """Return what an earlier step proved."""
    if value is None:
        raise AssertionError("a step reads what no earlier step has proven")
    return value
