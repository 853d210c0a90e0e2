"""Lane judgement as it reads best: one object a receipt, one list a lane; slow, and the oracle.

The shipped judgement works on columns and must give what this gives, for any set of bundles.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ledger.books.bundle_check import EPOCH_MAX, BundleCheck
from ledger.books.codes import BundleCode, ReceiptCode
from ledger.books.lane_judgement import ENTITLEMENT_BYTES_MAX
from ledger.books.lanes import JudgedLane, LaneCount
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.receipt import Receipt
from ledger.evidence.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceJudgement:
    codes: tuple[tuple[ReceiptCode, ...], ...]
    lanes: tuple[JudgedLane, ...]
    equivocations: tuple[tuple[bytes, bytes], ...]
    voided: tuple[tuple[bytes, int], ...]


@dataclass(slots=True)
class _Place:
    """A receipt that passed its bundle's check, and where it stands."""

    bundle_index: int
    receipt_index: int
    signed: Signed[Receipt]


def judge_lanes_slowly(
    checks: Sequence[BundleCheck],
    *,
    terms: Terms,
    void_from: Mapping[bytes, int],
    counted_before: Mapping[bytes, LaneCount],
) -> ReferenceJudgement:
    """Judge all receipts of one seal as sets by lane.

    Args:
        checks: All bundles of the seal by ascending (bundle key, digest); hence one result whatever
            the order of arrival.
        terms: Terms in force.
        void_from: Entitlement digest → first epoch in which it is void.
        counted_before: Lane digest → what it counted for in earlier seals.

    Returns:
        Final codes, lanes, contradictions and newly void entitlements.
    """
    codes = [list(check.receipt_codes) for check in checks]
    places = _places_by_lane(checks, void_from, codes)
    winners: dict[bytes, _Place] = {}
    pairs: list[tuple[bytes, bytes]] = []
    voided: dict[bytes, int] = {}
    for digest in sorted(places):
        winner, contradictions = _judge_lane(places[digest], counted_before.get(digest), codes)
        pairs.extend(contradictions)
        if contradictions:
            receipt = places[digest][0].signed.value
            first_void = receipt.epoch + 1
            known = voided.get(receipt.entitlement_digest, first_void)
            voided[receipt.entitlement_digest] = min(known, first_void)
        if winner is not None:
            winners[digest] = winner
    for digest in _beyond_any_session(winners):
        place = winners.pop(digest)
        codes[place.bundle_index][place.receipt_index] = ReceiptCode.TOO_MUCH
    entitlements = [_entitlements_of(check) for check in checks]
    return ReferenceJudgement(
        codes=tuple(tuple(row) for row in codes),
        lanes=tuple(
            _lane_of(
                digest,
                winner,
                checks[winner.bundle_index],
                entitlements[winner.bundle_index][winner.signed.value.entitlement_digest],
                terms,
                counted_before.get(digest),
            )
            for digest, winner in winners.items()
        ),
        equivocations=tuple(pairs),
        voided=tuple(sorted(voided.items())),
    )


def _places_by_lane(
    checks: Sequence[BundleCheck],
    void_from: Mapping[bytes, int],
    codes: list[list[ReceiptCode]],
) -> dict[bytes, list[_Place]]:
    """Gather by lane the receipts that passed alone; give those of void entitlements their code."""
    places: dict[bytes, list[_Place]] = defaultdict(list)
    for bundle_index, check in enumerate(checks):
        if check.bundle is None or check.code != BundleCode.ACCEPTED:
            continue
        for receipt_index, signed in enumerate(check.bundle.value.receipts):
            if codes[bundle_index][receipt_index] != ReceiptCode.COUNTED:
                continue
            receipt = signed.value
            if void_from.get(receipt.entitlement_digest, receipt.epoch + 1) <= receipt.epoch:
                codes[bundle_index][receipt_index] = ReceiptCode.ENTITLEMENT_VOID
                continue
            places[receipt.lane_digest].append(_Place(bundle_index, receipt_index, signed))
    return places


def _beyond_any_session(winners: Mapping[bytes, _Place]) -> list[bytes]:
    """Return lanes that would take their entitlement beyond `ENTITLEMENT_BYTES_MAX`.

    Small lanes are taken first: a viewer that signs an absurd total for an accomplice shuts out
    the accomplice's lane, not those of whoever served it.
    """
    claimed: dict[bytes, int] = defaultdict(int)
    beyond: list[bytes] = []
    for digest in sorted(winners, key=lambda lane: (winners[lane].signed.value.bytes_total, lane)):
        receipt = winners[digest].signed.value
        total = claimed[receipt.entitlement_digest] + receipt.bytes_total
        if total > ENTITLEMENT_BYTES_MAX:
            beyond.append(digest)
        else:
            claimed[receipt.entitlement_digest] = total
    return beyond


def _entitlements_of(check: BundleCheck) -> Mapping[bytes, Entitlement]:
    if check.bundle is None:
        return {}
    return {signed.digest: signed.value for signed in check.bundle.value.entitlements}


def _judge_lane(
    places: list[_Place], before: LaneCount | None, codes: list[list[ReceiptCode]]
) -> tuple[_Place | None, list[tuple[bytes, bytes]]]:
    """Give every receipt of one lane its final code; return the one that counts, if any."""
    distinct: dict[bytes, _Place] = {}
    for place in places:
        if place.signed.body in distinct:
            codes[place.bundle_index][place.receipt_index] = ReceiptCode.DUPLICATE
        else:
            distinct[place.signed.body] = place
    ordered = sorted(distinct.values(), key=lambda p: (p.signed.value.sequence, p.signed.body))
    contradictions, involved = _find_contradictions(ordered)
    if contradictions:
        winner = min(
            (place for place in ordered if place.signed.body in involved),
            key=lambda p: (p.signed.value.bytes_total, p.signed.value.sequence, p.signed.body),
        )
    else:
        winner = ordered[-1]
    counts = before is None or (
        winner.signed.value.sequence > before.sequence
        and winner.signed.value.bytes_total >= before.bytes_total
    )
    for place in ordered:
        code = ReceiptCode.SUPERSEDED
        if place.signed.body in involved:
            code = ReceiptCode.EQUIVOCATION
        if place is winner and counts:
            code = ReceiptCode.COUNTED
        codes[place.bundle_index][place.receipt_index] = code
    return (winner if counts else None), contradictions


def _find_contradictions(
    ordered: list[_Place],
) -> tuple[list[tuple[bytes, bytes]], set[bytes]]:
    """Find receipts that one honest session key cannot both have signed.

    Same sequence with other content, or a higher sequence with a lower total. Walking by sequence
    and comparing with the highest totals so far finds a contradiction of every receipt that has
    one with an earlier receipt.
    """
    pairs: list[tuple[bytes, bytes]] = []
    involved: set[bytes] = set()
    before: _Place | None = None
    most_bytes: _Place | None = None
    most_media: _Place | None = None
    for place in ordered:
        later = place.signed.value
        rivals: list[_Place] = []
        if before is not None and before.signed.value.sequence == later.sequence:
            rivals.append(before)
        if most_bytes is None or later.bytes_total > most_bytes.signed.value.bytes_total:
            most_bytes = place
        elif most_bytes.signed.value.bytes_total > later.bytes_total and most_bytes not in rivals:
            rivals.append(most_bytes)
        if most_media is None or later.media_ms_total > most_media.signed.value.media_ms_total:
            most_media = place
        elif (
            most_media.signed.value.media_ms_total > later.media_ms_total
            and most_media not in rivals
        ):
            rivals.append(most_media)
        for rival in rivals:
            pairs.append((rival.signed.raw, place.signed.raw))
            involved |= {rival.signed.body, place.signed.body}
        before = place
    return pairs, involved


def _lane_of(
    digest: bytes,
    winner: _Place,
    check: BundleCheck,
    entitlement: Entitlement,
    terms: Terms,
    before: LaneCount | None,
) -> JudgedLane:
    receipt = winner.signed.value
    cdn = terms.cdn_of(receipt.payee_key) if receipt.is_cdn else None
    return JudgedLane(
        lane_digest=digest,
        epoch=receipt.epoch,
        entitlement_digest=receipt.entitlement_digest,
        payee_key=receipt.payee_key,
        payee_account=cdn.account if cdn else check.payee_account,
        payer_account=entitlement.payer_account,
        content_id=entitlement.content_id,
        is_cdn=receipt.is_cdn,
        count=LaneCount(sequence=receipt.sequence, bytes_total=receipt.bytes_total),
        bytes_before=before.bytes_total if before else 0,
        media_ms_total=receipt.media_ms_total,
        max_bytes=entitlement.max_bytes,
        max_media_ms=entitlement.max_media_ms,
        entitlement_last_epoch=min(terms.epoch_at(entitlement.not_after_s), EPOCH_MAX),
    )
