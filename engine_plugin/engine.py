"""One engine: a metered libtorrent session with any number of contents, and the accounting beside.

This is the library's face; the program `swarmledger engine` is built on it. The meter's pump runs
in a thread of its own; everything else runs in the event loop. Whatever fails in the accounting
becomes an event and a log line, and the transfer goes on: it fails open.

Not here: what exists only under a broadcaster's terms (`ledger_side`), what a torrent offers to
its users (`content`).
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import structlog

from engine_plugin.beginnings import Beginnings
from engine_plugin.config import ContentOptions, EngineConfig, HostSession
from engine_plugin.content import Content, SourceBytes, describe_content
from engine_plugin.coverage import CoverageGate
from engine_plugin.disk_sync import DiskSync
from engine_plugin.errors import EngineError, SessionError
from engine_plugin.events import Emit, Event, EventHub
from engine_plugin.failures import FAULTS, FailureTeller
from engine_plugin.identity import (
    SESSION_ID_SIZE,
    format_handshake,
    make_peer_id,
)
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import PeerKey, SessionAudit
from engine_plugin.ledger_side import LedgerSide, Seeds
from engine_plugin.libtorrent_door import (
    EngineSession,
    ForeignSession,
    Notice,
    NoticeKind,
    SessionOptions,
    TorrentFile,
)
from engine_plugin.limits import AllowedRates
from engine_plugin.listen_port import await_port
from engine_plugin.orphan import OrphanWatch
from engine_plugin.owners_limits import OwnersLimits
from engine_plugin.peer_news import PeerNews
from engine_plugin.progress import ProgressTeller, describe_totals
from engine_plugin.pump import MeterPump
from engine_plugin.pump_steps import StepResult
from engine_plugin.pump_thread import PumpThread
from engine_plugin.state_dir import StateDir
from engine_plugin.tick_pace import TickPace
from engine_plugin.upload_volume import UploadVolume
from engine_plugin.url_text import hide_queries
from engine_plugin.wire import Endpoint
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.keys import public_key_of
from ledger.evidence.terms import Terms

PROGRESS_S = 1.0
RECONNECT_S = 3.0
STOP_GRACE_S = 1.0
"""How long late write reports are awaited when the engine stops."""

STOP_LINGER_S = 3.0
"""How long a stopping engine waits for its peers' last receipts."""

STOP_ORPHAN_S = 2.0
"""Longest stop when the parent process is gone."""

RESTART_S = 1.0
_NEWS = frozenset({NoticeKind.CONNECTED, NoticeKind.DISCONNECTED, NoticeKind.FINISHED})
_log = structlog.get_logger(__name__)


class Engine:
    """A running engine; use it as an asynchronous context manager, from one event loop."""

    def __init__(
        self, config: EngineConfig, emit: Emit | None = None, *, host: HostSession | None = None
    ) -> None:
        """Bind an engine; nothing starts yet.

        Args:
            config: What it works with.
            emit: Takes every event at once, in the event loop's thread; see also `events`.
            host: A host application's session to meter instead of one of our own.
        """
        self._host = host
        self.contents: dict[int, Content] = {}
        """What it serves or fetches, by number."""
        self.ledger: LedgerSide | None = None
        """The accounting, or None without terms."""
        self._config = config
        self._owner: OwnersLimits | None = None
        self._hub = EventHub(emit)
        self._fail = FailureTeller(self._hub.tell).tell
        self._owner_serves = True
        is_paid = config.terms is not None
        self._gate = CoverageGate(
            config.min_coverage_ppm if is_paid else 0, on_change=self._take_coverage
        )
        self._thread: PumpThread | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._orphan = OrphanWatch(config.parent_pid)
        self._beginnings = Beginnings(self._undo_add)
        self._pace = TickPace()
        self._next_reconnect_s = 0.0
        self._next_progress_s = 0.0
        self._stopping = asyncio.Event()
        self._opened = ExitStack()

    async def __aenter__(self) -> Self:
        await self.start()
        self.announce()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def events(self) -> AsyncIterator[Event]:
        """Yield every event from now on, until the engine has stopped."""
        return self._hub.listen()

    def request_stop(self) -> None:
        """Ask for a clean stop; `wait_for_stop` returns."""
        self._stopping.set()

    async def wait_for_stop(self) -> None:
        """Wait until somebody asks the engine to stop, or its parent process is gone."""
        await self._stopping.wait()

    async def start(self) -> None:
        """Start the session and the accounting.

        Raises:
            EngineError: The state directory is in use, a port is taken, libtorrent refused.
        """
        self._state = StateDir(self._config.state_path)
        try:
            await self._start()
        except BaseException:
            await self._abandon()
            self._state.close()
            raise

    async def add(self, torrent: TorrentFile, options: ContentOptions) -> Content:
        """Serve or fetch a torrent.

        Raises:
            EngineError: It runs already, or cannot be started.
        """
        scope_id = options.stream_id
        if self._owner is not None and not (options.is_complete or options.is_read_only):
            await asyncio.to_thread(self._owner.admit, torrent, options.save_path, scope_id)

        def start() -> int:
            return self._session.add_torrent(
                torrent.data,
                options.save_path,
                peers=options.peers,
                trackers=options.trackers,
                exchanges_peers=options.exchanges_peers,
                is_complete=options.is_complete,
                is_sequential=options.is_sequential,
                uses_web_seeds=options.uses_web_seeds,
                is_read_only=options.is_read_only,
                renamed_files=options.renamed_files,
            )

        uses_web_seeds = options.uses_web_seeds
        number = await self._beginnings.run(
            lambda: self._pump.add(torrent, start, scope_id=scope_id, uses_web_seeds=uses_web_seeds)
        )
        content = Content(
            session=self._session,
            pump=self._pump,
            number=number,
            torrent=torrent,
            save_path=options.save_path,
            stream_id=scope_id,
            pieces_here=range(torrent.layout.piece_count) if options.is_complete else (),
            peers=tuple(options.peers),
            name_cdn=self._name_cdn,
        )
        web_seeds = torrent.web_seeds if uses_web_seeds else ()
        self._welcome(content, options.entitlement, web_seeds=web_seeds)
        return content

    def _welcome(
        self,
        content: Content,
        entitlement: Signed[Entitlement] | None,
        *,
        web_seeds: Iterable[str],
    ) -> None:
        self.contents[content.number] = content
        for step in self._beginnings.take_early(content.number):
            content.take_piece_event(*step)
        if self.ledger is not None:
            self.ledger.watch(content.scope_id, entitlement)
        for url in web_seeds:
            self._name_cdn(url)
        self._hub.tell("content", state="added", **describe_content(content))

    async def attach(
        self,
        handle: Any,
        *,
        stream_id: bytes | None = None,
        entitlement: Signed[Entitlement] | None = None,
    ) -> Content:
        """Meter a torrent that runs in the host's session, from here on.

        Bytes whose peer was not seen asking or writing are reported ambiguous.

        Args:
            handle: A `libtorrent.torrent_handle` with metadata.
            stream_id: The stream it is part of, if it is.
            entitlement: What lets this engine's receipts for it count.

        Raises:
            EngineError: This engine has no host, or the torrent cannot be metered.
        """
        session = self._session
        if not isinstance(session, ForeignSession):
            raise SessionError("attach: got a session of our own, want an engine with a host")
        torrent = await asyncio.to_thread(session.describe, handle)
        found: list[tuple[Path, frozenset[int]]] = []

        def adopt() -> int:
            number = self._pump.add(torrent, lambda: session.adopt(handle), scope_id=stream_id)
            found.append(session.look_at(number))
            return number

        number = await self._beginnings.run(adopt)
        ((folder, here),) = found
        content = Content(
            session=session,
            pump=self._pump,
            number=number,
            torrent=torrent,
            save_path=folder,
            stream_id=stream_id,
            pieces_here=here,
            peers=(),
            name_cdn=self._name_cdn,
        )
        self._welcome(content, entitlement, web_seeds=torrent.web_seeds)
        return content

    def feed(self, alerts: list[Any]) -> None:
        """Take a batch of alerts that the host popped; call it before the host's next pop.

        Raises:
            SessionError: This engine reads its queue itself.
        """
        if not isinstance(self._session, ForeignSession) or self._host is None:
            raise SessionError("feed: got a session of our own, want an engine with a host")
        if self._host.on_alerts is not None:
            raise SessionError("feed: the engine reads the queue and calls the host back")
        self._session.feed(alerts)

    async def remove(self, content: Content, *, deletes_files: bool = False) -> None:
        """Stop serving or fetching a torrent; what it brought is durable first.

        If the journal refuses, that is told as an error, and it is made durable later.
        """
        # Half of a removal would confuse everybody: it goes on when its caller gives up.
        await asyncio.shield(asyncio.ensure_future(self._remove(content, deletes_files)))

    async def _remove(self, content: Content, deletes_files: bool) -> None:
        if content.is_leaving or content.number not in self.contents:
            return
        content.begin_leaving()
        try:
            result = await asyncio.to_thread(
                self._pump.remove, content.number, deletes_files=deletes_files
            )
        finally:
            content.is_leaving = False
        del self.contents[content.number]
        content.note_removed(SourceBytes.of(result.removed_bytes))
        self._take_step(result)
        if self.ledger is not None and content.scope_id not in {
            other.scope_id for other in self.contents.values()
        }:
            self.ledger.unwatch(content.scope_id)
        if self._owner is not None:
            self._owner.release(content.torrent.content_id)
        self._hub.tell("content", state="removed", **describe_content(content))

    def _undo_add(self, number: int) -> None:
        with suppress(LookupError):
            self._pump.remove(number)

    def announce(self) -> None:
        """Tell that the engine is ready, with its port, keys and contents."""
        fields = dict(self._ready)
        contents = [describe_content(content) for content in self.contents.values()]
        if len(contents) == 1:
            fields |= contents[0]
        self._hub.tell("ready", **fields, contents=contents)

    def set_limits(self, *, upload_limit: int, download_limit: int) -> None:
        """Change the rates; bytes per second, 0 = unlimited."""
        self._session.set_limits(upload_limit=upload_limit, download_limit=download_limit)

    def _apply_owners_limits(self, rates: AllowedRates) -> None:
        self._session.set_limits(
            upload_limit=rates.upload_bytes_per_s, download_limit=rates.download_bytes_per_s
        )
        self._owner_serves = rates.stop_reason is None
        self._apply_serving()

    def _apply_serving(self) -> None:
        self._session.set_serving(serves=self._owner_serves and self._gate.is_open)

    def _take_coverage(self, is_open: bool, why: str) -> None:
        self._apply_serving()
        self._hub.tell("coverage", serves=is_open, detail=why)

    def _largest_piece_bytes(self) -> int:
        layouts = (content.torrent.layout for content in self.contents.values())
        return max((layout.piece_bytes for layout in layouts), default=0)

    async def stop(self) -> None:
        """Stop the transfer, then settle accounts within the time there is."""
        try:
            await self._stop()
        finally:
            self._state.close()
            self._hub.close()

    async def _start(self) -> None:
        config = self._config
        if damaged := self._state.set_damaged_aside():
            folder, reason = damaged
            self._hub.tell("salvaged", what="journal", reason=reason, aside=str(folder))
        seeds = Seeds(
            session=self._state.load_session_seed(),
            account=self._state.load_account_seed(config.account_path),
        )
        key, session_id = public_key_of(seeds.session), os.urandom(SESSION_ID_SIZE)
        peer_id = make_peer_id(key, session_id)
        self._journal = MeterJournal(self._state.journal_path)
        self._opened.callback(self._journal.close)
        self._journal.start_run(
            session_id=session_id, session_key=key, started_at_ms=time.time_ns() // 10**6
        )
        self._disk = DiskSync(self._fail)
        self._disk.on_durable.append(lambda _ticket: self._pace.note_awake())
        self._journal.sync_by(self._disk)
        self._teller = ProgressTeller(journal=self._journal, session_id=session_id)
        receipt_port = 0 if config.terms is None else await self._open_ledger(config.terms, seeds)
        self._open_session(peer_id, format_handshake(key, receipt_port))
        self._pump = MeterPump(self._session, self._journal, current_epoch=self._current_epoch)
        if self.ledger is not None:
            self.ledger.look_ahead(self._pump.lookahead)
        self._thread = PumpThread(self._pump, take_step=self._take_step, fail=self._fail)
        self._news = PeerNews(journal=self._journal, peer_key=self._peer_key, emit=self._hub.tell)
        listen = Endpoint(config.listen.ip, await await_port(self._session, config.listen))
        if self.ledger is not None:
            self.ledger.start(
                session_seed=seeds.session, session_id=session_id, peer_id=peer_id, listen=listen
            )
        self._ready = {
            "session_key": key.hex(),
            "account": public_key_of(seeds.account).hex(),
            "listen": str(listen),
            "receipt_port": receipt_port,
        }
        self._start_tasks()

    async def _open_ledger(self, terms: Signed[Terms], seeds: Seeds) -> int:
        """Put the accounting together; return its side channel's port."""
        self.ledger = LedgerSide(
            config=self._config,
            terms=terms,
            state=self._state,
            seeds=seeds,
            journal=self._journal,
            disk=self._disk,
            snapshots=lambda: self._pump.peers,
            sent_bytes=self._sent_bytes,
            emit=self._hub.tell,
            fail=self._fail,
        )
        self._opened.callback(self.ledger.spool.close)
        self._teller.ledger = self.ledger
        await self.ledger.require_coverage()
        return await self.ledger.listen()

    def _open_session(self, peer_id: bytes, handshake_text: str) -> None:
        """Start our session, or take the host's; limits and enforcement hold from the start."""
        config = self._config
        options = SessionOptions(
            listen=str(config.listen),
            peer_id=peer_id,
            handshake_text=handshake_text,
            upload_limit=config.upload_limit,
            download_limit=config.download_limit,
            discovers=config.discovers,
            dials_utp=config.dials_utp,
            dials_encrypted=config.dials_encrypted,
            allows_local_web_seeds=config.allows_local_web_seeds,
        )
        self._session: EngineSession = (
            EngineSession(options)
            if self._host is None
            else ForeignSession(self._host.session, options, on_alerts=self._host.on_alerts)
        )
        self._opened.callback(self._session.close)
        if config.owner is not None:
            self._owner = OwnersLimits(
                config.owner,
                UploadVolume(self._journal),
                apply=self._apply_owners_limits,
                emit=self._hub.tell,
            )
            self._owner.tick(time.monotonic())
        if not self._gate.is_open:
            self._apply_serving()
        if self.ledger is not None and self._session.tiers is not None:
            self.ledger.enforce(
                self._session.tiers,
                largest_piece_bytes=self._largest_piece_bytes,
                look_now=self._session.peers,
            )

    async def _abandon(self) -> None:
        """Give up a start that failed half-way."""
        for task in self._tasks:
            task.cancel()
        if self._thread is not None:
            self._thread.stop()
        if self.ledger is not None:
            await self.ledger.close()
        self._opened.close()

    def _name_cdn(self, url: str) -> None:
        if self.ledger is not None:
            self.ledger.name_cdn(url)

    def _start_tasks(self) -> None:
        loops: dict[str, Callable[[], Awaitable[None]]] = {"tick": self._tick_until_stopped}
        if self.ledger is not None:
            loops |= self.ledger.loops(self._gate)
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

    def _sent_bytes(self, peer: PeerKey) -> int:
        return self._pump.sent_bytes(peer)

    def _current_epoch(self) -> int | None:
        return None if self.ledger is None else self.ledger.clock.epoch()

    def _take_step(self, result: StepResult) -> None:
        if result.journal_error is not None:
            self._fail("journal", result.journal_error)
        if result.committed and self.ledger is not None:
            self._guard("accounting", self.ledger.note_commit, time.monotonic())
        for kind, number, piece in result.pieces:
            if content := self.contents.get(number):
                content.take_piece_event(kind, piece)
            else:
                self._beginnings.note(number, (kind, piece))
        for read in result.reads:
            if content := self.contents.get(read.torrent):
                content.take_read(read)
        for notice in result.notices:
            self._take_notice(notice)

    def _take_notice(self, notice: Notice) -> None:
        now_s = time.monotonic()
        content = self.contents.get(notice.torrent)
        # A stream's segments end all the time; its receipts keep their own pace.
        is_lasting = content is not None and content.stream_id is None
        if notice.kind in _NEWS:
            self._pace.note_news()
        if notice.kind is NoticeKind.FINISHED:
            if content is not None:
                content.is_finished = True
            if self.ledger is not None and is_lasting:
                self.ledger.accounting.flush_all_soon(now_s)
        elif notice.kind is NoticeKind.DISCONNECTED:
            if self.ledger is not None and notice.peer >= 0:
                end = self.ledger.flush_peer if is_lasting else self.ledger.note_departure
                end(self._peer_key(notice.peer), now_s)
        elif notice.kind is NoticeKind.PORT_MAPPED:
            self._hub.tell("notice", kind=str(notice.kind), detail=notice.text)
        elif notice.kind in FAULTS:
            if content is not None and notice.kind is NoticeKind.WEB_SEED_FAILED:
                content.note_web_seed_failure(notice.url)
            detail = hide_queries(notice.text)
            _log.warning("session_notice", kind=str(notice.kind), detail=detail)
            self._hub.tell("notice", kind=str(notice.kind), detail=detail)

    async def _tick_until_stopped(self) -> None:
        while True:
            now_s = time.monotonic()
            if self.ledger is not None:
                self._guard("accounting", self.ledger.tick, now_s)
            if self._owner is not None:
                self._guard("limits", self._owner.tick, now_s)
            self._guard("progress", self._tick_progress, now_s)
            self._disk.tick()
            if self._orphan.is_orphan():
                self.request_stop()
            await self._pace.rest(is_calm=self.ledger is None or self.ledger.is_calm)

    def _guard(self, where: str, tick: Callable[[float], None], now_s: float) -> None:
        """Run a part of the accounting; its failure must not stop the transfer."""
        try:
            tick(now_s)
        except Exception as error:  # noqa: BLE001 - fails open: the picture goes on
            self._fail(where, f"{type(error).__name__}: {error}")

    def _tick_progress(self, now_s: float) -> None:
        self._news.tell(self._pump.peers, has_ledger=self.ledger is not None)
        if now_s >= self._next_reconnect_s:
            self._next_reconnect_s = now_s + RECONNECT_S
            for content in list(self.contents.values()):
                content.dial_lost_peers()
            self._news.give_up_strangers(self._firm_bytes)
            self._journal.retire_settled()
        for content in list(self.contents.values()):
            self._tell_completion(content)
        if now_s >= self._next_progress_s:
            self._next_progress_s = now_s + PROGRESS_S
            fields = self._teller.describe(
                self._pump.peers,
                content_bytes=sum(c.torrent.content_bytes for c in self.contents.values()),
                epoch=self._current_epoch(),
                now_s=now_s,
            )
            self._hub.tell("progress", **fields)

    def _tell_completion(self, content: Content) -> None:
        if content.is_finished and not content.is_complete_told and content.is_settled:
            content.is_complete_told = True
            self._hub.tell(
                "complete",
                **describe_content(content),
                **describe_totals(self._journal.totals()),
            )

    def _peer_key(self, peer: int) -> PeerKey:
        return PeerKey(*self._session.peer_key(peer))

    def _firm_bytes(self, torrent: int, peer: int) -> int | None:
        if torrent not in self.contents:
            return None
        return self._pump.meter(torrent).firm.get(peer, 0)

    async def _stop(self) -> None:
        limit_s = STOP_ORPHAN_S if self._orphan.is_orphan() else self._config.stop_seconds
        deadline_s = time.monotonic() + limit_s
        if self._thread is not None:
            await asyncio.to_thread(self._thread.stop)
        result = await asyncio.to_thread(self._pump.finish, grace_seconds=STOP_GRACE_S)
        self._take_step(result)
        audit: SessionAudit | None = None
        with suppress(EngineError, LookupError):  # a removal may still be going on
            audit = await asyncio.to_thread(self._pump.audit)
        if self.ledger is not None:
            await self.ledger.finish(
                linger_s=STOP_LINGER_S, deadline_s=deadline_s, guard=self._guard
            )
        if self._owner is not None:
            self._guard("limits", self._owner.finish, deadline_s)
        self._guard("journal", lambda _: self._journal.retire_settled(), deadline_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.ledger is not None:
            await self.ledger.close()
        for content in self.contents.values():
            content.note_removed(content.bytes_by_source())
        self._hub.tell("stopped", **self._teller.describe_end(audit))
        self._opened.close()
