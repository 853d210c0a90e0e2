"""Beancount export of the journal, with balance assertions at every epoch's end.

Seven decimals in every posting: the checker infers its tolerance from the coarsest amount, so one
short number would let a wrong entry pass. Assertions state a tolerance of zero. Account names carry
Stellar addresses; commodities are upper case. A third-party tool thus repeats the zero-sum check.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

from ledger.audit.address import format_account
from ledger.books.journal import Account, Book, JournalEntry, Posting
from ledger.evidence.units import format_stroops
from ledger.reports.figures import EpochFigures

_NAMES = {
    Account.ESCROW: "Assets:Escrow",
    Account.PAYOUT: "Assets:Payout",
    Account.UNSPENT: "Liabilities:Unspent",
    Account.PAYEE: "Liabilities:Payees",
    Account.FEES: "Liabilities:Fees",
    Account.SUSPENSE: "Liabilities:Suspense",
    Account.XLM: "Assets:Xlm",
    Account.NETWORK_FEES: "Expenses:NetworkFees",
    Account.XLM_FUNDING: "Equity:XlmFunding",
}
_PER_PARTY = {Account.UNSPENT, Account.PAYEE, Account.XLM}


def format_beancount(figures: Sequence[EpochFigures]) -> str:
    """Return the books of consecutive epochs, from the first epoch on, as a beancount file."""
    terms = figures[0].terms
    currency = commodity_of(terms.asset_code)
    parts = [
        f'option "title" "swarmledger: {format_account(terms.broadcaster_account)}"',
        f'option "operating_currency" "{currency}"',
        "",
    ]
    entries = [entry for epoch in figures for entry in epoch.entries]
    # Accounts open the day before the first entry: an opening and an entry of one day may not mix.
    first_day = _day(min((entry.time_s for entry in entries), default=terms.genesis_s))
    names = sorted({_name(posting) for entry in entries for posting in entry.postings})
    parts.extend(f"{first_day - timedelta(days=1)} open {name}" for name in names)
    parts.append("")
    for entry in sorted(entries, key=lambda entry: (entry.epoch, entry.time_s)):
        parts.extend(_format_entry(entry, currency))
    parts.extend(_balances(entries, currency))
    return "\n".join(parts) + "\n"


def commodity_of(asset_code: str) -> str:
    """Return an asset's commodity name: upper case, two letters at least, a letter in front."""
    name = asset_code.upper()
    return name if name[0].isalpha() and len(name) > 1 else f"A{name}"


def _format_entry(entry: JournalEntry, currency: str) -> Iterator[str]:
    reference = entry.reference.hex()
    kind = entry.kind.name.lower().replace("_", " ")
    yield f'{_day(entry.time_s)} * "{kind}" "epoch {entry.epoch}"'
    yield f'  reference: "{reference}"'
    for posting in entry.postings:
        unit = currency if posting.book == Book.PRICED else "XLM"
        yield f"  {_name(posting)}  {format_stroops(posting.amount_stroops)} {unit}"
    yield ""


def _balances(entries: Sequence[JournalEntry], currency: str) -> Iterator[str]:
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for entry in entries:
        for posting in entry.postings:
            unit = currency if posting.book == Book.PRICED else "XLM"
            sums[_name(posting), unit] += posting.amount_stroops
    last_day = _day(max((entry.time_s for entry in entries), default=0))
    for (name, unit), amount_stroops in sorted(sums.items()):
        day = last_day + timedelta(days=1)
        # Without a stated tolerance the checker forgives an assertion one unit of the last digit.
        yield f"{day} balance {name}  {format_stroops(amount_stroops)} ~ {format_stroops(0)} {unit}"


def _name(posting: Posting) -> str:
    name = _NAMES[posting.account]
    if posting.account in _PER_PARTY:
        return f"{name}:{format_account(posting.party)}"
    return name


def _day(time_s: int) -> date:
    return datetime.fromtimestamp(time_s, UTC).date()
