"""Peer classes and address blocks: the only enforcement the wheel allows.

What libtorrent does, as measured with the wheel (2.1.1, loopback, TCP):

- A connection gets its classes when it comes, by its address, and keeps them; moving it means to
  disconnect it.
- A class's limit acts at once on everybody in it: from 256 KiB/s to none in the same tick (56 MB/s
  a moment later), and to 1 B/s without one more byte.
- **A class's limit is shared by its members**: two peers in a class of 1 MB/s got 0.5 MB/s each.
- Only classes 0 to 31 can be named by the filter, and three are libtorrent's own: 29 are left.
- A blocked address is disconnected at once and refused.

So there are three *tiers*, classes for addresses, and `SLOTS` *slots*, classes of which one at a
time is where every new connection goes; who sits alone in a slot can be slowed and freed alone.
Everybody behind one address is blocked together. Web seeds are not affected.

Not here: who deserves what (`standing`), who sits where (`slots`).
"""

import ipaddress
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import libtorrent as lt

SLOTS = 26
"""Slots of a session."""

_EVERYBODY = (
    ("0.0.0.0", "255.255.255.255"),  # noqa: S104 - a range, not a listener
    ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
)


class Tier(StrEnum):
    """How an address is treated."""

    PROBATION = "probation"
    """Has proved no key yet."""
    GOOD = "good"
    """Acknowledges what it takes."""
    DEBTOR = "debtor"
    """Took without acknowledging."""


class TierTable:
    """The classes of one session. Whoever is in none has the session's limits only."""

    def __init__(self, session: Any) -> None:
        """Creates the classes and replaces libtorrent's default class filter.

        The default filter exempts loopback and local networks from every rate limit.
        """
        self._session = session
        self._base = 1 << lt.session.global_peer_class_id
        self._classes = {tier: session.create_peer_class(str(tier)) for tier in Tier}
        self._slots = [session.create_peer_class(f"slot {n}") for n in range(SLOTS)]
        self._front: int | None = None
        self._tiers: dict[str, Tier] = {}
        self._blocked: frozenset[str] = frozenset()
        self._apply_classes()

    def limit(self, tier: Tier, bytes_per_second: int) -> None:
        """Sets a tier's upload limit; acts on connected peers too.

        Args:
            tier: Whose members share the limit.
            bytes_per_second: n ≥ 0; 0 = unlimited.
        """
        self._limit(self._classes[tier], bytes_per_second)

    def limit_slot(self, slot: int, bytes_per_second: int) -> None:
        """Sets a slot's upload limit; acts on connected peers too.

        Args:
            slot: 0 ≤ n < `SLOTS`.
            bytes_per_second: n ≥ 0; 0 = unlimited.
        """
        self._limit(self._slots[slot], bytes_per_second)

    def direct(self, slot: int | None) -> None:
        """Makes a slot the one that new connections get into; None: none.

        Addresses in a tier get into that tier's class instead. When this returns, new connections
        follow it.
        """
        self._front = slot
        self._apply_classes()

    def assign(self, address: str, tier: Tier | None) -> bool:
        """Puts an address into a tier for its next connections.

        Returns:
            Whether that is a change; if so, `reconnect` it to make it act.
        """
        address = str(ipaddress.ip_address(address))
        if self._tiers.get(address) is tier:
            return False
        if tier is None:
            self._tiers.pop(address, None)
        else:
            self._tiers[address] = tier
        self._apply_classes()
        return True

    def tier_of(self, address: str) -> Tier | None:
        """Returns the tier of an address, or None."""
        return self._tiers.get(str(ipaddress.ip_address(address)))

    def block(self, address: str) -> None:
        """Disconnects an address and refuses it."""
        self.set_blocked(self._blocked | {address})

    def unblock(self, address: str) -> None:
        """Admits an address again; it may take some seconds to come back."""
        self.set_blocked(self._blocked - {str(ipaddress.ip_address(address))})

    def set_blocked(self, addresses: Iterable[str]) -> None:
        """Refuses exactly these addresses, disconnects them, and admits all others."""
        self._blocked = frozenset(str(ipaddress.ip_address(address)) for address in addresses)
        self._apply_blocks(self._blocked)

    def disconnect(self, addresses: Iterable[str]) -> None:
        """Disconnects addresses once; they may come back at once."""
        once = {str(ipaddress.ip_address(address)) for address in addresses}
        if once - self._blocked:
            self._apply_blocks(self._blocked | once)
            self._apply_blocks(self._blocked)

    def _limit(self, peer_class: int, bytes_per_second: int) -> None:
        facts = self._session.get_peer_class(peer_class)
        facts["upload_limit"] = bytes_per_second
        self._session.set_peer_class(peer_class, facts)

    def _apply_classes(self) -> None:
        rules = lt.ip_filter()
        front = 0 if self._front is None else 1 << self._slots[self._front]
        for first, last in _EVERYBODY:
            rules.add_rule(first, last, self._base | front)
        for address, tier in self._tiers.items():
            rules.add_rule(address, address, self._base | 1 << self._classes[tier])
        self._session.set_peer_class_filter(rules)
        # The call above returns before it acts; this one answers after it did.
        self._session.get_peer_class(self._classes[Tier.GOOD])

    def _apply_blocks(self, blocked: frozenset[str]) -> None:
        rules = lt.ip_filter()
        for address in blocked:
            rules.add_rule(address, address, 1)
        self._session.set_ip_filter(rules)
