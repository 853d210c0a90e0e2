"""A devnet's network under virtual time, with envelopes that come late and ledgers without room.

Time moves only when a network ledger closes. Nothing here decides what goes wrong: `faults` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ledger.audit.stellar_xdr import read_transaction
from ledger.books.transactions import AppliedTransaction, NetworkFact
from ledger.devnet.closing import Closed
from ledger.devnet.entries import Entry, TrustLine, data_key, trustline_key
from ledger.devnet.envelope import EnvelopeError
from ledger.devnet.network import Network, Record, Settings
from ledger.devnet.queue import Submission
from ledger.devnet.view import Past, View
from ledger.devnet.wire import NATIVE_ASSET
from ledger.stellar.gateway import MEMO_REQUIRED, NATIVE, AssetKey

CLOSE_S: Final = 5
"""Seconds between closes, as on the public network."""

ROOM_OPERATIONS: Final = 1_000
"""Operations of a network ledger when nobody else wants one."""


@lru_cache(maxsize=512)
def read_fact(fact: NetworkFact) -> AppliedTransaction:
    """Read a transaction; the books and the judge of a world read the same ones."""
    return read_transaction(fact)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPast:
    """An account after a network ledger."""

    sequence: int
    balances: Mapping[AssetKey, int]


class SimulatedNetwork:
    """One network, its virtual time, and what is on its way to it."""

    def __init__(self, passphrase: str, genesis_s: int, asset: AssetKey) -> None:
        settings = Settings(
            passphrase=passphrase,
            max_tx_set_size=ROOM_OPERATIONS,
            expected_close_seconds=CLOSE_S,
        )
        self.network = Network(settings, genesis_s)
        self._asset = asset
        self._late: list[tuple[int, bytes]] = []
        # The books may be far behind the network, and are compared with what it was then.
        self._past = Past(self.network, depth_ledgers=None)
        self.spoiled_slots: set[tuple[bytes, int]] = set()
        """Slots of envelopes whose submission went wrong in some way."""

    @property
    def sequence(self) -> int:
        """The newest closed network ledger."""
        return self.network.header.sequence

    @property
    def close_time_s(self) -> int:
        """Its close time, Unix seconds."""
        return self.network.header.close_time

    def submit(self, envelope: bytes) -> Submission | None:
        """Offer an envelope to the node now; None if it cannot be read."""
        try:
            transaction = self.network.parse(envelope)
        except EnvelopeError:
            return None
        return self.network.submit(transaction)

    def submit_late(self, envelope: bytes, ledgers: int) -> None:
        """Let an envelope reach the node only so many closes from now."""
        self._late.append((self.sequence + ledgers, envelope))

    def lose_queue(self) -> None:
        """Forget all that waits, as a killed node does."""
        self.network.queue.clear()

    def set_room(self, operations: int) -> None:
        """Leave room for so many operations in each network ledger from now on."""
        self.network.header.max_tx_set_size = operations

    def close(self, jump_s: int = 0) -> Closed:
        """Close the next network ledger; what was late and is due reaches the node before."""
        due = [envelope for at, envelope in self._late if at <= self.sequence]
        self._late = [(at, envelope) for at, envelope in self._late if at > self.sequence]
        for envelope in due:
            self.submit(envelope)
        closed = self.network.close_ledger(self.close_time_s + CLOSE_S + jump_s)
        self._past.note(closed)
        return closed

    def view(self, last: int, shown: int) -> View:
        """What a source sees: headers and state up to a ledger, transactions maybe not so far."""
        return View(network=self.network, state=self._past.at(last), last=last, shown=shown)

    def account_at(self, account: bytes, sequence: int) -> AccountPast | None:
        """An account as it was after a network ledger."""
        state = self._past.at(sequence)
        entry = state.account(account)
        if entry is None:
            return None
        balances = {NATIVE: entry.balance}
        line = _trust_line(state.find(self._line_key(account)))
        if line is not None:
            balances[self._asset] = line.balance
        return AccountPast(sequence=entry.sequence, balances=balances)

    def line_of(self, account: bytes) -> TrustLine | None:
        """An account's trustline now."""
        return _trust_line(self.network.world.find(self._line_key(account)))

    def wants_memo(self, account: bytes) -> bool:
        """Tell whether an account asks for a memo with every payment now (SEP-29)."""
        return self.network.world.find(data_key(account, MEMO_REQUIRED)) is not None

    def freeze_line(self, account: bytes) -> None:
        """Freeze an account's trustline from the next network ledger on (CAP-77)."""
        self.network.freeze(self._line_key(account))

    def unfreeze_line(self, account: bytes) -> None:
        """Lift a freeze."""
        self.network.unfreeze(self._line_key(account))

    def is_frozen(self, account: bytes) -> bool:
        """Tell whether an account's trustline is frozen."""
        return self._line_key(account) in self.network.header.frozen

    def records_after(self, account: bytes, place: tuple[int, int], upto: int) -> list[Record]:
        """An account's transactions after a place, up to a network ledger."""
        found: list[Record] = []
        for record in reversed(self.network.records_of(account)):
            if (record.ledger, record.index) <= place:
                break
            if record.ledger <= upto:
                found.append(record)
        return found[::-1]

    def _line_key(self, account: bytes) -> bytes:
        return trustline_key(account, _asset_xdr(self._asset))


def _trust_line(entry: Entry | None) -> TrustLine | None:
    return entry.body if entry is not None and isinstance(entry.body, TrustLine) else None


def _asset_xdr(asset: AssetKey) -> bytes:
    """Return an asset as XDR (Stellar-ledger-entries.x, Asset)."""
    code, issuer = asset
    if asset == NATIVE:
        return NATIVE_ASSET
    size = 4 if len(code) <= 4 else 12
    kind = (1 if size == 4 else 2).to_bytes(4)
    return kind + code.encode().ljust(size, b"\0") + bytes(4) + issuer
