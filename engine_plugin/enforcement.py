"""Enforcement: imposes on a libtorrent session what its peers' standing deserves.

At every tick it takes the open connections and what each took and acknowledged, lets `standing`
judge them and `slots` seat them, and tells the door only what changed. Nothing here can stop a
transfer that is paid for: without figures nobody is slowed.

Not here: the bounds and the judgement (`standing`), libtorrent (`libtorrent_door.tiers`).
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from engine_plugin.identity import CLIENT_PREFIX, parse_handshake
from engine_plugin.libtorrent_door import PeerSnapshot
from engine_plugin.libtorrent_door.session_options import split_endpoint
from engine_plugin.libtorrent_door.tiers import SLOTS, Tier, TierTable
from engine_plugin.slots import SlotBoard
from engine_plugin.standing import (
    CutOff,
    EnforcementPolicy,
    KeyExposure,
    StandingBook,
    Taking,
    Treatment,
    judge,
)

HELD_RATE = 1
"""Bytes a second; as good as nothing, and 0 would mean no limit."""

Emit = Callable[..., None]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnforcementTotals:
    """For people."""

    held: int
    """Connections that get nothing now."""
    probation: int
    """Connections that have not proved a key yet, or are served slowly."""
    cut: tuple[str, ...]
    """Addresses that are cut off now."""
    cut_offs: int
    """Cut-offs so far."""


class Enforcer:
    """The enforcement of one session; used from one thread."""

    def __init__(
        self,
        tiers: TierTable,
        policy: EnforcementPolicy,
        *,
        list_addresses: Callable[[], Mapping[Hashable, str]] = dict,
        redial: Callable[[str], None] = lambda _address: None,
        emit: Emit = lambda *_, **__: None,
    ) -> None:
        """Direct newcomers into the first slot.

        Args:
            tiers: The session's.
            policy: The bounds.
            list_addresses: Looks at the session now: its connections and their IP addresses.
            redial: Asked to dial an address whose connections were just moved.
            emit: Takes an event for every cut-off.
        """
        self.policy = policy
        self._tiers = tiers
        self._list_addresses = list_addresses
        self._redial = redial
        self._emit = emit
        self._book = StandingBook()
        self._board = SlotBoard(count=SLOTS)
        self._limits: dict[int, int] = {}
        self._exempt: frozenset[str] = frozenset()
        self._cut: frozenset[str] = frozenset()
        self._cut_offs = 0
        self._treatments: Mapping[Hashable, Treatment] = {}
        self._front = self._board.front
        self._limit_slot(self._front, Treatment.PROBATION)
        tiers.direct(self._front)

    @property
    def totals(self) -> EnforcementTotals:
        """Where things stand."""
        values = list(self._treatments.values())
        return EnforcementTotals(
            held=values.count(Treatment.HELD),
            probation=sum(1 for v in values if v in {Treatment.PROBATION, Treatment.PLAIN}),
            cut=tuple(sorted(self._cut)),
            cut_offs=self._cut_offs,
        )

    @property
    def is_at_ease(self) -> bool:
        """Whether time alone changes nothing: everybody is free, and nobody is remembered ill."""
        return (
            not self._cut
            and not self._exempt
            and not self._book.gone
            and all(value is Treatment.FREE for value in self._treatments.values())
        )

    def treatment_of(self, peer: Hashable) -> Treatment | None:
        """Return how a connection was treated at the last tick; None: it was not there."""
        return self._treatments.get(peer)

    @property
    def gone(self) -> Collection[Hashable]:
        """Unproved connections that ended and are charged to their address."""
        return self._book.gone.keys()

    def tick(
        self,
        takings: Collection[Taking],
        keys: Mapping[bytes, KeyExposure],
        now_s: float,
        *,
        takes_receipts: bool = True,
        proved_since: frozenset[Hashable] = frozenset(),
    ) -> None:
        """Judge and impose.

        Args:
            takings: Every open connection; `list_takings` makes them.
            keys: Figures of the keys that proved them.
            now_s: Monotonic seconds.
            takes_receipts: Whether receipts can be judged now (ledger time is known); if not, no
                key is asked for them.
            proved_since: Those of `gone` that a key has proved since they ended.
        """
        judgement = judge(
            self._book,
            takings,
            keys,
            now_s=now_s,
            policy=self.policy,
            unholdable=self._board.unholdable,
            trusted=self._board.trusted,
            takes_receipts=takes_receipts,
            proved_since=proved_since,
        )
        self._book = judgement.book
        self._treatments = judgement.treatments
        seated = {t.peer: t.address for t in takings if t.address not in judgement.cut}
        plan = self._board.plan(seated, judgement.treatments, now_s)
        for slot, treatment in plan.treatments.items():
            self._limit_slot(slot, treatment)
        if plan.front != self._front:
            before, self._front = self._front, plan.front
            self._tiers.direct(plan.front)
            self._board.note_moved_front(before, self._list_addresses())
        self._exempt_addresses(plan.exempt)
        if plan.moved:
            self._tiers.disconnect(plan.moved)
            for address in sorted(plan.moved):
                self._redial(address)
        if judgement.cut != self._cut:
            self._cut = judgement.cut
            self._tiers.set_blocked(judgement.cut)
        for cut_off in judgement.cut_offs:
            self._tell(cut_off)

    def forget_key(self, key: bytes) -> None:
        """Forget what a key took and acknowledged; its figures begin anew if it comes back."""
        if key in self._book.keys:
            kept = {other: record for other, record in self._book.keys.items() if other != key}
            self._book = replace(self._book, keys=kept)

    def stop(self) -> None:
        """Lift everything."""
        self._tiers.direct(None)
        self._exempt_addresses(frozenset())
        self._tiers.set_blocked(())
        for slot in self._limits:
            self._tiers.limit_slot(slot, 0)

    def _limit_slot(self, slot: int, treatment: Treatment) -> None:
        if treatment is Treatment.FREE:
            rate = 0
        elif treatment is Treatment.HELD:
            rate = HELD_RATE
        else:
            is_plain = treatment is Treatment.PLAIN
            rate = self.policy.plain_rate if is_plain else self.policy.probation_rate
        if self._limits.get(slot) != rate:
            self._limits[slot] = rate
            self._tiers.limit_slot(slot, rate)

    def _exempt_addresses(self, exempt: frozenset[str]) -> None:
        for address in exempt - self._exempt:
            self._tiers.assign(address, Tier.GOOD)
        for address in self._exempt - exempt:
            self._tiers.assign(address, None)
        self._exempt = exempt

    def _tell(self, cut_off: CutOff) -> None:
        self._cut_offs += 1
        _log.warning(
            "cut_off",
            address=cut_off.address,
            seconds=round(cut_off.seconds),
            unknown_bytes=cut_off.unknown_bytes,
            debt_bytes=cut_off.debt_bytes,
        )
        self._emit(
            "cut_off",
            address=cut_off.address,
            seconds=round(cut_off.seconds),
            unknown_bytes=cut_off.unknown_bytes,
            debt_bytes=cut_off.debt_bytes,
        )


def list_takings(
    snapshots: Iterable[PeerSnapshot],
    sent_bytes: Mapping[int, int],
    key_of: Callable[[PeerSnapshot], bytes | None],
) -> list[Taking]:
    """Return the open connections of peers as enforcement sees them.

    Args:
        snapshots: The session's connections.
        sent_bytes: Content bytes handed to each peer number, over all torrents.
        key_of: The key that proved a connection, if one did.
    """
    takings: dict[Hashable, Taking] = {}
    counted: set[int] = set()
    for snapshot in snapshots:
        if snapshot.is_web_seed:
            continue
        # Bytes are counted by peer; two torrents' connections to one may share its number.
        sent = 0 if snapshot.peer in counted else sent_bytes.get(snapshot.peer, 0)
        counted.add(snapshot.peer)
        name = name_connection(snapshot)
        takings[name] = Taking(
            peer=name,
            address=split_endpoint(snapshot.endpoint)[0],
            key=key_of(snapshot),
            is_plain=_is_plain(snapshot),
            sent_bytes=sent,
        )
    return list(takings.values())


def name_connection(snapshot: PeerSnapshot) -> Hashable:
    """Return what names a connection for good; its peer-id is not known at first sight."""
    return snapshot.torrent, snapshot.endpoint


def list_addresses_of(snapshots: Iterable[PeerSnapshot]) -> dict[Hashable, str]:
    """Return the IP addresses of peers' connections, by what names these."""
    return {
        name_connection(snapshot): split_endpoint(snapshot.endpoint)[0]
        for snapshot in snapshots
        if not snapshot.is_web_seed
    }


def _is_plain(snapshot: PeerSnapshot) -> bool:
    """Tell whether a peer will never prove a key: another client, or a plugin without terms.

    The client text comes a moment after the peer-id, so ours are told by the latter too.
    """
    hint = parse_handshake(snapshot.client)
    if hint is not None:
        return not hint.receipt_port
    return snapshot.handshake_done and not snapshot.peer_id.startswith(CLIENT_PREFIX)
