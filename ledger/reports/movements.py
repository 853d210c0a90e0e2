"""Movements: the Stellar transactions that moved the priced asset, as the journal booked them.

Deposits into escrow, money without a known sender, fundings of the payout account and payouts. The
journal's reference is the transaction's hash; its network ledger comes from the network facts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ledger.books.journal import Account, EntryKind, JournalEntry
from ledger.reports.figures import EpochFigures

_KINDS = {
    EntryKind.DEPOSIT: "deposit",
    EntryKind.SUSPENSE: "suspense",
    EntryKind.FUNDING: "funding",
    EntryKind.LOSS: "loss",
    EntryKind.REFUND: "refund",
    EntryKind.SUSPENSE_REFUND: "suspense refund",
    EntryKind.PAYMENT: "payout",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One amount that a transaction moved."""

    kind: str
    """deposit, suspense, funding, loss, refund, suspense refund or payout."""

    epoch: int
    """Epoch in which it is booked."""

    tx_hash: bytes
    """32 bytes."""

    ledger_sequence: int
    """Network ledger it was applied in."""

    close_time_s: int
    """Close time of that ledger."""

    account: bytes
    """Payee of a payout; zeros otherwise."""

    amount_stroops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Movements:
    """All movements of a report's period, in the order of the books."""

    all: tuple[Movement, ...]

    @property
    def deposited_stroops(self) -> int:
        """Σ deposits of the broadcaster."""
        return self._sum("deposit")

    @property
    def paid_stroops(self) -> int:
        """Σ payouts."""
        return self._sum("payout")

    @property
    def payouts(self) -> tuple[Movement, ...]:
        """One per payment to a payee."""
        return tuple(movement for movement in self.all if movement.kind == "payout")

    @property
    def into_accounts(self) -> tuple[Movement, ...]:
        """Everything else: what came into our accounts, moved between them or left them."""
        return tuple(movement for movement in self.all if movement.kind != "payout")

    def _sum(self, kind: str) -> int:
        return sum(movement.amount_stroops for movement in self.all if movement.kind == kind)


def read_movements(figures: Sequence[EpochFigures]) -> Movements:
    """Return what the network moved in these epochs."""
    return Movements(all=tuple(_movements(figures)))


def _movements(figures: Sequence[EpochFigures]) -> Iterator[Movement]:
    for epoch in figures:
        ledgers = {applied.tx_hash: applied.ledger_sequence for applied in epoch.transactions}
        for entry in epoch.entries:
            kind = _KINDS.get(entry.kind)
            if kind is None:
                continue
            for account, amount_stroops in _amounts(entry):
                yield Movement(
                    kind=kind,
                    epoch=epoch.epoch,
                    tx_hash=entry.reference,
                    ledger_sequence=ledgers[entry.reference],
                    close_time_s=entry.time_s,
                    account=account,
                    amount_stroops=amount_stroops,
                )


def _amounts(entry: JournalEntry) -> Iterator[tuple[bytes, int]]:
    """The debits of an entry: one per payee for a payout, else the one that holds the money."""
    for posting in entry.postings:
        if posting.amount_stroops > 0:
            is_payee = posting.account == Account.PAYEE
            yield (posting.party if is_payee else bytes(32)), posting.amount_stroops
