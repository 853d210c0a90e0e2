"""The talk with other plugins: whom to dial, what to prove, what to do with what they say.

It owns the side channel and looks at the meter's table of connections. A peer's bytes become
attested when its key has proved their connection; receipts go to whoever they are for, entitlement
first; receipts that pay us are judged, stored and answered.

Whatever a peer does ends at worst its channel. Not here: signing (`accounting`), libtorrent.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog

from engine_plugin.entitlements import OwnEntitlements
from engine_plugin.errors import EngineError, JournalError
from engine_plugin.identity import parse_handshake
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import PeerKey
from engine_plugin.lanes import ReceiptLanes, StoredReceipt
from engine_plugin.libtorrent_door import PeerSnapshot
from engine_plugin.libtorrent_door.session_options import split_endpoint
from engine_plugin.payee import PayeeDesk
from engine_plugin.side_channel import Channel, ChannelIdentity, Connection, Refusal, SideChannel
from engine_plugin.wire import ACKNOWLEDGEMENT, Endpoint, ReceiptVerdict
from ledger.evidence.binding import BINDING
from ledger.evidence.encoding import RecordCode
from ledger.evidence.errors import BadSignatureError

ANSWERER_DIALS_AFTER_S = 3.0
"""Whom the BitTorrent initiator has not dialled by then, we dial."""

REDIAL_FIRST_S = 1.0
REDIAL_MOST_S = 30.0
RESEND_AFTER_S = 3.0
"""A receipt without an answer is sent again after this."""

ENTITLEMENTS_SENT_MAX = 8
_FORGET_DIAL_S = 600.0
_PEER_IDS_MAX = 10_000

Emit = Callable[..., None]

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Dialling:
    """What is remembered of one key and peer-id that has no channel."""

    next_s: float
    """Monotonic seconds before which it is not dialled."""

    failures: int = 0
    task: asyncio.Task[None] | None = None


@dataclass(slots=True, kw_only=True)
class ExchangeTotals:
    """For people."""

    last_receipt_s: dict[int, float] = field(default_factory=dict)
    """Monotonic seconds of the last receipt that came in, by the receipt's epoch."""
    refusals: dict[str, int] = field(default_factory=dict)


class Exchange:
    """One process's talk with its peers; runs in the event loop's thread."""

    def __init__(
        self,
        *,
        journal: MeterJournal,
        lanes: ReceiptLanes,
        desk: PayeeDesk,
        entitlements: OwnEntitlements,
        snapshots: Callable[[], tuple[PeerSnapshot, ...]],
        epoch: Callable[[], int | None],
        emit: Emit,
    ) -> None:
        self.side = SideChannel(self)
        self.totals = ExchangeTotals()
        self._journal = journal
        self._lanes = lanes
        self._desk = desk
        self._entitlements = entitlements
        self._snapshots = snapshots
        self._epoch = epoch
        self._emit = emit
        self._own_key = b""
        self._next_debtors_s = 0.0
        self._key_by_peer: dict[PeerKey, bytes] = {}
        self._dialling: dict[tuple[bytes, bytes], _Dialling] = {}
        self._addresses: dict[bytes, Endpoint] = {}
        self._connections: dict[bytes, dict[Connection, None]] = {}
        self._sent_at_s: dict[bytes, float] = {}
        self._logged: set[tuple[str, Refusal]] = set()

    def start(self, identity: ChannelIdentity) -> None:
        """Begin to answer and to dial."""
        self._own_key = identity.session_key
        self.side.start(identity)

    def tick(self, now_s: float) -> None:
        """Dial, prove new connections and send again what got no answer."""
        for snapshot in self._snapshots():
            if snapshot.handshake_done and not snapshot.is_web_seed:
                self._look_at(snapshot, now_s)
        for key, channel in list(self.side.table.proved.items()):
            self._resend(key, channel, now_s)
        self.dial_debtors(now_s)
        self._dialling = {
            peer: state
            for peer, state in self._dialling.items()
            if now_s - state.next_s < _FORGET_DIAL_S
        }

    def send_receipt(self, payee_key: bytes, raw: bytes) -> bool:
        """Send a receipt to its payee, if there is a channel; else it waits in the journal."""
        channel = self.side.table.proved.get(payee_key)
        if channel is None:
            return False
        self._sent_at_s[payee_key] = time.monotonic()
        channel.send(RecordCode.RECEIPT, raw)
        return True

    @property
    def is_busy(self) -> bool:
        """Whether there is a channel, or one is being dialled."""
        states = self._dialling.values()
        is_dialling = any(state.task is not None and not state.task.done() for state in states)
        return is_dialling or bool(self.side.table.all)

    def dial_debtors(self, now_s: float, *, is_last: bool = False) -> None:
        """Dial those whom we owe a receipt and who left the swarm; all at once when it is last."""
        if not is_last and now_s < self._next_debtors_s:
            return
        self._next_debtors_s = now_s + RESEND_AFTER_S
        for key in {receipt.payee_key for receipt in self._lanes.list_unacknowledged()}:
            address = self._addresses.get(key)
            if address is not None and not self.is_connected(key):
                state = self._dialling.setdefault((key, b""), _Dialling(now_s))
                if is_last:
                    state.next_s = now_s
                self._dial_when_due(state, address, key, now_s)

    def is_connected(self, key: bytes) -> bool:
        """Tell whether there is a proved channel to a key."""
        return key in self.side.table.proved

    def key_of(self, peer: PeerKey) -> bytes | None:
        """Return the key that proved a connection of this run, if one did."""
        return self._key_by_peer.get(peer)

    def peers_of(self, key: bytes) -> list[PeerKey]:
        """Return the connections of this run that a key proved."""
        return [peer for peer, proved in self._key_by_peer.items() if proved == key]

    def announce_entitlements(self) -> None:
        """Present a new entitlement to everybody who is connected."""
        for channel in self.side.table.proved.values():
            self._present(channel)

    def connections_of(self, peer_id: bytes) -> Iterable[Connection]:
        """Return the BitTorrent connections of a peer-id in this run, ended ones included."""
        for snapshot in self._snapshots():
            if snapshot.peer_id == peer_id and snapshot.handshake_done:
                self._remember_connection(snapshot)
        return tuple(self._connections.get(peer_id, ()))

    def on_open(self, channel: Channel) -> None:
        """Present our entitlements and whatever the peer has not acknowledged."""
        for peer in [peer for peer in self._dialling if peer[0] == channel.peer_key]:
            del self._dialling[peer]
        self._present(channel)
        try:
            waiting = self._lanes.list_unacknowledged(channel.peer_key)
        except JournalError as error:
            self._fail("journal", error)
            return
        for receipt in waiting:
            channel.send(RecordCode.RECEIPT, receipt.raw)
        self._sent_at_s[channel.peer_key] = time.monotonic()

    def on_attested(self, channel: Channel, endpoint: Endpoint) -> None:
        """Attribute the connection from this endpoint to the channel's key."""
        if channel.peer is None or not endpoint.port:
            return
        peer = PeerKey(channel.peer.peer_id, str(endpoint))
        if peer in self._key_by_peer:
            return
        try:
            self._journal.prove_peer(peer, channel.peer_key, epoch=self._epoch())
        except JournalError as error:
            self._fail("journal", error)
            return
        self._key_by_peer[peer] = channel.peer_key
        self._emit("peer", endpoint=str(endpoint), key=channel.peer_key.hex(), attested=True)

    def on_record(self, channel: Channel, code: RecordCode, raw: bytes) -> None:
        """Take one record of a proved peer.

        Raises:
            EvidenceError: It is malformed or badly signed: the channel closes.
        """
        try:
            if code is RecordCode.RECEIPT:
                self._take_receipt(channel, raw)
            elif code is RecordCode.ACKNOWLEDGEMENT:
                self._take_acknowledgement(channel, raw)
            elif code is RecordCode.ENTITLEMENT:
                verdict = self._desk.take_entitlement(raw, channel.peer_key)
                if verdict is not ReceiptVerdict.ACCEPTED:
                    self._refuse("entitlement", channel, verdict)
            elif code is RecordCode.BINDING:
                BINDING.parse(raw)
        except EngineError as error:
            self._fail("exchange", error)

    def on_closed(self, channel: Channel, refusal: Refusal, detail: str) -> None:
        """Count why a channel ended; log each reason once per address."""
        if refusal in {Refusal.CLOSED, Refusal.REPLACED}:
            return
        counts = self.totals.refusals
        counts[refusal] = counts.get(refusal, 0) + 1
        if (channel.address.ip, refusal) not in self._logged and len(self._logged) < 10_000:
            self._logged.add((channel.address.ip, refusal))
            _log.warning("channel_refused", peer=str(channel.address), reason=detail)
            self._emit("refused", what="channel", peer=str(channel.address), code=str(refusal))

    def _remember_connection(self, snapshot: PeerSnapshot) -> None:
        if not snapshot.local_endpoint:
            return
        if len(self._connections) >= _PEER_IDS_MAX:
            self._connections.pop(next(iter(self._connections)))
        connection = Connection(
            Endpoint(*split_endpoint(snapshot.local_endpoint)),
            Endpoint(*split_endpoint(snapshot.endpoint)),
        )
        self._connections.setdefault(snapshot.peer_id, {})[connection] = None

    def _look_at(self, snapshot: PeerSnapshot, now_s: float) -> None:
        hint = parse_handshake(snapshot.client)
        if hint is None or hint.public_key == self._own_key:
            return
        self._remember_connection(snapshot)
        channel = self.side.table.proved.get(hint.public_key)
        if channel is not None and channel.peer_id == snapshot.peer_id:
            channel.prove_connections(self.connections_of(snapshot.peer_id))
            return
        if not hint.receipt_port:
            return
        address = Endpoint(split_endpoint(snapshot.endpoint)[0], hint.receipt_port)
        self._addresses[hint.public_key] = address
        # Whoever comes back comes with another peer-id, and is dialled without the old delays.
        wait_s = 0.0 if snapshot.is_outgoing else ANSWERER_DIALS_AFTER_S
        state = self._dialling.setdefault(
            (hint.public_key, snapshot.peer_id), _Dialling(now_s + wait_s)
        )
        self._dial_when_due(state, address, hint.public_key, now_s)

    def _dial_when_due(self, state: _Dialling, address: Endpoint, key: bytes, now_s: float) -> None:
        if now_s >= state.next_s and (state.task is None or state.task.done()):
            state.next_s = now_s + min(REDIAL_FIRST_S * 2**state.failures, REDIAL_MOST_S)
            state.failures = min(state.failures + 1, 10)
            state.task = asyncio.create_task(self._dial(address, key))

    async def _dial(self, address: Endpoint, key: bytes) -> None:
        if not await self.side.dial(address, expected_key=key):
            _log.info("dial_failed", peer=str(address))

    def _present(self, channel: Channel) -> None:
        for signed in self._entitlements.all[:ENTITLEMENTS_SENT_MAX]:
            channel.send(RecordCode.ENTITLEMENT, signed.raw)

    def _resend(self, key: bytes, channel: Channel, now_s: float) -> None:
        if now_s - self._sent_at_s.get(key, 0.0) < RESEND_AFTER_S:
            return
        self._sent_at_s[key] = now_s
        for receipt in self._lanes.list_unacknowledged(key):
            if _is_worth_resending(receipt):
                channel.send(RecordCode.RECEIPT, receipt.raw)

    def _take_receipt(self, channel: Channel, raw: bytes) -> None:
        signed, acknowledgement, verdict = self._desk.take_receipt(raw, channel.peer_key)
        # The receipt is durable; only now does its signer hear so.
        channel.send(RecordCode.ACKNOWLEDGEMENT, acknowledgement)
        if verdict == ReceiptVerdict.ACCEPTED:
            self.totals.last_receipt_s[signed.value.epoch] = time.monotonic()
            self._emit("receipt", direction="in", **describe_receipt(signed.value, channel))
            return
        self._refuse("receipt", channel, ReceiptVerdict(verdict))
        if verdict == ReceiptVerdict.BAD_SIGNATURE:
            raise BadSignatureError("receipt: signature not valid under the channel's key")

    def _take_acknowledgement(self, channel: Channel, raw: bytes) -> None:
        signed = ACKNOWLEDGEMENT.parse(raw)
        ACKNOWLEDGEMENT.require_signed_by(signed, channel.peer_key)
        answer = signed.value
        receipt = self._lanes.take_acknowledgement(
            channel.peer_key, answer.receipt_digest, answer.verdict, raw
        )
        if answer.verdict != ReceiptVerdict.ACCEPTED:
            self._refuse("own_receipt", channel, answer.verdict)
        elif receipt is not None:
            self._emit(
                "acknowledged",
                peer=channel.peer_key.hex(),
                epoch=receipt.epoch,
                sequence=receipt.sequence,
                bytes_total=receipt.bytes_total,
            )

    def _refuse(self, what: str, channel: Channel, verdict: int) -> None:
        known = verdict in set(ReceiptVerdict)
        code = ReceiptVerdict(verdict).name.lower() if known else str(verdict)
        _log.warning("refused", what=what, peer=channel.peer_key.hex()[:16], code=code)
        self._emit("refused", what=what, peer=channel.peer_key.hex(), code=code)

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


def _is_worth_resending(receipt: StoredReceipt) -> bool:
    """Tell whether the payee's last answer leaves hope; most refusals are final."""
    return receipt.verdict in {
        ReceiptVerdict.ACCEPTED,
        ReceiptVerdict.NOT_STORED,
        ReceiptVerdict.UNKNOWN_ENTITLEMENT,
        ReceiptVerdict.WRONG_EPOCH,
        ReceiptVerdict.MORE_THAN_SENT,
    }
