"""The command `swarmledger top`: totals per epoch, source and content while an event runs.

Reads `GET /v1/totals` of a collector again and again; what is provisional is marked so. Exit 0
after Ctrl-C or one look, 1 when the collector does not answer, 2 when the arguments are wrong.
"""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

TIMEOUT_S = 10.0
CONTENTS_SHOWN = 20

app = typer.Typer(
    name="swarmledger top",
    help="Show totals per epoch, source and content while an event runs.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


class TopError(Exception):
    """The collector gave no totals."""


@app.command()
def top(
    url: Annotated[str, typer.Option(help="The collector's base URL.")] = "http://127.0.0.1:8080",
    broadcaster: Annotated[
        str | None, typer.Option(help="G… account; default: the only one there.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Bearer token; without it no totals per content.")
    ] = None,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a look, one line each.")
    ] = False,
) -> None:
    """Show totals per epoch, source and content; provisional ones are marked."""
    try:
        token = "" if token_file is None else token_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise typer.BadParameter(f"token-file: {error}") from None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False) as client:
        try:
            if once or as_json:
                _print(client, broadcaster, interval, once=once, as_json=as_json)
            else:
                _show(client, broadcaster, interval)
        except KeyboardInterrupt:
            return
        except TopError as error:
            typer.echo(f"swarmledger top: {error}", err=True)
            raise typer.Exit(1) from None


def _print(
    client: httpx.Client, broadcaster: str | None, interval_s: float, *, once: bool, as_json: bool
) -> None:
    console = Console(file=sys.stdout, highlight=False)
    while True:
        totals = read_totals(client, broadcaster)
        if as_json:
            sys.stdout.write(json.dumps(totals) + "\n")
            sys.stdout.flush()
        else:
            console.print(draw_totals(totals))
        if once:
            return
        time.sleep(interval_s)


def _show(client: httpx.Client, broadcaster: str | None, interval_s: float) -> None:
    with Live(console=Console(highlight=False), auto_refresh=False, screen=True) as live:
        while True:
            live.update(draw_totals(read_totals(client, broadcaster)), refresh=True)
            time.sleep(interval_s)


def read_totals(client: httpx.Client, broadcaster: str | None) -> dict[str, Any]:
    """Ask for the totals once.

    Raises:
        TopError: The collector does not answer, or refuses.
    """
    params = {} if broadcaster is None else {"broadcaster": broadcaster}
    try:
        answer = client.get("/v1/totals", params=params)
        content: dict[str, Any] = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise TopError(f"{client.base_url}: {error}") from None
    if not answer.is_success:
        raise TopError(f"{client.base_url}: {content.get('detail', answer.status_code)}")
    return content


def draw_totals(totals: dict[str, Any]) -> Group:
    """Return the tables of one look."""
    table = Table(title=f"epoch {totals['current_epoch']} of {totals['broadcaster']}")
    table.add_column("epoch", justify="right")
    table.add_column("state")
    for name in ("P2P bytes", "CDN bytes", "lanes", "reporters", "age"):
        table.add_column(name, justify="right")
    for epoch in reversed(totals["epochs"]):
        newest_ms = epoch["newest_report_ms"]
        table.add_row(
            str(epoch["epoch"]),
            f"{epoch['state']} (provisional)" if epoch["provisional"] else epoch["state"],
            f"{epoch['p2p_bytes']:,}",
            f"{epoch['cdn_bytes']:,}",
            f"{epoch['lanes']:,}",
            "" if epoch["reporters"] is None else f"{epoch['reporters']:,}",
            "" if newest_ms is None else f"{(totals['ledger_ms'] - newest_ms) / 1_000:.0f} s",
            style="" if epoch["provisional"] else "dim",
        )
    return Group(table, _draw_contents(totals))


def _draw_contents(totals: dict[str, Any]) -> Table | Text:
    told = [epoch for epoch in totals["epochs"] if epoch["contents"] is not None]
    if not told:
        return Text("Totals per content need the operator's token (--token-file).", style="dim")
    # The newest epoch of which anything is known: just after a turn that is the one before.
    epoch = next((each for each in reversed(told) if each["contents"]), told[-1])
    mark = ", provisional" if epoch["provisional"] else ""
    table = Table("content", title=f"contents of epoch {epoch['epoch']}{mark}")
    for name in ("P2P bytes", "CDN bytes"):
        table.add_column(name, justify="right")
    ranked = sorted(epoch["contents"], key=lambda each: -each["p2p_bytes"] - each["cdn_bytes"])
    for content in ranked[:CONTENTS_SHOWN]:
        table.add_row(
            f"{content['content_id'][:16]}…",
            f"{content['p2p_bytes']:,}",
            f"{content['cdn_bytes']:,}",
        )
    if len(ranked) > CONTENTS_SHOWN:
        table.caption = f"and {len(ranked) - CONTENTS_SHOWN} more; --json has all"
    return table


def main() -> None:
    """Entry point of `swarmledger top`."""
    app()
