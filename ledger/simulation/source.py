"""A gateway into the simulated network that misbehaves as the weather has it.

It answers the port `ledger.stellar.gateway.Gateway` without HTTP; the adapters for Horizon and RPC
are held to the same port by their own conformance tests. Each source has its own lag.
"""

import random
from collections.abc import Sequence
from typing import Final

from ledger.books.transactions import NetworkFact
from ledger.devnet.horizon import account as account_resource
from ledger.devnet.horizon import fee_stats
from ledger.devnet.network import Record
from ledger.devnet.queue import Status, Submission
from ledger.simulation.faults import FaultKind, Weather
from ledger.simulation.network import ROOM_OPERATIONS, SimulatedNetwork
from ledger.simulation.turns import KilledError, Mortal
from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import (
    PERCENTILES,
    START,
    AccountView,
    AssetKey,
    EntriesView,
    EntryKey,
    EntryState,
    FeeStatistics,
    NetworkLedger,
    Place,
    SlotView,
    SubmitAnswer,
    SubmitStatus,
    TransactionPage,
)
from ledger.stellar.horizon_records import account_states_of
from ledger.stellar.slots import Slot, slot_of

PAGE_LIMIT: Final = 200
LAG_LEDGERS_MAX: Final = 4
LATE_LEDGERS_MAX: Final = 12

_STATUSES: Final = {
    Status.PENDING: SubmitStatus.PENDING,
    Status.DUPLICATE: SubmitStatus.DUPLICATE,
    Status.TRY_AGAIN_LATER: SubmitStatus.TRY_AGAIN,
    Status.ERROR: SubmitStatus.REJECTED,
}


class SimulatedSource:
    """`Gateway` over the simulated network."""

    def __init__(
        self,
        name: str,
        network: SimulatedNetwork,
        weather: Weather,
        mortal: Mortal | None,
        *,
        tells_frozen: bool = True,
    ) -> None:
        """Ask a network.

        Args:
            name: How people call the source.
            network: The one.
            weather: When answers are spoiled.
            mortal: Who may die at a submission; None: nobody.
            tells_frozen: Whether it knows what is frozen, as RPC does and Horizon does not.
        """
        self._name = name
        self._network = network
        self._weather = weather
        self._mortal = mortal
        self._tells_frozen = tells_frozen
        self._chance = random.Random(f"{name} {weather.chance.random()}")
        self._lag = 0
        self._blind = 0

    @property
    def name(self) -> str:
        """How people call the source."""
        return self._name

    @property
    def network_id(self) -> bytes:
        """SHA-256 of the network's passphrase; 32 bytes."""
        return self._network.network.network_id

    def turn(self, *, may_be_blind: bool) -> None:
        """Choose how far this source is behind until the next close.

        Args:
            may_be_blind: Whether it may hide transactions; that one source in two tells the truth
                is what two sources are for.
        """
        chance = self._chance
        is_stale = self._weather.strikes(FaultKind.STALE_REPLICA)
        is_blind = may_be_blind and self._weather.strikes(FaultKind.HIDDEN)
        self._lag = chance.randint(1, LAG_LEDGERS_MAX) if is_stale else 0
        self._blind = chance.randint(1, LAG_LEDGERS_MAX) if is_blind else 0

    def latest_ledger(self) -> NetworkLedger:
        """Return the newest closed ledger the source shows."""
        self._may_drop()
        found = self.ledger(self._head())
        if found is None:
            raise GatewayError(f"{self._name}: ledgers: got none, want at least one")
        return found

    def ledger(self, sequence: int) -> NetworkLedger | None:
        """Return a closed ledger, or None if the source does not show it."""
        closed = self._network.network.ledger(sequence) if sequence <= self._head() else None
        if closed is None:
            return None
        return NetworkLedger(sequence=sequence, close_time_s=closed.header.close_time)

    def transactions_of(self, account: bytes, *, after: Place) -> TransactionPage:
        """Return transactions an account took part in, after a place."""
        self._may_drop()
        head = self._head()
        records = self._network.records_after(account, after, head - self._blind)
        page = records[:PAGE_LIMIT]
        # A blind source does not know that it is: it says that it has read up to its head.
        return TransactionPage(
            facts=tuple(self._fact_of(record) for record in page),
            is_last=len(records) <= PAGE_LIMIT,
            as_of_sequence=head,
        )

    def transaction(self, tx_hash: bytes) -> NetworkFact | None:
        """Return an applied transaction, or None if the source does not show it."""
        self._may_drop()
        record = self._network.network.record(tx_hash)
        if record is None or record.ledger > self._head() - self._blind:
            return None
        return self._fact_of(record)

    def account(
        self,
        account: bytes,
        *,
        assets: Sequence[AssetKey] = (),  # noqa: ARG002 - all are told
    ) -> AccountView | None:
        """Return an account as of the ledger the source is at."""
        self._may_drop()
        head = self._head()
        seen = self._network.account_at(account, head)
        if seen is None:
            return None
        return AccountView(
            account=account,
            sequence=seen.sequence,
            balances=dict(seen.balances),
            as_of_sequence=head,
        )

    def transaction_of_slot(
        self,
        account: bytes,
        sequence: int,
        *,
        since: int,  # noqa: ARG002 - the whole history is at hand
    ) -> SlotView:
        """Return the transaction that consumed a sequence number, as far as the source shows it."""
        self._may_drop()
        head = self._head()
        for record in self._network.records_after(account, START, head - self._blind):
            if (record.tx.source, record.tx.sequence) == (account, sequence):
                return SlotView(fact=self._fact_of(record), as_of_sequence=head)
        return SlotView(fact=None, as_of_sequence=head)

    def entries(self, keys: Sequence[EntryKey]) -> EntriesView:
        """Return ledger entries as Horizon's resources tell of them."""
        self._may_drop()
        head = self._head()
        view = self._network.view(head, head - self._blind)
        found: dict[EntryKey, EntryState] = {}
        for account in sorted({key.account for key in keys}):
            resource = account_resource(view, account, "")
            if resource is not None:
                found |= account_states_of(account, resource)
        # Only trustlines are ever frozen here.
        frozen = (key for key in keys if key.asset and self._network.is_frozen(key.account))
        return EntriesView(
            entries={key: found[key] for key in keys if key in found},
            frozen=frozenset(frozen) if self._tells_frozen else None,
            as_of_sequence=head,
        )

    def fee_statistics(self) -> FeeStatistics:
        """Return what the last network ledgers charged."""
        self._may_drop()
        header, head = self._network.network.header, self._head()
        charged = fee_stats(self._network.view(head, head))["fee_charged"]
        return FeeStatistics(
            as_of_sequence=head,
            base_fee_stroops=header.base_fee,
            base_reserve_stroops=header.base_reserve,
            operations_max=ROOM_OPERATIONS,
            charged_stroops={percent: int(charged[f"p{percent}"]) for percent in PERCENTILES},
        )

    def submit(self, envelope: bytes) -> SubmitAnswer:
        """Hand an envelope to the node, or to what stands between."""
        slot = slot_of(envelope)
        self._pass("before a submission", slot)
        answer = self._submit(envelope, slot)
        self._pass("after a submission", slot)
        return answer

    def _submit(self, envelope: bytes, slot: Slot) -> SubmitAnswer:
        if self._spoils(FaultKind.DROP, slot):
            return SubmitAnswer(status=SubmitStatus.UNKNOWN, code="ConnectError")
        if self._spoils(FaultKind.LATE, slot):
            self._network.submit_late(envelope, self._chance.randint(1, LATE_LEDGERS_MAX))
            return SubmitAnswer(status=SubmitStatus.UNKNOWN, code="ReadTimeout")
        if self._spoils(FaultKind.DUPLICATE, slot):
            self._network.submit_late(envelope, self._chance.randint(1, LATE_LEDGERS_MAX))
        submission = self._network.submit(envelope)
        if self._spoils(FaultKind.RESET_AFTER_ACCEPT, slot):
            return SubmitAnswer(status=SubmitStatus.UNKNOWN, code="ConnectionReset")
        if self._spoils(FaultKind.GATEWAY_TIMEOUT, slot):
            return SubmitAnswer(status=SubmitStatus.UNKNOWN, code="HTTP 504")
        return _answer_of(submission)

    def _spoils(self, kind: FaultKind, slot: Slot) -> bool:
        strikes = self._weather.strikes(kind)
        if strikes:
            self._network.spoiled_slots.add(slot)
        return strikes

    def _head(self) -> int:
        return max(1, self._network.sequence - self._lag)

    def _pass(self, moment: str, slot: Slot) -> None:
        if self._mortal is None:
            return
        try:
            self._mortal.at(moment)
        except KilledError:
            self._network.spoiled_slots.add(slot)
            raise

    def _may_drop(self) -> None:
        if self._weather.strikes(FaultKind.DROP):
            raise GatewayError(f"{self._name}: connection reset")

    def _fact_of(self, record: Record) -> NetworkFact:
        closed = self._network.network.ledger(record.ledger)
        if closed is None:
            raise GatewayError(f"{self._name}: ledger {record.ledger}: got none")
        return NetworkFact(
            network_id=self.network_id,
            ledger_sequence=record.ledger,
            close_time_s=closed.header.close_time,
            apply_order=record.index,
            envelope=record.tx.raw,
            result=record.result_xdr,
        )


def _answer_of(submission: Submission | None) -> SubmitAnswer:
    if submission is None:
        return SubmitAnswer(status=SubmitStatus.REJECTED, code="undecodable")
    result = submission.result
    return SubmitAnswer(
        status=_STATUSES[submission.status],
        code="" if result is None else f"tx{result.code.name}",
        result=b"" if result is None else result.encode(),
    )
