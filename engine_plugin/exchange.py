"""The talk with other plugins: whom to dial, what to claim, what to do with what they say.

It owns the side channel and looks at the meter's table of connections, of however many torrents. A
peer's bytes become attested when its key has proved their connection; receipts go to whoever they
are for, entitlement first; receipts that pay us are judged, stored and answered.

Whatever a peer does ends at worst its channel. Not here: signing (`accounting`), libtorrent, which
connection belongs to whom (`attestation`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import structlog

from engine_plugin.attestation import Attestor, ChannelEnds, Connection, ConnectionBook
from engine_plugin.cadence import Cadence
from engine_plugin.channel_table import Refusal
from engine_plugin.dialling import Dialler
from engine_plugin.disk_sync import DiskSync
from engine_plugin.entitlements import OwnEntitlements
from engine_plugin.errors import EngineError, JournalError
from engine_plugin.identity import parse_handshake
from engine_plugin.issuing_key import IssuingKey, IssuingKeyError
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import PeerKey
from engine_plugin.lanes import ReceiptLanes, StoredReceipt
from engine_plugin.libtorrent_door import PeerSnapshot
from engine_plugin.libtorrent_door.session_options import split_endpoint
from engine_plugin.payee import Exposure, PayeeDesk
from engine_plugin.proved_peers import ProvedPeers
from engine_plugin.relay_dialling import RelayDialling
from engine_plugin.side_channel import Channel, ChannelIdentity, SideChannel
from engine_plugin.wire import (
    ACKNOWLEDGEMENT_STEP,
    BLOCK_SIZE,
    RECEIPT_NAME_SIZE,
    AcknowledgementStep,
    ChannelRole,
    Endpoint,
    ReceiptVerdict,
    format_acknowledgement,
)
from ledger.evidence.binding import BINDING
from ledger.evidence.encoding import RecordCode, Signed
from ledger.evidence.errors import BadSignatureError
from ledger.evidence.receipt import RECEIPT, Receipt

ANSWERER_DIALS_AFTER_S = 3.0
"""Whom the BitTorrent initiator has not dialled by then, we dial."""

RESEND_FIRST_S = 3.0
RESEND_MOST_S = 60.0
"""A receipt that was refused, but not for good, is sent again after these; longer each time."""

ANSWER_MOST_S = 30.0
"""After so long without an answer a receipt is sent again over the same channel."""

IDLE_CLOSE_S = 120.0
"""A channel of a peer that left the swarm is closed after so much silence."""

RECEIPTS_AT_ONCE_MAX = 128
"""Most old receipts that are sent in one go; the rest follows a while later."""

_DEBTORS_EVERY_S = 3.0
_UNANSWERED_MAX = 512
_LOGGED_MAX = 10_000

Emit = Callable[..., None]
Handler = Callable[[Channel, bytes], None]
"""Takes a record of a proved peer; an `EvidenceError` closes the channel."""

_log = structlog.get_logger(__name__)
_parse_handshake = lru_cache(maxsize=4096)(parse_handshake)


@dataclass(slots=True)
class _Talk:
    """What is remembered of one proved channel."""

    attestor: Attestor
    heard_s: float
    """Monotonic seconds of the last record from it."""
    unanswered: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    """Lane and sequence of the receipts sent, by their short name; bounded."""
    presented: dict[bytes, bytes] = field(default_factory=dict)
    """Content or stream of each entitlement it was shown, by the entitlement's digest."""
    sent_s: float = 0.0
    """Monotonic seconds of the last receipt to it."""
    look_s: float = 0.0
    """Monotonic seconds at which to look again for what it has not answered."""
    retries: int = 0


@dataclass(slots=True, kw_only=True)
class ExchangeTotals:
    """For people."""

    last_receipt_s: dict[int, float] = field(default_factory=dict)
    """Monotonic seconds of the last receipt that came in, by the receipt's epoch."""
    refusals: dict[str, int] = field(default_factory=dict)
    """Channels that we closed, and records that were refused, by reason."""
    wire_sent_bytes: int = 0
    """Bytes written to channels that have ended."""
    wire_received_bytes: int = 0
    """Bytes read from channels that have ended."""


class Exchange:
    """One process's talk with its peers; runs in the event loop's thread."""

    def __init__(
        self,
        *,
        journal: MeterJournal,
        lanes: ReceiptLanes,
        cadence: Cadence,
        desk: PayeeDesk,
        entitlements: OwnEntitlements,
        snapshots: Callable[[], tuple[PeerSnapshot, ...]],
        epoch: Callable[[], int | None],
        emit: Emit,
        sent_to: Callable[[PeerKey], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bind it; nothing is dialled yet.

        Args:
            journal: The meter's.
            lanes: Our own receipts.
            cadence: Hears what payees say is outstanding.
            desk: Judges receipts that pay us.
            entitlements: Our own.
            snapshots: The last look at all connections.
            epoch: The ledger's epoch; None while unknown.
            emit: Takes events.
            sent_to: Content bytes handed to a connection in this run.
            clock: Monotonic seconds.
        """
        self.side = SideChannel(self, clock=clock)
        self.totals = ExchangeTotals()
        self.handlers: dict[RecordCode, Handler] = {}
        """Who takes records that are not about receipts."""
        self.issuing_key: IssuingKey | None = None
        """What peers tell us about the broadcaster's issuing key, and are told by us."""
        self.relay: RelayDialling | None = None
        """How peers are reached whom neither side can dial."""
        self.disk: DiskSync | None = None
        """What makes a receipt durable that came in, if the spool's commits alone do not."""
        self._answers: dict[tuple[Channel, bytes], tuple[int, bytes, Receipt]] = {}
        """Answers to the newest receipt by channel and lane, and the tickets they wait for."""
        self.on_channel: list[Callable[[Channel], None]] = []
        """Who is told of every proved channel, before any connection is attributed by it."""
        self.on_forgotten: list[Callable[[bytes], None]] = []
        """Who is told of keys that are not remembered any more: there were too many since."""
        self._journal = journal
        self._lanes = lanes
        self._cadence = cadence
        self._desk = desk
        self._entitlements = entitlements
        self._snapshots = snapshots
        self._seen: tuple[PeerSnapshot, ...] = ()
        self._claimed: tuple[PeerSnapshot, ...] = ()
        self._plugins: dict[tuple[bytes, bytes, str], PeerSnapshot] = {}
        """Whom a channel is wanted to, by the key that their client text names, peer-id and IP."""
        self._epoch = epoch
        self._emit = emit
        self._clock = clock
        self._own_key = b""
        self._listen_port = 0
        self._next_debtors_s = 0.0
        self._book = ConnectionBook()
        self._proved = ProvedPeers(sent_to)
        self._dialler = Dialler(self._dial)
        self._talks: dict[Channel, _Talk] = {}
        self._logged: set[tuple[str, str]] = set()

    def start(self, identity: ChannelIdentity) -> None:
        """Begin to answer and to dial."""
        self._own_key = identity.session_key
        self._listen_port = identity.listen.port
        self.side.start(identity)

    def tick(self, now_s: float) -> None:
        """Dial, claim new connections and send again what got no answer."""
        self._look_at_connections(now_s)
        for channel, talk in list(self._talks.items()):
            self._resend(channel, talk, now_s)
            self._close_idle(channel, talk, now_s)
        if self.relay is not None:
            self.relay.tick(now_s)
        self.dial_debtors(now_s)
        self._dialler.forget_old(now_s)

    def send_receipt(self, payee_key: bytes, signed: Signed[Receipt]) -> bool:
        """Send a receipt to its payee, if there is a channel; else it waits in the journal."""
        channel = self.side.table.proved.get(payee_key)
        talk = None if channel is None else self._talks.get(channel)
        if channel is None or talk is None:
            return False
        self._send(channel, talk, signed)
        return True

    @property
    def is_busy(self) -> bool:
        """Whether there is a channel, or one is being dialled."""
        return self._dialler.is_dialling or bool(self.side.table.all)

    def dial_debtors(self, now_s: float, *, is_last: bool = False) -> None:
        """Dial those whom we owe a receipt and who left the swarm; all at once when it is last."""
        if not is_last and now_s < self._next_debtors_s:
            return
        self._next_debtors_s = now_s + _DEBTORS_EVERY_S
        for key in {receipt.payee_key for receipt in self._lanes.list_unacknowledged()}:
            if self.is_connected(key):
                continue
            if self.relay is not None:
                self.relay.seek(key, now_s, is_here=False)
            self._dialler.dial_home(key, now_s, at_once=is_last)

    def is_connected(self, key: bytes) -> bool:
        """Tell whether there is a proved channel to a key."""
        return key in self.side.table.proved

    def key_of(self, peer: PeerKey) -> bytes | None:
        """Return the key that proved a connection of this run, if one did."""
        return self._proved.key_of(peer)

    def peers_of(self, key: bytes) -> list[PeerKey]:
        """Return connections of this run that a key proved; of many only the latest."""
        return self._proved.peers_of(key)

    def proved_keys(self) -> list[bytes]:
        """Return the keys that proved a connection in this run."""
        return self._proved.list_keys()

    def sent_by(self, key: bytes) -> int:
        """Return content bytes handed to all connections of a key in this run."""
        return self._proved.sent_by(key)

    def exposures(self) -> dict[bytes, Exposure]:
        """Return what every key that proved a connection in this run took and receipted.

        Raises:
            SpoolError: The spool could not be read.
        """
        return {key: self._desk.exposure_to(key) for key in self._proved.list_keys()}

    def wire_bytes(self) -> tuple[int, int]:
        """Return the bytes written to, and read from, all side channels of this run."""
        channels = self.side.table.all
        return (
            self.totals.wire_sent_bytes + sum(channel.bytes_sent for channel in channels),
            self.totals.wire_received_bytes + sum(channel.bytes_received for channel in channels),
        )

    def announce_issuing_key(self) -> None:
        """Pass the newest word on the issuing key on to everybody who is connected."""
        for channel in self._talks:
            self._tell_issuing_key(channel)

    def announce_entitlements(self) -> None:
        """Present a renewed entitlement to those who know the one before."""
        for channel, talk in self._talks.items():
            for signed in self._entitlements.all:
                if signed.value.content_id in talk.presented.values():
                    self._present(channel, talk, signed.digest)

    def on_open(self, channel: Channel) -> None:
        """Send whatever the peer has not acknowledged, and claim our connections."""
        if channel.peer is None:
            return
        self._dialler.note_proved(channel.peer_key, self._home_of(channel))
        if self.relay is not None:
            self.relay.forget(channel.peer_key)
        ends = ChannelEnds(
            own_ip=channel.own_address.ip,
            peer_ip=channel.address.ip,
            peer_listen=channel.peer.listen_endpoint,
            own_listen_port=self._listen_port,
            is_peer_translated=channel.is_translated,
            is_own_translated=channel.is_own_translated,
        )
        for tell in self.on_channel:
            tell(channel)
        talk = self._talks[channel] = _Talk(Attestor(ends), self._clock())
        self._note_connections(self._snapshots())
        self._look_at_channel(channel, talk)
        self._tell_issuing_key(channel)
        try:
            waiting = self._lanes.list_unacknowledged(channel.peer_key)
        except JournalError as error:
            self._fail("journal", error)
            return
        for receipt in waiting[:RECEIPTS_AT_ONCE_MAX]:
            self._send(channel, talk, RECEIPT.parse(receipt.raw))

    def on_claimed(self, channel: Channel) -> None:
        """See which connections the peer's new claims fit."""
        self._note_connections(self._snapshots())
        self._attest(channel, self._talks[channel])

    def on_record(self, channel: Channel, code: RecordCode, raw: bytes) -> None:
        """Take one record of a proved peer.

        Raises:
            EvidenceError: It is malformed or badly signed: the channel closes.
        """
        self._talks[channel].heard_s = self._clock()
        try:
            if code is RecordCode.RECEIPT:
                self._take_receipt(channel, raw)
            elif code is RecordCode.ACKNOWLEDGEMENT_STEP:
                self._take_acknowledgement(channel, raw)
            elif code is RecordCode.ENTITLEMENT:
                verdict = self._desk.take_entitlement(raw, channel.peer_key)
                if verdict is not ReceiptVerdict.ACCEPTED:
                    self._refuse("entitlement", channel, verdict)
            elif code is RecordCode.BINDING:
                self._take_binding(channel, raw)
            elif handler := self.handlers.get(code):
                handler(channel, raw)
        except EngineError as error:
            self._fail("exchange", error)

    def on_closed(self, channel: Channel, refusal: Refusal, detail: str) -> None:
        """Count why a channel ended; log each reason once per address."""
        self._talks.pop(channel, None)
        self.totals.wire_sent_bytes += channel.bytes_sent
        self.totals.wire_received_bytes += channel.bytes_received
        if refusal in {Refusal.CLOSED, Refusal.REPLACED}:
            return
        self._count(refusal)
        if self._is_news(channel.address.ip, refusal):
            _log.warning("channel_refused", peer=str(channel.address), reason=detail)
            self._emit("refused", what="channel", peer=str(channel.address), code=str(refusal))

    def _look_at_connections(self, now_s: float) -> None:
        snapshots = self._snapshots()
        self._note_connections(snapshots)
        if snapshots is not self._claimed:
            self._claimed = snapshots
            for channel, talk in self._talks.items():
                self._look_at_channel(channel, talk)
            self._prove_again(snapshots)
        proved = self.side.table.proved
        for (key, peer_id, _), snapshot in self._plugins.items():
            if key not in proved or proved[key].peer_id != peer_id:
                self._dial_peer(key, snapshot, now_s)
                if self.relay is not None:
                    self.relay.seek(key, now_s)

    def _note_connections(self, snapshots: tuple[PeerSnapshot, ...]) -> None:
        """Take note of the connections that there are, once per look at them."""
        if snapshots is self._seen:
            return
        self._seen = snapshots
        self._plugins = {}
        for snapshot in snapshots:
            if not snapshot.handshake_done or snapshot.is_web_seed:
                continue
            if snapshot.local_endpoint:
                connection = _connection_of(
                    snapshot.local_endpoint, snapshot.endpoint, snapshot.is_outgoing
                )
                self._book.note(snapshot.peer_id, connection)
            hint = _parse_handshake(snapshot.client)
            if hint is not None and hint.public_key != self._own_key:
                ip = split_endpoint(snapshot.endpoint)[0]
                self._plugins.setdefault((hint.public_key, snapshot.peer_id, ip), snapshot)

    def _look_at_channel(self, channel: Channel, talk: _Talk) -> None:
        connections = self._book.of(channel.peer_id, channel.address.ip)
        channel.claim_connections(talk.attestor.list_claimable(connections))
        self._attest(channel, talk)

    def _attest(self, channel: Channel, talk: _Talk) -> None:
        connections = self._book.of(channel.peer_id, channel.address.ip)
        for connection in talk.attestor.attest(connections, channel.claims):
            self._prove(PeerKey(channel.peer_id, str(connection.peer)), channel.peer_key)

    def _prove(self, peer: PeerKey, key: bytes) -> None:
        """Attribute a connection to a key."""
        if self._proved.key_of(peer) == key == self._journal.proved_key(peer):
            return
        try:
            self._journal.prove_peer(peer, key, epoch=self._epoch())
        except JournalError as error:
            self._fail("journal", error)
            return
        if self._proved.add(peer, key):
            self._emit("peer", endpoint=peer.endpoint, key=key.hex(), attested=True)

    def _prove_again(self, snapshots: tuple[PeerSnapshot, ...]) -> None:
        # The journal knows a bounded number of connections; these are of use now.
        present = {PeerKey(snapshot.peer_id, snapshot.endpoint) for snapshot in snapshots}
        for peer in present:
            if key := self._proved.key_of(peer):
                self._prove(peer, key)
        for key in self._proved.fold(present):
            for tell in self.on_forgotten:
                tell(key)

    def _dial_peer(self, key: bytes, snapshot: PeerSnapshot, now_s: float) -> None:
        hint = _parse_handshake(snapshot.client)
        if hint is not None and hint.receipt_port:
            address = Endpoint(split_endpoint(snapshot.endpoint)[0], hint.receipt_port)
            wait_s = 0.0 if snapshot.is_outgoing else ANSWERER_DIALS_AFTER_S
            self._dialler.dial(key, address, now_s, run=snapshot.peer_id, wait_s=wait_s)

    async def _dial(self, address: Endpoint, key: bytes) -> bool:
        return await self.side.dial(address, expected_key=key)

    def _home_of(self, channel: Channel) -> Endpoint | None:
        """Return where a proved peer can be dialled, if we did or its handshake says so."""
        if channel.role is ChannelRole.DIALLER:
            return channel.address if channel.address.port else None
        name = channel.peer_key, channel.peer_id, channel.address.ip
        snapshot = self._plugins.get(name)
        hint = None if snapshot is None else _parse_handshake(snapshot.client)
        if hint is None or not hint.receipt_port:
            return None
        return Endpoint(channel.address.ip, hint.receipt_port)

    def _tell_issuing_key(self, channel: Channel) -> None:
        if self.issuing_key is not None and self.issuing_key.signed is not None:
            channel.send(RecordCode.BINDING, self.issuing_key.signed.raw)

    def _take_binding(self, channel: Channel, raw: bytes) -> None:
        """Take a binding; one of the issuing key that is news to us is passed on.

        Raises:
            MalformedRecordError: The bytes are no binding.
        """
        signed, known = BINDING.parse(raw), self.issuing_key
        if known is None or not known.is_about(signed.value):
            return
        try:
            is_news = known.take(signed)
        except IssuingKeyError as error:
            self._count("binding:foreign")
            if self._is_news(channel.peer_key.hex(), "binding:foreign"):
                _log.warning("refused", what="binding", detail=str(error))
            return
        if is_news:
            self._emit("issuing_key", last_epoch=known.last_epoch)
            self.announce_issuing_key()

    def _present(self, channel: Channel, talk: _Talk, digest: bytes) -> None:
        """Show a peer the entitlement of what it is about to get; of others it learns nothing."""
        for signed in self._entitlements.all:
            if signed.digest == digest and digest not in talk.presented:
                talk.presented[digest] = signed.value.content_id
                channel.send(RecordCode.ENTITLEMENT, signed.raw)

    def _send(self, channel: Channel, talk: _Talk, signed: Signed[Receipt]) -> None:
        talk.sent_s = self._clock()
        talk.look_s = max(talk.look_s, talk.sent_s + RESEND_FIRST_S)
        receipt = signed.value
        self._present(channel, talk, receipt.entitlement_digest)
        talk.unanswered[signed.digest[:RECEIPT_NAME_SIZE]] = receipt.lane_digest, receipt.sequence
        if len(talk.unanswered) > _UNANSWERED_MAX:
            del talk.unanswered[next(iter(talk.unanswered))]
        channel.send_receipt(signed)

    def _resend(self, channel: Channel, talk: _Talk, now_s: float) -> None:
        if now_s < talk.look_s:
            return
        talk.look_s = now_s + RESEND_FIRST_S
        waiting = [
            receipt
            for receipt in self._lanes.list_unacknowledged(channel.peer_key)
            if _is_worth_resending(receipt)
            and (receipt.verdict or now_s - talk.sent_s >= ANSWER_MOST_S)
        ]
        if not waiting:
            return
        for receipt in waiting[:RECEIPTS_AT_ONCE_MAX]:
            self._send(channel, talk, RECEIPT.parse(receipt.raw))
        talk.retries = min(talk.retries + 1, 10)
        talk.look_s = now_s + min(RESEND_FIRST_S * 2**talk.retries, RESEND_MOST_S)

    def _close_idle(self, channel: Channel, talk: _Talk, now_s: float) -> None:
        if now_s - max(talk.heard_s, talk.sent_s) < IDLE_CLOSE_S:
            return
        if all(snapshot.peer_id != channel.peer_id for snapshot in self._seen):
            channel.close()

    def _take_receipt(self, channel: Channel, raw: bytes) -> None:
        signed, verdict = self._desk.take_receipt(raw, channel.peer_key)
        exposure = self._desk.exposure_to(channel.peer_key)
        answer = format_acknowledgement(signed.digest, verdict, exposure.unacknowledged_bytes)
        if verdict is ReceiptVerdict.ACCEPTED:
            receipt = signed.value
            self.totals.last_receipt_s[receipt.epoch] = self._clock()
            if self.disk is None:
                self._answer(channel, answer, receipt)
            else:
                # Only when the receipt is durable does its signer hear so. Newest wins.
                waiting = self.disk.request(), answer, receipt
                self._answers[channel, receipt.lane_digest] = waiting
            return
        channel.send(RecordCode.ACKNOWLEDGEMENT_STEP, answer)
        self._refuse("receipt", channel, verdict)
        if verdict is ReceiptVerdict.BAD_SIGNATURE:
            raise BadSignatureError("receipt: signature not valid under the channel's key")

    def note_durable(self, ticket: int) -> None:
        """Answer the receipts that are durable now."""
        for name, (waits_for, answer, receipt) in list(self._answers.items()):
            if waits_for <= ticket:
                del self._answers[name]
                self._answer(name[0], answer, receipt)

    def _answer(self, channel: Channel, answer: bytes, receipt: Receipt) -> None:
        channel.send(RecordCode.ACKNOWLEDGEMENT_STEP, answer)
        self._emit("receipt", direction="in", **describe_receipt(receipt, channel))

    def _take_acknowledgement(self, channel: Channel, raw: bytes) -> None:
        answer = AcknowledgementStep(**ACKNOWLEDGEMENT_STEP.unpack(raw))
        talk = self._talks[channel]
        named = talk.unanswered.pop(answer.receipt, None)
        if named is None:
            return  # an answer to nothing changes nothing
        key = channel.peer_key
        receipt = self._lanes.take_answer(key, *named, answer.verdict)
        self._cadence.note_answer(key, answer.unacknowledged_blocks * BLOCK_SIZE)
        if answer.verdict != ReceiptVerdict.ACCEPTED:
            self._refuse("own_receipt", channel, answer.verdict)
            if answer.verdict == ReceiptVerdict.UNKNOWN_ENTITLEMENT:
                talk.presented.clear()
            return
        talk.retries = 0
        if receipt is not None and receipt.sequence == named[1]:
            self._emit(
                "acknowledged",
                peer=key.hex(),
                epoch=receipt.epoch,
                sequence=receipt.sequence,
                bytes_total=receipt.bytes_total,
            )

    def _refuse(self, what: str, channel: Channel, verdict: int) -> None:
        known = verdict in set(ReceiptVerdict)
        code = ReceiptVerdict(verdict).name.lower() if known else str(verdict)
        self._count(f"{what}:{code}")
        if self._is_news(channel.peer_key.hex(), f"{what}:{code}"):
            _log.warning("refused", what=what, peer=channel.peer_key.hex()[:16], code=code)
            self._emit("refused", what=what, peer=channel.peer_key.hex(), code=code)

    def _count(self, reason: str) -> None:
        counts = self.totals.refusals
        counts[reason] = counts.get(reason, 0) + 1

    def _is_news(self, peer: str, reason: str) -> bool:
        if (peer, reason) in self._logged or len(self._logged) >= _LOGGED_MAX:
            return False
        self._logged.add((peer, reason))
        return True

    def _fail(self, where: str, error: EngineError) -> None:
        _log.error("accounting_failed", where=where, error=str(error))
        self._emit("error", where=where, detail=str(error))


def describe_receipt(receipt: Any, channel: Channel) -> dict[str, Any]:
    """Return a receipt's fields for an event."""
    return {
        "peer": channel.peer_key.hex(),
        "epoch": receipt.epoch,
        "sequence": receipt.sequence,
        "bytes_total": receipt.bytes_total,
        "lane": receipt.lane_digest.hex(),
    }


@lru_cache(maxsize=32_768)
def _connection_of(own: str, peer: str, is_outgoing: bool) -> Connection:
    return Connection(Endpoint(*split_endpoint(own)), Endpoint(*split_endpoint(peer)), is_outgoing)


def _is_worth_resending(receipt: StoredReceipt) -> bool:
    """Tell whether the payee's last answer leaves hope; most refusals are final."""
    return receipt.verdict in {
        ReceiptVerdict.ACCEPTED,
        ReceiptVerdict.NOT_STORED,
        ReceiptVerdict.UNKNOWN_ENTITLEMENT,
        ReceiptVerdict.WRONG_EPOCH,
        ReceiptVerdict.MORE_THAN_SENT,
        ReceiptVerdict.OVER_MAX_RATE,
    }
