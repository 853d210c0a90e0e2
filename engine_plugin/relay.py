"""Streams through the collector, for peers of whom neither can dial the other.

A relayed stream is a reader and a writer like those of a TCP connection, so the side channel runs
over it unchanged: it authenticates, and it seals. Written bytes are gathered for a moment, sealed
for the peer's key and posted as numbered frames; what waits for us is fetched, opened, put in order
and fed to the reader. Only peers that are expected may open a stream to us.

Who dials waits for the peer's first frame before anybody says hello, so a peer that is not there
costs one frame. Either direction opens with the sender's address, as the collector told it, and the
time: a peer behind a translator is known by that address, and an old opening is not answered.

Bounded: streams, expected peers, unread and unsent bytes, and the time a frame is retried.
Not here: what is said (`side_channel`), when to give up dialling (`exchange`).
Source: FORMATS.md, "Relay".
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from engine_plugin.collector import CollectorRefusedError, CollectorUnavailableError
from engine_plugin.errors import EngineError
from engine_plugin.wire import ChannelRole, unpack_address
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import EvidenceError
from ledger.evidence.keys import open_seal, public_key_of, seal
from ledger.evidence.relay import (
    ADDRESS_SIZE,
    CHANNEL_ID_SIZE,
    RELAY_FETCH,
    RelayFetch,
    RelayFrame,
    is_signed_by_sender,
    parse_answer,
    parse_relay,
    sign_relay,
)

GATHER_S = 0.3
"""How long written bytes wait for more, so that a few records share a frame."""

GATHER_FIRST_S = 0.03
"""The same while a stream is new: until the peers have proved their keys, both are waiting."""

NEW_S = 5.0

FETCH_WAIT_S = 20
EXPECT_S = 60.0
"""How long a peer is expected after the last wish."""

IDLE_LOOK_S = 60.0
"""How often the mailbox is looked into when nobody is expected, once the relay was of use."""

OPENING_S = 45.0
"""How long an opening may go unanswered, and how old one may be that we answer."""

RETRY_FIRST_S = 0.5
RETRY_MOST_S = 30.0
GIVE_UP_S = 120.0
"""How long one frame is tried."""

STREAMS_MAX = 128
EXPECTED_MAX = 4_096
EARLY_MAX = 256
"""Openings that are kept of peers that are not expected yet."""

ENDED_KEPT = 1_024
PIECE_BYTES = 48 << 10
UNREAD_BYTES_MAX = 256 << 10
STREAM_LIMIT_BYTES = 1 << 16

_PREAMBLE_SIZE = ADDRESS_SIZE + 8

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter, ChannelRole, bytes], None]
"""Takes a stream to a peer: reader, writer, our role, the peer's key."""

_log = structlog.get_logger(__name__)


class RelayDoor(Protocol):
    """How the collector is asked."""

    async def post_relay(self, raw: bytes) -> bytes:
        """Post a frame; the answer is our address, 16 bytes."""

    async def fetch_relay(self, raw: bytes, wait_s: int) -> bytes:
        """Fetch what waits; the answer is our address and the frames."""

    async def find_own_ip(self) -> str:
        """Return this machine's address on the way to the collector; "" if there is no way."""


class RelayTransport(asyncio.Transport):
    """One relayed stream, as asyncio's streams want it."""

    def __init__(self, relay: "Relay", key: bytes, channel_id: bytes, role: ChannelRole) -> None:
        super().__init__()
        self.key = key
        self.channel_id = channel_id
        self.role = role
        self.opened_s = time.monotonic()
        self.peer_ip = ""
        """The peer's address, from its first frame."""
        self._relay = relay
        self._protocol: asyncio.BaseProtocol | None = None
        self._out = bytearray()
        self._written = asyncio.Event()
        self._sent = 0
        self._received = 0
        self._unread = 0
        self._is_paused = False
        self._is_closing = False
        self._is_lost = False
        self._task = asyncio.create_task(self._send_until_closed())

    def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the stream's two ends."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=STREAM_LIMIT_BYTES, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        self._protocol = protocol
        protocol.connection_made(self)
        return reader, asyncio.StreamWriter(self, protocol, reader, loop)

    @property
    def is_open(self) -> bool:
        """Whether somebody reads and writes; before that the stream is an opening."""
        return self._protocol is not None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes."""
        if not self._is_closing:
            self._out += data
            self._written.set()

    def get_write_buffer_size(self) -> int:
        """Return bytes queued and not posted yet."""
        return len(self._out)

    def is_closing(self) -> bool:
        """Tell whether nothing is taken any more."""
        return self._is_closing

    def close(self) -> None:
        """Post what is queued, then end the stream."""
        self._is_closing = True
        self._written.set()

    def abort(self) -> None:
        """End the stream at once."""
        self._is_closing = True
        self._task.cancel()
        self._lose()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return "peername" and "sockname" as a socket's transport does; ports are 0."""
        if name == "peername":
            return (self.peer_ip, 0)
        return (self._relay.own_ip, 0) if name == "sockname" else default

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return what reads."""
        if self._protocol is None:
            raise AssertionError("protocol: got none, want an opened stream")
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let something else read."""
        self._protocol = protocol

    def is_reading(self) -> bool:
        """Tell whether the reader takes bytes."""
        return not self._is_paused

    def pause_reading(self) -> None:
        """Take note that the reader has enough; what comes now is counted."""
        self._is_paused, self._unread = True, 0

    def resume_reading(self) -> None:
        """Take note that the reader wants more."""
        self._is_paused = False

    def take(self, sequence: int, piece: bytes) -> None:
        """Feed a frame's bytes to the reader, in order and once."""
        if self._is_lost or sequence < self._received:
            return
        if sequence > self._received:
            _log.info("relay_gap", peer=self.key.hex()[:16], got=sequence, want=self._received)
            self.abort()
            return
        self._received += 1
        if sequence == 0:
            self._relay.take_opening(self, piece)
            return
        if not isinstance(self._protocol, asyncio.StreamReaderProtocol):
            return
        self._unread += len(piece) * self._is_paused
        if self._unread > UNREAD_BYTES_MAX:
            self.abort()
        elif piece:
            self._protocol.data_received(piece)
        else:
            self._protocol.eof_received()
            self.close()

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._relay.forget(self)
            if self._protocol is not None:
                asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    async def _send_until_closed(self) -> None:
        relay = self._relay
        try:
            await self._post(await relay.make_preamble())
            while not (self._is_closing and not self._out):
                await self._written.wait()
                if not self._is_closing:
                    is_new = time.monotonic() - self.opened_s < NEW_S
                    await asyncio.sleep(GATHER_FIRST_S if is_new else GATHER_S)
                self._written.clear()
                while self._out:
                    piece = bytes(self._out[:PIECE_BYTES])
                    await self._post(piece)
                    del self._out[: len(piece)]
            await self._post(b"")
        except (EngineError, EvidenceError) as error:
            _log.info("relay_ended", peer=self.key.hex()[:16], reason=str(error))
        finally:
            self._is_closing = True
            self._lose()

    async def _post(self, piece: bytes) -> None:
        await self._relay.post(self.key, self.channel_id, self._sent, piece)
        self._sent += 1


class Relay:
    """All relayed streams of this process run; runs in the event loop's thread."""

    def __init__(
        self,
        *,
        door: RelayDoor,
        network_id: bytes,
        session_seed: bytes,
        ledger_ms: Callable[[], int | None],
        accept: Accept,
    ) -> None:
        """Bind the relay; nothing is asked before somebody is expected.

        Args:
            door: The collector.
            network_id: Of our terms; 32 bytes.
            session_seed: Our private seed.
            ledger_ms: Ledger time in milliseconds, None while unknown.
            accept: Takes every stream that opens, whichever side opened it.
        """
        self.own_ip = ""
        """Our address as this machine names it; found out if nobody sets it."""
        self._door = door
        self._network_id = network_id
        self._seed = session_seed
        self._key = public_key_of(session_seed)
        self._ledger_ms = ledger_ms
        self._accept = accept
        self._told_ip = b""
        self._acknowledged = 0
        self._is_used = False
        self._wanted = asyncio.Event()
        self._is_told = asyncio.Event()
        """Whether an opening can say our address and the time."""
        self._expected: OrderedDict[bytes, float] = OrderedDict()
        self._streams: dict[tuple[bytes, bytes], RelayTransport] = {}
        self._ended: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()
        self._early: OrderedDict[bytes, Signed[RelayFrame]] = OrderedDict()

    def expect(self, key: bytes) -> None:
        """Let a peer open a stream to us within the next minute."""
        self._expected.pop(key, None)
        self._expected[key] = time.monotonic() + EXPECT_S
        if len(self._expected) > EXPECTED_MAX:
            self._expected.popitem(last=False)
        self._wanted.set()
        if (early := self._early.pop(key, None)) is not None:
            self._take_safely(early.raw)

    def give_up(self, key: bytes) -> None:
        """Expect a peer no longer, and open no stream to it: it was reached without us.

        A stream that is open stays.
        """
        self._expected.pop(key, None)
        for stream in list(self._streams.values()):
            if stream.key == key and not stream.is_open:
                stream.abort()

    def is_dialling(self, key: bytes) -> bool:
        """Tell whether there is a stream with a peer, or one is being opened."""
        return any(stream.key == key for stream in self._streams.values())

    def dial(self, key: bytes) -> bool:
        """Open a stream to a peer; `accept` gets it when the peer answers.

        Returns:
            Whether a stream is being opened, or there is one.
        """
        self.expect(key)
        if self.is_dialling(key):
            return True
        if len(self._streams) >= STREAMS_MAX:
            return False
        self._add(key, os.urandom(CHANNEL_ID_SIZE), ChannelRole.DIALLER)
        return True

    async def run(self) -> None:
        """Fetch for as long as somebody is expected or a stream is open."""
        delay_s = RETRY_FIRST_S
        while True:
            if not self._is_wanted():
                self._wanted.clear()
                try:
                    async with asyncio.timeout(IDLE_LOOK_S if self._is_used else None):
                        await self._wanted.wait()
                except TimeoutError:
                    pass
            try:
                self.own_ip = self.own_ip or await self._door.find_own_ip()
                await self._fetch(FETCH_WAIT_S if self._is_wanted() else 0)
                delay_s = RETRY_FIRST_S
            except (CollectorUnavailableError, CollectorRefusedError, EvidenceError) as error:
                _log.info("relay_unavailable", reason=str(error))
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_MOST_S)
            self._drop_openings()

    async def close(self, timeout_s: float = 1.0) -> None:
        """End all streams; what is queued is still posted, for as long as `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        for stream in list(self._streams.values()):
            stream.close()
        while self._streams and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)
        for stream in list(self._streams.values()):
            stream.abort()
        await asyncio.sleep(0)

    async def make_preamble(self) -> bytes:
        """Return what either direction opens with: our address as the collector tells it, the time.

        Raises:
            EngineError: Neither is known in time.
        """
        try:
            async with asyncio.timeout(OPENING_S):
                await self._is_told.wait()
        except TimeoutError:
            raise CollectorUnavailableError("relay: got no address and time, want both") from None
        return self._told_ip + (self._ledger_ms() or 0).to_bytes(8, "little")

    async def post(self, key: bytes, channel_id: bytes, sequence: int, piece: bytes) -> None:
        """Post one frame; it is durable on return.

        Raises:
            EngineError: It was refused, or not taken in time.
        """
        frame = RelayFrame(
            network_id=self._network_id,
            from_key=self._key,
            to_key=key,
            channel_id=channel_id,
            sequence=sequence,
            payload=seal(self._seed, key, piece),
        )
        raw = sign_relay(frame, self._seed).raw
        deadline_s, delay_s = time.monotonic() + GIVE_UP_S, RETRY_FIRST_S
        while True:
            try:
                address, _ = parse_answer(await self._door.post_relay(raw))
            except (CollectorUnavailableError, EvidenceError) as error:
                wait_s = getattr(error, "retry_after_s", None) or delay_s
                if time.monotonic() + wait_s > deadline_s:
                    raise CollectorUnavailableError(str(error)) from None
            else:
                self._take_address(address)
                return
            await asyncio.sleep(wait_s)
            delay_s = min(2 * delay_s, RETRY_MOST_S)

    def take_opening(self, stream: RelayTransport, preamble: bytes) -> None:
        """Take the first frame of a stream's incoming direction: now it is open."""
        now_ms = self._ledger_ms()
        then_ms = int.from_bytes(preamble[ADDRESS_SIZE:], "little")
        is_whole = len(preamble) == _PREAMBLE_SIZE
        if not is_whole or now_ms is None or abs(now_ms - then_ms) > OPENING_S * 1000:
            _log.info("relay_opening_refused", peer=stream.key.hex()[:16], then_ms=then_ms)
            stream.abort()
            return
        stream.peer_ip = unpack_address(preamble[:ADDRESS_SIZE])
        reader, writer = stream.open()
        self._is_used = True
        self._accept(reader, writer, stream.role, stream.key)

    def forget(self, stream: RelayTransport) -> None:
        """Drop a stream that has ended; what still comes for it is ignored."""
        name = stream.key, stream.channel_id
        if self._streams.pop(name, None) is not None:
            self._ended[name] = None
            if len(self._ended) > ENDED_KEPT:
                self._ended.popitem(last=False)

    def _is_wanted(self) -> bool:
        now_s = time.monotonic()
        while self._expected and next(iter(self._expected.values())) < now_s:
            self._expected.popitem(last=False)
        return bool(self._expected or self._streams)

    def _take_address(self, address: bytes) -> None:
        if any(address):
            self._told_ip = address
            self._is_told.set()

    async def _fetch(self, wait_s: int) -> None:
        now_ms = self._ledger_ms()
        if now_ms is None:
            raise CollectorUnavailableError("relay: got no ledger time, want it to fetch")
        fetch = RelayFetch(
            network_id=self._network_id,
            key=self._key,
            ledger_ms=now_ms,
            acknowledged=self._acknowledged,
        )
        # The first answer tells our address, which an opening needs.
        wait_s = wait_s if self._told_ip else 0
        raw = await self._door.fetch_relay(RELAY_FETCH.sign(fetch, self._seed).raw, wait_s)
        address, frames = parse_answer(raw)
        self._take_address(address)
        for relayed in frames:
            self._take_safely(relayed.raw)
            self._acknowledged = relayed.number

    def _take_safely(self, raw: bytes) -> None:
        try:
            self._take(parse_relay(raw))
        except EvidenceError as error:
            _log.info("relay_frame_refused", reason=str(error))

    def _take(self, signed: Signed[RelayFrame]) -> None:
        frame = signed.value
        is_ours = frame.network_id == self._network_id and frame.to_key == self._key
        name = frame.from_key, frame.channel_id
        stream = self._streams.get(name)
        if stream is None:
            is_opening = frame.sequence == 0 and name not in self._ended
            if not (is_opening and is_ours):
                return
            if frame.from_key not in self._expected:
                self._keep_early(signed)
                return
            if not self._may_open(frame.from_key):
                return
        if not is_ours or not is_signed_by_sender(signed):
            return
        piece = open_seal(self._seed, frame.from_key, frame.payload)
        if stream is None:
            stream = self._add(frame.from_key, frame.channel_id, ChannelRole.ANSWERER)
        stream.take(frame.sequence, piece)

    def _keep_early(self, signed: Signed[RelayFrame]) -> None:
        """Keep the opening of a peer that may be expected in a moment."""
        self._early.pop(signed.value.from_key, None)
        self._early[signed.value.from_key] = signed
        if len(self._early) > EARLY_MAX:
            self._early.popitem(last=False)

    def _may_open(self, key: bytes) -> bool:
        if len(self._streams) >= STREAMS_MAX:
            return False
        for stream in list(self._streams.values()):
            if stream.key == key and not stream.is_open:
                # Both open at once: the smaller key's stream stays, and both sides know which.
                if self._key < key:
                    return False
                stream.abort()
        return True

    def _add(self, key: bytes, channel_id: bytes, role: ChannelRole) -> RelayTransport:
        stream = RelayTransport(self, key, channel_id, role)
        self._streams[key, channel_id] = stream
        return stream

    def _drop_openings(self) -> None:
        oldest_s = time.monotonic() - OPENING_S
        for stream in list(self._streams.values()):
            if not stream.is_open and stream.opened_s < oldest_s:
                stream.abort()
