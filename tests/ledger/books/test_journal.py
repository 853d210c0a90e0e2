"""The journal: an entry that does not balance cannot be made."""

import book_builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.books.errors import UnbalancedEntryError
from ledger.books.journal import (
    JOURNAL_LAYOUTS,
    POSTINGS_MAX,
    Account,
    Book,
    EntryKind,
    JournalEntry,
    Posting,
    format_journal,
    parse_journal,
    sum_postings,
    transfer,
)
from ledger.evidence.errors import MalformedRecordError

ENTRY, POSTING = JOURNAL_LAYOUTS
keys = st.binary(min_size=32, max_size=32)
Leg = tuple[Account, bytes, Account, bytes, Book, int]
legs = st.tuples(
    st.sampled_from(Account),
    keys,
    st.sampled_from(Account),
    keys,
    st.sampled_from(Book),
    st.integers(-(2**62), 2**62).filter(bool),
)


def entry(*postings: Posting) -> JournalEntry:
    return JournalEntry(
        epoch=1, kind=EntryKind.DEPOSIT, time_s=2, reference=bytes(32), postings=postings
    )


def leg(amount: int, book: Book = Book.PRICED) -> Posting:
    return Posting(account=Account.ESCROW, party=bytes(32), book=book, amount_stroops=amount)


@given(st.lists(st.lists(legs, min_size=1, max_size=4), max_size=4))
def test_round_trip(
    movements: list[list[Leg]],
) -> None:
    entries = [
        entry(
            *(
                posting
                for debit, debtor, credit, creditor, book, amount in group
                for posting in transfer((debit, debtor), (credit, creditor), book, amount)
            )
        )
        for group in movements
    ]
    data = format_journal(entries)
    assert parse_journal(data) == entries
    assert sum(sum_postings(entries).values()) == 0


@pytest.mark.parametrize(
    "postings",
    [
        (),
        (leg(1),),
        (leg(1), leg(-2)),
        (leg(1), leg(-1, Book.XLM)),
        (leg(1), leg(1, Book.XLM), leg(-2)),
    ],
)
def test_entry_that_does_not_balance_in_every_book_cannot_be_made(
    postings: tuple[Posting, ...],
) -> None:
    with pytest.raises(UnbalancedEntryError):
        entry(*postings)


def test_unbalanced_bytes_do_not_parse() -> None:
    data = bytearray(format_journal(book_builders.journal()))
    data[-8] ^= 1
    with pytest.raises(UnbalancedEntryError):
        parse_journal(bytes(data))


def patched(offset: int, *values: int) -> bytes:
    """The journal with bytes of its first posting overwritten."""
    data = bytearray(format_journal(book_builders.journal()))
    at = 4 + ENTRY.size + offset
    data[at : at + len(values)] = bytes(values)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        patched(0, 0),
        patched(0, 10),
        patched(34, 0),
        patched(34, 3),
        patched(35, 2),
        patched(35, 1, *bytes(8)),
        patched(4 - ENTRY.size, 0),
        patched(4 - ENTRY.size, len(EntryKind) + 1),
        patched(-4, 255, 255, 255, 255),
    ],
    ids=["account-0", "account-10", "book-0", "book-3", "credit-2", "credit-of-nothing",
         "kind-0", "kind-unknown", "posting-count"],
)  # fmt: skip
def test_unknown_numbers_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedRecordError):
        parse_journal(data)


def test_accrual_of_very_many_payees_prints_and_parses() -> None:
    """An epoch with tens of thousands of payees is one entry with four postings each."""
    pair = transfer((Account.UNSPENT, bytes(32)), (Account.PAYEE, bytes(32)), Book.PRICED, 1)
    entries = [entry(*(pair * 50_001))]
    assert parse_journal(format_journal(entries)) == entries
    assert len(entries[0].postings) < POSTINGS_MAX


def test_sums_are_kept_by_account_party_and_book() -> None:
    sums = sum_postings(book_builders.journal())
    zeros = bytes(32)
    assert sums[Account.ESCROW, zeros, Book.PRICED] == 1_000_000_000
    assert sums[Account.FEES, zeros, Book.PRICED] == -2_793_967
    assert sum(sums.values()) == 0
