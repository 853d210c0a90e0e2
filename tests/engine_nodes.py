"""Engines without libtorrent: real journal, lanes, spool, desk, side channel and accounting.

A test says which BitTorrent connections there are and which blocks became firm or left; everything
else is the product's own code over loopback sockets. Time is the test's.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from builders import (
    EPOCH,
    GENESIS_S,
    binding,
    clock,
    digest_of,
    entitlement,
    key_of,
    peer_id_of,
    seed_of,
    signed_terms,
)

from engine_plugin.accounting import Accounting
from engine_plugin.bundler import Bundler
from engine_plugin.cadence import Cadence
from engine_plugin.collector import Collector
from engine_plugin.entitlements import OwnEntitlements
from engine_plugin.exchange import Exchange
from engine_plugin.identity import format_handshake
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import (
    CreditedBlock,
    MeterBatch,
    PeerKey,
    PeerUpdate,
    Source,
)
from engine_plugin.lanes import ReceiptLanes
from engine_plugin.ledger_clock import LedgerClock
from engine_plugin.libtorrent_door import PeerSnapshot
from engine_plugin.payee import PayeeDesk
from engine_plugin.side_channel import ChannelIdentity
from engine_plugin.spool import Spool
from engine_plugin.uploader import Uploader
from engine_plugin.wire import Endpoint

BLOCK = 16_384
CONTENT = digest_of("content")


@dataclass
class Time:
    """Seconds that pass when the test says so."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    """Wait for something that sockets bring; real seconds, for a failing test only."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.001)


@dataclass
class Node:
    """One engine; `ip` is a loopback address of its own."""

    name: str
    ip: str
    folder: Path
    time: Time = field(default_factory=Time)
    epoch_length_s: int = 3600
    fields: dict[str, Any] = field(default_factory=dict)
    """Changes of the entitlement that it presents."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.key, self.peer_id = key_of(self.name), peer_id_of(self.name)
        self.events: list[dict[str, Any]] = []
        self.snapshots: tuple[PeerSnapshot, ...] = ()
        self.sent: Counter[str] = Counter()
        """Content bytes handed to a connection, by its far end; the test's own truth."""
        self._piece = 0
        self._retake = 0
        terms = signed_terms(epoch_length_s=self.epoch_length_s)
        self.terms = terms
        self.journal = MeterJournal(self.folder / "meter.sqlite")
        self.journal.start_run(
            session_id=digest_of(f"{self.name} session")[:16],
            session_key=self.key,
            started_at_ms=1,
        )
        self.torrent = self.journal.add_torrent(
            content_id=CONTENT, name="film", content_bytes=1 << 40
        )
        self.spool = Spool(self.folder / "spool.sqlite")
        self.clock = LedgerClock(terms.value, self.time)
        self.lanes = ReceiptLanes(self.journal, seed_of(self.name))
        self.cadence = Cadence()
        self.entitlements = OwnEntitlements(terms=terms, spool=self.spool, session_key=self.key)
        self.desk = PayeeDesk(
            terms=terms,
            spool=self.spool,
            session_key=self.key,
            content_ids={CONTENT},
            ledger_ms=self.clock.now_ms,
            sent_bytes=self._sent_by,
        )
        self.exchange = Exchange(
            journal=self.journal,
            lanes=self.lanes,
            cadence=self.cadence,
            desk=self.desk,
            entitlements=self.entitlements,
            snapshots=lambda: self.snapshots,
            epoch=self.clock.epoch,
            emit=self._emit,
            sent_to=lambda peer: self.sent[peer.endpoint],
            clock=self.time,
        )

    @property
    def endpoint(self) -> Endpoint:
        """Where it accepts BitTorrent connections."""
        return Endpoint(self.ip, 6881)

    @property
    def identity(self) -> ChannelIdentity:
        return ChannelIdentity(
            network_id=self.terms.value.network_id,
            broadcaster_account=key_of("broadcaster"),
            session_seed=seed_of(self.name),
            session_key=self.key,
            session_id=digest_of(f"{self.name} session")[:16],
            peer_id=self.peer_id,
            listen=self.endpoint,
        )

    async def __aenter__(self) -> Self:
        self.port = await self.exchange.side.listen(self.ip)
        self.exchange.start(self.identity)
        self.collector = Collector(self.terms)
        uploader = Uploader(spool=self.spool, collector=self.collector, emit=self._emit)
        bundler = Bundler(
            terms=self.terms.value,
            spool=self.spool,
            session_seed=seed_of(self.name),
            session_key=self.key,
            binding=binding(self.name),
        )
        self.accounting = Accounting(
            journal=self.journal,
            spool=self.spool,
            clock=self.clock,
            lanes=self.lanes,
            cadence=self.cadence,
            entitlements=self.entitlements,
            exchange=self.exchange,
            bundler=bundler,
            uploader=uploader,
            session_key=self.key,
            kept_epochs=100,
            emit=self._emit,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.exchange.side.close()
        await self.collector.close()
        self.journal.close()
        self.spool.close()

    def read_clock(self, *, epoch: int = EPOCH, into_s: int = 0) -> None:
        """Take a reading of ledger time: so many seconds into an epoch."""
        signed = clock(
            close_time_s=GENESIS_S + epoch * self.epoch_length_s + into_s,
            age_ms=0,
            epoch_length_s=self.epoch_length_s,
        )
        nonce = signed.value.nonce
        self.clock.take_reading(signed.raw, nonce=nonce, asked_s=self.time())

    def take_entitlement(self) -> None:
        """Hold an entitlement for the content, valid for years."""
        values = {"not_after_s": GENESIS_S + (1 << 30), "terms_digest": self.terms.digest}
        signed = entitlement(self.name, **(values | self.fields))
        self.entitlements.take(signed, CONTENT)

    def see(self, *snapshots: PeerSnapshot) -> None:
        """Have exactly these BitTorrent connections from now on."""
        self.snapshots = tuple(snapshots)

    def credit(self, peer: "Node", far: Endpoint, byte_count: int) -> None:
        """Have blocks of a peer become firm and durable now; multiples of 16 KiB."""
        blocks = []
        for _ in range(byte_count // BLOCK):
            blocks.append(CreditedBlock(self._piece // 64, self._piece % 64, BLOCK))
            self._piece += 1
        update = PeerUpdate(
            torrent=self.torrent,
            peer=PeerKey(peer.peer_id, str(far)),
            source=Source.P2P,
            blocks=tuple(blocks),
        )
        self.journal.commit_batch(MeterBatch(peers=(update,)), epoch=self.clock.epoch())

    def tick(self) -> None:
        """What the engine does four times a second."""
        self.exchange.tick(self.time())
        self.accounting.sign_due(self.time())

    def of(self, event: str) -> list[dict[str, Any]]:
        return [seen for seen in self.events if seen["event"] == event]

    def wire(self) -> int:
        """Bytes through its side channels so far, both ways."""
        return sum(self.exchange.wire_bytes())

    def _sent_by(self, key: bytes) -> int:
        return self.exchange.sent_by(key)

    def _emit(self, name: str, **fields: Any) -> None:
        self.events.append({"event": name, **fields})


def snapshot(
    peer: Node, own: Endpoint, far: Endpoint, *, is_outgoing: bool, **changes: Any
) -> PeerSnapshot:
    """A connection to another node as libtorrent would report it."""
    values: dict[str, Any] = {
        "torrent": 0,
        "peer": 0,
        "peer_id": peer.peer_id,
        "endpoint": str(far),
        "local_endpoint": str(own),
        "client": format_handshake(peer.key, peer.port),
        "is_web_seed": False,
        "is_outgoing": is_outgoing,
        "handshake_done": True,
        "downloaded_bytes": 0,
        "uploaded_bytes": 0,
    }
    return PeerSnapshot(**values | changes)


def connect(dialler: Node, answerer: Node, port: int = 50_001) -> Endpoint:
    """Have one BitTorrent connection between two nodes; the dialler's end of it."""
    here = Endpoint(dialler.ip, port)
    dialler.see(*dialler.snapshots, snapshot(answerer, here, answerer.endpoint, is_outgoing=True))
    answerer.see(*answerer.snapshots, snapshot(dialler, answerer.endpoint, here, is_outgoing=False))
    return here
