"""What one proven epoch says beyond the bill: who watched when, and what viewers signed for CDNs.

Both carry no money. Viewing comes from viewers' signed heartbeats, CDN bytes from the lanes that
their signed receipts made. Viewers are keys here; reports show numbers of them only.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from ledger.audit.case import Case, proven
from ledger.books.heartbeats import HeartbeatJudgement, judge_heartbeats
from ledger.books.reconciliation import KnownSession, SignedKey, merge_sessions
from ledger.books.viewing_time import DAY_MS, Span, find_playing_spans, unite
from ledger.evidence.binding import BINDING
from ledger.evidence.bundle import BundleKind
from ledger.evidence.encoding import ZERO_KEY
from ledger.evidence.heartbeat import Heartbeat
from ledger.evidence.terms import Terms

SESSION_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceUse:
    """One epoch's viewing and CDN delivery."""

    playing: Mapping[tuple[bytes, bytes], tuple[Span, ...]]
    """(Content, viewer) → when it played, within its bundles' epochs; ascending and disjoint."""

    heartbeats: int
    """Heartbeats that hold."""

    heartbeats_refused: int
    signed_cdn: Mapping[SignedKey, int]
    """Bytes that viewers signed for CDNs, credited or not; corrections stand in their own day."""

    signed_p2p: Mapping[tuple[bytes, int], int]
    """(Content, UTC day) → bytes that viewers signed for peers."""

    sessions: Mapping[bytes, KnownSession]
    """CMCD session id → session key and content; the digest of an entitlement with CDN bytes, cut
    to 16 bytes, leads to its session as well."""


def read_evidence_use(case: Case) -> EvidenceUse:
    """Return what a proven file says."""
    terms = proven(case.terms)
    issued_through = BINDING.parse(case.contents.issuing_binding).value.last_epoch
    judged = judge_heartbeats(case.checks, terms, issued_through=issued_through)
    known = _entitlements_of(case)
    signed_cdn, signed_p2p, sessions = _signed_bytes(case, terms.value, known)
    for beats in judged.by_viewer.values():
        merge_sessions(
            sessions, ((beat.session_id, known[beat.entitlement_digest]) for beat in beats)
        )
    return EvidenceUse(
        playing=_playing(judged, known, terms.value, _epochs_by_viewer(case)),
        heartbeats=judged.verified,
        heartbeats_refused=judged.refused,
        signed_cdn=signed_cdn,
        signed_p2p=signed_p2p,
        sessions=sessions,
    )


def _entitlements_of(case: Case) -> dict[bytes, KnownSession]:
    """Entitlement digest → session key and content, of viewers' bundles."""
    return {
        entitlement.digest: KnownSession(
            session=entitlement.value.session_key, content_id=entitlement.value.content_id
        )
        for check in case.checks
        if check.bundle is not None and check.bundle.value.kind == BundleKind.VIEWER
        for entitlement in check.bundle.value.entitlements
    }


def _epochs_by_viewer(case: Case) -> dict[bytes, set[int]]:
    """Viewer → epochs of its bundles in this file: the file's own, and those that came late."""
    epochs: dict[bytes, set[int]] = defaultdict(set)
    for check in case.checks:
        if check.bundle is not None and check.bundle.value.heartbeats:
            is_bound = check.payee_account != ZERO_KEY
            viewer = check.payee_account if is_bound else check.bundle.value.submitter_key
            epochs[viewer].add(check.bundle.value.epoch)
    return epochs


def _playing(
    judged: HeartbeatJudgement,
    known: Mapping[bytes, KnownSession],
    terms: Terms,
    epochs_by_viewer: Mapping[bytes, set[int]],
) -> dict[tuple[bytes, bytes], tuple[Span, ...]]:
    """Cut at the borders of each bundle's own epoch: the heartbeats around one are in both."""
    playing: dict[tuple[bytes, bytes], tuple[Span, ...]] = {}
    for viewer, beats in judged.by_viewer.items():
        by_content: dict[bytes, list[Heartbeat]] = defaultdict(list)
        for beat in beats:
            by_content[known[beat.entitlement_digest].content_id].append(beat)
        for content, own in sorted(by_content.items()):
            spans: list[Span] = []
            for epoch in sorted(epochs_by_viewer[viewer]):
                spans += find_playing_spans(
                    own,
                    start_ms=terms.epoch_start_s(epoch) * 1000,
                    end_ms_exclusive=terms.epoch_end_s(epoch) * 1000,
                )
            if spans:
                playing[content, viewer] = tuple(unite(spans))
    return playing


def _signed_bytes(
    case: Case, terms: Terms, known: Mapping[bytes, KnownSession]
) -> tuple[dict[SignedKey, int], dict[tuple[bytes, int], int], dict[bytes, KnownSession]]:
    signed_cdn: dict[SignedKey, int] = defaultdict(int)
    signed_p2p: dict[tuple[bytes, int], int] = defaultdict(int)
    sessions: dict[bytes, KnownSession] = {}
    for lane in proven(case.result).settlement.lanes:
        day = terms.epoch_start_s(lane.epoch) * 1000 // DAY_MS
        if not lane.is_cdn:
            signed_p2p[lane.content_id, day] += lane.bytes_new
            continue
        cdn = terms.cdn_of(lane.payee_key)
        host = cdn.host if cdn is not None and cdn.host else f"key {lane.payee_key.hex()[:16]}"
        # A lane whose entitlement came in no viewer's bundle is a session of its own.
        session = known.get(
            lane.entitlement_digest,
            KnownSession(session=lane.entitlement_digest, content_id=lane.content_id),
        )
        signed_cdn[SignedKey(host, lane.content_id, session.session, day)] += lane.bytes_new
        sessions[lane.entitlement_digest[:SESSION_ID_BYTES]] = session
    return dict(signed_cdn), dict(signed_p2p), sessions
