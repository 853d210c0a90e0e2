"""Tiers of peers: rate limits by IP address, the only enforcement the wheel allows.

libtorrent assigns a peer's classes when it connects, by address; a class's limit acts at once.
So a tier is one class, an address belongs to one tier, and moving an address means to disconnect
it. Everybody behind one address moves together. Web seeds are not affected.
"""

import ipaddress
from enum import StrEnum
from typing import Any

import libtorrent as lt

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
    """The tiers of one session. An address that is in no tier has the session's limits only."""

    def __init__(self, session: Any) -> None:
        """Creates the classes and replaces libtorrent's default class filter.

        The default filter exempts loopback and local networks from every rate limit.
        """
        self._session = session
        self._base = 1 << lt.session.global_peer_class_id
        self._classes = {tier: session.create_peer_class(str(tier)) for tier in Tier}
        self._tiers: dict[str, Tier] = {}
        self._blocked: set[str] = set()
        self._apply_classes()

    def limit(self, tier: Tier, bytes_per_second: int) -> None:
        """Sets a tier's upload limit; acts on connected peers too.

        Args:
            tier: Whose members share the limit.
            bytes_per_second: n ≥ 0; 0 = unlimited.
        """
        facts = self._session.get_peer_class(self._classes[tier])
        facts["upload_limit"] = bytes_per_second
        self._session.set_peer_class(self._classes[tier], facts)

    def assign(self, address: str, tier: Tier | None) -> bool:
        """Puts an address into a tier for its next connections.

        Returns:
            Whether that is a change; if so, `block` and `unblock` it to make it reconnect.
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
        self._blocked.add(str(ipaddress.ip_address(address)))
        self._apply_blocks()

    def unblock(self, address: str) -> None:
        """Admits an address again; it may take some seconds to come back."""
        self._blocked.discard(str(ipaddress.ip_address(address)))
        self._apply_blocks()

    def _apply_classes(self) -> None:
        rules = lt.ip_filter()
        for first, last in _EVERYBODY:
            rules.add_rule(first, last, self._base)
        for address, tier in self._tiers.items():
            rules.add_rule(address, address, self._base | 1 << self._classes[tier])
        self._session.set_peer_class_filter(rules)

    def _apply_blocks(self) -> None:
        rules = lt.ip_filter()
        for address in self._blocked:
            rules.add_rule(address, address, 1)
        self._session.set_ip_filter(rules)
