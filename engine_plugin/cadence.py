"""When a receipt is due: soon enough to bound what is unacknowledged, rarely enough to be cheap.

Bytes decide. A payee that has acknowledged before may have 4 MiB outstanding: of that, what it
says is always under way (sent and not firm yet, firm and not signed yet, signed and not there yet)
is held back, and the rest is the step from one receipt to the next. The step never falls below
what keeps everything on the wire within 64 KB per GiB; on a fast and slow-witted path the bound on
bytes gives way first, and the payee's own enforcement holds it. A payee that never acknowledged
gets its first receipt over the first firm bytes.

Time decides only for lanes so slow that they would not fill a step within minutes, and an epoch's
end for all.

Pure; the clock is handed in. Not here: signing (`lanes`), the events that make a receipt due at
once (`accounting`).
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from engine_plugin.journal_records import Claim, Source

KNOWN_KEY_BYTES = 4 << 20
"""Most bytes that a payee which has acknowledged before should have outstanding."""

UNKNOWN_KEY_BYTES = 256 << 10
"""The same for a payee that never has."""

STEP_LEAST_BYTES = 39 << 16
"""2.4 MiB, least mean of the bytes between receipts: at 144 bytes for one and its answer, 60.5 KB
per GiB."""

STEP_MOST_BYTES = 15 << 18
"""3.75 MiB."""

WAIT_MOST_S = 120.0
"""After so long unsigned bytes are due, however few: 0.5 Mb/s fills a step in half the time."""

STALE_S = 0.15
"""So old a payee's figure of what it sent may be when it says what is outstanding."""

_RESERVE_BYTES = 1 << 18
_FIRST_DELAY_BYTES = 2 << 20
"""What is taken to be under way until the payee has said what is: more than once, for the first
time it had hardly begun to send."""

_REPORTS_LEAST = 2
_REPORTS_KEPT = 4
_UNANSWERED_MOST = 8
_PAYEES_KEPT = 4096


@dataclass(slots=True)
class _Pace:
    """What is known of one payee."""

    delays: deque[int] = field(default_factory=lambda: deque(maxlen=_REPORTS_KEPT))
    """What the payee had outstanding each time when a receipt had just reached it."""
    overshoots: deque[int] = field(default_factory=lambda: deque([0], maxlen=_REPORTS_KEPT))
    """By how much the last receipts came after their step; negative: before it."""
    jumps: deque[int] = field(default_factory=lambda: deque([0], maxlen=_REPORTS_KEPT))
    """By how much its unsigned bytes grew from one look to the next: whole pieces, mostly."""
    seen_bytes: int = 0
    """Its unsigned bytes at the last look."""
    unanswered: int = 0
    """Receipts signed for it since it last said anything."""


_ClaimKey = tuple[bytes, Source, bytes, int]


class Cadence:
    """Chooses the claims that should be signed now."""

    def __init__(self) -> None:
        self.jump_of: Callable[[bytes], int] | None = None
        """By how much a payee's firm bytes grow from look to look, if somebody looks more often
        than here."""
        self.rate_of: Callable[[bytes], float] | None = None
        """Bytes a second that come from a payee, if somebody measures that."""
        self._paces: dict[bytes, _Pace] = {}
        self._since_s: dict[_ClaimKey, float] = {}
        self._rooms: dict[bytes, int] = {}

    def room_of(self, payee_key: bytes) -> int | None:
        """Return how many more durable bytes make a receipt due, as of the last look; any thread.

        None: not known, for there were no claims on the payee.
        """
        return self._rooms.get(payee_key)

    def step_bytes(self, payee_key: bytes, *, is_known: bool) -> int:
        """Return at how many unsigned bytes a payee's next receipt is due; n ≥ 1."""
        pace = self._paces.get(payee_key)
        if not is_known:
            # Half: while the first answer is under way, the next receipt is still in time. Who
            # never answers is not told every time.
            unanswered = pace.unanswered if pace is not None else 0
            if unanswered < _UNANSWERED_MOST:
                return UNKNOWN_KEY_BYTES // 2 if unanswered else 1
            return STEP_LEAST_BYTES
        delay = _FIRST_DELAY_BYTES
        if pace is not None and len(pace.delays) >= _REPORTS_LEAST:
            delay = max(pace.delays)
        overshoots = pace.overshoots if pace is not None else (0,)
        rate = 0.0 if self.rate_of is None else self.rate_of(payee_key)
        reserve = max(_RESERVE_BYTES, int(rate * STALE_S))
        step = KNOWN_KEY_BYTES - reserve - delay - max(0, *overshoots)
        # What receipts come late by counts as if it had been waited for, and the other way round.
        least = STEP_LEAST_BYTES - sum(overshoots) // len(overshoots)
        return min(max(step, least, UNKNOWN_KEY_BYTES), STEP_MOST_BYTES)

    def list_due(
        self,
        claims: Iterable[Claim],
        *,
        is_known: Callable[[bytes], bool],
        epoch: int | None,
        now_s: float,
    ) -> list[Claim]:
        """Return the claims over which a receipt should be signed now.

        Args:
            claims: All unsigned bytes.
            is_known: Whether a payee ever acknowledged a receipt.
            epoch: The current epoch, or None while the ledger's clock is unknown.
            now_s: Monotonic seconds.
        """
        by_payee: defaultdict[bytes, list[Claim]] = defaultdict(list)
        since_s: dict[_ClaimKey, float] = {}
        for claim in claims:
            by_payee[claim.payee_key].append(claim)
            since_s[_key_of(claim)] = self._since_s.get(_key_of(claim), now_s)
        self._since_s = since_s
        due: list[Claim] = []
        for payee_key, group in by_payee.items():
            step = self.step_bytes(payee_key, is_known=_is_cdn(group[0]) or is_known(payee_key))
            left = sum(claim.byte_count for claim in group)
            # Bytes come in jumps: of the looks before and after a step the nearer one is taken.
            is_full = left + self._note_growth(payee_key, left) // 2 >= step
            self._note_room(payee_key, step - left)
            for claim in sorted(group, key=lambda claim: claim.byte_count, reverse=True):
                is_past = epoch is not None and claim.epoch < epoch
                is_old = now_s - since_s[_key_of(claim)] >= WAIT_MOST_S
                # Of several lanes to one payee the fullest go first, until it is at ease again.
                if is_past or is_old or (is_full and 2 * left >= step):
                    due.append(claim)
                    left -= claim.byte_count
        return due

    def _note_growth(self, payee_key: bytes, total_bytes: int) -> int:
        pace = self._pace_of(payee_key)
        if total_bytes > pace.seen_bytes:
            pace.jumps.append(total_bytes - pace.seen_bytes)
        pace.seen_bytes = total_bytes
        return max(pace.jumps) if self.jump_of is None else self.jump_of(payee_key)

    def _note_room(self, payee_key: bytes, room: int) -> None:
        self._rooms.pop(payee_key, None)
        self._rooms[payee_key] = room
        if len(self._rooms) > _PAYEES_KEPT:
            del self._rooms[next(iter(self._rooms))]

    def note_signed(self, claim: Claim, *, is_known: bool) -> None:
        """Take note that a claim was signed."""
        pace = self._pace_of(claim.payee_key)
        if is_known:
            due_bytes = self.step_bytes(claim.payee_key, is_known=True)
            pace.overshoots.append(claim.byte_count - due_bytes)
        pace.unanswered += 1
        pace.seen_bytes = max(0, pace.seen_bytes - claim.byte_count)
        step = self.step_bytes(claim.payee_key, is_known=is_known)
        self._note_room(claim.payee_key, step - pace.seen_bytes)
        self._since_s.pop(_key_of(claim), None)

    def note_answer(self, payee_key: bytes, unacknowledged_bytes: int) -> None:
        """Take note of what a payee had outstanding when a receipt had just reached it."""
        pace = self._pace_of(payee_key)
        pace.delays.append(unacknowledged_bytes)
        pace.unanswered = 0

    def _pace_of(self, payee_key: bytes) -> _Pace:
        pace = self._paces.pop(payee_key, None) or _Pace()
        self._paces[payee_key] = pace
        if len(self._paces) > _PAYEES_KEPT:
            del self._paces[next(iter(self._paces))]
        return pace


def _key_of(claim: Claim) -> _ClaimKey:
    return claim.scope_id, claim.source, claim.payee_key, claim.epoch


def _is_cdn(claim: Claim) -> bool:
    return claim.source is Source.CDN
