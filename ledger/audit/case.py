"""Case: an audit file under verification, and what the steps have proven of it so far.

Later steps use what earlier ones proved. Reading a value before the step that proves it is an error
of the verifier itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from contracts.registry import Rule
from ledger.audit.file import AuditContents, AuditFile
from ledger.audit.trust import Trust
from ledger.books.epoch import EpochInputs, Result, Seal
from ledger.books.gathering import GatheredChecks
from ledger.books.judgement import LaneCount
from ledger.books.state import State
from ledger.books.transactions import AppliedTransaction, NetworkFact
from ledger.evidence.checkpoint import Checkpoint
from ledger.evidence.encoding import Signed
from ledger.evidence.leaf import Activation, ResultLeaf, SealLeaf
from ledger.evidence.terms import Terms

ValueT = TypeVar("ValueT")


@dataclass(slots=True)
class Case:
    """The file, the trust, and the findings."""

    file: AuditFile
    trust: Trust
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
