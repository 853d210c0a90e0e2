"""The two live programs, assembled: a broadcaster's node and a viewer.

Assembly and life cycle only; the command line is read in `command`.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Any
from urllib.parse import urljoin

from engine_plugin.config import ConfigError, EngineConfig, parse_endpoint
from engine_plugin.engine import Engine
from engine_plugin.errors import ContentError, EngineError
from engine_plugin.key_files import load_or_make_seed, read_seed, write_private
from engine_plugin.live.broadcaster import Broadcaster, SegmentSigner
from engine_plugin.live.gossip_link import GossipLink
from engine_plugin.live.hls_origin import HlsOrigin
from engine_plugin.live.hls_out import hls_app
from engine_plugin.live.index_client import fetch_descriptor, read_descriptor
from engine_plugin.live.index_server import IndexServer, IndexService
from engine_plugin.live.inputs import is_playlist_url, open_input
from engine_plugin.live.policy import LivePolicy
from engine_plugin.live.rendezvous import Rendezvous
from engine_plugin.live.ts_cutter import CutSegment
from engine_plugin.live.viewer import LiveViewer
from engine_plugin.wire import Endpoint
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.errors import EvidenceError
from ledger.evidence.keys import public_key_of
from ledger.evidence.stream import Container, Stream, sign_stream

_QUEUED_SEGMENTS = 4
Emit = Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastOptions:
    """What a broadcaster's node is told."""

    source: str
    """Path, "-", URL of a transport stream, or URL of an HLS playlist."""
    index_listen: Endpoint
    """Where the index is served."""
    index_urls: Sequence[str] = ()
    """Where viewers reach it, if not there."""
    descriptor_path: Path | None = None
    """A signed descriptor to use; None: it is made and signed here."""
    descriptor_out: Path | None = None
    """Where the descriptor is written."""
    issuing_path: Path | None = None
    """Seed file of the issuing key; None: one of the node's own, without terms only."""
    title: str = ""
    segment_ms: int = 1000
    piece_bytes: int = 32_768
    window_segments: int = 12
    cdn_urls: Sequence[str] = ()
    is_realtime: bool = False
    loops: bool = False
    most_kbps: int = 0
    """Best variant of an HLS origin up to this rate; 0: the best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """What a viewer is told."""

    stream: str
    """Descriptor file, or URL of an index or descriptor."""
    folder: Path
    policy: LivePolicy
    entitlement: Signed[Entitlement] | None = None
    peers: Sequence[Endpoint] = ()
    uses_cdn: bool = True
    hls_listen: Endpoint | None = None
    """Where a player finds the playlist; None: nowhere."""


async def broadcast(config: EngineConfig, options: BroadcastOptions, emit: Emit) -> None:
    """Broadcast until a stop is asked for; after the input's end what is there is served on.

    Raises:
        EngineError: The node could not start, or the input cannot be read.
    """
    async with _running(config, emit) as (engine, listen):
        origin = await _open_origin(options, emit)
        server = IndexServer(options.index_listen)
        try:
            descriptor, index_seed = _make_descriptor(config, options, origin, server.endpoint)
            stream = descriptor.value
            service = IndexService(descriptor, Rendezvous(SystemRandom()), sources=[listen])
            gossip: GossipLink | None = None
            if engine.ledger is not None:
                gossip = GossipLink(
                    stream,
                    engine.ledger.exchange,
                    take_entry=lambda _: False,  # entries are made here, not taken
                    take_peers=lambda _: None,
                    clock=time.monotonic,
                )
            broadcaster = Broadcaster(
                engine=engine,
                service=service,
                gossip=gossip,
                signer=SegmentSigner(stream, index_seed, config.state_path / "segment.head"),
                folder=_empty_folder(config.state_path / "segments"),
                emit=emit,
            )
            server.start(service.app())
            emit(
                "broadcasting",
                stream_id=stream.stream_id.hex(),
                index=_index_url(server.endpoint, stream.stream_id),
                descriptor=str(options.descriptor_out or ""),
            )
            if origin is None:
                work = _broadcast_input(broadcaster, options, stream, emit)
            else:
                work = _broadcast_origin(broadcaster, origin, stream)
            await _until_stopped(engine, work)
            await broadcaster.finish()
        finally:
            await server.stop()
            if origin is not None:
                await origin.close()


async def view(config: EngineConfig, options: ViewOptions, emit: Emit) -> None:
    """Follow a stream until a stop is asked for.

    Raises:
        EngineError: The viewer could not start, or the descriptor is not good.
    """
    descriptor = await load_descriptor(options.stream)
    if config.terms is not None:
        _require_of_terms(descriptor.value, config)
    async with _running(config, emit) as (engine, listen):
        options.folder.mkdir(parents=True, exist_ok=True)
        viewer = LiveViewer(
            engine=engine,
            descriptor=descriptor,
            listen=listen,
            folder=options.folder,
            policy=options.policy,
            emit=emit,
            entitlement=options.entitlement,
            peers=options.peers,
            uses_cdn=options.uses_cdn,
        )
        server: IndexServer | None = None
        if options.hls_listen is not None:
            server = IndexServer(options.hls_listen)
            server.start(hls_app(viewer.window))
            emit("hls", url=f"http://{server.endpoint}/live.m3u8")
        try:
            await _until_stopped(engine, viewer.run())
        finally:
            if server is not None:
                await server.stop()


async def load_descriptor(stream: str) -> Signed[Stream]:
    """Return the descriptor in a file or at a URL, its signature checked.

    Raises:
        EngineError: It cannot be read, or is not good.
    """
    if stream.startswith(("http://", "https://")):
        return await fetch_descriptor(stream)
    try:
        return read_descriptor(Path(stream).read_bytes())
    except OSError as error:
        raise ContentError(f"{stream}: {error.strerror}") from None


@asynccontextmanager
async def _running(config: EngineConfig, emit: Emit) -> AsyncIterator[tuple[Engine, Endpoint]]:
    """Run an engine that signals stop; yield it and where it listens."""
    ready: dict[str, Any] = {}

    def note(event: str, /, **fields: Any) -> None:
        if event == "ready":
            ready.update(fields)
        emit(event, **fields)

    engine = Engine(config, note)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, engine.request_stop)
    await engine.start()
    try:
        engine.announce()
        yield engine, parse_endpoint(ready["listen"], "listen")
    finally:
        await engine.stop()


async def _until_stopped(engine: Engine, work: Coroutine[Any, Any, None]) -> None:
    """Run work until a stop is asked for; its failure is ours."""
    task = asyncio.create_task(work)
    stop = asyncio.create_task(engine.wait_for_stop())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            await stop
    finally:
        for pending in (task, stop):
            pending.cancel()
        with suppress(asyncio.CancelledError):
            await task
        with suppress(asyncio.CancelledError):
            await stop


async def _open_origin(options: BroadcastOptions, emit: Emit) -> HlsOrigin | None:
    if not is_playlist_url(options.source):
        return None

    def report(text: str) -> None:
        emit("error", where="origin", detail=text)

    origin = HlsOrigin(options.source, most_kbps=options.most_kbps, report=report)
    try:
        await origin.open()
    except EngineError:
        await origin.close()
        raise
    return origin


def _empty_folder(folder: Path) -> Path:
    """Return a folder without segments of an earlier run.

    Raises:
        ContentError: It cannot be used.
    """
    try:
        folder.mkdir(exist_ok=True)
        for left in folder.glob("*.ts"):
            left.unlink()
    except OSError as error:
        raise ContentError(f"{folder}: {error.strerror}") from None
    return folder


def _index_url(endpoint: Endpoint, stream_id: bytes) -> str:
    return f"http://{endpoint}/live/{stream_id.hex()}"


def _make_descriptor(
    config: EngineConfig, options: BroadcastOptions, origin: HlsOrigin | None, index: Endpoint
) -> tuple[Signed[Stream], bytes]:
    """Return the descriptor and the index key's seed."""
    state = config.state_path
    index_seed = load_or_make_seed(state / "index.seed")
    if options.descriptor_path is not None:
        try:
            descriptor = read_descriptor(options.descriptor_path.read_bytes())
        except OSError as error:
            raise ContentError(f"{options.descriptor_path}: {error.strerror}") from None
        if descriptor.value.index_key != public_key_of(index_seed):
            raise ConfigError(
                f"{options.descriptor_path}: got index key {descriptor.value.index_key.hex()}, "
                f"want this node's {public_key_of(index_seed).hex()}"
            )
        return descriptor, index_seed
    descriptor = _sign_descriptor(config, options, origin, index, index_seed)
    if options.descriptor_out is not None:
        try:
            options.descriptor_out.unlink(missing_ok=True)
            write_private(options.descriptor_out, descriptor.raw)
            options.descriptor_out.chmod(0o644)
        except OSError as error:
            raise ContentError(f"{options.descriptor_out}: {error.strerror}") from None
    return descriptor, index_seed


def _sign_descriptor(
    config: EngineConfig,
    options: BroadcastOptions,
    origin: HlsOrigin | None,
    index: Endpoint,
    index_seed: bytes,
) -> Signed[Stream]:
    terms = None if config.terms is None else config.terms.value
    if options.issuing_path is not None:
        issuing_seed = read_seed(options.issuing_path)
    elif terms is None:
        issuing_seed = load_or_make_seed(config.state_path / "issuing.seed")
    else:
        raise ConfigError("--issuing-key: got none, want one with --terms, or --descriptor")
    issuing_key = public_key_of(issuing_seed)
    if terms is not None and terms.issuing_key != issuing_key:
        raise ConfigError(f"--issuing-key: got {issuing_key.hex()}, want the terms' issuing key")
    stream_id = load_or_make_seed(config.state_path / "stream.id")
    started_ms = time.time_ns() // 1_000_000
    bases = [] if origin is None else [urljoin(origin.url, ".")]
    try:
        stream = Stream(
            network_id=bytes(32) if terms is None else terms.network_id,
            broadcaster_account=bytes(32) if terms is None else terms.broadcaster_account,
            issuing_key=issuing_key,
            stream_id=stream_id,
            index_key=public_key_of(index_seed),
            serial=started_ms,
            started_at_ms=started_ms,
            segment_ms=max(1, options.segment_ms if origin is None else origin.target_ms),
            piece_bytes=options.piece_bytes,
            window_segments=options.window_segments,
            container=Container.MPEG_TS,
            title=options.title or os.path.basename(options.source)[:60],
            index_urls=tuple(options.index_urls) or (_index_url(index, stream_id),),
            cdn_urls=tuple(dict.fromkeys((*bases, *options.cdn_urls))),
        )
        return sign_stream(stream, issuing_seed)
    except EvidenceError as error:
        raise ConfigError(str(error)) from None


def _require_of_terms(stream: Stream, config: EngineConfig) -> None:
    """Raise unless a stream is of the broadcaster whose terms we have."""
    if config.terms is None:
        return
    terms = config.terms.value
    for name in ("network_id", "broadcaster_account", "issuing_key"):
        got, want = getattr(stream, name), getattr(terms, name)
        if got != want:
            raise ConfigError(f"stream.{name}: got {got.hex()}, want the terms' {want.hex()}")


async def _broadcast_input(
    broadcaster: Broadcaster, options: BroadcastOptions, stream: Stream, emit: Emit
) -> None:
    """Publish what a file, pipe or transport stream gives; it is read in a thread of its own."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[CutSegment | EngineError | None] = asyncio.Queue()
    slots = threading.Semaphore(_QUEUED_SEGMENTS)
    stopping = threading.Event()

    def put(item: CutSegment | EngineError | None) -> None:
        with suppress(RuntimeError):  # the loop has closed: nobody is left to tell
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def report(text: str) -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: emit("error", where="input", detail=text))

    def read() -> None:
        try:
            for segment in _open_options(options, stream, stopping, report):
                while not slots.acquire(timeout=0.2):
                    if stopping.is_set():
                        return
                put(segment)
                if stopping.is_set():
                    return
        except EngineError as error:
            put(error)
        else:
            put(None)

    # A daemon: reading a pipe that stays silent cannot be interrupted.
    threading.Thread(target=read, name="input", daemon=True).start()
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, EngineError):
                raise item
            slots.release()
            await broadcaster.publish(
                item.data, media_ms=item.media_ms, is_discontinuous=item.is_discontinuous
            )
        emit("input_ended")
    finally:
        stopping.set()


def _open_options(
    options: BroadcastOptions,
    stream: Stream,
    stopping: threading.Event,
    report: Callable[[str], None],
) -> Iterator[CutSegment]:
    return open_input(
        options.source,
        segment_ms=stream.segment_ms,
        is_realtime=options.is_realtime,
        loops=options.loops,
        stopping=stopping,
        report=report,
    )


async def _broadcast_origin(broadcaster: Broadcaster, origin: HlsOrigin, stream: Stream) -> None:
    """Publish an HLS origin's segments under the CDN's own addresses."""
    base = stream.cdn_urls[0] if stream.cdn_urls else ""
    async for segment in origin.segments():
        await broadcaster.publish(
            segment.data,
            media_ms=segment.media_ms,
            is_discontinuous=segment.is_discontinuous,
            path=segment.url.removeprefix(base) if base else segment.url,
        )
