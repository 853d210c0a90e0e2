"""The verifier: one epoch's audit file against the reader's trust, in numbered steps.

Each step states something, recomputes it, and either proves it or names the first difference. A
later step may rely on what an earlier one proved, so the walk stops at the first that fails. The
steps stand in `steps_evidence` (what was claimed, by whom, in which log) and `steps_books` (what
it comes to). Off-line: network facts are the operator's signed claims here, and the step says so.

Nothing the file says about itself is believed: verdicts, codes, lanes, charges, journal,
statements, payouts, states and leaves are all computed anew and compared byte for byte.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from contracts.interface import SettlementError
from contracts.language import LanguageError
from contracts.registry import RegistryError
from ledger.audit import steps_books, steps_evidence
from ledger.audit.case import BundleChecker, Case, check_bundles_in_turn
from ledger.audit.errors import AuditError, UndecidableError
from ledger.audit.file import read_audit_file
from ledger.audit.source import ByteSource, MemorySource
from ledger.audit.trust import Trust
from ledger.books.errors import BooksError
from ledger.evidence.checkpoint import Checkpoint
from ledger.evidence.errors import EvidenceError


class Verdict(StrEnum):
    """What the verifier concludes."""

    PROVEN = "proven"
    DISPROVEN = "disproven"
    UNDECIDED = "cannot tell"


EXIT_CODES = {Verdict.PROVEN: 0, Verdict.DISPROVEN: 1, Verdict.UNDECIDED: 2}
"""Exit code of the command for each verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One numbered step and what it came to."""

    number: int
    """From 1."""

    name: str
    """Stable short name, such as "bundles"."""

    verdict: Verdict
    detail: str
    """What was proven, with counts; or the first difference: got, want."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of a verification."""

    verdict: Verdict
    steps: tuple[Step, ...]
    """Up to and including the first that did not hold."""

    epoch: int | None
    """Epoch of the file, if it could be read."""

    previous_checkpoint: Checkpoint | None = None
    """Head of the log before the epoch; None before the first one, or if not proven."""

    checkpoint: Checkpoint | None = None
    """Head of the log after the epoch; None if not proven."""

    @property
    def failed_step(self) -> Step | None:
        """The step that did not hold, if any."""
        last = self.steps[-1] if self.steps else None
        return last if last is not None and last.verdict != Verdict.PROVEN else None


StepFunction = Callable[[Case], str]
"""Proves one statement about a case; returns what it proved, raises if it does not hold."""

STEPS: tuple[tuple[str, StepFunction], ...] = (
    ("trust", steps_evidence.prove_trust),
    ("terms", steps_evidence.prove_terms),
    ("checkpoints", steps_evidence.prove_checkpoints),
    ("log", steps_evidence.prove_log),
    ("rule", steps_evidence.prove_rule),
    ("opening state", steps_evidence.prove_opening_state),
    ("bundles", steps_evidence.prove_bundles),
    ("network facts", steps_evidence.prove_facts),
    ("counts before", steps_evidence.prove_counts),
    ("instructions", steps_evidence.prove_instructions),
    ("lanes and seal", steps_books.prove_seal),
    ("contract", steps_books.prove_contract),
    ("journal", steps_books.prove_journal),
    ("statements", steps_books.prove_statements),
    ("sum tree", steps_books.prove_sum_tree),
    ("payouts", steps_books.prove_payouts),
    ("result", steps_books.prove_result),
    ("closing state", steps_books.prove_closing_state),
    ("conservation", steps_books.prove_conservation),
    ("anchor", steps_books.prove_anchor),
)
"""Steps after the first, which reads the file."""

_DETAIL_MAX = 1_000
"""Longest finding in characters; what it quotes may be long."""

_FINDINGS = (
    AuditError,
    EvidenceError,
    BooksError,
    SettlementError,
    LanguageError,
    RegistryError,
)


def verify_audit_file(
    data: bytes | ByteSource,
    trust: Trust | None,
    check_bundles: BundleChecker = check_bundles_in_turn,
) -> Report:
    """Verify one epoch's audit file.

    Args:
        data: The file's bytes, or where they are read from.
        trust: The reader's root of trust; without it the verdict is "cannot tell".
        check_bundles: How bundles are checked; one after the other unless told otherwise.

    Returns:
        A report; hostile bytes never raise.
    """
    return examine_audit_file(data, trust, check_bundles)[0]


def examine_audit_file(
    data: bytes | ByteSource,
    trust: Trust | None,
    check_bundles: BundleChecker = check_bundles_in_turn,
) -> tuple[Report, Case | None]:
    """Verify one epoch's audit file and hand out what was recomputed.

    Reports are made from the recomputed figures, so a bill cannot say what the verifier would not.

    Returns:
        The report, and the case with all findings; None when the file could not be read.
    """
    case: list[Case] = []
    source = MemorySource(data) if isinstance(data, bytes) else data
    steps = tuple(_walk(source, trust, check_bundles, case))
    verdicts = {step.verdict for step in steps}
    verdict = Verdict.PROVEN
    for worse in (Verdict.UNDECIDED, Verdict.DISPROVEN):
        verdict = worse if worse in verdicts else verdict
    if not case:
        return Report(verdict=verdict, steps=steps, epoch=None), None
    report = Report(
        verdict=verdict,
        steps=steps,
        epoch=case[0].epoch,
        previous_checkpoint=case[0].previous_checkpoint,
        checkpoint=case[0].checkpoint,
    )
    return report, case[0]


def prove_succession(reports: Sequence[Report]) -> list[Report]:
    """Compare the files of one log with each other: each goes on where the one before ended.

    A file alone proves its epoch, given the state that the log's result of the epoch before names.
    An operator who signs further leaves between two epochs, or two logs, is found only here.

    Args:
        reports: Of files verified with one trust, in any order.

    Returns:
        The same in the same order; each proven one has one more step, "succession".
    """
    heads: dict[int, set[Checkpoint | None]] = {}
    for report in reports:
        if report.verdict == Verdict.PROVEN and report.epoch is not None:
            heads.setdefault(report.epoch, set()).add(report.checkpoint)
    return [
        _with_succession(report, heads) if report.verdict == Verdict.PROVEN else report
        for report in reports
    ]


def _with_succession(report: Report, heads: dict[int, set[Checkpoint | None]]) -> Report:
    epoch = report.epoch or 0
    before = heads.get(epoch - 1)
    verdict = Verdict.DISPROVEN
    if len(heads[epoch]) > 1:
        detail = (
            f"{len(heads[epoch])} different logs of epoch {epoch} were given: the log was forked"
        )
    elif report.previous_checkpoint is None:
        verdict, detail = Verdict.PROVEN, "the log begins with this epoch"
    elif before is None:
        verdict = Verdict.PROVEN
        detail = f"no proven file of epoch {epoch - 1} to compare with: what it came to is given"
    elif before == {report.previous_checkpoint}:
        verdict = Verdict.PROVEN
        detail = f"the log goes on where the file of epoch {epoch - 1} ends"
    else:
        sizes = sorted(head.tree_size for head in before if head is not None)
        detail = (
            f"log before epoch {epoch}: got size {report.previous_checkpoint.tree_size}, "
            f"want {sizes} as in the file of epoch {epoch - 1}, and its root"
        )
    number = len(report.steps) + 1
    step = Step(number=number, name="succession", verdict=verdict, detail=detail)
    return replace(report, verdict=verdict, steps=(*report.steps, step))


def _walk(
    source: ByteSource, trust: Trust | None, check_bundles: BundleChecker, opened: list[Case]
) -> Iterator[Step]:
    try:
        file = read_audit_file(source)
    except EvidenceError as error:
        yield Step(number=1, name="file", verdict=Verdict.DISPROVEN, detail=_in_one_line(error))
        return
    detail = f"{source.size:,} bytes, every section matches its digest"
    yield Step(number=1, name="file", verdict=Verdict.PROVEN, detail=detail)
    if trust is None:
        detail = "no trust file was given, so nothing says whose signatures count"
        yield Step(number=2, name="trust", verdict=Verdict.UNDECIDED, detail=detail)
        return
    case = Case(file, trust, check_bundles)
    opened.append(case)
    for number, (name, prove) in enumerate(STEPS, start=2):
        try:
            detail = prove(case)
        except UndecidableError as error:
            detail = _in_one_line(error)
            yield Step(number=number, name=name, verdict=Verdict.UNDECIDED, detail=detail)
            return
        except _FINDINGS as error:
            detail = _in_one_line(error)
            yield Step(number=number, name=name, verdict=Verdict.DISPROVEN, detail=detail)
            return
        yield Step(number=number, name=name, verdict=Verdict.PROVEN, detail=detail)


def _in_one_line(error: Exception) -> str:
    """Findings quote hostile text; none of it may move a cursor or begin a line of its own."""
    text = str(error)[:_DETAIL_MAX]
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
