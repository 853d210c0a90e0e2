"""Statements: what one payee delivered, earned and was paid, epoch by epoch.

A payee is a Stellar account; a CDN without one is listed by its key, with bytes and no money. An
epoch in which nothing of the payee moved has no line. Pure; the totals are compared with the
payee's balances. Not here: HTML, and the proof that a line is under the log's root
(`line_proof`).
"""

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ledger.audit.address import format_account
from ledger.books.errors import require_equal
from ledger.books.standing import CarryReason
from ledger.books.state import PayeeBalance
from ledger.books.statements import StatementLine
from ledger.evidence.encoding import ZERO_KEY
from ledger.evidence.terms import Terms
from ledger.evidence.units import format_stroops
from ledger.reports.bill import carrier_name
from ledger.reports.bill_csv import disarm_cell
from ledger.reports.figures import EpochFigures
from ledger.reports.movements import Movement, read_movements
from ledger.reports.wording import CARRY_REASONS, format_iso

STATEMENT_COLUMNS = (
    "epoch",
    "period_start_utc",
    "period_end_utc",
    "bytes_p2p",
    "bytes_cdn",
    "opening",
    "charge",
    "fee",
    "accrued",
    "paid",
    "closing",
    "currency",
    "carried_because",
    "paid_at",
    "paid_at_next",
    "paid_at_next_from_utc",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochLine:
    """A statement line with its epoch."""

    epoch: int
    period_start_s: int
    period_end_s: int
    line: StatementLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One payee over consecutive epochs."""

    subject: bytes
    """Account, or key of a CDN without an account; 32 bytes."""

    cdn_host: str
    """Host of a CDN without an account; empty for accounts."""

    name: str
    """File name without suffix: `statement-G…` or `statement-cdn-<8 hex digits>`."""

    terms: Terms
    """Terms of the last epoch."""

    first_epoch: int
    last_epoch: int
    period_start_s: int
    period_end_s: int
    lines: tuple[EpochLine, ...]
    """By epoch."""

    payouts: tuple[Movement, ...]
    opening_stroops: int
    """Owed when the first epoch opened."""

    closing_stroops: int
    """Owed when the last epoch closed."""

    @property
    def last_line(self) -> StatementLine:
        """The newest line: why what is owed is carried, and where payments go."""
        return self.lines[-1].line

    @property
    def carried_because(self) -> str:
        """Why what is owed is carried, for people."""
        return CARRY_REASONS[CarryReason(self.last_line.reason)]

    @property
    def is_cdn_key(self) -> bool:
        """Tell whether the subject is a CDN's key and not an account."""
        return bool(self.cdn_host)

    @property
    def bytes_p2p(self) -> int:
        """Credited bytes it delivered as a peer."""
        return sum(entry.line.bytes_p2p for entry in self.lines)

    @property
    def bytes_cdn(self) -> int:
        """Credited bytes it delivered as a CDN."""
        return sum(entry.line.bytes_cdn for entry in self.lines)

    @property
    def charge_stroops(self) -> int:
        """What the broadcaster was charged for them."""
        return sum(entry.line.charge_stroops for entry in self.lines)

    @property
    def fee_stroops(self) -> int:
        """What the network kept of the charge."""
        return sum(entry.line.fee_stroops for entry in self.lines)

    @property
    def accrued_stroops(self) -> int:
        """Charge - fee."""
        return self.charge_stroops - self.fee_stroops

    @property
    def paid_stroops(self) -> int:
        """Paid by network ledgers of the period."""
        return sum(entry.line.paid_stroops for entry in self.lines)


def make_statements(figures: Sequence[EpochFigures]) -> list[Statement]:
    """Return the statements of every party with a line in consecutive proven epochs.

    Args:
        figures: Of `read_figures`, at least one.

    Returns:
        By ascending subject.

    Raises:
        ConservationError: A statement's parts do not add up to the payee's balance.
    """
    lines: dict[bytes, list[EpochLine]] = defaultdict(list)
    cdn_hosts: dict[bytes, str] = {}
    for epoch in figures:
        for line in epoch.lines:
            entry = EpochLine(
                epoch=epoch.epoch,
                period_start_s=epoch.terms.epoch_start_s(epoch.epoch),
                period_end_s=epoch.terms.epoch_end_s(epoch.epoch),
                line=line,
            )
            lines[line.subject].append(entry)
        for cdn in epoch.terms.cdns:
            if cdn.account == ZERO_KEY:
                cdn_hosts[cdn.key] = carrier_name(epoch.terms, cdn.key)
    payouts: dict[bytes, list[Movement]] = defaultdict(list)
    for payout in read_movements(figures).payouts:
        payouts[payout.account].append(payout)
    return [
        _statement(figures, subject, lines[subject], payouts[subject], cdn_hosts.get(subject, ""))
        for subject in sorted(lines)
    ]


def _statement(
    figures: Sequence[EpochFigures],
    subject: bytes,
    lines: list[EpochLine],
    payouts: list[Movement],
    cdn_host: str,
) -> Statement:
    first, last = figures[0], figures[-1]
    nothing = PayeeBalance()
    statement = Statement(
        subject=subject,
        cdn_host=cdn_host,
        name=f"statement-cdn-{subject.hex()[:8]}"
        if cdn_host
        else f"statement-{format_account(subject)}",
        terms=last.terms,
        first_epoch=first.epoch,
        last_epoch=last.epoch,
        period_start_s=first.terms.epoch_start_s(first.epoch),
        period_end_s=last.terms.epoch_end_s(last.epoch),
        lines=tuple(lines),
        payouts=tuple(payouts),
        opening_stroops=first.opening.payees.get(subject, nothing).owed_stroops,
        closing_stroops=last.closing.payees.get(subject, nothing).owed_stroops,
    )
    require_equal(
        f"{statement.name}: opening + accrued - paid",
        got=statement.opening_stroops + statement.accrued_stroops - statement.paid_stroops,
        want=statement.closing_stroops,
    )
    require_equal(
        f"{statement.name}: payouts on the network",
        got=sum(payout.amount_stroops for payout in payouts),
        want=statement.paid_stroops,
    )
    return statement


def _addresses(line: StatementLine) -> tuple[str, str, str]:
    """Where its payments go, where they will, and from when on; empty: the account, no change."""
    now = "" if line.pay_to == ZERO_KEY else format_account(line.pay_to)
    if line.next_pay_to == ZERO_KEY:
        return now, "", ""
    return now, format_account(line.next_pay_to), format_iso(line.next_from_s)


def format_statement_csv(statement: Statement) -> str:
    """Return a statement's lines as CSV; amounts with seven decimals."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(STATEMENT_COLUMNS)
    for entry in statement.lines:
        line = entry.line
        amounts = (
            line.opening_stroops,
            line.charge_stroops,
            line.fee_stroops,
            line.accrued_stroops,
            line.paid_stroops,
            line.closing_stroops,
        )
        writer.writerow(
            [
                entry.epoch,
                format_iso(entry.period_start_s),
                format_iso(entry.period_end_s),
                line.bytes_p2p,
                line.bytes_cdn,
                *(format_stroops(amount) for amount in amounts),
                disarm_cell(statement.terms.asset_code),
                CarryReason(line.reason).name.lower(),
                *_addresses(line),
            ]
        )
    return output.getvalue()
