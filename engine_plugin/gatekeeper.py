"""Enforcement in an engine: brings the meter's, the side channel's and the desk's figures together.

Not here: the judgement (`standing`), what is imposed (`enforcement`).
"""

from collections.abc import Callable, Hashable
from dataclasses import replace

from engine_plugin.enforcement import EnforcementTotals, Enforcer, list_takings, name_connection
from engine_plugin.exchange import Exchange
from engine_plugin.journal_records import PeerKey
from engine_plugin.libtorrent_door import PeerSnapshot
from engine_plugin.payee import PayeeDesk
from engine_plugin.standing import KeyExposure

PIECES_IN_FLIGHT = 4
"""Pieces that a viewer may have begun to fetch from one peer before the first is whole."""


class Gatekeeper:
    """The enforcement of one engine under one broadcaster's terms."""

    def __init__(
        self,
        *,
        enforcer: Enforcer,
        exchange: Exchange,
        desk: PayeeDesk,
        snapshots: Callable[[], tuple[PeerSnapshot, ...]],
        sent_bytes: Callable[[PeerKey], int],
        ledger_ms: Callable[[], int | None],
        largest_piece_bytes: Callable[[], int],
    ) -> None:
        """Bind it; nothing is imposed before the first tick but the newcomers' slot.

        Args:
            enforcer: Of the engine's session.
            exchange: Knows which key proved which connection.
            desk: Knows what was receipted, and whose receipts are refused.
            snapshots: The last look at all connections.
            sent_bytes: Content bytes handed to a connection in this run.
            ledger_ms: Ledger time; None while unknown: then nobody can sign, and no key owes.
            largest_piece_bytes: Of the torrents that are served: of a piece that has not arrived
                whole nothing can be receipted.
        """
        self._largest_piece_bytes = largest_piece_bytes
        self._enforcer = enforcer
        self._policy = enforcer.policy
        self._exchange = exchange
        self._desk = desk
        self._snapshots = snapshots
        self._sent_bytes = sent_bytes
        self._ledger_ms = ledger_ms
        exchange.on_forgotten.append(enforcer.forget_key)
        self._names: dict[Hashable, PeerKey] = {}
        """Of connections that are open, have just ended, or are charged to their address."""
        self._last: set[Hashable] = set()
        self.is_calm = False
        """Whether everybody who takes something has paid for some of it, as of the last tick."""
        self._figures: object = None
        """What was judged last."""

    @property
    def totals(self) -> EnforcementTotals:
        """Where things stand."""
        return self._enforcer.totals

    def tick(self, now_s: float) -> None:
        """Judge every connection and impose what follows.

        Raises:
            SpoolError: Receipts could not be read; nothing changes.
        """
        snapshots = [one for one in self._snapshots() if not one.is_web_seed]
        sent = {one.peer: self._sent_bytes(_peer_key(one)) for one in snapshots}
        takings = list_takings(snapshots, sent, lambda one: self._exchange.key_of(_peer_key(one)))
        keys = {
            key: KeyExposure(
                sent_bytes=self._exchange.sent_by(key),
                receipted_bytes=self._desk.receipted_bytes(key),
                is_refused=self._desk.refusal_of(key) is not None,
            )
            for key in self._exchange.proved_keys()
        }
        has_paid = all(key.receipted_bytes or not key.sent_bytes for key in keys.values())
        self.is_calm = has_paid and self._enforcer.is_at_ease
        figures = snapshots, takings, keys, self._ledger_ms() is None
        if figures == self._figures and self._enforcer.is_at_ease:
            return
        self._figures = figures
        pieces = PIECES_IN_FLIGHT * self._largest_piece_bytes()
        if max(self._policy.known_bytes, pieces) != self._enforcer.policy.known_bytes:
            self._enforcer.policy = replace(
                self._policy, known_bytes=max(self._policy.known_bytes, pieces)
            )
        self._enforcer.tick(
            takings,
            keys,
            now_s,
            takes_receipts=self._ledger_ms() is not None,
            proved_since=self._list_proved_since(snapshots),
        )

    def _list_proved_since(self, snapshots: list[PeerSnapshot]) -> frozenset[Hashable]:
        """Return the ended connections whose key has proved them after all."""
        gone = self._enforcer.gone
        kept = {name: self._names[name] for name in gone if name in self._names}
        now = {name_connection(snapshot): _peer_key(snapshot) for snapshot in snapshots}
        before = {name: peer for name, peer in self._names.items() if name in self._last}
        self._names, self._last = kept | before | now, set(now)
        return frozenset(
            name for name, peer in kept.items() if self._exchange.key_of(peer) is not None
        )

    def stop(self) -> None:
        """Lift every limit."""
        self._enforcer.stop()


def _peer_key(snapshot: PeerSnapshot) -> PeerKey:
    return PeerKey(snapshot.peer_id, snapshot.endpoint)
