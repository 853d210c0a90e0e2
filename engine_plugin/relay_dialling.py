"""When to turn to the relay: for whom, after how long, and how often.

A peer that has no side channel a moment after it was first wanted is reached through the
collector instead; whoever does not answer there either is tried ever more seldom.

Not here: the relay itself (`relay`), dialling over TCP (`exchange`).
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from engine_plugin.identity import parse_handshake
from engine_plugin.libtorrent_door import PeerSnapshot
from engine_plugin.libtorrent_door.session_options import split_endpoint

SEEK_AFTER_S = 1.0
"""From the first wish to the first opening: whom TCP reaches has a channel by then. Dialling goes
on beside; of two channels one stays."""

AGAIN_FIRST_S = 15.0
AGAIN_MOST_S = 600.0
SOUGHT_MAX = 4_096


SEEN_S = 120.0
"""How long a peer is still sought after it was last seen in the swarm: what it sent is not
attested yet."""

RELAYED_PROVE_TIMEOUT_S = 60
"""Seconds to a relayed channel's proof: each of its steps goes through the collector."""

RELAYED_ORIGIN = "relay"
"""Under this all relayed channels are counted whose address only their peer states."""


class Opener(Protocol):
    """What opens streams."""

    def expect(self, key: bytes) -> None:
        """Let a peer open a stream to us."""

    def dial(self, key: bytes) -> bool:
        """Open a stream to a peer."""

    def give_up(self, key: bytes) -> None:
        """Expect a peer no longer, and open no stream to it."""


@dataclass(slots=True)
class _Sought:
    """A peer without a channel."""

    next_s: float
    """Monotonic seconds of the next opening."""
    tries: int = 0
    seen_s: float = float("-inf")
    """Monotonic seconds at which it was in the swarm."""


class RelayDialling:
    """Opens streams to peers that cannot be reached otherwise."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._sought: OrderedDict[bytes, _Sought] = OrderedDict()

    def seek(self, key: bytes, now_s: float, *, is_here: bool = True) -> None:
        """Want a channel to a peer; call it again for as long as there is none.

        Args:
            key: The peer's.
            now_s: Monotonic seconds.
            is_here: Whether it is in the swarm, so that it may seek us as well.
        """
        sought = self._sought.setdefault(key, _Sought(now_s + SEEK_AFTER_S))
        if is_here:
            sought.seen_s = now_s
        if len(self._sought) > SOUGHT_MAX:
            self._sought.popitem(last=False)
        self._dial_when_due(key, sought, now_s)

    def tick(self, now_s: float) -> None:
        """Go on seeking whoever was in the swarm a while ago."""
        for key, sought in list(self._sought.items()):
            if now_s - sought.seen_s < SEEN_S:
                self._dial_when_due(key, sought, now_s)
                if sought.tries:
                    self._opener.expect(key)

    def _dial_when_due(self, key: bytes, sought: _Sought, now_s: float) -> None:
        if now_s >= sought.next_s and self._opener.dial(key):
            sought.next_s = now_s + min(AGAIN_FIRST_S * 2**sought.tries, AGAIN_MOST_S)
            sought.tries = min(sought.tries + 1, 10)

    def forget(self, key: bytes) -> None:
        """Take note that there is a channel."""
        if self._sought.pop(key, None) is not None:
            self._opener.give_up(key)


def find_origin(key: bytes, stated_ip: str, snapshots: Iterable[PeerSnapshot]) -> str:
    """Return under what a relayed channel is counted.

    Over the relay a peer's address is its own word. It counts as that address's only if a
    BitTorrent connection from there names the key; else anybody could use up another's share.
    """
    for snapshot in snapshots:
        if not snapshot.is_web_seed and split_endpoint(snapshot.endpoint)[0] == stated_ip:
            hint = parse_handshake(snapshot.client)
            if hint is not None and hint.public_key == key:
                return stated_ip
    return RELAYED_ORIGIN
