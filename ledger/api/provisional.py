"""Totals people watch while an epoch runs, and the sealed ones they become.

    POST /v1/provisional   a party's signed report of what it has receipts for (FORMATS.md)
    GET  /v1/totals        per epoch, source and content; provisional until the epoch is sealed

A report is believed as far as a watcher needs: its party signed it, it is fresh, every receipt is
one that this party may report (so no byte is reported twice) and claims no more than a seal would
count, and the receipts with the most bytes and some of the others, chosen by chance, are verified
with their entitlements. Nothing is sealed, billed or paid from it. Under
pressure reports are the first to wait. Totals per content are for who has the token: what a lone
seeder of a title earned would be that title's total.
"""

import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, Final

from ledger.api.answers import RefusedError, refuse_malformed
from ledger.api.collector import Admission
from ledger.api.ledger_time import LedgerTime
from ledger.api.limits import IntakeLimits
from ledger.api.pacing import Buckets
from ledger.api.request_note import note_sender, sender_tag
from ledger.audit.address import format_account
from ledger.books.judgement import ENTITLEMENT_BYTES_MAX
from ledger.evidence.bundle import Bundle, BundleKind
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.errors import MalformedError
from ledger.evidence.provisional import Report as SignedReport
from ledger.evidence.provisional import parse_report
from ledger.evidence.receipt import RECEIPT, Receipt
from ledger.evidence.terms import Terms
from ledger.store.engine import Session, SessionFactory
from ledger.store.epoch_store import Epoch, find_epoch, list_epochs
from ledger.store.errors import UnknownBroadcasterError
from ledger.store.shard_store import Shard, find_shard, terms_in_force
from ledger.store.totals_store import (
    ContentTotal,
    Report,
    count_reports,
    store_report,
    sum_reports,
    sum_sealed,
)

SAMPLE_SIZE: Final = 8
"""Receipts of a report that are verified with their entitlements: so many of those with the most
bytes, and as many of the others."""

SKEW_MS: Final = 60_000
"""How far a report's reading of ledger time may be from ours."""

REPORTS_PER_S: Final = 0.5
REPORTS_BURST: Final = 8
"""Of one party; it sends one every few seconds."""

REPORT_RETRY_S: Final = 15
_COUNT_S: Final = 5.0
_EPOCHS_SHOWN: Final = 8
_OPEN: Final = frozenset({"open", "sealing"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks for totals."""

    sees_contents: bool


class Totals:
    """Takes reports and tells totals; safe from any thread."""

    def __init__(
        self,
        *,
        sessions: SessionFactory,
        read_time: Callable[[], LedgerTime],
        limits: IntakeLimits,
        admission: Admission,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with no report known.

        Args:
            sessions: The database.
            read_time: Ledger time; raises `RefusedError` while it is not known.
            limits: How many reports an epoch may have, and who sees contents.
            admission: The collector's; reports wait before bundles do.
            monotonic: Seconds that never step back.
        """
        self._sessions = sessions
        self._read_time = read_time
        self._limits = limits
        self._admission = admission
        self._monotonic = monotonic
        self._rates = Buckets(per_s=REPORTS_PER_S, burst=REPORTS_BURST, monotonic=monotonic)
        self._counting = threading.Lock()
        self._counts: dict[tuple[int, int], tuple[float, int]] = {}
        # Chosen where nobody can foresee it: who sends a report must not know what is looked at.
        self._chance: random.Random = secrets.SystemRandom()

    def take(self, raw: bytes) -> bool:
        """Take a report in; returns whether it was news.

        Raises:
            RefusedError: Malformed, not signed, not this party's to say, stale, for nobody here or
                no open epoch; or reports have to wait.
        """
        if self._admission.pressure.is_tight:
            raise RefusedError(503, "reports_wait", retry_after_s=REPORT_RETRY_S)
        try:
            report = parse_report(raw)
        except MalformedError as error:
            raise refuse_malformed(error) from None
        bundle, now = report.bundle, self._read_time()
        if not report.is_signed:
            raise _refuse(400, "bad_signature", "provisional.signature", "one that is not valid",
                          f"the signature of {bundle.submitter_key.hex()}")  # fmt: skip
        note_sender(sender_tag(self._admission.sender_secret, bundle.submitter_key))
        if wait_s := self._rates.take(bundle.submitter_key):
            raise RefusedError(429, "reports_too_fast", retry_after_s=wait_s)
        _require_fresh(report, now)
        with self._sessions.begin() as session:
            shard, terms = _shard_of(session, bundle)
            _require_open(find_epoch(session, shard, bundle.epoch), bundle, terms, now)
            self._require_place(session, shard, bundle.epoch)
        totals = self._add_up(bundle, terms)
        with self._sessions.begin() as session:
            is_news = store_report(
                session,
                shard,
                Report(
                    epoch=bundle.epoch,
                    submitter_key=bundle.submitter_key,
                    kind=bundle.kind,
                    taken_ms=report.head.value.taken_ms,
                    totals=totals,
                ),
            )
        self._admission.metrics.reports.labels(str(is_news).lower()).inc()
        return is_news

    def identify(self, authorization: str | None) -> Asker:
        """Tell what an asker may see.

        Args:
            authorization: The header as it came.

        Raises:
            RefusedError: 401, there is a token, and it is not the one.
        """
        token = self._limits.totals_token
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            return Asker(sees_contents=False)
        if not token or not compare_digest(given.strip().encode(), token.encode()):
            raise RefusedError(401, "bad_token", field="Authorization", got="another token",
                               want="the operator's")  # fmt: skip
        return Asker(sees_contents=True)

    def describe(self, session: Session, shard: Shard, asker: Asker) -> dict[str, Any]:
        """Return the totals of the newest epochs, the current one last.

        Raises:
            RefusedError: 503, ledger time is not known.
        """
        now = self._read_time()
        terms = terms_in_force(session, shard).value
        current = terms.epoch_at(now.now_s)
        first = max(terms.first_epoch, current - _EPOCHS_SHOWN + 1)
        epochs = list_epochs(session, shard, after=first - 1, limit=current - first + 1)
        return {
            "broadcaster": format_account(shard.account),
            "ledger_ms": now.ledger.close_time_s * 1_000 + now.age_ms,
            "current_epoch": current,
            "epochs": [_describe_epoch(session, shard, each, asker) for each in epochs],
        }

    def _require_place(self, session: Session, shard: Shard, epoch: int) -> None:
        """Refuse when an epoch has as many rows of reports as it may; counted now and then."""
        key, now_s = (shard.id, epoch), self._monotonic()
        with self._counting:
            counted_s, count = self._counts.get(key, (float("-inf"), 0))
            if now_s - counted_s > _COUNT_S:
                count = count_reports(session, shard, epoch)
                # Of epochs before nothing is asked any more.
                self._counts = {
                    known: value
                    for known, value in self._counts.items()
                    if known[0] != shard.id or known[1] >= epoch - 1
                }
                self._counts[key] = now_s, count
        if count >= self._limits.report_rows:
            raise RefusedError(503, "reports_full", retry_after_s=REPORT_RETRY_S)

    def _add_up(self, bundle: Bundle, terms: Terms) -> Mapping[bytes, tuple[int, int]]:
        """Return content → bytes and lanes of a report whose receipts are this party's to say."""
        entitlements = {each.digest: each for each in bundle.entitlements}
        totals: dict[bytes, tuple[int, int]] = {}
        lanes: set[bytes] = set()
        receipts: Sequence[Signed[Receipt]] = bundle.receipts
        for signed in receipts:
            receipt = signed.value
            entitlement = entitlements.get(receipt.entitlement_digest)
            if entitlement is None or not _may_say(bundle, receipt, entitlement.value):
                raise _refuse(400, "bad_receipt", "report.receipts", receipt.lane_digest,
                              "one of this party and epoch, with its entitlement")  # fmt: skip
            if receipt.lane_digest in lanes:
                raise _refuse(400, "bad_receipt", "report.receipts", receipt.lane_digest,
                              "the newest receipt of each lane only")  # fmt: skip
            lanes.add(receipt.lane_digest)
            before = totals.get(entitlement.value.content_id, (0, 0))
            totals[entitlement.value.content_id] = (
                before[0] + receipt.bytes_total,
                before[1] + 1,
            )
        # One receipt can state more than all others: what the total hangs on is always looked at.
        falling = sorted(receipts, key=lambda signed: -signed.value.bytes_total)
        most, others = falling[:SAMPLE_SIZE], falling[SAMPLE_SIZE:]
        for signed in (*most, *self._chance.sample(others, min(SAMPLE_SIZE, len(others)))):
            _verify(signed, entitlements, terms)
        return totals


def _may_say(bundle: Bundle, receipt: Receipt, entitlement: Entitlement) -> bool:
    """Tell whether a receipt is this party's to report: a payee's own, or a viewer's of a CDN."""
    is_of_payee = not receipt.is_cdn and receipt.payee_key == bundle.submitter_key
    is_of_viewer = receipt.is_cdn and entitlement.session_key == bundle.submitter_key
    bytes_max = min(entitlement.max_bytes or ENTITLEMENT_BYTES_MAX, ENTITLEMENT_BYTES_MAX)
    return (
        receipt.network_id == bundle.network_id
        and receipt.epoch == bundle.epoch
        and entitlement.broadcaster_account == bundle.broadcaster_account
        and receipt.bytes_total <= bytes_max
        and (is_of_payee if bundle.kind == BundleKind.PAYEE else is_of_viewer)
    )


def _verify(
    signed: Signed[Receipt], entitlements: Mapping[bytes, Signed[Entitlement]], terms: Terms
) -> None:
    entitlement = entitlements[signed.value.entitlement_digest]
    if not (
        ENTITLEMENT.is_signed_by(entitlement, terms.issuing_key)
        and RECEIPT.is_signed_by(signed, entitlement.value.session_key)
    ):
        raise _refuse(400, "bad_receipt", "report.receipts", signed.value.lane_digest,
                      "one signed by an entitled session key")  # fmt: skip


def _require_fresh(report: SignedReport, now: LedgerTime) -> None:
    now_ms = now.ledger.close_time_s * 1_000 + now.age_ms
    taken_ms = report.head.value.taken_ms
    if abs(taken_ms - now_ms) > SKEW_MS:
        raise _refuse(403, "stale_report", "provisional.taken_ms", taken_ms, f"near {now_ms}")


def _require_open(epoch: Epoch | None, bundle: Bundle, terms: Terms, now: LedgerTime) -> None:
    current = terms.epoch_at(now.now_s)
    if epoch is None or epoch.state not in _OPEN or not current - 1 <= bundle.epoch <= current:
        raise _refuse(422, "epoch_not_open", "bundle.epoch", bundle.epoch, f"{current}, still open")


def _shard_of(session: Session, bundle: Bundle) -> tuple[Shard, Terms]:
    try:
        shard = find_shard(session, bundle.broadcaster_account)
        terms = terms_in_force(session, shard, bundle.epoch).value
    except UnknownBroadcasterError as error:
        raise _refuse(404, "unknown_broadcaster", "bundle.broadcaster_account", error.account,
                      "a broadcaster of this collector") from None  # fmt: skip
    if bundle.network_id != terms.network_id:
        raise _refuse(400, "wrong_network", "bundle.network_id", bundle.network_id,
                      terms.network_id.hex())  # fmt: skip
    return shard, terms


def _describe_epoch(session: Session, shard: Shard, epoch: Epoch, asker: Asker) -> dict[str, Any]:
    is_open = epoch.state in _OPEN
    reported = sum_reports(session, shard, epoch.number) if is_open else None
    totals = sum_sealed(session, shard, epoch.number) if reported is None else reported.totals
    return {
        "epoch": epoch.number,
        "state": epoch.state,
        "provisional": is_open,
        "p2p_bytes": sum(each.bytes_total for each in totals if not each.is_cdn),
        "cdn_bytes": sum(each.bytes_total for each in totals if each.is_cdn),
        "lanes": sum(each.lane_count for each in totals),
        "reporters": None if reported is None else reported.reporter_count,
        "oldest_report_ms": None if reported is None else reported.oldest_ms,
        "newest_report_ms": None if reported is None else reported.newest_ms,
        "contents": _describe_contents(totals) if asker.sees_contents else None,
    }


def _describe_contents(totals: Sequence[ContentTotal]) -> list[dict[str, Any]]:
    contents: dict[bytes, dict[str, Any]] = {}
    for each in totals:
        content = contents.setdefault(
            each.content_id,
            {"content_id": each.content_id.hex(), "p2p_bytes": 0, "cdn_bytes": 0},
        )
        content["cdn_bytes" if each.is_cdn else "p2p_bytes"] += each.bytes_total
    return list(contents.values())


def _refuse(status: int, code: str, field: str, got: object, want: str) -> RefusedError:
    return RefusedError(status, code, field=field, got=got, want=want)
