"""Draft: a state while an epoch changes it, with the journal entries made on the way.

The functions of folding, epoch and payouts change a draft step by step; `finish` freezes it into
the closing state. No rule of its own beyond keeping both views, totals and journal, in step.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from ledger.books.errors import UnknownTransactionError
from ledger.books.journal import (
    Account,
    Book,
    EntryKind,
    JournalEntry,
    Posting,
    transfer,
)
from ledger.books.standing import (
    CarryReason,
    MaturingKey,
    RefundRequest,
    SeenAccount,
    Standing,
)
from ledger.books.state import (
    CapUse,
    ClaimableDeposit,
    CorrectedLane,
    Cumulative,
    CumulativeKey,
    Head,
    OpenBatch,
    PayeeBalance,
    State,
    SuspenseDeposit,
    SuspenseKey,
    XlmTotals,
)

NO_PARTY = bytes(32)
"""Stands in postings of accounts that are not kept per party."""


@dataclass(slots=True)
class Draft:
    """A state in the making."""

    opening: State
    head: Head
    cap_use: dict[bytes, CapUse]
    void_from: dict[bytes, int]
    cumulative: dict[CumulativeKey, Cumulative]
    payees: dict[bytes, PayeeBalance]
    batches: dict[int, OpenBatch]
    channels: dict[bytes, int]
    corrected_lanes: dict[bytes, CorrectedLane]
    xlm: dict[bytes, XlmTotals]
    suspense: dict[SuspenseKey, SuspenseDeposit]
    claimable: dict[bytes, ClaimableDeposit]
    maturing: dict[MaturingKey, int]
    standing: dict[bytes, Standing]
    seen_accounts: dict[bytes, SeenAccount]
    refund: RefundRequest | None
    entries: list[JournalEntry] = field(default_factory=list)
    reasons: dict[bytes, CarryReason] = field(default_factory=dict)
    """Why payees are carried, once payouts are planned; by account."""

    @classmethod
    def of(cls, opening: State) -> "Draft":
        """Start from an opening state."""
        return cls(
            opening=opening,
            head=opening.head,
            cap_use=dict(opening.cap_use),
            void_from=dict(opening.void_from),
            cumulative=dict(opening.cumulative),
            payees=dict(opening.payees),
            batches=dict(opening.batches),
            channels=dict(opening.channels),
            corrected_lanes=dict(opening.corrected_lanes),
            xlm=dict(opening.xlm),
            suspense=dict(opening.suspense),
            claimable=dict(opening.claimable),
            maturing=dict(opening.maturing),
            standing=dict(opening.standing),
            seen_accounts=dict(opening.seen_accounts),
            refund=opening.refund,
        )

    @property
    def epoch(self) -> int:
        """The epoch in the making."""
        return self.opening.head.next_epoch

    def finish(self) -> State:
        """Return the closing state."""
        return State(
            network_id=self.opening.network_id,
            broadcaster_account=self.opening.broadcaster_account,
            head=replace(self.head, next_epoch=self.epoch + 1),
            cap_use=self.cap_use,
            void_from=self.void_from,
            cumulative=self.cumulative,
            payees=self.payees,
            batches=self.batches,
            channels=self.channels,
            corrected_lanes=self.corrected_lanes,
            xlm=self.xlm,
            suspense=self.suspense,
            claimable=self.claimable,
            maturing=self.maturing,
            standing=self.standing,
            seen_accounts=self.seen_accounts,
            refund=self.refund,
        )

    def book(
        self, kind: EntryKind, time_s: int, reference: bytes, postings: tuple[Posting, ...]
    ) -> None:
        """Append a journal entry."""
        entry = JournalEntry(
            epoch=self.epoch, kind=kind, time_s=time_s, reference=reference, postings=postings
        )
        self.entries.append(entry)

    def deposit(self, amount_stroops: int, *, known: bool, time_s: int, reference: bytes) -> None:
        """Book money that reached escrow: the broadcaster's, or in suspense."""
        head = self.head
        self.head = replace(
            head,
            escrow_stroops=head.escrow_stroops + amount_stroops,
            deposited_stroops=head.deposited_stroops + (amount_stroops if known else 0),
            suspense_stroops=head.suspense_stroops + (0 if known else amount_stroops),
        )
        party = self.opening.broadcaster_account if known else NO_PARTY
        credit = (Account.UNSPENT if known else Account.SUSPENSE, party)
        postings = transfer((Account.ESCROW, NO_PARTY), credit, Book.PRICED, amount_stroops)
        self.book(EntryKind.DEPOSIT if known else EntryKind.SUSPENSE, time_s, reference, postings)

    def stray_payout_deposit(self, amount_stroops: int, time_s: int, reference: bytes) -> None:
        """Book money that a stranger sent to the payout account."""
        head = self.head
        self.head = replace(
            head,
            payout_stroops=head.payout_stroops + amount_stroops,
            suspense_stroops=head.suspense_stroops + amount_stroops,
        )
        debit, credit = (Account.PAYOUT, NO_PARTY), (Account.SUSPENSE, NO_PARTY)
        postings = transfer(debit, credit, Book.PRICED, amount_stroops)
        self.book(EntryKind.SUSPENSE, time_s, reference, postings)

    def lose(self, account: Account, amount_stroops: int, time_s: int, reference: bytes) -> None:
        """Book money that left escrow or payout account for good: a loss of the deposits."""
        head = self.head
        is_escrow = account == Account.ESCROW
        self.head = replace(
            head,
            escrow_stroops=head.escrow_stroops - (amount_stroops if is_escrow else 0),
            payout_stroops=head.payout_stroops - (0 if is_escrow else amount_stroops),
            lost_stroops=head.lost_stroops + amount_stroops,
        )
        debit = (Account.UNSPENT, self.opening.broadcaster_account)
        postings = transfer(debit, (account, NO_PARTY), Book.PRICED, amount_stroops)
        self.book(EntryKind.LOSS, time_s, reference, postings)

    def copy(self) -> "Draft":
        """Return a draft that changes apart from this one."""
        parts: dict[str, Any] = {name.name: getattr(self, name.name) for name in fields(self)}
        own: dict[str, Any] = {
            name: part.copy() for name, part in parts.items() if isinstance(part, dict | list)
        }
        return replace(self, **own)

    def fund(self, amount_stroops: int, time_s: int, reference: bytes) -> None:
        """Book an applied funding batch: escrow to payout account."""
        head = self.head
        self.head = replace(
            head,
            escrow_stroops=head.escrow_stroops - amount_stroops,
            payout_stroops=head.payout_stroops + amount_stroops,
        )
        debit, credit = (Account.PAYOUT, NO_PARTY), (Account.ESCROW, NO_PARTY)
        postings = transfer(debit, credit, Book.PRICED, amount_stroops)
        self.book(EntryKind.FUNDING, time_s, reference, postings)

    def pay(self, payments: list[tuple[bytes, int]], time_s: int, reference: bytes) -> None:
        """Book an applied payment batch, one posting pair per payee.

        Raises:
            UnknownTransactionError: It paid somebody whom nothing was ever owed.
        """
        postings: list[Posting] = []
        for account, amount_stroops in payments:
            payee = self.payees.get(account)
            if payee is None:
                raise UnknownTransactionError(
                    f"transaction {reference.hex()}: paid {account.hex()}, want a known payee"
                )
            self.payees[account] = replace(
                payee, paid_stroops=payee.paid_stroops + amount_stroops, pays_alone=False
            )
            debit, credit = (Account.PAYEE, account), (Account.PAYOUT, NO_PARTY)
            postings.extend(transfer(debit, credit, Book.PRICED, amount_stroops))
        total = sum(amount for _, amount in payments)
        self.head = replace(self.head, payout_stroops=self.head.payout_stroops - total)
        self.book(EntryKind.PAYMENT, time_s, reference, tuple(postings))

    def accrue(self, payee: bytes, charge_stroops: int, fee_stroops: int) -> tuple[Posting, ...]:
        """Charge the broadcaster for one payee; returns the postings for the epoch's entry."""
        head = self.head
        self.head = replace(
            head,
            charged_stroops=head.charged_stroops + charge_stroops,
            fees_stroops=head.fees_stroops + fee_stroops,
        )
        balance = self.payees.get(payee, PayeeBalance())
        net_stroops = charge_stroops - fee_stroops
        self.payees[payee] = replace(balance, accrued_stroops=balance.accrued_stroops + net_stroops)
        debit = (Account.UNSPENT, self.opening.broadcaster_account)
        postings: tuple[Posting, ...] = ()
        if net_stroops:
            postings += transfer(debit, (Account.PAYEE, payee), Book.PRICED, net_stroops)
        if fee_stroops:
            postings += transfer(debit, (Account.FEES, NO_PARTY), Book.PRICED, fee_stroops)
        return postings

    def hold_back(self, payee: bytes, amount_stroops: int, due_s: int) -> None:
        """Keep an accrued amount from being paid before its challenge window is over."""
        key = (payee, due_s)
        self.maturing[key] = self.maturing.get(key, 0) + amount_stroops

    def give_back(self, amount_stroops: int, time_s: int, reference: bytes) -> None:
        """Book an applied refund of unspent deposits: out of escrow, to the broadcaster."""
        head = self.head
        self.head = replace(
            head,
            escrow_stroops=head.escrow_stroops - amount_stroops,
            refunded_stroops=head.refunded_stroops + amount_stroops,
        )
        debit = (Account.UNSPENT, self.opening.broadcaster_account)
        postings = transfer(debit, (Account.ESCROW, NO_PARTY), Book.PRICED, amount_stroops)
        self.book(EntryKind.REFUND, time_s, reference, postings)

    def send_back(
        self, amount_stroops: int, *, from_payout: bool, time_s: int, reference: bytes
    ) -> None:
        """Book an applied refund of a suspense deposit, out of the account where it lay."""
        head = self.head
        self.head = replace(
            head,
            escrow_stroops=head.escrow_stroops - (0 if from_payout else amount_stroops),
            payout_stroops=head.payout_stroops - (amount_stroops if from_payout else 0),
            suspense_stroops=head.suspense_stroops - amount_stroops,
        )
        holder = Account.PAYOUT if from_payout else Account.ESCROW
        debit, credit = (Account.SUSPENSE, NO_PARTY), (holder, NO_PARTY)
        postings = transfer(debit, credit, Book.PRICED, amount_stroops)
        self.book(EntryKind.SUSPENSE_REFUND, time_s, reference, postings)

    def receive_xlm(
        self, account: bytes, amount_stroops: int, time_s: int, reference: bytes
    ) -> None:
        """Book XLM that reached an account of ours."""
        totals = self.xlm.get(account, XlmTotals())
        self.xlm[account] = replace(
            totals, received_stroops=totals.received_stroops + amount_stroops
        )
        debit, credit = (Account.XLM, account), (Account.XLM_FUNDING, NO_PARTY)
        postings = transfer(debit, credit, Book.XLM, amount_stroops)
        self.book(EntryKind.XLM_MOVEMENT, time_s, reference, postings)

    def spend_xlm(
        self, account: bytes, amount_stroops: int, time_s: int, reference: bytes, *, is_fee: bool
    ) -> None:
        """Book XLM that left an account of ours, as a network fee or to somebody."""
        totals = self.xlm.get(account, XlmTotals())
        self.xlm[account] = replace(totals, spent_stroops=totals.spent_stroops + amount_stroops)
        kind = EntryKind.NETWORK_FEE if is_fee else EntryKind.XLM_MOVEMENT
        debit = (Account.NETWORK_FEES if is_fee else Account.XLM_FUNDING, NO_PARTY)
        postings = transfer(debit, (Account.XLM, account), Book.XLM, amount_stroops)
        self.book(kind, time_s, reference, postings)
