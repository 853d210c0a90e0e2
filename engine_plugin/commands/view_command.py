"""`engine view`: fetch content and sign for every byte."""

from pathlib import Path
from typing import Annotated

import typer

from engine_plugin.commands import options as o
from engine_plugin.commands.console import Failures, read_file
from engine_plugin.commands.running import PlannedContent, run_engine
from engine_plugin.config import ContentOptions, load_entitlement
from engine_plugin.errors import ContentError
from engine_plugin.libtorrent_door import is_magnet
from engine_plugin.live.command import Hls, is_stream, run_watch
from engine_plugin.live.policy import LivePolicy
from engine_plugin.torrents import read_torrent

_Torrent = Annotated[
    str,
    typer.Argument(
        help="The torrent file, a magnet link, or a live stream's descriptor or URL.",
        metavar="TORRENT|MAGNET|STREAM",
    ),
]
_Save = Annotated[Path, typer.Option(help="Folder that the content is saved to.")]
_Entitlement = Annotated[
    Path | None, typer.Option(help="An entitlement for this engine's session key.")
]
_EntitlementUrl = Annotated[str | None, typer.Option(help="Back end that issues entitlements.")]
_NoEntitlement = Annotated[
    bool, typer.Option("--no-entitlement", help="Meter a plain swarm: nothing is signed.")
]
_WebSeeds = Annotated[bool, typer.Option(help="Use the torrent's web seeds.")]
_AllowLocalWebSeeds = Annotated[
    bool, typer.Option(help="Let web seeds lie on local addresses; implied on loopback.")
]
_Sequential = Annotated[bool, typer.Option(help="Prefer pieces in order.")]


def view(
    torrent: _Torrent,
    *,
    save: _Save,
    listen: o.Listen,
    state: o.State,
    terms: o.TermsFile = None,
    account_key: o.AccountKey = None,
    entitlement: _Entitlement = None,
    entitlement_url: _EntitlementUrl = None,
    no_entitlement: _NoEntitlement = False,
    peer: o.Peers = None,
    upload_limit: o.UploadLimit = None,
    download_limit: o.DownloadLimit = None,
    receipt_port: o.ReceiptPort = 0,
    web_seeds: _WebSeeds = True,
    allow_local_web_seeds: _AllowLocalWebSeeds = False,
    sequential: _Sequential = False,
    hls: Hls = None,
    utp: o.Utp = None,
    discover: o.Discover = None,
    accept_ip_visible: o.AcceptIpVisible = False,
    parent_pid: o.ParentPid = None,
    die_with_parent: o.DieWithParent = False,
    as_json: o.Json = False,
) -> None:
    """Fetch content, sign for every byte, and serve it on until stopped."""
    with Failures():
        if not no_entitlement:
            _require_entitlement(terms, entitlement, entitlement_url)
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
            allow_local_web_seeds=allow_local_web_seeds,
            parent_pid=parent_pid,
            die_with_parent=die_with_parent,
        )
        if is_stream(torrent):
            run_watch(
                run,
                torrent,
                save=save,
                entitlement=entitlement,
                hls=hls,
                uses_cdn=web_seeds,
                behind=LivePolicy().behind_segments,
                as_json=as_json,
            )
            return
        options = ContentOptions(
            save_path=save,
            peers=run.dialled(),
            uses_web_seeds=web_seeds,
            is_sequential=sequential,
            entitlement=None if entitlement is None else load_entitlement(entitlement),
        )
        config = run.configure()
        run_engine(config, [_plan(torrent, options)], as_json=as_json)


def _plan(torrent: str, options: ContentOptions) -> PlannedContent:
    """Return what is fetched, with a folder to fetch it to."""
    if is_magnet(torrent):
        content = PlannedContent(link=torrent, options=options)
    else:
        described = read_torrent(read_file(Path(torrent)))
        content = PlannedContent(torrent=described, options=options)
    try:
        options.save_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContentError(f"{options.save_path}: {error.strerror}") from None
    return content


def _require_entitlement(
    terms: Path | None, entitlement: Path | None, entitlement_url: str | None
) -> None:
    if terms is None:
        raise typer.BadParameter("want --terms with an entitlement, or --no-entitlement")
    if entitlement is None and entitlement_url is None:
        raise typer.BadParameter("want --entitlement, --entitlement-url or --no-entitlement")
