"""Pages: bill and statements as HTML that needs nothing else.

One file each: style inside, no script, no external resource, so it opens off-line, prints, and can
be kept for years. Templates stand beside this module; every value is escaped by the template
engine. The page is made for WCAG 2.1 AA: dark text on white, tables with headers, the chart with a
title, a description and a pattern beside its colour.
"""

import shlex
from collections.abc import Sequence
from functools import cache
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from ledger.audit.address import format_account
from ledger.cdnlogs.cdni import format_day
from ledger.evidence.encoding import ZERO_KEY
from ledger.evidence.note import encode_base64
from ledger.evidence.units import format_quantity
from ledger.reports import wording
from ledger.reports.bill import Bill
from ledger.reports.chart import make_chart
from ledger.reports.source_bars import make_source_chart
from ledger.reports.statement import Statement
from ledger.reports.three_way import ThreeWayReport

ROWS_SHOWN_MAX: Final = 200
"""Rows of a table that grows with time; beyond it the page says where the rest is."""

_NAMES_SHOWN_MAX: Final = 8
_CHART_WIDTHS: Final = {"wide": 900, "narrow": 288}


def render_bill(bill: Bill) -> str:
    """Return bill.html."""
    charts = {name: make_chart(bill.epochs, width) for name, width in _CHART_WIDTHS.items()}
    return (
        _environment()
        .get_template("bill.html.j2")
        .render(
            bill=bill,
            terms=bill.terms,
            asset=bill.terms.asset_code,
            charts=charts,
            commands=bill_commands(bill),
            rows_shown_max=ROWS_SHOWN_MAX,
        )
        + "\n"
    )


def render_statement(statement: Statement) -> str:
    """Return a statement's page."""
    return (
        _environment()
        .get_template("statement.html.j2")
        .render(
            statement=statement,
            terms=statement.terms,
            asset=statement.terms.asset_code,
            commands=statement_commands(statement),
            zero_key=ZERO_KEY,
            rows_shown_max=ROWS_SHOWN_MAX,
        )
        + "\n"
    )


def render_three_way(report: ThreeWayReport) -> str:
    """Return the page of a three-way reconciliation."""
    amounts = [
        (summary.cdn, (summary.total.signed_bytes, summary.total.log_bytes, summary.billed_bytes))
        for summary in report.cdns
    ]
    charts = {name: make_source_chart(amounts, width) for name, width in _CHART_WIDTHS.items()}
    return (
        _environment()
        .get_template("three_way.html.j2")
        .render(report=report, charts=charts, rows_shown_max=ROWS_SHOWN_MAX)
        + "\n"
    )


def bill_commands(bill: Bill) -> dict[str, str]:
    """Return the exact commands of the bill's section on verification, by what they do."""
    epochs = range(bill.first_epoch, bill.last_epoch + 1)
    names = [f"epoch-{epoch}.audit" for epoch in epochs]
    files = " ".join(names) if len(names) <= _NAMES_SHOWN_MAX else "epoch-*.audit"
    lines = bill.checkpoint_text.split("\n")[:-1]
    return {
        "verify": f"swarmledger-verify --trust trust.json \\\n  {files}",
        "remake": "swarmledger report make --audit . --trust trust.json --out remade\n"
        "cmp bill.csv remade/bill.csv",
        "anchor": "printf '%s\\n' " + " ".join(map(shlex.quote, lines)) + " | sha256sum",
        "books": "bean-check books.beancount",
    }


def statement_commands(statement: Statement) -> dict[str, str]:
    """Return the exact commands of a statement's section on verification."""
    return {
        "check": "swarmledger report check-line --trust trust.json \\\n"
        f"  {statement.name}.proof.json"
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ledger.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "amount": wording.format_amount,
        "gb": wording.format_gb,
        "gb_short": lambda size: format_quantity(size, "GB"),
        "gib_short": lambda size: format_quantity(size, "GiB"),
        "count": lambda number: f"{number:,}",
        "utc": wording.format_utc,
        "iso": wording.format_iso,
        "minutes": wording.format_minutes,
        "rate": wording.format_rate,
        "account": format_account,
        "short_account": wording.short_account,
        "short": wording.short_text,
        "unit": wording.name_quantity,
        "base64": encode_base64,
        "day": format_day,
        "gb_or_none": lambda size: "none" if size is None else format_quantity(size, "GB"),
        "signed_count": lambda number: f"{number:+,}".replace("-", "−"),
    }
    environment.globals |= {
        "describe_price": wording.describe_price,
        "percent": wording.format_percent,
        "ppm_of": _ppm_of,
        "limited": _limited,
    }
    return environment


def _ppm_of(part: int, whole: int) -> str:
    """Write a signed share in parts per million, cut towards zero; of nothing: "–"."""
    if whole == 0:
        return "–"
    sign = "−" if part < 0 else "+"
    return f"{sign}{abs(part) * 1_000_000 // whole:,} ppm"


def _limited(rows: Sequence[object]) -> Sequence[object]:
    return rows[:ROWS_SHOWN_MAX]
