"""Collector: takes a bundle in, and answers with a promise once its bytes are durable.

In the request: size, strict parse, frame (network, broadcaster, epoch, the submitter's one
signature). Everything else is judged later, by a worker. The frame's signature cannot wait: a
bundle's key is taken by the first bundle that comes under it, and only its submitter may take it.

A bundle that is good may still have to wait (`admission`): 429 or 503, and the same bytes are taken
later. Re-sending is harmless: the same bundle gets the same promise, byte for byte. Other bytes
under the same key are a conflict, kept as evidence.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from ledger.api.answers import RefusedError, refuse_malformed
from ledger.api.ledger_time import LedgerTime, LedgerTimeSource
from ledger.api.metrics import ApiMetrics
from ledger.api.pacing import Buckets
from ledger.api.pressure import Place, Pressure
from ledger.api.request_note import note_sender, sender_tag
from ledger.evidence.bundle import Bundle, is_signed_by_submitter, parse_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import MalformedError
from ledger.evidence.keys import SIGNATURE_SIZE
from ledger.evidence.promise import PROMISE, Promise
from ledger.evidence.terms import Terms
from ledger.sealing.log_seeds import LogSeeds
from ledger.store.bundle_store import (
    find_by_digest,
    find_by_key,
    insert_bundle,
    keep_conflict,
    lock_sealing_epoch,
)
from ledger.store.engine import Session, SessionFactory
from ledger.store.epoch_store import open_epochs
from ledger.store.errors import UnknownBroadcasterError
from ledger.store.shard_store import Intake, Shard, find_intake

EPOCHS_AHEAD: Final = 2
"""Rows of epochs made ahead of the current one."""

CLOCK_SLACK_S: Final = 5
"""How far a sender's reading of the ledger clock may be ahead of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What decides whether a good bundle is taken now, and where it is counted."""

    pressure: Pressure
    rates: Buckets
    """By submitter's key; asked once the bundle's signature is known to be its."""

    metrics: ApiMetrics
    sender_secret: bytes = field(repr=False)
    """Makes senders' names in the log lead back to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Takes bundles for every broadcaster of the database."""

    sessions: SessionFactory
    ledger_time: LedgerTimeSource
    log_seed: bytes = field(repr=False)
    """Seed of the log key, which signs promises."""

    next_log_seed: bytes | None = field(default=None, repr=False)
    """Seed of the log key that later terms name; None: no rotation is going on."""

    admission: Admission | None = None
    """None: takes all that is good."""

    def seed_of(self, log_key: bytes) -> bytes:
        """Return the seed of a log key that terms name."""
        return LogSeeds(current=self.log_seed, next=self.next_log_seed).of_key(log_key)

    def read_time(self) -> LedgerTime:
        """Return ledger time.

        Raises:
            RefusedError: 503, it is not known well enough.
        """
        now = self.ledger_time.read()
        if now is None:
            raise RefusedError(
                503, "clock_stale", field="clock", got="no recent network ledger", want="one"
            )
        return now

    def collect(self, raw: bytes) -> bytes:
        """Store a bundle and return the signed promise.

        Args:
            raw: The bytes as they came; the size was bounded while they were read.

        Returns:
            The promise's bytes; durable, and so is the bundle.

        Raises:
            RefusedError: Malformed, not signed, for nobody here, too early, too late, or in
                conflict; or the clock is stale, or too much waits already.
        """
        # What was promised is answered whatever waits: asking again costs nobody a place.
        digest = sha256(memoryview(raw)[SIGNATURE_SIZE:]).digest()
        with self.sessions.begin() as session:
            known = find_by_digest(session, digest)
        if known is not None:
            self._count(raw, again=True)
            return known.promise
        if self.admission is not None:
            self.admission.pressure.require_room()
        signed = _parse(raw)
        signed.remember_digest(digest)
        now = self.read_time()
        _require_signature(signed)
        self._admit_sender(signed.value)
        with self._place(signed.value.broadcaster_account, len(raw)) as place:
            promise, place.is_used = self._store(signed, now)
        self._count(raw, again=not place.is_used)
        return promise

    def _place(self, account: bytes, size_bytes: int) -> AbstractContextManager[Place]:
        if self.admission is None:
            return nullcontext(Place())
        return self.admission.pressure.place(account, size_bytes)

    def _store(self, signed: Signed[Bundle], now: LedgerTime) -> tuple[bytes, bool]:
        """Store a bundle; returns its promise, and whether it was not there before."""
        conflict = None
        with self.sessions.begin() as session:
            intake = self._intake_of(session, signed.value)
            shard, terms = intake.shard, intake.terms
            _check_frame(signed, terms.value, now)
            if self.admission is not None:
                self.admission.pressure.require_share(signed.value.submitter_key, session)
            self._open_epochs(session, intake, now)
            promise = self._take(session, shard, terms.value, signed, now)
            is_new = promise is not None
            if promise is None:
                promise, conflict = self._answer_again(session, shard, signed)
        # The bundle and its promise, or the conflicting bytes, are durable from here on.
        if conflict is not None:
            raise conflict
        return promise, is_new

    def _admit_sender(self, bundle: Bundle) -> None:
        if self.admission is None:
            return
        note_sender(sender_tag(self.admission.sender_secret, bundle.submitter_key))
        wait_s = self.admission.rates.take(bundle.submitter_key)
        if wait_s:
            raise RefusedError(
                429,
                "sender_too_fast",
                field="bundle.submitter_key",
                got="more bundles",
                want="fewer",
                retry_after_s=wait_s,
            )

    def _count(self, raw: bytes, *, again: bool) -> None:
        if self.admission is not None:
            metrics = self.admission.metrics
            metrics.promised.labels(str(again).lower()).inc()
            if not again:
                metrics.promised_bytes.inc(len(raw))

    def _intake_of(self, session: Session, bundle: Bundle) -> Intake:
        try:
            return find_intake(session, bundle.broadcaster_account, bundle.epoch)
        except UnknownBroadcasterError as error:
            raise RefusedError(
                404,
                "unknown_broadcaster",
                field="bundle.broadcaster_account",
                got=error.account,
                want="a broadcaster of this collector",
            ) from None

    def _open_epochs(self, session: Session, intake: Intake, now: LedgerTime) -> None:
        terms = intake.terms.value
        last = terms.epoch_at(now.now_s + CLOCK_SLACK_S) + EPOCHS_AHEAD
        if intake.newest_epoch is None or intake.newest_epoch < last:
            open_epochs(session, intake.shard, first=terms.first_epoch, last=last)

    def _take(
        self,
        session: Session,
        shard: Shard,
        terms: Terms,
        signed: Signed[Bundle],
        now: LedgerTime,
    ) -> bytes | None:
        """Store bundle and promise; None if its key or digest is taken."""
        bundle = signed.value
        sealing_epoch = lock_sealing_epoch(session, shard, bundle.epoch)
        if sealing_epoch is None:
            raise RefusedError(
                503, "no_open_epoch", field="epoch", got=bundle.epoch, want="an open epoch"
            )
        if bundle.epoch < sealing_epoch - terms.correction_epochs:
            raise RefusedError(
                422,
                "too_late",
                field="bundle.epoch",
                got=bundle.epoch,
                want=f"at least {sealing_epoch - terms.correction_epochs}",
            )
        promise = Promise(
            network_id=shard.network_id,
            bundle_digest=signed.digest,
            submitter_key=bundle.submitter_key,
            broadcaster_account=shard.account,
            epoch=bundle.epoch,
            sealing_epoch=sealing_epoch,
            ledger_sequence=now.ledger.sequence,
            close_time_s=now.ledger.close_time_s,
        )
        # The sender knows the key from the terms of its bundle's epoch, whenever that is sealed.
        raw = PROMISE.sign(promise, self.seed_of(terms.log_key)).raw
        stored = insert_bundle(session, shard, signed, sealing_epoch=sealing_epoch, promise=raw)
        return raw if stored else None

    def _answer_again(
        self, session: Session, shard: Shard, signed: Signed[Bundle]
    ) -> tuple[bytes, RefusedError | None]:
        known = find_by_key(session, shard, signed.value)
        if known is None:
            raise AssertionError(f"bundle {signed.digest.hex()}: taken, and under no key")
        if known.digest == signed.digest:
            return known.promise, None
        keep_conflict(session, known.digest, signed)
        return b"", RefusedError(
            409,
            "bundle_conflict",
            field="bundle",
            got=signed.digest,
            want=f"{known.digest.hex()}, which was promised under the same key",
        )


def _parse(raw: bytes) -> Signed[Bundle]:
    try:
        return parse_bundle(raw)
    except MalformedError as error:
        raise refuse_malformed(error) from None


def _check_frame(signed: Signed[Bundle], terms: Terms, now: LedgerTime) -> None:
    bundle = signed.value
    if bundle.network_id != terms.network_id:
        raise RefusedError(
            400,
            "wrong_network",
            field="bundle.network_id",
            got=bundle.network_id,
            want=terms.network_id.hex(),
        )
    current = terms.epoch_at(now.now_s + CLOCK_SLACK_S)
    if bundle.epoch > current:
        raise RefusedError(
            422,
            "epoch_not_begun",
            field="bundle.epoch",
            got=bundle.epoch,
            want=f"at most {current}",
        )
    if bundle.epoch < terms.first_epoch:
        raise RefusedError(
            422,
            "epoch_not_covered",
            field="bundle.epoch",
            got=bundle.epoch,
            want=f"at least {terms.first_epoch}",
        )


def _require_signature(signed: Signed[Bundle]) -> None:
    if not is_signed_by_submitter(signed):
        raise RefusedError(
            400,
            "bad_signature",
            field="bundle.signature",
            got="one that is not valid",
            want=f"the signature of {signed.value.submitter_key.hex()}",
        )
