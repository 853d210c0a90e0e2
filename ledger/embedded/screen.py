"""Screen of a demo: stages with progress and live byte counts; plain lines without a terminal.

Talk goes to standard error, so that `--json` leaves standard output to the summary.
"""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ledger.embedded.summary import Summary
from ledger.evidence.units import format_quantity, format_stroops

PLAIN_EVERY_SECONDS = 5.0


def mib(amount_bytes: int) -> str:
    """Write bytes as MiB with one decimal."""
    return format_quantity(amount_bytes, "MiB", places=1)


class Screen:
    """Shows stages as they come; one line each, and a live line for the transfer."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._started_s = time.monotonic()
        self._last_plain_s = 0.0
        self._live: Live | None = None
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("delivering", total=1, visible=False, note="")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(self._progress, console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._progress.update(self._task, visible=False)
            self._live.stop()

    def stage(self, text: str) -> None:
        """Print one line of the story with the seconds since the start."""
        seconds = time.monotonic() - self._started_s
        line = Text.assemble((f"{seconds:6.1f} s  ", "dim"), text)
        self._console.print(line, soft_wrap=not self._console.is_terminal)

    def transfer(self, received: Mapping[str, int], wanted_bytes: int, note: str) -> None:
        """Show live byte counts by source."""
        total_bytes = sum(received.values())
        sources = " · ".join(f"{name} {mib(size)}" for name, size in received.items() if size)
        line = f"{sources or 'nothing yet'} · {note}"
        if self._live is not None:
            self._progress.update(
                self._task, visible=True, total=wanted_bytes, completed=total_bytes, note=line
            )
            return
        now_s = time.monotonic()
        if now_s - self._last_plain_s >= PLAIN_EVERY_SECONDS:
            self._last_plain_s = now_s
            self.stage(f"delivered {100 * total_bytes // max(1, wanted_bytes)} %: {line}")

    def hide_transfer(self) -> None:
        """Take the live line away."""
        self._progress.update(self._task, visible=False)


def print_table(summary: Summary, out: str) -> None:
    """Print the closing tables on standard output."""
    console = Console(file=sys.stdout, highlight=False)
    figures, money = summary.bytes, summary.money
    table = Table("bytes", title="From a byte to a payment to an audit", title_justify="left")
    for column in ("P2P", "CDN"):
        table.add_column(column, justify="right")
    for row, p2p, cdn in (
        ("delivered (meter journals)", figures.delivered_p2p, figures.delivered_cdn),
        ("receipted (sealed bundles)", figures.receipted_p2p, figures.receipted_cdn),
        ("credited (contract)", figures.credited_p2p, figures.credited_cdn),
        ("billed (bill.csv)", figures.billed_p2p, figures.billed_cdn),
    ):
        table.add_row(row, f"{p2p:,}", f"{cdn:,}")
    console.print(table)
    console.print(
        f"P2P bytes came from seeders ({figures.receipted_seeders:,}) and from other viewers "
        f"({figures.receipted_viewers:,}).",
        soft_wrap=True,
    )
    coins = Table(f"money in {money.asset}")
    coins.add_column("amount", justify="right")
    for name in ("deposited", "charged", "unspent", "paid", "fees", "carried"):
        coins.add_row(name, format_stroops(getattr(money, f"{name}_stroops")))
    console.print(coins)
    _print_epochs(console, summary)
    console.print(f"Everything is in {out}: open bill.html; repeat the audit with", soft_wrap=True)
    command = f"  swarmledger-verify {out}/epoch-*.audit --trust {out}/trust.json"
    console.print(command, soft_wrap=True)


def _print_epochs(console: Console, summary: Summary) -> None:
    table = Table()
    for column in ("epoch", "receipts", "verdict", "log root", "anchor transaction"):
        table.add_column(column, justify="right" if column in {"epoch", "receipts"} else "left")
    for epoch in summary.epochs:
        table.add_row(
            str(epoch.epoch),
            str(epoch.receipts),
            epoch.verdict,
            f"{epoch.root[:16]}…",
            f"{epoch.anchor_tx[:16]}…",
        )
    console.print(table)
    tamper = summary.tamper_test
    console.print(
        f"{len(summary.payouts)} payments stand on the Stellar ledger. One flipped byte in a copy "
        f"of an audit file: {tamper.verdict} at step “{tamper.failed_step}”.",
        soft_wrap=True,
    )
