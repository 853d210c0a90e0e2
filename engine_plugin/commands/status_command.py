"""`engine status` and `engine spool`: what state folders hold, once or live."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from engine_plugin.commands import options as o
from engine_plugin.commands.console import Failures, print_json
from engine_plugin.owner_report import describe_accounts, format_stroops
from engine_plugin.state_report import describe_spool, describe_state

REFRESH_S = 1.0
ROWS_SHOWN_MAX = 40


def status(
    state: o.States,
    *,
    watch: Annotated[bool, typer.Option(help="Go on showing it until interrupted.")] = False,
    as_json: o.Json = False,
) -> None:
    """Show byte classes and peers of state folders: delivered, taken, owed, credit left, refusals.

    Reads beside a running engine without disturbing it. With --json: one object a line, one line a
    folder (with --watch: again every second).
    """
    with Failures():
        if as_json:
            _print_lines(state, watch=watch)
            return
        console = Console()
        if not watch:
            for folder in state:
                console.print(_draw(_describe(folder)))
            return
        try:
            with Live(_draw_all(state), console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(REFRESH_S)
                    live.update(_draw_all(state), refresh=True)
        except KeyboardInterrupt:
            return


def spool(state: o.State, as_json: o.Json = False) -> None:
    """Print what a state folder's spool holds of each epoch, and why bundles were refused."""
    with Failures():
        answer = describe_spool(state)
        if as_json:
            print_json(answer)
            return
        typer.echo("epoch   unbundled  unsent    sent  archived  refused")
        for count in answer["epochs"]:
            typer.echo(
                f"{count['epoch']:<8}{count['unbundled']:>9}{count['unsent']:>8}{count['sent']:>8}"
                f"{count['archived']:>10}{count['refused']:>9}"
            )
        for bundle in answer["bundles"]:
            if bundle["code"] or bundle["detail"]:
                typer.echo(
                    f"{bundle['epoch']}/{bundle['number']}: {bundle['code']} {bundle['detail']}"
                )


def _print_lines(folders: list[Path], *, watch: bool) -> None:
    try:
        while True:
            for folder in folders:
                print_json(_describe(folder))
            if not watch:
                return
            time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        return


def _describe(folder: Path) -> dict[str, Any]:
    return describe_state(folder) | describe_accounts(folder)


def _draw_all(folders: list[Path]) -> Group:
    return Group(*(_draw(_describe(folder)) for folder in folders))


def _draw(answer: dict[str, Any]) -> Group:
    classes = ", ".join(f"{name} {count:,}" for name, count in answer["bytes"].items() if count)
    lines = [
        Text(answer["state"], style="bold"),
        Text(f"received   {classes or 'nothing'}"),
        Text(f"uploaded   {answer['uploaded_bytes']:,}"),
    ]
    if answer["owed_stroops"] is not None:
        owed = format_stroops(answer["owed_stroops"])
        lines.append(Text(f"earned     {owed} {answer['asset']}, before the fee"))
    if answer["months"]:
        month, count = list(answer["months"].items())[-1]
        lines.append(Text(f"in {month} {count:,} uploaded"))
    if spool_counts := answer["spool"]:
        names = ("unbundled", "unsent", "sent", "archived", "refused")
        lines.append(Text("spool      " + ", ".join(f"{spool_counts[n]} {n}" for n in names)))
        lines += [
            Text(f"refused    epoch {bundle['epoch']}: {bundle['code']} {bundle['detail']}")
            for bundle in spool_counts["bundles"]
            if bundle["state"] == "refused"
        ]
    return Group(*lines, _draw_peers(answer))


def _draw_peers(answer: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("peer", no_wrap=True)
    table.add_column("key", no_wrap=True)
    asset = answer["asset"] or ""
    for name in ("attested", "unattested", "CDN", "uploaded", "receipted", f"owed {asset}".strip()):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("credit left", justify="right", no_wrap=True)
    table.add_column("refusals")
    rows = answer["accounts"]
    for row in rows[:ROWS_SHOWN_MAX]:
        owed, left = row["owed_stroops"], row["credit_left_bytes"]
        table.add_row(
            # Text, never markup: a peer chooses parts of what is shown.
            Text(row["endpoints"][-1] if row["endpoints"] else "–"),
            Text((row["key"] or "unattested")[:12]),
            *(
                f"{row[name]:,}"
                for name in (
                    "attested_bytes", "unattested_bytes", "cdn_bytes", "sent_bytes",
                    "receipted_bytes",
                )
            ),
            "–" if owed is None else format_stroops(owed),
            "–" if left is None else f"{left:,}",
            Text(", ".join(row["refusals"])),
        )  # fmt: skip
    if len(rows) > ROWS_SHOWN_MAX:
        table.add_row(f"and {len(rows) - ROWS_SHOWN_MAX} more")
    return table
