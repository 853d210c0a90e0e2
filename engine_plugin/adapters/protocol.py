"""What a delivery engine must offer: meter events in, enforcement out.

An engine that tells of every block (`MeteredEngine`) is metered exactly: its bytes are attributed
to keys, receipted and paid. `libtorrent_door.EngineSession` is one; a player of another protocol
that can say "asked", "written", "passed" and "failed" of a block becomes another, and everything
above (meter, journal, receipts, spool) stays as it is. An engine that only tells totals
(`TotalsEngine`) is counted and marked so: nothing of it is ever attested, receipted or billed.
`Enforcement` is what debtors meet; an engine without it is metered all the same.

How to write an adapter: hand out events of the five kinds of a block's life in the order in which
they happened, number torrents and (peer-id, endpoint) pairs with small integers, never use a number
again, and say DROPPED when events were lost. A guess is worse than nothing: leave it out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from engine_plugin.libtorrent_door import Drained, PeerSnapshot, SessionCounters
from engine_plugin.libtorrent_door.tiers import Tier


class MeteredEngine(Protocol):
    """An engine that tells of every block; `MeterPump` drives it from one thread."""

    @property
    def reports_every_write(self) -> bool:
        """Whether a write report comes for every block before its piece is reported passed."""

    def wait(self, timeout_ms: int) -> bool:
        """Wait until there is something to drain; say whether there is."""

    def drain(self) -> Drained:
        """Return what happened since the last call, in order."""

    def peers(self) -> list[PeerSnapshot]:
        """Return all connections as of now."""

    def peer_key(self, peer: int) -> tuple[bytes, str]:
        """Return peer-id (20 bytes) and endpoint ("IP:port") of a peer's number."""

    def find_peer(self, peer_id: bytes, endpoint: str) -> int | None:
        """Return the number of a (peer-id, endpoint) pair, or None if it was never seen."""

    def peer_numbers(self) -> list[int]:
        """Return the numbers of all pairs that are remembered."""

    def forget_peers(self, unused: Iterable[int]) -> None:
        """Forget pairs that are not connected and of no use any more."""

    def read_counters(self) -> tuple[SessionCounters | None, Drained]:
        """Return the engine's own byte counters for the audit, and what was drained meanwhile."""

    def remove_torrent(self, torrent: int, *, deletes_files: bool = False) -> None:
        """Stop a torrent; its number is not used again."""

    def pause(self) -> None:
        """Stop all transfers."""

    def flush(self) -> None:
        """Write what is held in memory, so that its reports come."""


class Enforcement(Protocol):
    """What can be done to an address; `libtorrent_door.tiers.TierTable` is one."""

    def limit(self, tier: Tier, bytes_per_second: int) -> None:
        """Set a tier's upload limit; 0 = unlimited."""

    def assign(self, address: str, tier: Tier | None) -> bool:
        """Put an address into a tier; say whether that is a change."""

    def block(self, address: str) -> None:
        """Disconnect an address and refuse it."""

    def unblock(self, address: str) -> None:
        """Admit an address again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTotals:
    """What a totals-only engine says of one playback; its own word, checked by nobody."""

    content_id: str
    """As the engine names it, hexadecimal."""
    playback_id: str
    """Which playback of the engine the totals belong to; they restart with it."""
    is_live: bool
    peer_count: int
    downloaded_bytes: int
    """Received in this playback so far, from peers and servers together; n ≥ 0."""
    http_bytes: int | None
    """Part of it that came from servers; None: the engine does not tell them apart."""
    uploaded_bytes: int
    """Sent in this playback so far; n ≥ 0."""


class TotalsEngine(Protocol):
    """An engine that only tells totals."""

    async def read(self) -> EngineTotals:
        """Return the totals as of now.

        Raises:
            EngineError: The engine did not answer, or answered nonsense.
        """
