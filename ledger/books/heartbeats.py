"""Judging heartbeats: which of a seal's heartbeats are to be believed, and whose they are.

Each is judged alone (entitlement, session key, time, signature), then each playback session as a
chain: numbers rise, every heartbeat names the one before, and time, media and bytes never fall. A
session whose key signed two heartbeats of one number counts for nothing; a chain that breaks counts
up to the break. The result depends on the set of bundles only, not on their order.

Not here: receipts (`judgement`), how long somebody watched (`viewing_time`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from ledger.books.judgement import BundleCheck, BundleCode, ReceiptCode, entitlement_codes
from ledger.evidence.bundle import BundleKind
from ledger.evidence.encoding import ZERO_KEY, Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.heartbeat import HEARTBEAT, Heartbeat
from ledger.evidence.terms import Terms

TIME_SLACK_MS = 60_000
"""How far outside its bundle's epoch a heartbeat may lie: the two around each border are in the
bundles of both epochs."""


class HeartbeatCode(IntEnum):
    """Verdict on one heartbeat; the first code that applies."""

    VERIFIED = 0
    BUNDLE_REFUSED = 1
    WRONG_NETWORK = 2
    WRONG_KIND = 3
    """In a payee's bundle."""
    UNKNOWN_ENTITLEMENT = 4
    BAD_ENTITLEMENT = 5
    """Not the broadcaster's, or by an issuing key that is revoked by then."""
    WRONG_SESSION = 6
    """Its entitlement is of another session key than the bundle."""
    WRONG_TIME = 7
    """Outside of its bundle's epoch, or of its entitlement's time."""
    BAD_SIGNATURE = 8
    FORKED = 9
    """Its session key signed another one of this number, somewhere in its session."""
    BROKEN_CHAIN = 10
    """It, or one before it, does not name the one before."""
    FALLING = 11
    """Its time, media or bytes, or those of one before it, are below those of the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatJudgement:
    """What became of all heartbeats of some bundles."""

    codes: tuple[tuple[HeartbeatCode, ...], ...]
    """One row per bundle, one code per heartbeat, in the order given."""

    by_viewer: Mapping[bytes, tuple[Heartbeat, ...]]
    """Viewer → its verified heartbeats, each once, by ascending (session id, number). A viewer is
    the account its session key is bound to, or the session key."""

    @property
    def verified(self) -> int:
        """Number of heartbeats with code 0; one that stands in two bundles counts twice."""
        return sum(code == HeartbeatCode.VERIFIED for row in self.codes for code in row)

    @property
    def refused(self) -> int:
        """Number of heartbeats with another code."""
        return sum(code != HeartbeatCode.VERIFIED for row in self.codes for code in row)


@dataclass(slots=True)
class _Place:
    bundle_index: int
    beat_index: int
    signed: Signed[Heartbeat]
    viewer: bytes


def judge_heartbeats(
    checks: Iterable[BundleCheck], terms: Signed[Terms], *, issued_through: int | None = None
) -> HeartbeatJudgement:
    """Judge the heartbeats of bundles that were checked.

    Args:
        checks: Checked bundles, of one epoch or more.
        terms: Valid terms of the broadcaster.
        issued_through: Last epoch in which the terms' issuing key acts; None: no last one.

    Returns:
        Codes and what counts; hostile content never raises.
    """
    codes: list[list[HeartbeatCode]] = []
    chains: dict[tuple[bytes, bytes], list[_Place]] = defaultdict(list)
    for bundle_index, check in enumerate(checks):
        row = _check_alone(check, terms, issued_through)
        codes.append(row)
        if check.bundle is None:
            continue
        bundle = check.bundle.value
        is_bound = check.payee_account != ZERO_KEY
        viewer = check.payee_account if is_bound else bundle.submitter_key
        for beat_index, (signed, code) in enumerate(zip(bundle.heartbeats, row, strict=True)):
            if code == HeartbeatCode.VERIFIED:
                place = _Place(bundle_index, beat_index, signed, viewer)
                chains[bundle.submitter_key, signed.value.session_id].append(place)
    believed: dict[bytes, list[Heartbeat]] = defaultdict(list)
    for key in sorted(chains):
        _judge_chain(chains[key], codes, believed)
    return HeartbeatJudgement(
        codes=tuple(tuple(row) for row in codes),
        by_viewer={viewer: tuple(beats) for viewer, beats in sorted(believed.items())},
    )


def _check_alone(
    check: BundleCheck, terms: Signed[Terms], issued_through: int | None
) -> list[HeartbeatCode]:
    if check.bundle is None:
        return []
    bundle = check.bundle.value
    if not bundle.heartbeats:
        return []
    if check.code != BundleCode.ACCEPTED:
        return [HeartbeatCode.BUNDLE_REFUSED] * bundle.heartbeat_count
    if bundle.kind != BundleKind.VIEWER:
        return [HeartbeatCode.WRONG_KIND] * bundle.heartbeat_count
    entitlements = entitlement_codes(
        bundle, terms, bundle.epoch if issued_through is None else issued_through
    )
    start_ms = terms.value.epoch_start_s(bundle.epoch) * 1000 - TIME_SLACK_MS
    end_ms = terms.value.epoch_end_s(bundle.epoch) * 1000 + TIME_SLACK_MS
    row: list[HeartbeatCode] = []
    for signed in bundle.heartbeats:
        beat = signed.value
        if beat.network_id != bundle.network_id:
            row.append(HeartbeatCode.WRONG_NETWORK)
        elif beat.entitlement_digest not in entitlements:
            row.append(HeartbeatCode.UNKNOWN_ENTITLEMENT)
        elif not start_ms <= beat.timestamp_ms < end_ms:
            row.append(HeartbeatCode.WRONG_TIME)
        else:
            entitlement, code = entitlements[beat.entitlement_digest]
            row.append(_check_entitled(signed, entitlement, code, bundle.submitter_key))
    return row


def _check_entitled(
    signed: Signed[Heartbeat],
    entitlement: Entitlement,
    entitlement_code: ReceiptCode,
    submitter_key: bytes,
) -> HeartbeatCode:
    # Whether the entitlement holds is asked for the heartbeat's own time: it may lie in the epoch
    # next to its bundle's.
    if entitlement_code in {ReceiptCode.BAD_ENTITLEMENT, ReceiptCode.ISSUING_KEY_REVOKED}:
        return HeartbeatCode.BAD_ENTITLEMENT
    if entitlement.session_key != submitter_key:
        return HeartbeatCode.WRONG_SESSION
    at_s = signed.value.timestamp_ms // 1000
    slack_s = TIME_SLACK_MS // 1000
    if not entitlement.not_before_s - slack_s <= at_s <= entitlement.not_after_s + slack_s:
        return HeartbeatCode.WRONG_TIME
    if not HEARTBEAT.is_signed_by(signed, entitlement.session_key):
        return HeartbeatCode.BAD_SIGNATURE
    return HeartbeatCode.VERIFIED


def _judge_chain(
    places: list[_Place],
    codes: list[list[HeartbeatCode]],
    believed: dict[bytes, list[Heartbeat]],
) -> None:
    """Give every heartbeat of one session its final code; append those that count."""
    by_number: dict[int, dict[bytes, list[_Place]]] = defaultdict(lambda: defaultdict(list))
    for place in places:
        beat = place.signed
        by_number[beat.value.sequence_number][beat.body].append(place)
    code = HeartbeatCode.VERIFIED
    if any(len(versions) > 1 for versions in by_number.values()):
        code = HeartbeatCode.FORKED
    ordered = [next(iter(by_number[number].values())) for number in sorted(by_number)]
    viewer = min(place.viewer for place in places)
    if code == HeartbeatCode.VERIFIED:
        believed[viewer].append(ordered[0][0].signed.value)
    for before, after in pairwise(ordered):
        if code == HeartbeatCode.VERIFIED:
            code = _check_link(before[0].signed, after[0].signed)
            if code == HeartbeatCode.VERIFIED:
                believed[viewer].append(after[0].signed.value)
        if code != HeartbeatCode.FORKED:
            _set_code(after, code, codes)
    if code == HeartbeatCode.FORKED:
        _set_code(places, code, codes)


def _check_link(before: Signed[Heartbeat], after: Signed[Heartbeat]) -> HeartbeatCode:
    earlier, later = before.value, after.value
    is_next = later.sequence_number == earlier.sequence_number + 1
    if is_next and later.previous_digest != before.digest:
        return HeartbeatCode.BROKEN_CHAIN
    totals = [
        (beat.timestamp_ms, beat.media_ms_total, beat.bytes_p2p_total, beat.bytes_cdn_total)
        for beat in (earlier, later)
    ]
    if any(low > high for low, high in zip(*totals, strict=True)):
        return HeartbeatCode.FALLING
    return HeartbeatCode.VERIFIED


def _set_code(
    places: Iterable[_Place], code: HeartbeatCode, codes: list[list[HeartbeatCode]]
) -> None:
    for place in places:
        codes[place.bundle_index][place.beat_index] = code
