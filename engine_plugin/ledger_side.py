"""Everything of an engine that exists only under a broadcaster's terms, put together.

Entitlements, receipts, the talk with other plugins, bundles, uploads, the ledger's clock. Without
terms an engine has no ledger side: it meters and signs nothing. Assembly and life cycle only.

Not here: any rule about receipts (`lanes`, `payee`), bundles (`bundler`) or channels
(`side_channel`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from engine_plugin.accounting import Accounting
from engine_plugin.bundler import Bundler
from engine_plugin.cadence import Cadence
from engine_plugin.collector import (
    Collector,
    CollectorRefusedError,
    CollectorUnavailableError,
)
from engine_plugin.config import EngineConfig
from engine_plugin.coverage import CoverageGate, require_coverage
from engine_plugin.disk_sync import DiskSync
from engine_plugin.enforcement import Enforcer, list_addresses_of
from engine_plugin.entitlements import OwnEntitlements
from engine_plugin.errors import JournalError, SessionError
from engine_plugin.events import Emit
from engine_plugin.exchange import Exchange
from engine_plugin.gatekeeper import Gatekeeper
from engine_plugin.issuing_key import IssuingKey, IssuingKeyError
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import PeerKey
from engine_plugin.lanes import ReceiptLanes
from engine_plugin.ledger_clock import LedgerClock
from engine_plugin.libtorrent_door import PeerSnapshot
from engine_plugin.libtorrent_door.tiers import TierTable
from engine_plugin.lookahead import Lookahead
from engine_plugin.payee import PayeeDesk
from engine_plugin.proved_peers import KEYS_KEPT
from engine_plugin.relay import Relay
from engine_plugin.relay_dialling import (
    RELAYED_PROVE_TIMEOUT_S,
    RelayDialling,
    find_origin,
)
from engine_plugin.reporter import Reporter
from engine_plugin.side_channel import EVERYWHERE, Channel, ChannelIdentity
from engine_plugin.spool_salvage import describe_salvage, open_spool
from engine_plugin.state_dir import StateDir
from engine_plugin.upkeep import Upkeep
from engine_plugin.uploader import Uploader
from engine_plugin.viewing.desk import ViewingDesk
from engine_plugin.wire import ChannelRole, Endpoint
from ledger.evidence.binding import Binding
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.keys import public_key_of
from ledger.evidence.terms import Terms

SPOOL_KEPT_S = 30 * 24 * 3600
"""Judged evidence stays in the spool for this time, or longer while it can be corrected."""

SCOPES_KEPT = 1024
"""For so many contents and streams that ended receipts are still taken, and signed."""

DEPARTED_AFTER_S = 1.1
"""After a stream's connection ended, whether its key has another is looked up: the table of
connections is a second old at most."""

Fail = Callable[[str, str], None]
"""Takes where something failed, and how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """The private seeds that an engine signs with; 32 bytes each."""

    session: bytes = field(repr=False)
    account: bytes = field(repr=False)


class LedgerSide:
    """The accounting of one engine run; runs in the event loop's thread."""

    def __init__(
        self,
        *,
        config: EngineConfig,
        terms: Signed[Terms],
        state: StateDir,
        seeds: Seeds,
        journal: MeterJournal,
        disk: DiskSync,
        snapshots: Callable[[], tuple[PeerSnapshot, ...]],
        sent_bytes: Callable[[PeerKey], int],
        emit: Emit,
        fail: Fail,
    ) -> None:
        """Put the parts together; nothing runs yet.

        Args:
            config: The engine's.
            terms: Whose.
            state: Where keys, journal and spool lie.
            seeds: What to sign with.
            journal: The meter's, its run started.
            disk: Makes journal and spool durable.
            snapshots: The last look at all connections.
            sent_bytes: Content bytes handed to a connection in this run.
            emit: Takes events.
            fail: Takes failures that the transfer does not wait for.

        Raises:
            EngineError: A file of the state directory cannot be used.
        """
        self.terms = terms
        self._config = config
        self._journal = journal
        self._sent_bytes_to = sent_bytes
        self._fail = fail
        self._emit = emit
        self._snapshots = snapshots
        self._gatekeeper: Gatekeeper | None = None
        self._key = public_key_of(seeds.session)
        self._scopes: set[bytes] = set()
        self._ended_scopes: dict[bytes, None] = {}
        """Of what ended: last receipts still come in for a while."""
        self._unnamed_cdns: dict[str, bytes] = {}
        """URL → key, until the journal has taken it."""
        self._sent_before: dict[bytes, int] = {}
        """Content bytes handed to session keys before the connections that are counted now."""
        self._cadence = Cadence()
        self._departed_s: dict[bytes, float] = {}
        self._binding = state.load_binding(
            terms.value, account_seed=seeds.account, session_seed=seeds.session
        )
        self.spool, salvage = open_spool(state.spool_path)
        if salvage is not None:
            emit("salvaged", **describe_salvage(salvage))
        self.clock = LedgerClock(terms.value)
        self.lanes = ReceiptLanes(journal, seeds.session)
        self._collector = Collector(terms, entitlement_url=config.entitlement_url)
        self._judge_by(IssuingKey(terms.value, state.path / "issuing.binding"))
        self._talk_with_peers(seeds.session)
        self._report_to_collector(seeds.session)
        self._persist_by(disk)

    def _persist_by(self, disk: DiskSync) -> None:
        """Let everything wait for the disk that is to be durable before it is sent."""
        self.spool.sync_by(disk)
        self.lanes.disk = self.exchange.disk = self.uploader.disk = self._reporter.disk = disk
        disk.on_durable.append(self._note_durable)

    def _note_durable(self, ticket: int) -> None:
        self.lanes.note_durable(ticket)
        self.accounting.send_durable()
        self.exchange.note_durable(ticket)

    def _judge_by(self, issuing_key: IssuingKey) -> None:
        """Make what judges entitlements and receipts."""
        self.issuing_key = issuing_key
        self._take_issuing_binding(self._config.issuing_binding)
        self.entitlements = OwnEntitlements(
            terms=self.terms,
            spool=self.spool,
            session_key=self._key,
            issuing_key=issuing_key,
            use_of=self.lanes.use_of,
            now_s=self._ledger_s,
        )
        self._desk = PayeeDesk(
            terms=self.terms,
            spool=self.spool,
            session_key=self._key,
            content_ids=self._scopes,
            ledger_ms=self.clock.now_ms,
            sent_bytes=self.sent_bytes,
            issuing_key=issuing_key,
        )

    def _talk_with_peers(self, session_seed: bytes) -> None:
        """Make what speaks with other plugins, directly and through the relay."""
        self.exchange = Exchange(
            journal=self._journal,
            lanes=self.lanes,
            cadence=self._cadence,
            desk=self._desk,
            entitlements=self.entitlements,
            snapshots=self._snapshots,
            epoch=self.clock.epoch,
            emit=self._emit,
            sent_to=self._sent_bytes_to,
        )
        self.exchange.issuing_key = self.issuing_key
        self.exchange.on_channel.append(self._note_channel)
        self.exchange.on_forgotten.append(self._forget_key)
        self.relay = Relay(
            door=self._collector,
            network_id=self.terms.value.network_id,
            session_seed=session_seed,
            ledger_ms=self.clock.now_ms,
            accept=self._begin_relayed,
        )
        self.exchange.relay = RelayDialling(self.relay)

    def _report_to_collector(self, session_seed: bytes) -> None:
        """Make what signs, bundles and uploads, and what keeps clock and entitlements fresh."""
        terms = self.terms.value
        self.viewing = ViewingDesk(
            terms=terms,
            spool=self.spool,
            session_seed=session_seed,
            ledger_time=self.clock,
            find_entitlement=self.entitlements.find,
            bytes_by_source=self._journal.received_bytes,
        )
        """Takes players' reports; receipts say the media time that it signed."""
        self.lanes.media_ms = self.viewing.media_ms
        self.uploader = Uploader(spool=self.spool, collector=self._collector, emit=self._emit)
        self._reporter = Reporter(
            terms=terms,
            spool=self.spool,
            lanes=self.lanes,
            clock=self.clock,
            door=self._collector,
            session_seed=session_seed,
            session_key=self._key,
        )
        self._upkeep = Upkeep(
            clock=self.clock,
            collector=self._collector,
            entitlements=self.entitlements,
            binding=self._binding,
            issuing_key=self.issuing_key,
            epoch_length_s=terms.epoch_length_s,
            announce=self.exchange.announce_entitlements,
            announce_issuing_key=self.exchange.announce_issuing_key,
            emit=self._emit,
            fail=self._fail,
        )
        self.accounting = Accounting(
            journal=self._journal,
            spool=self.spool,
            clock=self.clock,
            lanes=self.lanes,
            cadence=self._cadence,
            entitlements=self.entitlements,
            exchange=self.exchange,
            bundler=Bundler(
                terms=terms,
                spool=self.spool,
                session_seed=session_seed,
                session_key=self._key,
                binding=self._binding,
            ),
            uploader=self.uploader,
            session_key=self._key,
            kept_epochs=max(terms.correction_epochs, SPOOL_KEPT_S // terms.epoch_length_s),
            emit=self._emit,
        )

    async def listen(self) -> int:
        """Open the side channel's port and return it.

        Raises:
            SessionError: It cannot be bound.
        """
        config = self._config
        try:
            return await self.exchange.side.listen(config.listen.ip, config.receipt_port)
        except OSError as error:
            raise SessionError(f"receipt port: {config.listen.ip}: {error.strerror}") from None

    def start(
        self, *, session_seed: bytes, session_id: bytes, peer_id: bytes, listen: Endpoint
    ) -> None:
        """Begin to answer and to dial; the BitTorrent side listens already."""
        if listen.ip not in EVERYWHERE:
            self.relay.own_ip = listen.ip
        self.exchange.start(
            ChannelIdentity(
                network_id=self.terms.value.network_id,
                broadcaster_account=self.terms.value.broadcaster_account,
                session_seed=session_seed,
                session_key=self._key,
                session_id=session_id,
                peer_id=peer_id,
                listen=listen,
            )
        )

    def look_ahead(self, lookahead: Lookahead) -> None:
        """Tell the pump how much is left to the next receipts, and hear how bytes come."""
        lookahead.room_of = self._cadence.room_of
        self._cadence.jump_of = lookahead.jump_of
        self._cadence.rate_of = lookahead.rate_of

    def _begin_relayed(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        role: ChannelRole,
        key: bytes,
    ) -> None:
        ip, _ = writer.get_extra_info("peername")
        origin = find_origin(key, ip, self._snapshots())
        self.exchange.side.begin(reader, writer, role, key, origin, RELAYED_PROVE_TIMEOUT_S)

    def loops(self, gate: CoverageGate) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return what must run beside the ticks, by name.

        Args:
            gate: Opened and closed by what the escrow covers.
        """
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "upload": self.uploader.run,
            "clock": self._upkeep.keep_clock,
            "relay": self.relay.run,
            "entitlement": self._upkeep.keep_entitlements,
            "issuing_key": self._upkeep.keep_issuing_key,
            "coverage": lambda: self._upkeep.keep_coverage(gate),
        }
        if self._config.owner is None or self._config.owner.tells_totals:
            loops["totals"] = self._reporter.run
        return loops

    def enforce(
        self,
        tiers: TierTable,
        *,
        largest_piece_bytes: Callable[[], int],
        look_now: Callable[[], Iterable[PeerSnapshot]],
    ) -> Gatekeeper | None:
        """Begin to hold peers to their receipts, if the configuration says so.

        Args:
            tiers: The session's.
            largest_piece_bytes: Of the torrents that are served.
            look_now: Looks at the session's connections now.
        """
        policy = self._config.enforcement
        if policy is None:
            return None
        self._gatekeeper = Gatekeeper(
            enforcer=Enforcer(
                tiers,
                policy,
                list_addresses=lambda: list_addresses_of(look_now()),
                emit=self._emit,
            ),
            exchange=self.exchange,
            desk=self._desk,
            snapshots=self._snapshots,
            sent_bytes=self._sent_bytes_to,
            ledger_ms=self.clock.now_ms,
            largest_piece_bytes=largest_piece_bytes,
        )
        return self._gatekeeper

    async def require_coverage(self) -> None:
        """Refuse to begin when the escrow does not cover what the owner wants it to.

        An answer that does not come decides nothing yet.

        Raises:
            CoverageError: It does not.
        """
        if self._config.min_coverage_ppm:
            with suppress(CollectorUnavailableError, CollectorRefusedError):
                require_coverage(
                    await self._collector.read_coverage(), self._config.min_coverage_ppm
                )

    def watch(self, scope_id: bytes, entitlement: Signed[Entitlement] | None) -> None:
        """Take receipts for a content or stream, and keep an entitlement for it."""
        self._scopes.add(scope_id)
        self._ended_scopes.pop(scope_id, None)
        self._upkeep.watch(scope_id, entitlement)

    def unwatch(self, scope_id: bytes) -> None:
        """Take note that a content or stream has ended; of very many the first are forgotten."""
        self._ended_scopes[scope_id] = None
        if len(self._ended_scopes) > SCOPES_KEPT:
            oldest = next(iter(self._ended_scopes))
            del self._ended_scopes[oldest]
            self._scopes.discard(oldest)
            self._upkeep.unwatch(oldest)

    def name_cdn(self, url: str) -> None:
        """Find the CDN behind a web seed's URL in the terms; its bytes are billed under its key.

        A journal that refuses is asked again at the next tick: the picture does not wait for it.
        """
        parts = urlsplit(url)
        for cdn in self.terms.value.cdns:
            if cdn.host in {parts.netloc, parts.hostname}:
                self._unnamed_cdns[url] = cdn.key
                break
        else:
            self._fail("cdn", f"{url}: host is not in the terms; its bytes are not billed")
        try:
            self._name_cdns()
        except JournalError as error:
            self._fail("cdn", str(error))

    def _name_cdns(self) -> None:
        for url, key in list(self._unnamed_cdns.items()):
            self._journal.prove_cdn(url, key, epoch=self.clock.epoch())
            del self._unnamed_cdns[url]

    def sent_bytes(self, session_key: bytes) -> int:
        """Return content bytes ever handed to a session key's connections."""
        before = self._sent_before.get(session_key)
        if before is None:
            before = self._note_sent_before(session_key, self._journal.sent_before_bytes)
        return before + self.exchange.sent_by(session_key)

    def _note_channel(self, channel: Channel) -> None:
        key = channel.peer_key
        if key not in self._sent_before:
            # None of its connections counts in this run's sum yet; if it was forgotten, some did.
            with suppress(JournalError):
                self._note_sent_before(key, self._journal.sent_ever_bytes)

    def _note_sent_before(self, key: bytes, read: Callable[[bytes], int]) -> int:
        before = self._sent_before[key] = read(key)
        if len(self._sent_before) > 2 * KEYS_KEPT:
            del self._sent_before[next(iter(self._sent_before))]
        return before

    def _forget_key(self, key: bytes) -> None:
        self._sent_before.pop(key, None)

    @property
    def is_calm(self) -> bool:
        """Whether seldom ticks are enough: nobody is held or on probation, and nobody plays."""
        is_at_ease = self._gatekeeper is None or self._gatekeeper.is_calm
        return is_at_ease and not self.viewing.is_busy

    def tick(self, now_s: float) -> None:
        """Do what is due; a part that fails is told of and holds up no other."""
        parts: list[tuple[str, Callable[[], None]]] = [
            ("exchange", lambda: self.exchange.tick(now_s)),
            ("exchange", lambda: self._flush_departed(now_s)),
            ("viewing", self.viewing.tick),
            ("cdn", self._name_cdns),
            ("accounting", lambda: self.accounting.tick(now_s)),
        ]
        if self._gatekeeper is not None:
            gatekeeper = self._gatekeeper
            parts.append(("enforcement", lambda: gatekeeper.tick(now_s)))
        for where, tick in parts:
            try:
                tick()
            except Exception as error:  # noqa: BLE001 - fails open: the next tick tries again
                self._fail(where, f"{type(error).__name__}: {error}")

    def note_commit(self, now_s: float) -> None:
        """Sign what the credits that have just become durable make due.

        Raises:
            EngineError: The journal refused; the next tick tries again.
        """
        self.accounting.sign_due(now_s)

    def note_departure(self, peer: PeerKey, now_s: float) -> None:
        """Take note that a stream's connection ended; its key may have others."""
        key = self.exchange.key_of(peer)
        if key is not None:
            self._departed_s[key] = now_s

    def _flush_departed(self, now_s: float) -> None:
        """Make the last receipts due to those who have left a stream for good, by all signs."""
        due = [key for key, at_s in self._departed_s.items() if now_s - at_s >= DEPARTED_AFTER_S]
        if not due:
            return
        connected = {
            self.exchange.key_of(PeerKey(snapshot.peer_id, snapshot.endpoint))
            for snapshot in self._snapshots()
        }
        for key in due:
            del self._departed_s[key]
            if key not in connected:
                self.accounting.flush_soon(key, now_s)

    def flush_peer(self, peer: PeerKey, now_s: float) -> None:
        """Make the last receipt to a connection's key due shortly: it left."""
        key = self.exchange.key_of(peer)
        if key is not None:
            self.accounting.flush_soon(key, now_s)

    async def finish(
        self, *, linger_s: float, deadline_s: float, guard: Callable[..., None]
    ) -> None:
        """Sign, exchange, bundle and send what there is; nothing is received any more.

        Args:
            linger_s: How long peers' last receipts are awaited.
            deadline_s: Monotonic seconds at which this returns whatever is left.
            guard: Runs a step and tells its failure.
        """
        now_s = time.monotonic()
        guard("viewing", lambda _: self.viewing.close_all(), now_s)
        guard("receipts", lambda _: self.accounting.sign_all(), now_s)
        self.exchange.dial_debtors(now_s, is_last=True)
        until_s = min(deadline_s - 2.0, now_s + linger_s)
        while self.exchange.is_busy and time.monotonic() < until_s:
            await asyncio.sleep(0.05)
        guard("bundles", lambda _: self.accounting.bundle_all(), now_s)
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(loop.time() + deadline_s - time.monotonic()):
                await self.uploader.drain()

    def _take_issuing_binding(self, given: Signed[Binding] | None) -> None:
        try:
            if given is not None:
                self.issuing_key.take(given)
        except IssuingKeyError as error:
            self._fail("issuing_key", str(error))

    def _ledger_s(self) -> int | None:
        now_ms = self.clock.now_ms()
        return None if now_ms is None else now_ms // 1000

    async def close(self) -> None:
        """Close channels and the collector's connection; the spool stays open."""
        await self.exchange.side.close()
        await self.relay.close()
        await self._collector.close()

    def describe(self) -> dict[str, Any]:
        """Return what was signed and what came in, by the newest receipt of every lane."""
        sums = self.lanes.sum_bytes()
        written, read = self.exchange.wire_bytes()
        return {
            "side_channel": {"sent_bytes": written, "received_bytes": read},
            "receipts_out": {
                "p2p_bytes": sums.p2p_bytes,
                "cdn_bytes": sums.cdn_bytes,
                "unacknowledged_lanes": sums.unacknowledged_lanes,
            },
            "receipts_in": {"p2p_bytes": self.spool.total_bytes()},
        }
