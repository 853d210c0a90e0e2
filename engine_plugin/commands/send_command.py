"""`engine send`: bundle and upload what a state folder holds, without a swarm."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from engine_plugin.bundler import Bundler
from engine_plugin.collector import Collector
from engine_plugin.commands import options as o
from engine_plugin.commands.console import Failures, print_event
from engine_plugin.config import load_terms
from engine_plugin.errors import EngineError
from engine_plugin.events import Emit
from engine_plugin.spool import Spool
from engine_plugin.spool_salvage import describe_salvage, open_spool
from engine_plugin.state_dir import StateDir
from engine_plugin.uploader import Uploader
from ledger.evidence.bundle import BundleKind
from ledger.evidence.encoding import Signed
from ledger.evidence.keys import public_key_of
from ledger.evidence.terms import Terms


class UnsentError(EngineError):
    """Something is still unsent; sending again later goes on with it."""


def send(
    *,
    state: o.State,
    terms: Annotated[Path, typer.Option(help="The broadcaster's signed terms.")],
    account_key: o.AccountKey = None,
    wait_s: Annotated[
        int, typer.Option(min=1, help="Seconds to try for when the collector is away.")
    ] = 60,
    as_json: o.Json = False,
) -> None:
    """Upload every receipt and bundle that waits in a state folder, then stop.

    For an engine that shall not run any more, or ran while the collector was away. A receipt of an
    epoch that has not ended is sent too; what comes later goes into the epoch's next bundle.
    """
    with Failures():

        def emit(event: str, /, **fields: Any) -> None:
            print_event(event, fields, as_json=as_json)

        folder = StateDir(state)
        try:
            asyncio.run(_send(folder, load_terms(terms), account_key, wait_s=wait_s, emit=emit))
        finally:
            folder.close()


async def _send(
    folder: StateDir, terms: Signed[Terms], account_key: Path | None, *, wait_s: int, emit: Emit
) -> None:
    seed, account_seed = folder.load_session_seed(), folder.load_account_seed(account_key)
    spool, salvage = open_spool(folder.spool_path)
    if salvage is not None:
        emit("salvaged", **describe_salvage(salvage))
    collector = Collector(terms)
    try:
        bundler = Bundler(
            terms=terms.value,
            spool=spool,
            session_seed=seed,
            session_key=public_key_of(seed),
            binding=folder.load_binding(terms.value, account_seed=account_seed, session_seed=seed),
        )
        uploader = Uploader(spool=spool, collector=collector, emit=emit)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await _send_until_stopped(spool, bundler, uploader)
        unsent = sum(count.unsent + count.unbundled for count in spool.count())
        emit("stopped", unsent=unsent)
        if unsent:
            raise UnsentError(f"{unsent} bundles are unsent; run it again later")
    finally:
        await collector.close()
        spool.close()


async def _send_until_stopped(spool: Spool, bundler: Bundler, uploader: Uploader) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    tasks = [asyncio.create_task(uploader.run()), asyncio.create_task(stopping.wait())]
    try:
        # A number that is taken opens its receipts again: another round bundles them.
        while _bundle_all(spool, bundler) or any(count.unsent for count in spool.count()):
            draining = asyncio.create_task(uploader.drain())
            tasks.append(draining)
            await asyncio.wait({draining, tasks[1]}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.is_set():
                return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _bundle_all(spool: Spool, bundler: Bundler) -> bool:
    """Bundle what stands in no bundle; say whether there was anything."""
    is_any = False
    for kind in BundleKind:
        for epoch in spool.list_unbundled_epochs(kind):
            while bundler.bundle_epoch(epoch, kind) is not None:
                is_any = True
    return is_any
