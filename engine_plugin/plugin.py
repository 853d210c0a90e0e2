"""One engine: a metered libtorrent session, and the accounting beside it.

Assembly and life cycle only. The meter's pump runs in a thread of its own; everything else runs in
the event loop. Whatever fails in the accounting becomes an event and a log line, and the transfer
goes on: it fails open.

Not here: any rule about receipts (`lanes`, `payee`), bundles (`bundler`) or channels
(`side_channel`).
"""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import structlog

from engine_plugin.accounting import Accounting
from engine_plugin.bundler import Bundler
from engine_plugin.collector import Collector
from engine_plugin.config import EngineConfig
from engine_plugin.entitlements import OwnEntitlements
from engine_plugin.errors import EngineError, SessionError
from engine_plugin.exchange import Exchange
from engine_plugin.identity import (
    CLIENT_PREFIX,
    SESSION_ID_SIZE,
    format_handshake,
    make_peer_id,
)
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import PeerKey, SessionAudit
from engine_plugin.lanes import ReceiptLanes
from engine_plugin.ledger_clock import LedgerClock
from engine_plugin.libtorrent_door import EngineSession, Notice, NoticeKind, SessionOptions
from engine_plugin.payee import PayeeDesk
from engine_plugin.progress import ProgressTeller, describe_totals
from engine_plugin.pump import MeterPump, StepResult
from engine_plugin.side_channel import ChannelIdentity
from engine_plugin.spool import Spool
from engine_plugin.state_dir import StateDir
from engine_plugin.upkeep import Upkeep
from engine_plugin.uploader import Uploader
from engine_plugin.wire import Endpoint
from ledger.evidence.encoding import Signed
from ledger.evidence.keys import public_key_of
from ledger.evidence.terms import Terms

TICK_S = 0.25
PROGRESS_S = 1.0
RECONNECT_S = 3.0
LISTEN_TIMEOUT_S = 10.0
STOP_GRACE_S = 1.0
"""How long late write reports are awaited when the engine stops."""

STOP_LINGER_S = 2.0
"""How long a stopping engine waits for its peers' last receipts."""

STOP_ORPHAN_S = 2.0
"""Longest stop when the parent process is gone."""

RESTART_S = 1.0
FAILURE_REPEAT_S = 10.0
"""How long the same failure is not told again."""

BATCH_PAUSE_S = 0.02
"""Between two drains of a busy alert queue: fewer, larger batches cost less."""

Emit = Callable[..., None]

_log = structlog.get_logger(__name__)


class EnginePlugin:
    """One run of one engine."""

    def __init__(self, config: EngineConfig, emit: Emit) -> None:
        """Bind a run; nothing starts yet.

        Args:
            config: What to run.
            emit: Takes events: a name, and fields as keywords. Called in the event loop's thread.
        """
        self._config = config
        self._emit = emit
        self._stopping = asyncio.Event()
        self._pump_stops = threading.Event()
        self._thread: threading.Thread | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._is_finished = False
        self._is_complete_told = config.is_complete
        self._is_orphan = False
        self._first_parent_pid = os.getppid()
        self._peers_told: set[int] = set()
        self._strangers: set[int] = set()
        self._failures: dict[str, tuple[str, float]] = {}
        self._next_reconnect_s = 0.0
        self._next_progress_s = 0.0
        # All four or none: without terms the swarm is a plain one.
        self._clock: LedgerClock | None = None
        self._exchange: Exchange | None = None
        self._accounting: Accounting | None = None
        self._uploader: Uploader | None = None

    def request_stop(self) -> None:
        """Ask for a clean stop; `run` returns after it."""
        self._stopping.set()

    async def run(self) -> None:
        """Start, run until asked to stop, stop cleanly.

        Raises:
            EngineError: The engine could not start.
        """
        self._state = StateDir(self._config.state_path)
        try:
            try:
                await self._start()
            except BaseException:
                self._abandon()
                raise
            try:
                await self._stopping.wait()
            finally:
                await self._stop()
        finally:
            self._state.close()

    async def _start(self) -> None:
        config = self._config
        self._loop = asyncio.get_running_loop()
        seed = self._state.load_session_seed()
        account_seed = self._state.load_account_seed(config.account_path)
        self._key = public_key_of(seed)
        session_id = os.urandom(SESSION_ID_SIZE)
        peer_id = make_peer_id(self._key, session_id)
        self._journal = MeterJournal(self._state.journal_path)
        self._journal.start_run(
            session_id=session_id, session_key=self._key, started_at_ms=time.time_ns() // 10**6
        )
        self._teller = ProgressTeller(
            journal=self._journal,
            session_id=session_id,
            content_bytes=config.torrent.content_bytes,
        )
        receipt_port = 0
        if config.terms is not None:
            self._assemble(config.terms, seed, account_seed)
            receipt_port = await self._listen_for_receipts()
        self._session = EngineSession(
            SessionOptions(
                listen=str(config.listen),
                peer_id=peer_id,
                handshake_text=format_handshake(self._key, receipt_port),
                upload_limit=config.upload_limit,
                download_limit=config.download_limit,
                discovers=config.discovers,
                dials_utp=config.dials_utp,
                allows_local_web_seeds=config.allows_local_web_seeds,
            )
        )
        self._pump = MeterPump(self._session, self._journal, current_epoch=self._current_epoch)
        self._number = self._session.add_torrent(
            config.torrent.data,
            config.save_path,
            peers=config.peers,
            is_complete=config.is_complete,
            is_sequential=config.is_sequential,
            uses_web_seeds=config.uses_web_seeds,
        )
        self._pump.add(config.torrent, self._number)
        self._thread = threading.Thread(target=self._pump_until_stopped, name="meter", daemon=True)
        self._thread.start()
        listen = Endpoint(config.listen.ip, await self._await_listen_port())
        if self._exchange is not None and config.terms is not None:
            self._name_cdns(config.terms.value)
            self._exchange.start(
                ChannelIdentity(
                    network_id=config.terms.value.network_id,
                    broadcaster_account=config.terms.value.broadcaster_account,
                    session_seed=seed,
                    session_key=self._key,
                    session_id=session_id,
                    peer_id=peer_id,
                    listen=listen,
                )
            )
        self._start_tasks()
        self._emit(
            "ready",
            session_key=self._key.hex(),
            account=public_key_of(account_seed).hex(),
            listen=str(listen),
            receipt_port=receipt_port,
            content_id=config.torrent.content_id.hex(),
            content_bytes=config.torrent.content_bytes,
            name=config.torrent.name,
        )

    def _abandon(self) -> None:
        """Give up a start that failed half-way."""
        self._pump_stops.set()
        for task in self._tasks:
            task.cancel()
        if self._thread is not None:
            self._thread.join()

    def _assemble(self, terms: Signed[Terms], seed: bytes, account_seed: bytes) -> None:
        config, emit = self._config, self._emit
        content_id = config.torrent.content_id
        self._binding = self._state.load_binding(
            terms.value, account_seed=account_seed, session_seed=seed
        )
        self._spool = Spool(self._state.spool_path)
        self._clock = LedgerClock(terms.value)
        self._collector = Collector(terms, entitlement_url=config.entitlement_url)
        self._entitlements = OwnEntitlements(terms=terms, spool=self._spool, session_key=self._key)
        lanes = ReceiptLanes(self._journal, seed)
        desk = PayeeDesk(
            terms=terms,
            spool=self._spool,
            session_seed=seed,
            session_key=self._key,
            content_ids=frozenset({content_id}),
            ledger_ms=self._clock.now_ms,
            sent_bytes=self._sent_bytes,
        )
        self._exchange = Exchange(
            journal=self._journal,
            lanes=lanes,
            desk=desk,
            entitlements=self._entitlements,
            snapshots=lambda: self._pump.peers,
            epoch=self._current_epoch,
            emit=emit,
        )
        self._teller.lanes, self._teller.spool = lanes, self._spool
        self._teller.is_connected = self._exchange.is_connected
        bundler = Bundler(
            terms=terms.value,
            spool=self._spool,
            session_seed=seed,
            session_key=self._key,
            binding=self._binding,
        )
        self._uploader = Uploader(
            spool=self._spool, collector=self._collector, session_key=self._key, emit=emit
        )
        self._upkeep = Upkeep(
            clock=self._clock,
            collector=self._collector,
            entitlements=self._entitlements,
            given=config.entitlement,
            binding=self._binding,
            content_id=content_id,
            announce=self._exchange.announce_entitlements,
            emit=emit,
            fail=self._fail,
        )
        self._accounting = Accounting(
            journal=self._journal,
            spool=self._spool,
            clock=self._clock,
            lanes=lanes,
            entitlements=self._entitlements,
            exchange=self._exchange,
            bundler=bundler,
            uploader=self._uploader,
            session_key=self._key,
            emit=emit,
        )

    async def _listen_for_receipts(self) -> int:
        if self._exchange is None:
            return 0
        config = self._config
        try:
            return await self._exchange.side.listen(config.listen.ip, config.receipt_port)
        except OSError as error:
            raise SessionError(f"receipt port: {config.listen.ip}: {error.strerror}") from None

    async def _await_listen_port(self) -> int:
        deadline_s = time.monotonic() + LISTEN_TIMEOUT_S
        wanted = self._config.listen
        while time.monotonic() < deadline_s:
            if port := self._session.listen_port:
                # libtorrent takes a neighbouring port when the wanted one is in use.
                if wanted.port in {0, port}:
                    return port
                break
            await asyncio.sleep(0.02)
        raise SessionError(f"listen: {wanted}: cannot be bound")

    def _name_cdns(self, terms: Terms) -> None:
        for url in self._config.torrent.web_seeds:
            parts = urlsplit(url)
            cdns = [cdn for cdn in terms.cdns if cdn.host in {parts.netloc, parts.hostname}]
            for cdn in cdns[:1]:
                self._journal.prove_cdn(url, cdn.key, epoch=self._current_epoch())
            if not cdns:
                self._fail("cdn", f"{url}: host is not in the terms; its bytes are not billed")

    def _start_tasks(self) -> None:
        loops = {"tick": self._tick_until_stopped}
        if self._uploader is not None:
            loops["upload"] = self._uploader.run
            loops["clock"] = self._upkeep.keep_clock
            loops["entitlement"] = self._upkeep.keep_entitlement
        self._tasks = [
            asyncio.create_task(self._keep_running(name, loop)) for name, loop in loops.items()
        ]

    async def _keep_running(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop of the accounting again when it fails; the transfer never waits for it."""
        while True:
            try:
                await loop()
            except Exception as error:  # noqa: BLE001 - fails open: the picture goes on
                self._fail(name, f"{type(error).__name__}: {error}")
                await asyncio.sleep(RESTART_S)
            else:
                return

    def _current_epoch(self) -> int | None:
        return None if self._clock is None else self._clock.epoch()

    def _sent_bytes(self, session_key: bytes) -> int:
        """Return content bytes ever handed to a session key's connections."""
        live = 0
        if self._exchange is not None:
            for peer in self._exchange.peers_of(session_key):
                live += self._pump.sent_bytes(self._number, peer)
        return self._journal.sent_before_bytes(session_key) + live

    def _pump_until_stopped(self) -> None:
        while not self._pump_stops.is_set():
            try:
                result = self._pump.step()
            except (EngineError, ValueError, LookupError) as error:
                # Fails open: what this step would have counted is reported as lost, not guessed.
                self._call(self._fail, "meter", str(error))
                time.sleep(TICK_S)
                continue
            self._call(self._take_step, result)
            time.sleep(BATCH_PAUSE_S)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop has closed: nobody is left to tell
            self._loop.call_soon_threadsafe(function, *arguments)

    def _take_step(self, result: StepResult) -> None:
        if result.journal_error is not None:
            self._fail("journal", result.journal_error)
        for notice in result.notices:
            self._take_notice(notice)

    def _take_notice(self, notice: Notice) -> None:
        now_s = time.monotonic()
        if notice.kind is NoticeKind.FINISHED:
            self._is_finished = True
            if self._accounting is not None:
                self._accounting.flush_all_soon(now_s)
        elif notice.kind is NoticeKind.DISCONNECTED:
            self._flush_peer(notice.peer, now_s)
        elif notice.kind in _FAULTS:
            _log.warning("session_notice", kind=str(notice.kind), detail=notice.text)
            self._emit("notice", kind=str(notice.kind), detail=notice.text)

    def _flush_peer(self, peer: int, now_s: float) -> None:
        """Make the last receipt to a peer that left due."""
        if self._exchange is None or self._accounting is None or peer < 0:
            return
        key = self._exchange.key_of(PeerKey(*self._session.peer_key(peer)))
        if key is not None:
            self._accounting.flush_soon(key, now_s)

    async def _tick_until_stopped(self) -> None:
        while True:
            now_s = time.monotonic()
            self._guard("accounting", self._tick_accounting, now_s)
            self._guard("progress", self._tick_progress, now_s)
            self._watch_parent()
            await asyncio.sleep(TICK_S)

    def _guard(self, where: str, tick: Callable[[float], None], now_s: float) -> None:
        """Run a part of the accounting; its failure must not stop the transfer."""
        try:
            tick(now_s)
        except Exception as error:  # noqa: BLE001 - fails open: the picture goes on
            self._fail(where, f"{type(error).__name__}: {error}")

    def _tick_accounting(self, now_s: float) -> None:
        if self._exchange is not None and self._accounting is not None:
            self._exchange.tick(now_s)
            self._accounting.tick(now_s)

    def _tick_progress(self, now_s: float) -> None:
        self._tell_peers()
        if now_s >= self._next_reconnect_s:
            self._next_reconnect_s = now_s + RECONNECT_S
            self._reconnect()
            self._forget_strangers()
        meter = self._pump.meter(self._number)
        if self._is_finished and not self._is_complete_told and not meter.pending_bytes:
            firm = sum(self._pump.firm_bytes(self._number).values())
            totals = self._journal.totals()
            journalled = totals.delivered_p2p_bytes + totals.delivered_cdn_bytes
            if journalled + totals.unattested_bytes >= firm:
                self._is_complete_told = True
                self._emit("complete", **describe_totals(totals))
        if now_s >= self._next_progress_s:
            self._next_progress_s = now_s + PROGRESS_S
            epoch = self._current_epoch()
            fields = self._teller.describe(self._pump.peers, epoch=epoch, now_s=now_s)
            self._emit("progress", **fields)

    def _tell_peers(self) -> None:
        for snapshot in self._pump.peers:
            if snapshot.handshake_done and snapshot.peer not in self._peers_told:
                self._peers_told.add(snapshot.peer)
                is_plugin = snapshot.peer_id.startswith(CLIENT_PREFIX)
                if not snapshot.is_web_seed and not (is_plugin and self._exchange is not None):
                    self._strangers.add(snapshot.peer)
                self._emit(
                    "peer",
                    endpoint=snapshot.endpoint,
                    client=snapshot.client,
                    web_seed=snapshot.is_web_seed,
                    attested=False,
                )

    def _forget_strangers(self) -> None:
        """Give up the blocks of peers that can never be proved; their bytes stay counted.

        A plugin's peer-id commits to its key, so one of another form belongs to no key. Kept, the
        blocks would grow without bound.
        """
        firm = self._pump.meter(self._number).firm
        for peer in [peer for peer in self._strangers if firm.get(peer, 0)]:
            if self._journal.close_unproved(PeerKey(*self._session.peer_key(peer))):
                self._strangers.discard(peer)

    def _reconnect(self) -> None:
        connected = {snapshot.endpoint for snapshot in self._pump.peers}
        for peer in self._config.peers:
            if str(peer) not in connected:
                self._session.connect_peer(self._number, peer.ip, peer.port)

    def _watch_parent(self) -> None:
        parent_pid = self._config.parent_pid
        if parent_pid is not None and not self._is_alive(parent_pid):
            self._is_orphan = True
            self.request_stop()

    def _is_alive(self, pid: int) -> bool:
        # A killed parent may linger unreaped; that its child has another parent now is certain.
        if self._first_parent_pid == pid:
            return os.getppid() == pid
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def _fail(self, where: str, detail: str) -> None:
        """Tell of a failure; one that repeats is told again after a while only."""
        now_s = time.monotonic()
        last, told_s = self._failures.get(where, ("", 0.0))
        if detail == last and now_s - told_s < FAILURE_REPEAT_S:
            return
        self._failures[where] = detail, now_s
        _log.warning("accounting_failed", where=where, detail=detail)
        self._emit("error", where=where, detail=detail)

    async def _stop(self) -> None:
        """Stop the transfer, then settle accounts within the time there is."""
        limit_s = STOP_ORPHAN_S if self._is_orphan else self._config.stop_seconds
        deadline_s = time.monotonic() + limit_s
        self._pump_stops.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        result = await asyncio.to_thread(self._pump.finish, grace_seconds=STOP_GRACE_S)
        self._take_step(result)
        audit: SessionAudit | None = None
        with suppress(EngineError):
            audit = await asyncio.to_thread(self._pump.audit)
        paused_s = time.monotonic()
        if self._exchange is not None and self._accounting is not None:
            self._guard("receipts", lambda _: self._sign_all(), paused_s)
            self._exchange.dial_debtors(paused_s, is_last=True)
            await self._linger(min(deadline_s - 2.0, paused_s + STOP_LINGER_S))
            self._guard("bundles", lambda _: self._bundle_all(), paused_s)
        if self._uploader is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._loop.time() + deadline_s - time.monotonic()):
                    await self._uploader.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._exchange is not None:
            await self._exchange.side.close()
            await self._collector.close()
        self._emit("stopped", **self._describe_end(audit))
        self._session.close()
        self._journal.close()
        if self._exchange is not None:
            self._spool.close()

    async def _linger(self, until_s: float) -> None:
        """Let peers' last receipts and acknowledgements come in."""
        while self._exchange is not None and self._exchange.is_busy:
            if time.monotonic() >= until_s:
                return
            await asyncio.sleep(0.05)

    def _sign_all(self) -> None:
        if self._accounting is not None:
            self._accounting.sign_all()

    def _bundle_all(self) -> None:
        if self._accounting is not None:
            self._accounting.bundle_all()

    def _describe_end(self, audit: SessionAudit | None) -> dict[str, Any]:
        fields = describe_totals(self._journal.totals())
        fields["audit_difference_bytes"] = None if audit is None else audit.difference_bytes
        if self._exchange is not None:
            fields |= self._teller.describe_receipts()
            fields["unsent_bundles"] = sum(count.unsent for count in self._spool.count())
        return fields


_FAULTS = frozenset(
    {
        NoticeKind.LISTEN_FAILED,
        NoticeKind.BANNED,
        NoticeKind.WEB_SEED_FAILED,
        NoticeKind.FILE_FAILED,
        NoticeKind.TORRENT_FAILED,
        NoticeKind.HASH_FAILED,
        NoticeKind.ALERTS_DROPPED,
    }
)
