"""`engine serve`: an engine that players on this machine talk to over HTTP.

Torrents given are known by name and start when a player asks for them; others start by URL or
magnet link. With `--json` every line on stdout is one event.
"""

import asyncio
import ipaddress
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from engine_plugin.commands import options as o
from engine_plugin.commands.console import Failures, print_event, print_json, read_file
from engine_plugin.config import ConfigError, EngineConfig, parse_endpoint
from engine_plugin.engine import Engine
from engine_plugin.errors import ContentError
from engine_plugin.http_face.access import Network
from engine_plugin.http_face.face import TOKEN_NAME, FaceConfig, start_http_face
from engine_plugin.torrents import TorrentFile, read_torrent


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
    entitlement_url: Annotated[
        str | None, typer.Option(help="Back end that issues entitlements.")
    ] = None,
    no_entitlement: Annotated[
        bool, typer.Option("--no-entitlement", help="Meter plain swarms: nothing is signed.")
    ] = False,
    peer: o.Peers = None,
    upload_limit: o.UploadLimit = None,
    download_limit: o.DownloadLimit = None,
    receipt_port: o.ReceiptPort = 0,
    http_network: Annotated[
        list[str] | None, typer.Option(help="Network that may ask too, as 192.168.1.0/24.")
    ] = None,
    http_name: Annotated[
        list[str] | None, typer.Option(help="Further host name that players use.")
    ] = None,
    http_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of pages trusted like programs.")
    ] = None,
    allow_private_urls: Annotated[
        bool, typer.Option(help="Fetch torrents from private networks too.")
    ] = False,
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
            host_names=frozenset(http_name or ()),
            networks=tuple(_parse_network(text) for text in http_network or ()),
            origins=frozenset(http_origin or ()),
        )
        torrents = [read_torrent(read_file(path)) for path in torrent or ()]
        try:
            save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ContentError(f"{save}: {error.strerror}") from None
        asyncio.run(_Service(config=config, face=face, torrents=torrents, as_json=as_json).run())


def _parse_network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(f"--http-network: got {text!r}: {error}") from None


@dataclass(slots=True, kw_only=True)
class _Service:
    """One run of the command."""

    config: EngineConfig
    face: FaceConfig
    torrents: Sequence[TorrentFile]
    as_json: bool

    async def run(self) -> None:
        engine = Engine(self.config, self._emit)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, engine.request_stop)
        await engine.start()
        try:
            async with await start_http_face(engine, self.face) as face:
                for torrent in self.torrents:
                    face.add_torrent(torrent)
                engine.announce()
                self._emit("http", url=face.url, token_file=str(self.face.token_path))
                await engine.wait_for_stop()
        finally:
            await engine.stop()

    def _emit(self, event: str, /, **fields: Any) -> None:
        if self.as_json:
            print_json({"event": event, **fields})
        else:
            print_event(event, fields)
