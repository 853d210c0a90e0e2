"""Lane judgement: all receipts of a seal, judged as sets by lane.

So the order of arrival never matters. What each bundle's own check refused stays refused; every
other receipt gets its final code here. Nearly every lane has one receipt, which costs a few steps
over columns; only receipts that share a lane are looked at whole. Not here: the check of one bundle
alone (`bundle_check`), caps and the payable rule (the contract).
"""

from array import array
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, groupby, repeat
from operator import eq

from ledger.books.bundle_check import EPOCH_MAX, BundleCheck
from ledger.books.codes import ReceiptCode
from ledger.books.gathering import GatheredChecks, gather_checks
from ledger.books.lanes import (
    JudgedLane,
    LaneCount,
    LaneEntitlement,
    LaneNumbers,
    LanePayee,
    Lanes,
    format_lane_entry,
    lane_root_of,
)
from ledger.evidence.encoding import Signed
from ledger.evidence.merkle import root_hash
from ledger.evidence.receipt import Receipt
from ledger.evidence.terms import Terms

ENTITLEMENT_BYTES_MAX = 1 << 44
"""Most bytes all lanes of one entitlement count for in one seal: 17.6 TB, beyond any session.

Without it two colluding keys could claim 2**63 bytes and no sum of the epoch would fit its field.
"""

Codes = Sequence[ReceiptCode]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """All receipts of one seal, judged."""

    codes: tuple[Codes, ...]
    """Final codes per bundle, in the order of the bundles given."""

    bytes_counted: tuple[int, ...]
    """Per bundle, the bytes of its receipts that count."""

    lanes: Lanes
    """By ascending lane digest; one per lane with a counted receipt."""

    equivocations: tuple[tuple[bytes, bytes], ...]
    """Pairs of contradicting signed receipts (raw), by lane."""

    voided: tuple[tuple[bytes, int], ...]
    """(entitlement digest, first epoch in which it is void), ascending."""


@dataclass(slots=True)
class _Place:
    """A receipt that shares its lane with others, and where it stands."""

    line: int
    """Its line in the gathered columns."""

    signed: Signed[Receipt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """What stands behind the lanes of one seal."""

    free_stroops: int
    """What the deposits still cover; at most 0: nothing."""

    running: Container[bytes]
    """Digests of entitlements that counted in an earlier seal: these go on."""


class _FinalCodes:
    """Codes of a seal's receipts; those of a bundle are copied when the first one changes."""

    def __init__(self, gathered: GatheredChecks) -> None:
        self._gathered = gathered
        self._changed: dict[int, list[ReceiptCode]] = {}

    def set(self, line: int, code: ReceiptCode) -> None:
        lines = self._gathered.lines
        bundle = lines.bundles[line]
        codes = self._changed.get(bundle)
        if codes is None:
            codes = self._changed[bundle] = list(self._gathered.heads[bundle].receipt_codes)
        codes[lines.places[line]] = code

    def all(self) -> tuple[Codes, ...]:
        changed = self._changed
        return tuple(
            tuple(changed[bundle]) if bundle in changed else head.receipt_codes
            for bundle, head in enumerate(self._gathered.heads)
        )


def judge_lanes(
    checks: Sequence[BundleCheck],
    *,
    terms: Terms,
    void_from: Mapping[bytes, int],
    counted_before: Mapping[bytes, LaneCount],
    cover: Cover | None = None,
) -> Judgement:
    """Judge all receipts of one seal as sets by lane.

    Args:
        checks: All bundles of the seal by ascending (bundle key, digest); hence one result whatever
            the order of arrival.
        terms: Terms in force.
        void_from: Entitlement digest → first epoch in which it is void.
        counted_before: Lane digest → what it counted for in earlier seals.
        cover: What the deposits can pay for; None: anything.

    Returns:
        Final codes, lanes, contradictions and newly void entitlements.
    """
    gathered = gather_checks(checks)
    codes = _FinalCodes(gathered)
    order = _lines_by_lane(gathered, void_from, codes)
    shared = _load_shared(gathered, order)
    is_plain = not shared and not counted_before
    winners: list[int] = order if is_plain else []
    pairs: list[tuple[bytes, bytes]] = []
    voided: dict[bytes, int] = {}
    lanes = gathered.lines.lanes
    for run in () if is_plain else _runs(lanes, order):
        before = counted_before.get(lanes[run[0]]) if counted_before else None
        if len(run) == 1:
            winner = _judge_single(gathered, run[0], before, codes)
        else:
            places = [_Place(line, shared[line]) for line in run]
            winner, contradictions = _judge_lane(places, before, codes)
            pairs.extend(contradictions)
            if contradictions:
                _note_void(places[0].signed.value, voided)
        if winner is not None:
            winners.append(winner)
    beyond = _beyond_any_session(gathered, winners)
    for line in beyond:
        codes.set(line, ReceiptCode.TOO_MUCH)
    if beyond:
        winners = [line for line in winners if line not in beyond]
    if cover is not None:
        uncovered = _uncovered(gathered, winners, terms, counted_before, cover)
        for line in uncovered:
            codes.set(line, ReceiptCode.NOT_COVERED)
        if uncovered:
            winners = [line for line in winners if line not in uncovered]
    return Judgement(
        codes=codes.all(),
        bytes_counted=_bytes_by_bundle(gathered, winners),
        lanes=_lanes_of(gathered, winners, terms, counted_before),
        equivocations=tuple(pairs),
        voided=tuple(sorted(voided.items())),
    )


def _lines_by_lane(
    gathered: GatheredChecks, void_from: Mapping[bytes, int], codes: _FinalCodes
) -> list[int]:
    """Return the gathered lines by ascending lane; give those of void entitlements their code."""
    lines = gathered.lines
    order: Sequence[int] = range(len(lines.lanes))
    if void_from:
        void = [void_from.get(entitlement.digest) for entitlement in gathered.entitlements]
        kept: list[int] = []
        for line, (place, epoch) in enumerate(zip(lines.entitlements, lines.epochs, strict=True)):
            first_void = void[place]
            if first_void is not None and first_void <= epoch:
                codes.set(line, ReceiptCode.ENTITLEMENT_VOID)
            else:
                kept.append(line)
        order = kept
    # The sort is stable: receipts of one lane stay in the order of their bundles.
    return sorted(order, key=lines.lanes.__getitem__)


def _runs(lanes: Sequence[bytes], order: Sequence[int]) -> Iterator[list[int]]:
    """Yield the lines of each lane, lanes ascending."""
    run: list[int] = []
    digest = b""
    for line in order:
        if lanes[line] != digest:
            if run:
                yield run
            run = [line]
            digest = lanes[line]
        else:
            run.append(line)
    if run:
        yield run


def _load_shared(gathered: GatheredChecks, order: Sequence[int]) -> dict[int, Signed[Receipt]]:
    """Return the receipts that share their lane with others, whole; each bundle is loaded once."""
    lines = gathered.lines
    digests = [lines.lanes[line] for line in order]
    are_same = list(map(eq, digests, digests[1:]))
    shared = sorted({*compress(order, are_same), *compress(order[1:], are_same)})
    found: dict[int, Signed[Receipt]] = {}
    for bundle, of_bundle in groupby(shared, key=lines.bundles.__getitem__):
        signed = gathered[bundle].bundle
        if signed is None:
            raise AssertionError("a gathered bundle is framed")
        receipts = signed.value.receipts
        found.update((line, receipts[lines.places[line]]) for line in of_bundle)
    return found


def _judge_single(
    gathered: GatheredChecks, line: int, before: LaneCount | None, codes: _FinalCodes
) -> int | None:
    """The only receipt of a lane counts, unless as much counted before."""
    lines = gathered.lines
    if before is None or (
        lines.sequences[line] > before.sequence and lines.bytes_totals[line] >= before.bytes_total
    ):
        return line
    codes.set(line, ReceiptCode.SUPERSEDED)
    return None


def _note_void(receipt: Receipt, voided: dict[bytes, int]) -> None:
    first_void = receipt.epoch + 1
    known = voided.get(receipt.entitlement_digest, first_void)
    voided[receipt.entitlement_digest] = min(known, first_void)


def _beyond_any_session(gathered: GatheredChecks, winners: Sequence[int]) -> set[int]:
    """Return lines that would take their entitlement beyond `ENTITLEMENT_BYTES_MAX`.

    Small lanes are taken first: a viewer that signs an absurd total for an accomplice shuts out
    the accomplice's lane, not those of whoever served it.
    """
    lines = gathered.lines
    claimed = [0] * len(gathered.entitlements)
    for line in winners:
        claimed[lines.entitlements[line]] += lines.bytes_totals[line]
    if not claimed or max(claimed) <= ENTITLEMENT_BYTES_MAX:
        return set()
    absurd = [line for line in winners if claimed[lines.entitlements[line]] > ENTITLEMENT_BYTES_MAX]
    absurd.sort(key=lambda line: (lines.bytes_totals[line], lines.lanes[line]))
    taken: dict[int, int] = defaultdict(int)
    beyond: set[int] = set()
    for line in absurd:
        total = taken[lines.entitlements[line]] + lines.bytes_totals[line]
        if total > ENTITLEMENT_BYTES_MAX:
            beyond.add(line)
        else:
            taken[lines.entitlements[line]] = total
    return beyond


def _uncovered(
    gathered: GatheredChecks,
    winners: Sequence[int],
    terms: Terms,
    counted_before: Mapping[bytes, LaneCount],
    cover: Cover,
) -> set[int]:
    """Return the lines that the deposits do not cover.

    Running entitlements come first, lane by lane; then new ones, each as a whole. What costs least
    is taken first, so that whoever claims more than was ever deposited shuts out nobody else.
    """
    prices = _prices(gathered, terms)
    total_bytes = sum(map(gathered.lines.bytes_totals.__getitem__, winners))
    # Nearly always all of it is covered at the dearest price, with each lane rounded up.
    bounds = [-(-total_bytes * price // quantity) for price, quantity in dict.fromkeys(prices)]
    if max(bounds, default=0) + len(winners) <= cover.free_stroops:
        return set()
    costs = _costs(gathered, winners, prices, counted_before)
    if sum(costs) <= cover.free_stroops:
        return set()
    lines = gathered.lines
    running: list[tuple[int, bytes, list[int]]] = []
    new: dict[int, tuple[int, bytes, list[int]]] = {}
    for line, cost_stroops in zip(winners, costs, strict=True):
        place = lines.entitlements[line]
        digest = gathered.entitlements[place].digest
        if digest in cover.running:
            running.append((cost_stroops, lines.lanes[line], [line]))
        else:
            so_far, _, its_lines = new.get(place, (0, digest, []))
            its_lines.append(line)
            new[place] = (so_far + cost_stroops, digest, its_lines)
    free_stroops = max(cover.free_stroops, 0)
    refused: set[int] = set()
    for cost_stroops, _, its_lines in (*sorted(running), *sorted(new.values())):
        if cost_stroops <= free_stroops:
            free_stroops -= cost_stroops
        else:
            refused.update(its_lines)
    return refused


def _prices(gathered: GatheredChecks, terms: Terms) -> list[tuple[int, int]]:
    """Return each payee's price: stroops, and the bytes they are for."""
    prices: list[tuple[int, int]] = []
    for payee in gathered.payees:
        cdn = terms.cdn_of(payee.key) if payee.is_cdn else None
        source = cdn if payee.is_cdn else terms
        prices.append((source.price_stroops, source.price_quantity_bytes) if source else (0, 1))
    return prices


def _costs(
    gathered: GatheredChecks,
    winners: Sequence[int],
    prices: Sequence[tuple[int, int]],
    counted_before: Mapping[bytes, LaneCount],
) -> list[int]:
    """Return what each lane would be charged for at most: its new bytes' price, rounded up."""
    lines = gathered.lines
    nothing = LaneCount(sequence=0, bytes_total=0)
    costs: list[int] = []
    for line in winners:
        stroops, quantity_bytes = prices[lines.payees[line]]
        before = counted_before.get(lines.lanes[line], nothing) if counted_before else nothing
        new_bytes = lines.bytes_totals[line] - before.bytes_total
        costs.append(-(-new_bytes * stroops // quantity_bytes))
    return costs


def _bytes_by_bundle(gathered: GatheredChecks, winners: Sequence[int]) -> tuple[int, ...]:
    lines = gathered.lines
    counted = [0] * len(gathered)
    for line in winners:
        counted[lines.bundles[line]] += lines.bytes_totals[line]
    return tuple(counted)


def _lanes_of(
    gathered: GatheredChecks,
    winners: Sequence[int],
    terms: Terms,
    counted_before: Mapping[bytes, LaneCount],
) -> Lanes:
    lines = gathered.lines
    entitlements = [
        LaneEntitlement(
            one.digest,
            one.payer_account,
            one.content_id,
            one.max_bytes,
            one.max_media_ms,
            min(terms.epoch_at(one.not_after_s), EPOCH_MAX),
        )
        for one in gathered.entitlements
    ]
    payees: list[LanePayee] = []
    for payee in gathered.payees:
        cdn = terms.cdn_of(payee.key) if payee.is_cdn else None
        payees.append(LanePayee(payee.key, cdn.account if cdn else payee.account, payee.is_cdn))
    digests = [lines.lanes[line] for line in winners]
    before: Sequence[int] | repeat[int] = repeat(0, len(winners))
    if counted_before:
        nothing = LaneCount(sequence=0, bytes_total=0)
        before = [counted_before.get(digest, nothing).bytes_total for digest in digests]
    return Lanes(
        digests,
        [entitlements[lines.entitlements[line]] for line in winners],
        [payees[lines.payees[line]] for line in winners],
        LaneNumbers(
            array("I", map(lines.epochs.__getitem__, winners)),
            array("Q", map(lines.sequences.__getitem__, winners)),
            array("Q", map(lines.bytes_totals.__getitem__, winners)),
            array("Q", before),
            array("Q", map(lines.media_ms_totals.__getitem__, winners)),
        ),
    )


def _judge_lane(
    places: list[_Place], before: LaneCount | None, codes: _FinalCodes
) -> tuple[int | None, list[tuple[bytes, bytes]]]:
    """Give every receipt of one lane its final code; return the line that counts, if any."""
    distinct: dict[bytes, _Place] = {}
    for place in places:
        if place.signed.body in distinct:
            codes.set(place.line, ReceiptCode.DUPLICATE)
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
        codes.set(place.line, code)
    return (winner.line if counts else None), contradictions


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


def codes_root_of(codes: Sequence[int]) -> bytes:
    """Return the RFC 6962 root over a bundle's receipt codes, u16 little-endian each."""
    if codes and codes.count(codes[0]) == len(codes):
        return _root_of_equal_codes(int(codes[0]), len(codes))
    return root_hash([int(code).to_bytes(2, "little") for code in codes])


@lru_cache(maxsize=4_096)
def _root_of_equal_codes(code: int, count: int) -> bytes:
    """Nearly every bundle has one code throughout, and many have as many receipts."""
    return root_hash([code.to_bytes(2, "little")] * count)


__all__ = [
    "ENTITLEMENT_BYTES_MAX",
    "Cover",
    "JudgedLane",
    "Judgement",
    "LaneCount",
    "Lanes",
    "codes_root_of",
    "format_lane_entry",
    "judge_lanes",
    "lane_root_of",
]
