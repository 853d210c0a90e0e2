"""Journal: double entry, zero-sum by construction.

An entry's postings sum to zero in every asset, or it cannot be made. Debits (what we hold, what was
spent) are positive, credits (what we owe, where it came from) negative, as beancount reads them.
Entries are never edited; an error is mended by a correcting entry.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from ledger.books.errors import UnbalancedEntryError
from ledger.evidence.encoding import Layout, Reader
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.units import AMOUNT_MAX

POSTINGS_MAX = 200_000_000
"""Most postings of one entry: four per payee of an epoch's accrual."""

EnumT = TypeVar("EnumT", bound=IntEnum)


class Account(IntEnum):
    """Chart of accounts; some are kept per party."""

    ESCROW = 1
    """Asset: balance of the escrow account."""

    PAYOUT = 2
    """Asset: balance of the payout account."""

    UNSPENT = 3
    """Liability to the broadcaster: deposited and not charged."""

    PAYEE = 4
    """Liability to one payee: accrued and not paid."""

    FEES = 5
    """Liability: network fees kept from payees until the DAO's rule moves them."""

    SUSPENSE = 6
    """Liability: arrived without a known sender."""

    XLM = 7
    """Asset, XLM book: balance of one account of ours."""

    NETWORK_FEES = 8
    """Expense, XLM book: fees burned by transactions."""

    XLM_FUNDING = 9
    """Equity, XLM book: where our XLM came from and went to."""


class EntryKind(IntEnum):
    """Why an entry was made."""

    DEPOSIT = 1
    SUSPENSE = 2
    FUNDING = 3
    PAYMENT = 4
    ACCRUAL = 5
    NETWORK_FEE = 6
    XLM_MOVEMENT = 7
    REFUND = 8
    SUSPENSE_REFUND = 9
    LOSS = 20


class Book(IntEnum):
    """Which asset a posting counts."""

    PRICED = 1
    """The terms' asset."""

    XLM = 2
    """The network's native asset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One leg of an entry."""

    account: Account
    party: bytes
    """Account key of the party for accounts kept per party, else zeros; 32 bytes."""

    book: Book
    amount_stroops: int
    """Positive: debit; negative: credit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """Postings that sum to zero in every asset.

    Raises:
        UnbalancedEntryError: They do not.
    """

    epoch: int
    """Epoch in which it is booked."""

    kind: EntryKind
    time_s: int
    """Close time of the network ledger, or the epoch's end for accruals."""

    reference: bytes
    """Transaction hash, or the sum-tree root's hash for accruals; 32 bytes."""

    postings: tuple[Posting, ...]
    """In a defined order; no zero amounts."""

    def __post_init__(self) -> None:
        sums: dict[Book, int] = defaultdict(int)
        for posting in self.postings:
            sums[posting.book] += posting.amount_stroops
        if any(sums.values()) or not self.postings:
            raise UnbalancedEntryError(
                f"{self.kind.name} entry of epoch {self.epoch}: sums {dict(sums)}, want zeros"
            )


def transfer(
    debit: tuple[Account, bytes], credit: tuple[Account, bytes], book: Book, amount_stroops: int
) -> tuple[Posting, Posting]:
    """Return the two postings that move an amount: debit one account, credit the other."""
    return (
        Posting(account=debit[0], party=debit[1], book=book, amount_stroops=amount_stroops),
        Posting(account=credit[0], party=credit[1], book=book, amount_stroops=-amount_stroops),
    )


def sum_postings(entries: Iterable[JournalEntry]) -> dict[tuple[Account, bytes, Book], int]:
    """Return the balance change of every account."""
    sums: dict[tuple[Account, bytes, Book], int] = defaultdict(int)
    for entry in entries:
        for posting in entry.postings:
            sums[posting.account, posting.party, posting.book] += posting.amount_stroops
    return dict(sums)


_ENTRY = Layout(
    "entry",
    [
        ("epoch", "u32"),
        ("kind", "u16"),
        ("time_s", "u64"),
        ("reference", "bytes32"),
        ("posting_count", "u32"),
    ],
)
_POSTING = Layout(
    "posting",
    [
        ("account", "u16"),
        ("party", "bytes32"),
        ("book", "u8"),
        ("is_credit", "u8"),
        ("amount_stroops", "u64"),
    ],
)
JOURNAL_LAYOUTS = (_ENTRY, _POSTING)
"""An entry's head and one posting, for the format document's test."""


@dataclass(frozen=True, slots=True)
class _EntryHead:
    epoch: int
    kind: int
    time_s: int
    reference: bytes
    posting_count: int


def format_journal(entries: Sequence[JournalEntry]) -> bytes:
    """Return the canonical bytes of a list of entries: u32 count, then entries in order."""
    parts = [len(entries).to_bytes(4, "little")]
    for entry in entries:
        head = _EntryHead(
            entry.epoch, entry.kind, entry.time_s, entry.reference, len(entry.postings)
        )
        parts.append(_ENTRY.pack(head))
        parts.extend(
            _POSTING.pack_values(
                (
                    int(posting.account),
                    posting.party,
                    int(posting.book),
                    int(posting.amount_stroops < 0),
                    abs(posting.amount_stroops),
                )
            )
            for posting in entry.postings
        )
    return b"".join(parts)


def parse_journal(data: bytes) -> list[JournalEntry]:
    """Return entries from their canonical bytes.

    Raises:
        MalformedRecordError: Anything that would not print back identically.
        UnbalancedEntryError: An entry does not sum to zero.
    """
    reader = Reader("journal", data)
    entries: list[JournalEntry] = []
    for _ in range(reader.integer(4, "entry count", limit=AMOUNT_MAX)):
        head = _ENTRY.unpack(reader.take(_ENTRY.size, "entry"))
        count = head.pop("posting_count")
        if count > POSTINGS_MAX:
            raise MalformedRecordError("journal.postings", got=count, want=f"≤ {POSTINGS_MAX}")
        postings = tuple(_parse_posting(reader) for _ in range(count))
        kind = _known(EntryKind, head.pop("kind"), "journal.kind")
        entries.append(JournalEntry(kind=kind, postings=postings, **head))
    reader.finish()
    return entries


def _parse_posting(reader: Reader) -> Posting:
    row = _POSTING.unpack(reader.take(_POSTING.size, "posting"))
    amount, credit = row["amount_stroops"], row["is_credit"]
    if credit not in {0, 1} or (amount == 0 and credit):
        raise MalformedRecordError("journal.is_credit", got=credit, want="0, or 1 with an amount")
    return Posting(
        account=_known(Account, row["account"], "journal.account"),
        party=row["party"],
        book=_known(Book, row["book"], "journal.book"),
        amount_stroops=-amount if credit else amount,
    )


def _known(kind: type[EnumT], number: int, field: str) -> EnumT:
    if number not in set(kind):
        raise MalformedRecordError(field, got=number, want=f"a {kind.__name__}")
    return kind(number)
