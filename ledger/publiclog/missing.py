"""What became of a party's promised bundles: included, refused, pending, or missing.

The promise names the seal. If the log has sealed that epoch and its run of leaves holds no leaf of
the bundle, neither accepted nor refused, the operator broke its word, and a complaint proves it.
If the log has not, the promise must at least fall due: a collector promises the lowest epoch that
is still open, so a seal long after the ledger time that the promise itself states is none of its.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ledger.audit.errors import DisprovenError, UndecidableError
from ledger.audit.trust import Trust
from ledger.books.judgement import codes_root_of
from ledger.evidence.errors import EvidenceError
from ledger.evidence.leaf import BundleLeaf
from ledger.evidence.promise import Promise
from ledger.evidence.tile_proofs import TileReader
from ledger.publiclog.collector_answers import CollectorAnswers
from ledger.publiclog.complaint import (
    COMPLAINT_CHARACTERS_MAX,
    format_complaint,
    require_promise,
)
from ledger.publiclog.heads import epoch_of_head
from ledger.publiclog.log_keys import SignedHead, keys_of_trust
from ledger.publiclog.sealed_range import SealedRange, check_sealed_range, read_sealed_range
from ledger.publiclog.source import LogSource
from ledger.publiclog.spool_file import SentBundle, SpoolContents


class Fate(StrEnum):
    """What became of a bundle."""

    INCLUDED = "included"
    """Its receipts were judged one by one; codes tell which count."""
    REFUSED = "refused"
    """Its leaf has a code: refused whole."""
    PENDING = "pending"
    """The epoch of its seal is not sealed in the log yet."""
    MISSING = "missing"
    """The promise is broken."""
    NOT_PROMISED = "not promised"
    """No promise is stored: nothing is owed yet."""
    FALSE_PROMISE = "false promise"
    """The promise is the operator's, and of a seal that no collector may name: the log never has
    it, or not for as long as it likes. The promise itself is the evidence."""
    BAD_PROMISE = "bad promise"
    """The stored promise is not the operator's: nothing can be proven with it."""


BROKEN: Final = frozenset({Fate.MISSING, Fate.FALSE_PROMISE})
"""What speaks against the operator."""

_AHEAD_MAX_S: Final = 86_400
"""How far a seal may be ahead of a promise's ledger time. A collector that has not seen its network
for an hour promises nothing (`clock_stale_s`); a day allows for much more than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One bundle of the party."""

    bundle: SentBundle
    fate: Fate
    detail: str
    """What to know besides; empty if nothing."""

    complaint: str = ""
    """Text of the complaint if it is missing; empty if the seal is too large for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All of a party's bundles against one checkpoint."""

    tree_size: int
    last_epoch: int | None
    bundles: tuple[Finding, ...]
    never_sent: dict[int, int]
    """Receipts that stand in no bundle although the log has sealed their epoch, by epoch."""


def find_missing(
    spool: SpoolContents,
    source: LogSource,
    trust: Trust,
    answers: CollectorAnswers | None = None,
) -> Findings:
    """Look every promised bundle up in the log.

    Args:
        spool: What the party has.
        source: The log, on the web or mirrored.
        trust: The reader's trust file.
        answers: Asks the collector too; None: the log alone.

    Raises:
        DisprovenError: The log's leaves are not what its checkpoint signs.
        UndecidableError: The log cannot be read.
    """
    note = source.read("checkpoint")
    if note is None:
        raise UndecidableError(f"{source.name}: got no checkpoint, want a signed one")
    keys = keys_of_trust(trust)
    head = keys.read_head(note)
    last_epoch = epoch_of_head(head, source.read)
    if last_epoch is not None:
        keys.require_key_of(head, last_epoch)
    search = _Search(source, head, trust, answers, last_epoch)
    return Findings(
        tree_size=head.checkpoint.tree_size,
        last_epoch=last_epoch,
        bundles=tuple(search.look_up(bundle) for bundle in spool.bundles),
        never_sent={
            epoch: count
            for epoch, count in spool.unbundled.items()
            if last_epoch is not None and epoch <= last_epoch
        },
    )


class _Search:
    """The log under one checkpoint, with the seals that were looked at."""

    def __init__(
        self,
        source: LogSource,
        head: SignedHead,
        trust: Trust,
        answers: CollectorAnswers | None,
        last_epoch: int | None,
    ) -> None:
        self._source, self._head, self._trust, self._answers = source, head, trust, answers
        self._last_epoch = last_epoch
        self._reader = TileReader(head.checkpoint.tree_size, source.read)
        self._epoch = -1
        self._seal: tuple[SealedRange, dict[bytes, BundleLeaf]] | None = None

    def look_up(self, bundle: SentBundle) -> Finding:
        if bundle.promise is None:
            return Finding(bundle=bundle, fate=Fate.NOT_PROMISED, detail=bundle.state)
        try:
            require_promise(bundle.promise, self._trust)
        except DisprovenError as error:
            return Finding(bundle=bundle, fate=Fate.BAD_PROMISE, detail=str(error))
        epoch = bundle.promise.value.sealing_epoch
        seal = self._seal_of(epoch)
        if seal is None:
            return self._await(bundle, bundle.promise.value)
        found, leaves = seal
        leaf = leaves.get(bundle.digest)
        if leaf is None:
            complaint = format_complaint(bundle.promise, self._head, found)
            detail = f"epoch {epoch} is sealed with {len(leaves)} bundles, without it"
            if len(complaint) > COMPLAINT_CHARACTERS_MAX:
                # Nobody would read it. Whoever has the log finds the same with the promise.
                complaint = ""
                detail += "; too many for a complaint: the promise and the log are the evidence"
            return Finding(bundle=bundle, fate=Fate.MISSING, detail=detail, complaint=complaint)
        fate = Fate.REFUSED if leaf.code else Fate.INCLUDED
        return Finding(bundle=bundle, fate=fate, detail=self._describe(bundle, leaf))

    def _await(self, bundle: SentBundle, promise: Promise) -> Finding:
        """Judge a promise whose seal is not in the log."""
        epoch, trust = promise.sealing_epoch, self._trust
        open_epoch = trust.epoch_at(promise.close_time_s + _AHEAD_MAX_S)
        earliest, latest = trust.first_epoch, max(bundle.epoch, open_epoch)
        if not earliest <= epoch <= latest:
            return Finding(
                bundle=bundle,
                fate=Fate.FALSE_PROMISE,
                detail=f"got the seal of epoch {epoch}, want one of {earliest} to {latest}",
            )
        if self._last_epoch is not None and epoch <= self._last_epoch:
            raise DisprovenError(
                f"{self._source.name}: got no seal of epoch {epoch}, "
                f"want one before that of epoch {self._last_epoch}"
            )
        due_s = trust.genesis_s + (epoch + 1) * trust.epoch_length_s + trust.grace_s
        return Finding(
            bundle=bundle,
            fate=Fate.PENDING,
            detail=f"seal of epoch {epoch}, due after ledger time {due_s}",
        )

    def _seal_of(self, epoch: int) -> tuple[SealedRange, dict[bytes, BundleLeaf]] | None:
        if epoch != self._epoch:
            try:
                found = read_sealed_range(self._reader, epoch)
            except EvidenceError as error:
                raise UndecidableError(f"{self._source.name}: {error}") from error
            self._seal = None
            if found is not None:
                leaves = check_sealed_range(found, self._head.checkpoint, epoch)
                self._seal = found, {leaf.bundle_digest: leaf for leaf in leaves}
            self._epoch = epoch
        return self._seal

    def _describe(self, bundle: SentBundle, leaf: BundleLeaf) -> str:
        if leaf.code:
            return f"code {leaf.code}"
        told = [f"{leaf.receipts_counted} of {bundle.receipt_count} receipts count"]
        if leaf.receipts_counted + leaf.receipts_refused != bundle.receipt_count:
            told.append(f"its leaf speaks of {leaf.receipts_counted + leaf.receipts_refused}")
        if self._answers is not None:
            told.append(self._compare(bundle, leaf))
        return "; ".join(part for part in told if part)

    def _compare(self, bundle: SentBundle, leaf: BundleLeaf) -> str:
        """Whether the collector's codes are those that the log commits to."""
        answer = None if self._answers is None else self._answers.ask(bundle.digest)
        if answer is None:
            return "the collector knows none"
        if codes_root_of(answer.codes) != leaf.codes_root:
            return "the collector's codes are not those in the log"
        refused = sorted({code for code in answer.codes if code})
        return f"codes {', '.join(map(str, refused))} among them" if refused else ""
