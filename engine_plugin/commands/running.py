"""Runs an engine for a subcommand: its contents, its events on stdout, its clean stop on a signal.

Contents that are at hand start before the engine says that it is ready; magnet links follow when
their metadata has come. An engine left without any content stops.
"""

import asyncio
import gc
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engine_plugin.commands.console import print_event
from engine_plugin.config import ContentOptions, EngineConfig
from engine_plugin.engine import Engine
from engine_plugin.errors import EngineError
from engine_plugin.key_files import write_private
from engine_plugin.libtorrent_door import fetch_torrent
from engine_plugin.owner_report import TERMS_FILE
from engine_plugin.torrents import TorrentFile

GARBAGE_ALLOCATIONS = 100_000
"""So many more objects than before start a look for cycles among the young ones: a batch of events
is tens of thousands of tuples without any. The process is the engine's own, so this is ours to
choose; a host application's is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedContent:
    """One content to run: a torrent, or the link to one."""

    options: ContentOptions
    torrent: TorrentFile | None = None
    link: str = ""
    """A magnet link; "" when the torrent is at hand."""
    check: Callable[[TorrentFile], None] | None = None
    """Called with a link's torrent before it starts; may raise `EngineError`."""


def run_engine(config: EngineConfig, contents: Sequence[PlannedContent], *, as_json: bool) -> None:
    """Run an engine until a signal asks it to stop.

    Raises:
        EngineError: It could not start, or nothing was left to run.
    """
    asyncio.run(_run(config, contents, as_json=as_json))


async def _run(config: EngineConfig, contents: Sequence[PlannedContent], *, as_json: bool) -> None:
    def emit(event: str, /, **fields: Any) -> None:
        print_event(event, fields, as_json=as_json)

    engine = Engine(config, emit)
    given_up = threading.Event()

    def stop() -> None:
        given_up.set()
        engine.request_stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await engine.start()
    try:
        _keep_terms(config)
        for content in contents:
            if content.torrent is not None:
                await engine.add(content.torrent, content.options)
        engine.announce()
        _look_for_garbage_seldom()
        links = [content for content in contents if content.torrent is None]
        following = asyncio.create_task(_follow(engine, config, links, emit, given_up))
        await engine.wait_for_stop()
        given_up.set()
        await following
    finally:
        given_up.set()
        await engine.stop()


async def _follow(
    engine: Engine,
    config: EngineConfig,
    links: Sequence[PlannedContent],
    emit: Callable[..., None],
    given_up: threading.Event,
) -> None:
    """Start the contents of magnet links as their metadata comes."""
    failure: EngineError | None = None
    waiting = [asyncio.create_task(_start_link(engine, config, link, given_up)) for link in links]
    for task in asyncio.as_completed(waiting):
        try:
            await task
        except EngineError as error:
            if given_up.is_set():
                return
            failure = error
            emit("error", where="content", detail=str(error))
    if failure is not None and not engine.contents:
        engine.request_stop()
        raise failure


async def _start_link(
    engine: Engine, config: EngineConfig, content: PlannedContent, given_up: threading.Event
) -> None:
    torrent = await asyncio.to_thread(
        fetch_torrent,
        content.link,
        listen_ip=config.listen.ip,
        peers=[(peer.ip, peer.port) for peer in content.options.peers],
        discovers=config.discovers,
        is_cancelled=given_up.is_set,
    )
    if content.check is not None:
        content.check(torrent)
    await engine.add(torrent, content.options)


def _look_for_garbage_seldom() -> None:
    gc.collect()
    gc.freeze()  # what is loaded by now stays to the end
    gc.set_threshold(GARBAGE_ALLOCATIONS, 10, 10)


def _keep_terms(config: EngineConfig) -> None:
    if config.terms is None:
        return
    path = config.state_path / TERMS_FILE
    try:
        write_private(path, config.terms.raw)
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}") from None
