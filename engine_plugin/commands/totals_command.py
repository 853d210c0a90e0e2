"""`engine totals`: count what another engine plays, by its own word."""

import asyncio
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from engine_plugin.adapters.ace_stream import AceEngineError, AceStreamEngine
from engine_plugin.adapters.totals_journal import TOTALS_NAME, TotalsJournal, read_aggregates
from engine_plugin.commands.console import Failures, print_json
from engine_plugin.config import ConfigError

INTERVAL_S = 1.0


def totals(
    *,
    state: Annotated[Path, typer.Option(help="Folder that the totals are kept in.")],
    engine: Annotated[
        str, typer.Option(help="Where the Ace Stream engine listens.")
    ] = "http://127.0.0.1:6878",
    content_id: Annotated[str | None, typer.Option(help="Content id to open.")] = None,
    infohash: Annotated[str | None, typer.Option(help="Info-hash to open.")] = None,
    magnet: Annotated[str | None, typer.Option(help="Magnet link to open.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line on stdout.")
    ] = False,
) -> None:
    """Open a playback of an Ace Stream engine and count its bytes until stopped.

    The bytes are the engine's word: aggregate, never attested, receipted or billed.
    """
    with Failures():
        given = {"content_id": content_id, "infohash": infohash, "magnet": magnet}
        named = [(key, value) for key, value in given.items() if value is not None]
        if len(named) != 1:
            raise ConfigError("content: want exactly one of --content-id, --infohash, --magnet")
        (key, value) = named[0]
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{state}: {error.strerror}") from None
        playback = AceStreamEngine(engine, key=key, value=value)
        asyncio.run(_count(playback, engine, state / TOTALS_NAME, as_json=as_json))


async def _count(playback: AceStreamEngine, engine: str, path: Path, *, as_json: bool) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    journal = TotalsJournal(path)
    try:
        async with playback:
            while True:
                is_last = stopping.is_set()
                figures = await playback.read()
                journal.record(engine, figures, time.time_ns() // 10**6)
                if as_json:
                    print_json({"event": "totals", "class": "aggregate", **asdict(figures)})
                if is_last:
                    break
                try:
                    async with asyncio.timeout(INTERVAL_S):
                        await stopping.wait()
                except TimeoutError:
                    continue
    except AceEngineError:
        if not stopping.is_set():
            raise
    finally:
        journal.close()
    for sums in read_aggregates(path):
        if as_json:
            print_json({"event": "stopped", "class": "aggregate", **asdict(sums)})
        else:
            typer.echo(
                f"{sums.content_id}: aggregate, by the engine's word:"
                f" {sums.downloaded_bytes:,} bytes down ({sums.http_bytes:,} from servers),"
                f" {sums.uploaded_bytes:,} up, {sums.playbacks} playbacks"
            )
