"""Passes index entries from plugin to plugin when the index itself cannot be reached.

Whoever cannot reach the index says so to its neighbours, by telling them whom it knows; for a while
they push every new entry to it, and so on from viewer to viewer and from the broadcaster's node.
While the index answers, nothing is sent. What arrives counts by its signature; a badly signed entry
ends the channel, as any bad record does.

Not here: bytes on the wire (`gossip`), judging entries (`viewer`).
"""

from collections import deque
from collections.abc import Callable, Sequence

from engine_plugin.exchange import Exchange
from engine_plugin.live.gossip import (
    ENTRY_BYTES_MAX,
    PEERS,
    IndexEntry,
    format_entry,
    make_peers,
    parse_entries,
)
from engine_plugin.side_channel import Channel
from engine_plugin.wire import Endpoint
from ledger.evidence.encoding import RecordCode
from ledger.evidence.stream import Stream

SUBSCRIBED_S = 15.0
"""How long a neighbour is pushed to after it asked."""

ASK_EVERY_S = 5.0
_RECENT = 8
"""Entries that whoever asks gets at once."""


class GossipLink:
    """One stream's gossip over one engine's side channel."""

    def __init__(
        self,
        stream: Stream,
        exchange: Exchange,
        *,
        take_entry: Callable[[IndexEntry], bool],
        take_peers: Callable[[Sequence[Endpoint]], None],
        clock: Callable[[], float],
    ) -> None:
        """Begin to listen.

        Args:
            stream: Whose entries.
            exchange: The engine's talk with other plugins.
            take_entry: Judges an entry; returns whether it was new; raises `EvidenceError`.
            take_peers: Takes addresses that were told.
            clock: Monotonic seconds.
        """
        self._stream = stream
        self._table = exchange.side.table
        self._is_closed = False
        handlers = self._handlers = exchange.handlers
        self._take_entry = take_entry
        self._take_peers = take_peers
        self._clock = clock
        self._recent: deque[IndexEntry] = deque(maxlen=_RECENT)
        self._subscribed: dict[Channel, float] = {}
        self._asked_s = -ASK_EVERY_S
        # Another stream of the same engine listens too: what is not ours is handed on.
        self._next_segment = handlers.get(RecordCode.SEGMENT)
        self._next_peers = handlers.get(RecordCode.PEERS)
        handlers[RecordCode.SEGMENT] = self._on_segment
        handlers[RecordCode.PEERS] = self._on_peers

    def close(self) -> None:
        """Listen no more: what comes for the stream from now on is nobody's."""
        self._is_closed = True
        self._subscribed.clear()
        for code, own, following in (
            (RecordCode.SEGMENT, self._on_segment, self._next_segment),
            (RecordCode.PEERS, self._on_peers, self._next_peers),
        ):
            # Under another stream's that began later it stays, and hands everything on.
            if self._handlers.get(code) == own:
                if following is None:
                    del self._handlers[code]
                else:
                    self._handlers[code] = following

    def ask(self, known: Sequence[Endpoint]) -> None:
        """Ask all neighbours for entries, telling them whom we know; at most every 5 seconds."""
        now_s = self._clock()
        if now_s - self._asked_s < ASK_EVERY_S:
            return
        self._asked_s = now_s
        stream = self._stream
        record = PEERS.format_body(make_peers(stream.network_id, stream.stream_id, known))
        for channel in self._channels():
            channel.send(RecordCode.PEERS, record)

    def tell(self, entry: IndexEntry, *, came_from: Channel | None = None) -> None:
        """Push a new entry to whoever asked, except where it came from."""
        self._recent.append(entry)
        now_s = self._clock()
        self._subscribed = {
            channel: until_s
            for channel, until_s in self._subscribed.items()
            if until_s > now_s and channel in self._channels()
        }
        for channel in self._subscribed:
            if channel is not came_from:
                _push(channel, entry)

    def _channels(self) -> list[Channel]:
        return list(self._table.proved.values())

    def _on_segment(self, channel: Channel, raw: bytes) -> None:
        entry = parse_entries(raw, most=1)[0]
        if self._is_closed or entry.segment.stream_id != self._stream.stream_id:
            if self._next_segment is not None:
                self._next_segment(channel, raw)
            return
        if self._take_entry(entry):
            self.tell(entry, came_from=channel)

    def _on_peers(self, channel: Channel, raw: bytes) -> None:
        peers = PEERS.parse_body(raw)
        if self._is_closed or peers.stream_id != self._stream.stream_id:
            if self._next_peers is not None:
                self._next_peers(channel, raw)
            return
        self._take_peers(peers.list_endpoints())
        is_new = channel not in self._subscribed
        self._subscribed[channel] = self._clock() + SUBSCRIBED_S
        if is_new:
            for entry in self._recent:
                _push(channel, entry)


def _push(channel: Channel, entry: IndexEntry) -> None:
    record = format_entry(entry)
    if len(record) <= ENTRY_BYTES_MAX:
        channel.send(RecordCode.SEGMENT, record)
