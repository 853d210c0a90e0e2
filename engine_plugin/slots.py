"""Which connection sits in which peer class, so that a treatment can be changed without a cut.

libtorrent gives a connection its classes when it comes and never changes them, but a class's limit
acts at once. So whoever comes lands in the *front* slot, a class of its own that nobody else is in,
and the front moves on: a slot's limit is then its one connection's limit, lifted the moment its key
is proved. Who comes within one look shares a slot with the others, and a slot is as slow as its
worst member: who keeps somebody free waiting is made to come again, into another slot. When slots
run out, whoever is free is made to come again into no slot at all, once.

Pure: what is open and how it is to be treated goes in, limits and moves come out.
Not here: libtorrent's calls (`libtorrent_door.tiers`), the treatments (`standing`).
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from engine_plugin.standing import Treatment

RESERVE = 4
"""Slots that are kept free for newcomers: beyond, whoever is free is moved out of its slot."""

STUCK_S = 1.0
"""How long a free connection waits for those who slow its slot before they are disconnected."""

MOVE_S = 8.0
"""How long an address that was moved out of all slots may take to come again and prove its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlan:
    """What to impose."""

    front: int
    """The slot of whoever comes next."""
    treatments: Mapping[int, Treatment]
    """By slot; the limit of a slot that is not named does not matter."""
    exempt: frozenset[str]
    """Addresses whose next connections get into no slot."""
    moved: frozenset[str] = frozenset()
    """Addresses to disconnect once, so that they come again."""


@dataclass(slots=True)
class SlotBoard:
    """The slots of one session. Call `plan` at every look."""

    count: int
    """Slots there are; n ≥ RESERVE + 2."""
    front: int = 0
    _slots: dict[Hashable, frozenset[int]] = field(default_factory=dict)
    """By connection: where it may sit; empty: in no slot."""
    _waiting_since_s: dict[Hashable, float] = field(default_factory=dict)
    _moving: dict[str, float] = field(default_factory=dict)
    """By address: until when its connections get into no slot."""

    @property
    def unholdable(self) -> frozenset[Hashable]:
        """Connections that sit in no slot."""
        return frozenset(peer for peer, slots in self._slots.items() if not slots)

    @property
    def trusted(self) -> frozenset[str]:
        """Addresses that were moved out of all slots and may have to prove their key again."""
        return frozenset(self._moving)

    def plan(
        self,
        addresses: Mapping[Hashable, str],
        treatments: Mapping[Hashable, Treatment],
        now_s: float,
    ) -> SlotPlan:
        """Seat who came, drop who left, and say what to impose.

        Args:
            addresses: The open connections, each with its address.
            treatments: How each is to be treated; one that is missing is on probation.
            now_s: Monotonic seconds.
        """
        self._moving = {at: until for at, until in self._moving.items() if now_s < until}
        self._seat(addresses)
        members: dict[int, list[Hashable]] = {}
        for peer, slots in self._slots.items():
            for slot in slots:
                members.setdefault(slot, []).append(peer)
        by_slot = {
            slot: min(treatments.get(peer, Treatment.PROBATION) for peer in peers)
            for slot, peers in members.items()
        }
        moved = self._evict(addresses, treatments, members, now_s)
        moved |= self._make_room(addresses, treatments, self.count - len(members), now_s)
        # Whoever was taken for somebody else's neighbour is not slowed by a slot that looks empty.
        by_slot = {slot: by_slot.get(slot, Treatment.FREE) for slot in range(self.count)}
        if self.front in members:
            # The one that was in use longest ago: nobody sits there unnoticed any more.
            ahead = [(self.front + step) % self.count for step in range(1, self.count)]
            self.front = next((slot for slot in ahead if slot not in members), self.front)
        by_slot[self.front] = min(by_slot[self.front], Treatment.PROBATION)
        return SlotPlan(
            front=self.front,
            treatments=by_slot,
            exempt=self.trusted,
            moved=frozenset(moved),
        )

    def _seat(self, addresses: Mapping[Hashable, str]) -> None:
        self._slots = {peer: slots for peer, slots in self._slots.items() if peer in addresses}
        for peer, address in addresses.items():
            if peer not in self._slots:
                is_moved = address in self._moving
                self._slots[peer] = frozenset() if is_moved else frozenset({self.front})

    def note_moved_front(self, before: int, addresses: Mapping[Hashable, str]) -> None:
        """Seat whoever is there when the front has moved on: before or after, nobody can tell.

        Args:
            before: The front until now.
            addresses: All connections, looked at after new ones began to get into the new front.
        """
        for peer, address in addresses.items():
            if peer not in self._slots and address not in self._moving:
                self._slots[peer] = frozenset({before, self.front})

    def _evict(
        self,
        addresses: Mapping[Hashable, str],
        treatments: Mapping[Hashable, Treatment],
        members: Mapping[int, list[Hashable]],
        now_s: float,
    ) -> set[str]:
        """Choose the addresses of those who slow a slot in which somebody free waits."""
        evicted: set[str] = set()
        waiting: dict[Hashable, float] = {}
        for peer, slots in self._slots.items():
            if treatments.get(peer) is not Treatment.FREE:
                continue
            slowing = [
                other
                for slot in slots
                for other in members[slot]
                if treatments.get(other, Treatment.PROBATION) is not Treatment.FREE
            ]
            if slowing:
                waiting[peer] = self._waiting_since_s.get(peer, now_s)
                if now_s - waiting[peer] >= STUCK_S:
                    evicted |= {addresses[other] for other in slowing}
        self._waiting_since_s = waiting
        self._forget(addresses, evicted)
        return evicted

    def _make_room(
        self,
        addresses: Mapping[Hashable, str],
        treatments: Mapping[Hashable, Treatment],
        vacant: int,
        now_s: float,
    ) -> set[str]:
        """Choose the newest free connection to leave its slot, when few are left."""
        if vacant >= RESERVE:
            return set()
        for peer in reversed(self._slots):
            address = addresses[peer]
            is_free = treatments.get(peer) is Treatment.FREE
            if is_free and self._slots[peer] and address not in self._moving:
                self._moving[address] = now_s + MOVE_S
                self._forget(addresses, {address})
                return {address}
        return set()

    def _forget(self, addresses: Mapping[Hashable, str], gone: set[str]) -> None:
        self._slots = {p: slots for p, slots in self._slots.items() if addresses[p] not in gone}
