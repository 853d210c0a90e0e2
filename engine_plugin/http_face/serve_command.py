"""`engine serve`: an engine that players on this machine talk to over HTTP.

Torrents given are known by name and start when a player asks for them; others start by URL or
magnet link. With `--json` every line on stdout is one event.
"""

import asyncio
import ipaddress
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from engine_plugin.commands import options as o
from engine_plugin.commands.console import Failures, print_event, read_file
from engine_plugin.config import ConfigError, EngineConfig, parse_endpoint
from engine_plugin.engine import Engine
from engine_plugin.errors import ContentError, EngineError
from engine_plugin.http_face.access import Network
from engine_plugin.http_face.face import TOKEN_NAME, FaceConfig, HttpFace, start_http_face
from engine_plugin.live.policy import LivePolicy
from engine_plugin.live.programs import load_descriptor
from engine_plugin.live.viewer import LiveViewer
from engine_plugin.playback.hybrid import HybridPolicy
from engine_plugin.torrents import TorrentFile, read_torrent
from ledger.evidence.encoding import Signed
from ledger.evidence.stream import Stream

EntitlementUrl = Annotated[str | None, typer.Option(help="Back end that issues entitlements.")]
NoEntitlement = Annotated[
    bool, typer.Option("--no-entitlement", help="Meter plain swarms: nothing is signed.")
]
Streams = Annotated[
    list[str] | None,
    typer.Option("--stream", help="Live stream to follow: its descriptor's file or URL."),
]
WebSeeds = Annotated[bool, typer.Option(help="Let CDNs help out when peers are late.")]
CdnTimes = Annotated[
    list[str] | None,
    typer.Option(
        "--cdn",
        metavar="NAME=SECONDS",
        help="When CDNs help out: risk, safe, patience or stall; see the manual.",
    ),
]
Networks = Annotated[
    list[str] | None, typer.Option(help="Network that may ask too, as 192.168.1.0/24.")
]
Names = Annotated[list[str] | None, typer.Option(help="Further host name that players use.")]
Origins = Annotated[list[str] | None, typer.Option(help="Origin of pages trusted like programs.")]
_CDN_TIMES = {
    "risk": "risk_s", "safe": "safe_s", "patience": "patience_s", "trust": "trust_s",
    "stall": "stall_s",
}  # fmt: skip
PrivateUrls = Annotated[bool, typer.Option(help="Fetch torrents from private networks too.")]


def serve(
    torrent: Annotated[
        list[Path] | None, typer.Argument(help="Torrent files that players may ask for.")
    ] = None,
    *,
    save: Annotated[Path, typer.Option(help="Folder that contents are saved to.")],
    listen: o.Listen,
    state: o.State,
    http: Annotated[str, typer.Option(help="IP:PORT for players.")] = "127.0.0.1:6878",
    terms: o.TermsFile = None,
    account_key: o.AccountKey = None,
    entitlement_url: EntitlementUrl = None,
    no_entitlement: NoEntitlement = False,
    stream: Streams = None,
    web_seeds: WebSeeds = True,
    cdn: CdnTimes = None,
    peer: o.Peers = None,
    upload_limit: o.UploadLimit = None,
    download_limit: o.DownloadLimit = None,
    receipt_port: o.ReceiptPort = 0,
    http_network: Networks = None,
    http_name: Names = None,
    http_origin: Origins = None,
    allow_private_urls: PrivateUrls = False,
    utp: o.Utp = None,
    discover: o.Discover = None,
    accept_ip_visible: o.AcceptIpVisible = False,
    parent_pid: o.ParentPid = None,
    die_with_parent: o.DieWithParent = False,
    as_json: o.Json = False,
) -> None:
    """Answer players over HTTP: fetch what they ask for, sign for every byte, serve it on."""
    with Failures():
        if not no_entitlement and (terms is None or entitlement_url is None):
            raise typer.BadParameter("want --terms with --entitlement-url, or --no-entitlement")
        run = o.RunOptions(
            listen=listen,
            state=state,
            terms=None if no_entitlement else terms,
            account_key=account_key,
            entitlement_url=entitlement_url,
            peers=peer,
            upload_limit=upload_limit,
            download_limit=download_limit,
            receipt_port=receipt_port,
            utp=utp,
            discover=discover,
            accept_ip_visible=accept_ip_visible,
            parent_pid=parent_pid,
            die_with_parent=die_with_parent,
        )
        config = run.configure()
        face = FaceConfig(
            save_path=save,
            token_path=state / TOKEN_NAME,
            listen=parse_endpoint(http, "--http"),
            peers=run.dialled(),
            discovers=config.discovers,
            metadata_ip=config.listen.ip,
            allows_private_urls=allow_private_urls,
            uses_web_seeds=web_seeds,
            hybrid=_parse_policy(cdn or ()),
            host_names=frozenset(http_name or ()),
            networks=tuple(_parse_network(text) for text in http_network or ()),
            origins=frozenset(http_origin or ()),
        )
        run_service(config, face, torrent or (), stream or (), as_json=as_json)


def _parse_network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(f"--http-network: got {text!r}: {error}") from None


def _parse_policy(texts: Sequence[str]) -> HybridPolicy:
    fields: dict[str, float] = {}
    for text in texts:
        name, _, seconds = text.partition("=")
        try:
            fields[_CDN_TIMES[name]] = float(seconds)
        except (KeyError, ValueError):
            known = ", ".join(_CDN_TIMES)
            raise ConfigError(f"--cdn: got {text!r}, want NAME=SECONDS, one of {known}") from None
    try:
        return HybridPolicy(**fields)
    except ValueError as error:
        raise ConfigError(f"--cdn: {error}") from None


def run_service(
    config: EngineConfig,
    face: FaceConfig,
    torrents: Sequence[Path],
    streams: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Run an engine and its face until a signal asks it to stop.

    Raises:
        EngineError: It could not start.
    """
    read = [read_torrent(read_file(path)) for path in torrents]
    try:
        face.save_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContentError(f"{face.save_path}: {error.strerror}") from None
    asyncio.run(_Service(config, face, read, streams, as_json=as_json).run())


class _Service:
    """One run of the command."""

    def __init__(
        self,
        config: EngineConfig,
        face: FaceConfig,
        torrents: Sequence[TorrentFile],
        streams: Sequence[str],
        *,
        as_json: bool,
    ) -> None:
        self._config = config
        self._face = face
        self._torrents = torrents
        self._streams = streams
        self._as_json = as_json
        self._listen = config.listen

    async def run(self) -> None:
        descriptors = [await load_descriptor(stream) for stream in self._streams]
        engine = Engine(self._config, self._emit)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, engine.request_stop)
        await engine.start()
        try:
            async with await start_http_face(engine, self._face) as face:
                for torrent in self._torrents:
                    face.add_torrent(torrent)
                engine.announce()
                self._emit("http", url=face.url, token_file=str(self._face.token_path))
                following = [
                    asyncio.create_task(self._follow(engine, face, descriptor))
                    for descriptor in descriptors
                ]
                try:
                    await engine.wait_for_stop()
                finally:
                    for task in following:
                        task.cancel()
                    await asyncio.gather(*following, return_exceptions=True)
        finally:
            await engine.stop()

    async def _follow(self, engine: Engine, face: HttpFace, descriptor: Signed[Stream]) -> None:
        """Follow a live stream for its players; its end is no end of the engine's."""
        stream_id = descriptor.value.stream_id
        folder = self._face.save_path / stream_id.hex()
        folder.mkdir(exist_ok=True)
        viewer = LiveViewer(
            engine=engine,
            descriptor=descriptor,
            listen=self._listen,
            folder=folder,
            policy=LivePolicy(),
            emit=self._emit,
            peers=self._face.peers,
            uses_cdn=self._face.uses_web_seeds,
        )
        face.add_live(viewer.window)
        try:
            await viewer.run()
        except* EngineError as errors:
            for error in errors.exceptions:
                self._emit("error", where="stream", detail=str(error))

    def _emit(self, event: str, /, **fields: Any) -> None:
        if event == "ready":
            self._listen = parse_endpoint(fields["listen"], "listen")
        print_event(event, fields, as_json=self._as_json)
