"""Relay: keeps sealed frames for engines that cannot reach each other, until they are fetched.

A frame is taken when its sender signed it, is durable before the answer, and is stored once however
often it is sent. Whoever fetches proves its key and the present time, and says what it has
received; only that is dropped. A fetch may wait for a frame to come.

Bounded: what waits for one recipient, of one sender and in all, for how long, frames a second from
one address, and fetches that wait. What is over a bound is answered 429 or 503, and nobody
else's frames suffer. Contents are sealed between the two keys. Source: FORMATS.md, "Relay".
"""

import asyncio
import ipaddress
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import structlog
from fastapi import FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from ledger.api.answers import RefusedError, refuse_malformed
from ledger.api.documents import OCTETS, RETRIES, body_of, document_bytes, document_refusals
from ledger.api.ledger_time import LedgerTime
from ledger.api.pacing import Buckets
from ledger.api.request_note import network_of
from ledger.api.requests import read_bounded
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import MalformedError
from ledger.evidence.relay import (
    ADDRESS_SIZE,
    FRAME_SIZE_MAX,
    RELAY_FETCH,
    RelayedFrame,
    RelayFetch,
    RelayFrame,
    format_answer,
    is_signed_by_sender,
    parse_relay,
)
from ledger.store.engine import DatabaseUnavailableError, Session, SessionFactory
from ledger.store.relay_store import (
    Bounds,
    Stored,
    drop_expired,
    drop_received,
    list_frames,
    list_recipients,
    measure_all,
    store_frame,
)
from ledger.store.shard_store import list_shards

WAIT_MOST_S: Final = 25
LOOK_S: Final = 1.0
"""How often a process with waiting fetches looks for frames that another process took in."""

_LOOK_BACK_S: Final = 15
"""How far it looks back: a frame's transaction may have waited for locks."""

FETCH_SKEW_MS: Final = 60_000
"""How far a fetch's reading of ledger time may be from ours."""

_log = structlog.get_logger(__name__)
_SWEPT_MAX: Final = 1_000
_MEASURE_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """What the relay holds at most."""

    recipient_frames: int = 256
    recipient_bytes: int = 4 << 20
    sender_frames: int = 512
    sender_bytes: int = 8 << 20
    total_bytes: int = 1 << 30
    keep_s: int = 6 * 3600
    """Seconds after which a frame that nobody fetched is dropped."""
    answer_bytes: int = 512 << 10
    posts_per_s: float = 50.0
    """Frames a second from one address (IPv6: /64), on average."""
    posts_burst: int = 500
    addresses: int = 10_000
    """Addresses whose rate is remembered."""
    waiting: int = 4_096
    """Fetches that wait at once."""


class Relay:
    """Takes and hands out frames; `post` and `fetch` run in the event loop's thread."""

    def __init__(
        self,
        *,
        sessions: SessionFactory,
        read_time: Callable[[], LedgerTime],
        limits: RelayLimits,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with no fetch waiting.

        Args:
            sessions: The database.
            read_time: Ledger time; raises `RefusedError` while it is not known.
            limits: What is held at most.
            monotonic: Seconds that never step back.
        """
        self._sessions = sessions
        self._read_time = read_time
        self._limits = limits
        self._monotonic = monotonic
        self._rates = Buckets(
            per_s=limits.posts_per_s,
            burst=limits.posts_burst,
            names_max=limits.addresses,
            monotonic=monotonic,
        )
        self._waiting: dict[bytes, asyncio.Event] = {}
        self._looking: asyncio.Task[None] | None = None
        self._is_ending = False
        self._measuring = threading.Lock()
        self._measured_at_s = float("-inf")
        self._total_bytes = 0

    async def post(self, raw: bytes, address: bytes) -> None:
        """Store a frame; it is durable on return.

        Raises:
            RefusedError: Malformed, not signed, of no network here, or over a bound.
        """
        wait_s = self._rates.take(network_of(str(ipaddress.IPv6Address(address))))
        if wait_s:
            raise RefusedError(
                429,
                "too_many_frames",
                field="address",
                got="more",
                want="fewer",
                retry_after_s=wait_s,
            )
        try:
            signed = parse_relay(raw)
        except MalformedError as error:
            raise refuse_malformed(error) from None
        await run_in_threadpool(self._store, signed)
        if (waiting := self._waiting.get(signed.value.to_key)) is not None:
            waiting.set()

    async def fetch(
        self, raw: bytes, wait_s: int, until_gone: Callable[[], Awaitable[object]]
    ) -> Sequence[RelayedFrame]:
        """Drop what the asker has received and return what waits for it.

        Args:
            raw: The signed wish.
            wait_s: Seconds to wait for a frame when there is none.
            until_gone: Returns when the asker has left.

        Raises:
            RefusedError: Malformed, not signed, stale, of no network here, or too many wait.
        """
        fetch = await run_in_threadpool(self._check_fetch, raw)
        frames = await run_in_threadpool(self._take, fetch, True)
        deadline_s = self._monotonic() + wait_s
        if frames or wait_s == 0 or self._is_ending:
            return frames
        if fetch.key not in self._waiting and len(self._waiting) >= self._limits.waiting:
            raise RefusedError(429, "too_many_waiting")
        if (older := self._waiting.get(fetch.key)) is not None:
            older.set()
        mine = self._waiting[fetch.key] = asyncio.Event()
        gone = asyncio.ensure_future(until_gone())
        gone.add_done_callback(lambda _: mine.set())
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_while_anybody_waits())
        try:
            # What came between looking and waiting is found now.
            frames = await run_in_threadpool(self._take, fetch, False)
            while not frames and (left_s := deadline_s - self._monotonic()) > 0:
                try:
                    async with asyncio.timeout(left_s):
                        await mine.wait()
                except TimeoutError:
                    break
                if gone.done() or self._is_ending or self._waiting.get(fetch.key) is not mine:
                    break
                mine.clear()
                frames = await run_in_threadpool(self._take, fetch, False)
        finally:
            gone.cancel()
            if self._waiting.get(fetch.key) is mine:
                del self._waiting[fetch.key]
        return frames

    async def _look_while_anybody_waits(self) -> None:
        """Wake those for whom another process took frames in: one query for all who wait."""
        while self._waiting and not self._is_ending:
            await asyncio.sleep(LOOK_S)
            try:
                keys = await run_in_threadpool(self._list_recipients)
            except DatabaseUnavailableError as error:
                _log.warning("relay_look_failed", error=str(error))
                continue
            for key in keys & self._waiting.keys():
                self._waiting[key].set()

    def _list_recipients(self) -> set[bytes]:
        since = datetime.now(UTC) - timedelta(seconds=_LOOK_BACK_S)
        with self._sessions.begin() as session:
            return list_recipients(session, since=since)

    def end_waiting(self) -> None:
        """Answer every fetch that waits, and let none wait from now on: the process stops."""
        self._is_ending = True
        for waiting in self._waiting.values():
            waiting.set()

    def _kept_since(self) -> datetime:
        return datetime.now(UTC) - timedelta(seconds=self._limits.keep_s)

    def _store(self, signed: Signed[RelayFrame]) -> None:
        if not is_signed_by_sender(signed):
            raise _refuse_signature("relay", signed.value.from_key)
        self._make_room(len(signed.raw))
        limits = self._limits
        bounds = Bounds(
            recipient_frames=limits.recipient_frames,
            recipient_bytes=limits.recipient_bytes,
            sender_frames=limits.sender_frames,
            sender_bytes=limits.sender_bytes,
        )
        with self._sessions.begin() as session:
            self._require_network(session, signed.value.network_id)
            stored = store_frame(session, signed, bounds, kept_since=self._kept_since())
        if stored in {Stored.RECIPIENT_FULL, Stored.SENDER_FULL}:
            raise RefusedError(429, str(stored), field="relay", got="more", want="fewer that wait")

    def _make_room(self, size: int) -> None:
        """Drop what has expired and refuse when all that waits is too much."""
        with self._measuring:
            if self._monotonic() - self._measured_at_s > _MEASURE_S:
                self._measured_at_s = self._monotonic()
                with self._sessions.begin() as session:
                    drop_expired(session, kept_since=self._kept_since(), limit=_SWEPT_MAX)
                    self._total_bytes = measure_all(session)
            if self._total_bytes + size > self._limits.total_bytes:
                raise RefusedError(503, "relay_full")
            self._total_bytes += size

    def _check_fetch(self, raw: bytes) -> RelayFetch:
        try:
            signed = RELAY_FETCH.parse(raw)
        except MalformedError as error:
            raise refuse_malformed(error) from None
        fetch = signed.value
        if not RELAY_FETCH.is_signed_by(signed, fetch.key):
            raise _refuse_signature("relay_fetch", fetch.key)
        now = self._read_time()
        now_ms = now.ledger.close_time_s * 1_000 + now.age_ms
        if abs(fetch.ledger_ms - now_ms) > FETCH_SKEW_MS:
            raise RefusedError(
                403,
                "stale_fetch",
                field="relay_fetch.ledger_ms",
                got=fetch.ledger_ms,
                want=f"{now_ms} or near",
            )
        return fetch

    def _take(self, fetch: RelayFetch, is_first: bool) -> Sequence[RelayedFrame]:
        with self._sessions.begin() as session:
            if is_first:
                self._require_network(session, fetch.network_id)
                drop_received(session, fetch.key, fetch.acknowledged)
            return list_frames(
                session,
                fetch.key,
                after=fetch.acknowledged,
                bytes_max=self._limits.answer_bytes,
                kept_since=self._kept_since(),
            )

    def _require_network(self, session: Session, network_id: bytes) -> None:
        known = {shard.network_id for shard in list_shards(session)}
        if network_id not in known:
            raise RefusedError(
                404, "unknown_network", field="network_id", got=network_id, want="one served here"
            )


def add_relay(app: FastAPI, relay: Relay) -> None:
    """Add the relay's paths to an application; a server that stops ends the waiting."""
    app.state.before_shutdown = relay.end_waiting

    @app.post(
        "/v1/relay",
        response_class=Response,
        openapi_extra=body_of("A signed, sealed frame", FRAME_SIZE_MAX),
        responses={
            **document_bytes("The sender's own address.", size=ADDRESS_SIZE),
            **document_refusals(400, 404, 408, 413),
            **RETRIES,
        },
    )
    async def post_frame(request: Request) -> Response:
        """Keep a signed, sealed frame (record 17) for its recipient.

        The answer is the sender's own address, 16 bytes, once the frame is durable.
        """
        raw = await read_bounded(request, FRAME_SIZE_MAX)
        address = address_of(request)
        await relay.post(raw, address)
        return Response(format_answer(address, ()), media_type=OCTETS)

    @app.post(
        "/v1/relay/fetch",
        response_class=Response,
        openapi_extra=body_of("A signed wish", RELAY_FETCH.size),
        responses={
            **document_bytes("The asker's own address, then the frames."),
            **document_refusals(400, 403, 404, 408, 413),
            **RETRIES,
        },
    )
    async def fetch_frames(
        request: Request, wait_s: Annotated[int, Query(ge=0, le=WAIT_MOST_S)] = 0
    ) -> Response:
        """Drop what the signed wish (record 19) acknowledges, and hand out what waits.

        The answer is the asker's own address, 16 bytes, then for each frame its number (u64), its
        length (u32) and the frame. When nothing waits, the answer comes after `wait_s` seconds.
        """
        raw = await read_bounded(request, RELAY_FETCH.size)
        frames = await relay.fetch(raw, wait_s, request.receive)
        return Response(
            format_answer(address_of(request), frames),
            media_type=OCTETS,
            headers={"Cache-Control": "no-store"},
        )


def address_of(request: Request) -> bytes:
    """Return the asker's address in 16 bytes; zeros when it is not known."""
    try:
        address = ipaddress.ip_address("" if request.client is None else request.client.host)
    except ValueError:
        return bytes(ADDRESS_SIZE)
    if isinstance(address, ipaddress.IPv4Address):
        return bytes(10) + b"\xff\xff" + address.packed
    return address.packed


def _refuse_signature(what: str, key: bytes) -> RefusedError:
    return RefusedError(
        400,
        "bad_signature",
        field=f"{what}.signature",
        got="one that is not valid",
        want=f"the signature of {key.hex()}",
    )
