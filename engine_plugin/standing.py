"""Who may go on taking: judges connections by what they took and what they acknowledged.

A pure function: the book of earlier observations and the present figures go in, a treatment for
every connection, the addresses to cut off and the new book come out. A connection whose key is not
proved takes a little and then waits; a key that acknowledges is free; one that takes without
acknowledging is held, and its address is cut off for a growing time unless somebody honest sits
behind it too. What a cut-off has answered for is written off, so nobody is shut out for good.

Not here: how a treatment is imposed (`slots`, `enforcement`), whether a receipt is good (`payee`).
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum

MIB = 1 << 20
IN_FLIGHT_BYTES = MIB
"""What a connection may be counted for after it was held: in buffers, and one look behind."""


REACTION_S = 0.5
"""From a byte's leaving to the effect of a judgement on it: a look at the queue, a quarter of a
second between judgements, and what the rate's limiter has granted already."""


class PlainPeers(StrEnum):
    """What peers get that do not speak this plugin's language."""

    SERVE = "serve"
    """As much as anybody."""
    PROBATION = "probation"
    """A slow rate."""
    REFUSE = "refuse"
    """Nothing: their address is cut off."""


class Treatment(IntEnum):
    """How a connection is treated, the worst first."""

    HELD = 0
    """Stays connected and gets nothing."""
    PROBATION = 1
    """Has not proved a key yet: a slow rate until it took what an unknown peer may take."""
    PLAIN = 2
    """Will never prove one, and is served slowly."""
    FREE = 3
    """Not slowed at all."""


GONE_MAX = 4096
"""Ended connections that a late proof can still take off their address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnforcementPolicy:
    """The bounds. Bytes are content bytes handed to connections, seconds are of one machine.

    Raises:
        ValueError: A field is out of range.
    """

    plain_peers: PlainPeers = PlainPeers.SERVE
    unknown_bytes: int = 256 << 10
    """What the unproved connections of an address may take together."""
    known_bytes: int = 4 * MIB
    """What a proved key may take beyond its receipts; four pieces if they are larger."""
    address_bytes: int = 8 * MIB
    """What an address may cost before it is cut off although somebody behind it is honest."""
    probation_rate: int = 192 << 10
    """Bytes a second of an unproved connection: what it overshoots is this times a reaction."""
    plain_rate: int = 256 << 10
    """Bytes a second of a plain peer on probation."""
    spare_divisor: int = 16
    """A sixteenth of what is receipted may be missing: duplicates and failed pieces."""
    first_patience_s: float = 0.5
    """How old sent bytes are before a key that never receipted must have receipted them."""
    receipt_patience_s: float = 2.0
    """The same for a key that did earlier."""
    held_s: float = 5.0
    """How long a connection is held before its address is cut off."""
    cut_first_s: float = 30.0
    cut_most_s: float = 3600.0
    """An address is cut off twice as long each time, between these."""
    memory_s: float = 3600.0
    """After so long without a cut-off the next is a first one again."""

    @property
    def hold_after_bytes(self) -> int:
        """What an address's unproved connections have taken when they are held.

        It is `unknown_bytes` less what they take until that has an effect.
        """
        overshoot = int(self.probation_rate * REACTION_S)
        return max(self.unknown_bytes // 2, self.unknown_bytes - overshoot)

    def __post_init__(self) -> None:
        for name in ("unknown_bytes", "known_bytes", "probation_rate", "plain_rate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, want n >= 1")
        if self.spare_divisor < 1:
            raise ValueError(f"spare_divisor: got {self.spare_divisor}, want n >= 1")
        if not 0 < self.cut_first_s <= self.cut_most_s:
            raise ValueError(f"cut_first_s: got {self.cut_first_s}, want 0 < n <= cut_most_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """One BitTorrent connection and what it took from us in this run."""

    peer: Hashable
    """What names the connection; the same from its first sight to its last."""
    address: str
    key: bytes | None
    """The key that proved this connection."""
    is_plain: bool
    """Whether its handshake names no plugin."""
    sent_bytes: int
    """Content bytes handed to it; never falls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyExposure:
    """What one proved key took and acknowledged."""

    sent_bytes: int
    """Content bytes handed to its connections in this run."""
    receipted_bytes: int
    """Sum of its newest receipts here, of all runs."""
    is_refused: bool = False
    """Whether its receipts are refused for good: over a cap, or the entitlement is no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What the book remembers of a key."""

    receipted_before_bytes: int
    """Receipted when it was first seen in this run."""
    written_off_bytes: int = 0
    receipted_bytes: int = 0
    paid_at_s: float = float("-inf")
    """When its receipts grew last."""
    sent_history: tuple[tuple[float, int], ...] = ()
    """(second, sent bytes), oldest first; the first is at least `receipt_patience_s` old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRecord:
    """What the book remembers of an address."""

    gone_bytes: int = 0
    """Taken by unproved connections that are gone."""
    written_off_bytes: int = 0
    held_since_s: float | None = None
    strikes: int = 0
    is_cut: bool = False
    cut_until_s: float | None = None
    """Until when it is cut off; stays as the time of the last cut-off's end."""
    cut_keys: frozenset[bytes] = frozenset()
    """Keys whose debt was the only reason of the cut-off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingBook:
    """Everything remembered from one judgement to the next."""

    keys: Mapping[bytes, KeyRecord] = field(default_factory=dict)
    addresses: Mapping[str, AddressRecord] = field(default_factory=dict)
    open: Mapping[Hashable, Taking] = field(default_factory=dict)
    """Connections at the last judgement."""
    gone: Mapping[Hashable, Taking] = field(default_factory=dict)
    """Unproved connections that ended; their key may still prove them. The newest few thousand."""
    held_at_bytes: Mapping[Hashable, int] = field(default_factory=dict)
    """By connection that is held: what it may have taken at most if holding works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOff:
    """An address that was just cut off."""

    address: str
    seconds: float
    unknown_bytes: int
    """Taken by its unproved connections."""
    debt_bytes: int
    """Taken by its keys beyond their receipts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What follows from one look."""

    book: StandingBook
    treatments: Mapping[Hashable, Treatment]
    """By connection."""
    cut: frozenset[str]
    """Addresses that are cut off now."""
    cut_offs: tuple[CutOff, ...] = ()
    """Those that were not a moment ago."""


def debt_bytes(record: KeyRecord, exposure: KeyExposure, policy: EnforcementPolicy) -> int:
    """Return what a key took beyond its receipts, the allowance for duplicates and write-offs."""
    receipted = max(0, exposure.receipted_bytes - record.receipted_before_bytes)
    spare = receipted // policy.spare_divisor
    return max(0, exposure.sent_bytes - receipted - spare - record.written_off_bytes)


def owes(record: KeyRecord, exposure: KeyExposure, now_s: float, policy: EnforcementPolicy) -> bool:
    """Tell whether a key must acknowledge before it takes more.

    What was sent longer ago than a peer may take to answer must be acknowledged, but for
    `known_bytes`: a fast peer's receipts are always a moment behind.
    """
    if exposure.is_refused:
        return True
    is_known = exposure.receipted_bytes > record.receipted_before_bytes
    due_s = now_s - (policy.receipt_patience_s if is_known else policy.first_patience_s)
    due = [sent for at_s, sent in record.sent_history if at_s <= due_s]
    exposure = replace(exposure, sent_bytes=due[-1] if due else 0)
    return debt_bytes(record, exposure, policy) > policy.known_bytes


def judge(
    book: StandingBook,
    takings: Iterable[Taking],
    keys: Mapping[bytes, KeyExposure],
    *,
    now_s: float,
    policy: EnforcementPolicy,
    unholdable: frozenset[Hashable] = frozenset(),
    trusted: frozenset[str] = frozenset(),
    takes_receipts: bool = True,
    proved_since: frozenset[Hashable] = frozenset(),
) -> Judgement:
    """Judge every connection.

    Args:
        book: From the judgement before.
        takings: The open connections.
        keys: Figures of every key that proved one of them; a key may have more than one.
        now_s: Monotonic seconds, not before the last judgement's.
        policy: The bounds.
        unholdable: Connections that cannot be held, only cut off with their address.
        trusted: Addresses whose connections we ended: who comes again need not prove itself yet.
        takes_receipts: Whether receipts can be judged now; if not, no key owes.
        proved_since: Of the book's `gone`, those proved after their end: their key's matter now.
    """
    opened = {taking.peer: taking for taking in takings}
    records = _look_at_keys(book, opened, keys, now_s, policy)
    owing = {
        key
        for key, record in records.items()
        if takes_receipts and key in keys and owes(record, keys[key], now_s, policy)
    }
    by_address: dict[str, list[Taking]] = {}
    for taking in opened.values():
        by_address.setdefault(taking.address, []).append(taking)
    addresses, gone = _close_connections(book, opened, proved_since)
    loose = unholdable | _list_loose(book, opened)
    treatments: dict[Hashable, Treatment] = {}
    cut_offs: list[CutOff] = []
    for address in {*by_address, *addresses}:
        record = addresses.get(address, AddressRecord())
        present = by_address.get(address, [])
        record, written_off = _end_cut(record, present, owing, now_s)
        for key in written_off & set(records) & set(keys):
            records[key] = _write_off(records[key], keys[key], policy)
        look = _Look(record, tuple(present), owing, policy, is_trusted=address in trusted)
        treatments |= look.treatments
        record, cut_off = _cut(look, _Debts(look, records, keys, policy), loose, now_s)
        if cut_off is not None:
            cut_offs.append(cut_off)
        if record != AddressRecord():
            addresses[address] = record
        else:
            addresses.pop(address, None)
    cut = frozenset(address for address, record in addresses.items() if record.is_cut)
    return Judgement(
        book=StandingBook(
            keys=records,
            addresses=addresses,
            open=opened,
            gone=gone,
            held_at_bytes=_note_held(book, opened, treatments),
        ),
        treatments={
            peer: Treatment.HELD if opened[peer].address in cut else treatment
            for peer, treatment in treatments.items()
        },
        cut=cut,
        cut_offs=tuple(cut_offs),
    )


def _list_loose(book: StandingBook, opened: Mapping[Hashable, Taking]) -> frozenset[Hashable]:
    """Return who goes on taking while it is held: it sits in another class than was thought."""
    return frozenset(
        peer
        for peer, at_bytes in book.held_at_bytes.items()
        if peer in opened and opened[peer].sent_bytes > at_bytes
    )


def _note_held(
    book: StandingBook,
    opened: Mapping[Hashable, Taking],
    treatments: Mapping[Hashable, Treatment],
) -> dict[Hashable, int]:
    return {
        peer: book.held_at_bytes.get(peer, opened[peer].sent_bytes + IN_FLIGHT_BYTES)
        for peer, treatment in treatments.items()
        if treatment is Treatment.HELD
    }


def _look_at_keys(
    book: StandingBook,
    opened: Mapping[Hashable, Taking],
    keys: Mapping[bytes, KeyExposure],
    now_s: float,
    policy: EnforcementPolicy,
) -> dict[bytes, KeyRecord]:
    records = dict(book.keys)
    due_s = now_s - policy.receipt_patience_s
    for key in {taking.key for taking in opened.values() if taking.key is not None} & set(keys):
        exposure = keys[key]
        record = records.get(key)
        if record is None:
            record = KeyRecord(receipted_before_bytes=exposure.receipted_bytes)
        history = (*record.sent_history, (now_s, exposure.sent_bytes))
        old = sum(1 for at_s, _ in history if at_s <= due_s)
        has_paid = exposure.receipted_bytes > record.receipted_bytes
        records[key] = replace(
            record,
            sent_history=history[max(0, old - 1) :],
            receipted_bytes=max(exposure.receipted_bytes, record.receipted_bytes),
            paid_at_s=now_s if has_paid else record.paid_at_s,
        )
    return records


def _close_connections(
    book: StandingBook, opened: Mapping[Hashable, Taking], proved_since: frozenset[Hashable]
) -> tuple[dict[str, AddressRecord], dict[Hashable, Taking]]:
    """Charge to their address what unproved connections took that are gone now.

    A live stream's connections last for seconds; a proof may come when one has ended already, and
    then takes the charge back.
    """
    addresses, gone = dict(book.addresses), dict(book.gone)
    for peer in proved_since & set(gone):
        taking = gone.pop(peer)
        if record := addresses.get(taking.address):
            left = max(0, record.gone_bytes - taking.sent_bytes)
            addresses[taking.address] = replace(
                record, gone_bytes=left, written_off_bytes=min(record.written_off_bytes, left)
            )
    for peer, taking in book.open.items():
        if peer in opened or taking.key is not None or taking.is_plain or not taking.sent_bytes:
            continue
        record = addresses.get(taking.address, AddressRecord())
        addresses[taking.address] = replace(
            record, gone_bytes=record.gone_bytes + taking.sent_bytes
        )
        gone[peer] = taking
    for peer in list(gone)[: max(0, len(gone) - GONE_MAX)]:
        del gone[peer]
    return addresses, gone


def _end_cut(
    record: AddressRecord, present: list[Taking], owing: set[bytes], now_s: float
) -> tuple[AddressRecord, frozenset[bytes]]:
    """End a cut-off that is over, or whose keys have paid; return the keys to write off."""
    if not record.is_cut or record.cut_until_s is None:
        return record, frozenset()
    has_paid = bool(record.cut_keys) and not record.cut_keys & owing
    if now_s < record.cut_until_s and not has_paid:
        return record, frozenset()
    here = sum(t.sent_bytes for t in present if t.key is None and not t.is_plain)
    ended = replace(
        record,
        written_off_bytes=record.gone_bytes + here,
        held_since_s=None,
        is_cut=False,
        cut_until_s=min(record.cut_until_s, now_s),
        cut_keys=frozenset(),
    )
    return ended, frozenset() if has_paid else record.cut_keys


class _Look:
    """One address at one moment."""

    def __init__(
        self,
        record: AddressRecord,
        present: tuple[Taking, ...],
        owing: set[bytes],
        policy: EnforcementPolicy,
        *,
        is_trusted: bool,
    ) -> None:
        self.record = record
        self.present = present
        self.policy = policy
        self.is_trusted = is_trusted
        self.owing_keys = frozenset(t.key for t in present if t.key is not None and t.key in owing)
        unproved = [t for t in present if t.key is None and not t.is_plain]
        self.unknown_bytes = max(
            0,
            record.gone_bytes + sum(t.sent_bytes for t in unproved) - record.written_off_bytes,
        )
        self.treatments = {t.peer: self._treat(t) for t in present}
        self.held = [t for t in present if self.treatments[t.peer] is Treatment.HELD]
        self.is_honest_here = any(
            t.key is not None and self.treatments[t.peer] is Treatment.FREE for t in present
        )

    def _treat(self, taking: Taking) -> Treatment:
        if taking.key is not None:
            return Treatment.HELD if taking.key in self.owing_keys else Treatment.FREE
        if taking.is_plain:
            return _PLAIN[self.policy.plain_peers]
        if self.is_trusted:
            return Treatment.FREE
        is_over = self.unknown_bytes >= self.policy.hold_after_bytes
        return Treatment.HELD if is_over else Treatment.PROBATION


class _Debts:
    """What the owing keys at one address owe, and when one of them paid last."""

    def __init__(
        self,
        look: _Look,
        records: Mapping[bytes, KeyRecord],
        keys: Mapping[bytes, KeyExposure],
        policy: EnforcementPolicy,
    ) -> None:
        self.total_bytes = sum(
            debt_bytes(records[key], keys[key], policy) for key in look.owing_keys
        )
        # What lies in buffers arrives late at a slow viewer: who goes on paying is only held.
        self.paid_at_s = max(
            (records[key].paid_at_s for key in look.owing_keys), default=float("-inf")
        )


def _write_off(record: KeyRecord, exposure: KeyExposure, policy: EnforcementPolicy) -> KeyRecord:
    debt = debt_bytes(record, exposure, policy)
    return replace(record, written_off_bytes=record.written_off_bytes + debt)


_PLAIN = {
    PlainPeers.SERVE: Treatment.FREE,
    PlainPeers.PROBATION: Treatment.PLAIN,
    PlainPeers.REFUSE: Treatment.HELD,
}


def _cut(
    look: _Look, debts: "_Debts", unholdable: frozenset[Hashable], now_s: float
) -> tuple[AddressRecord, CutOff | None]:
    """Cut an address off when holding is not enough."""
    record, policy = look.record, look.policy
    if record.is_cut:
        return record, None
    if not look.held:
        return replace(record, held_since_s=None), None
    since_s = now_s if record.held_since_s is None else max(record.held_since_s, debts.paid_at_s)
    record = replace(record, held_since_s=since_s)
    is_stubborn = now_s - since_s >= policy.held_s and not look.is_honest_here
    is_paying = now_s - debts.paid_at_s < policy.held_s
    is_costly = look.unknown_bytes + (0 if is_paying else debts.total_bytes) > policy.address_bytes
    is_loose = any(taking.peer in unholdable for taking in look.held)
    is_refused = policy.plain_peers is PlainPeers.REFUSE and any(t.is_plain for t in look.held)
    if not (is_stubborn or is_costly or is_loose or (is_refused and not look.is_honest_here)):
        return record, None
    ended_s = record.cut_until_s
    is_repeated = ended_s is not None and now_s - ended_s < policy.memory_s
    strikes = record.strikes + 1 if is_repeated else 1
    seconds = min(policy.cut_first_s * 2 ** min(strikes - 1, 32), policy.cut_most_s)
    record = replace(
        record,
        strikes=strikes,
        is_cut=True,
        cut_until_s=now_s + seconds,
        cut_keys=look.owing_keys,
    )
    return record, CutOff(
        address=look.present[0].address,
        seconds=seconds,
        unknown_bytes=look.unknown_bytes,
        debt_bytes=debts.total_bytes,
    )
