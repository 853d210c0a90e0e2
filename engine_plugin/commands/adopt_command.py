"""`engine adopt`: serve what another BitTorrent client has completed, where it lies."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from engine_plugin.adoption import qbittorrent, transmission
from engine_plugin.adoption.found_content import FoundContent
from engine_plugin.byte_amounts import format_byte_count
from engine_plugin.commands import options as o
from engine_plugin.commands.console import Failures, print_json
from engine_plugin.commands.running import PlannedContent, run_engine
from engine_plugin.config import ConfigError, ContentOptions
from engine_plugin.errors import ContentError

_Find = Callable[..., Iterator[FoundContent]]


_QbittorrentFolder = Annotated[
    list[Path] | None,
    typer.Option("--qbittorrent", help="qBittorrent's BT_backup; repeatable."),
]
_TransmissionFolder = Annotated[
    list[Path] | None,
    typer.Option("--transmission", help="Transmission's configuration folder; repeatable."),
]
_Moved = Annotated[
    list[str] | None,
    typer.Option("--moved", help="FROM=TO: a folder that lies elsewhere than the client says."),
]
_DryRun = Annotated[bool, typer.Option(help="List what would be served, and stop.")]
_Verify = Annotated[bool, typer.Option(help="Hash everything first, not only what is asked for.")]
_Listen = Annotated[str | None, typer.Option(help="IP:PORT for BitTorrent; port 0: any free port.")]
_State = Annotated[
    Path | None, typer.Option(help="Folder for keys, meter journal, spool and settings.")
]


def adopt(
    *,
    qbittorrent_folder: _QbittorrentFolder = None,
    transmission_folder: _TransmissionFolder = None,
    moved: _Moved = None,
    dry_run: _DryRun = False,
    verify: _Verify = False,
    listen: _Listen = None,
    state: _State = None,
    terms: o.TermsFile = None,
    account_key: o.AccountKey = None,
    peer: o.Peers = None,
    upload_limit: o.UploadLimit = None,
    receipt_port: o.ReceiptPort = 0,
    utp: o.Utp = None,
    discover: o.Discover = None,
    accept_ip_visible: o.AcceptIpVisible = False,
    parent_pid: o.ParentPid = None,
    die_with_parent: o.DieWithParent = False,
    as_json: o.Json = False,
) -> None:
    """Serve what qBittorrent or Transmission completed, in place and without fetching it again.

    Nothing of theirs is written, moved or renamed. Without a folder, their usual ones are tried.
    """
    with Failures():
        found = list(
            _find_all(qbittorrent_folder or [], transmission_folder or [], _parse_moved(moved))
        )
        if dry_run:
            _show(found, as_json=as_json)
            return
        if listen is None or state is None:
            raise typer.BadParameter("want --listen and --state, or --dry-run")
        run = o.RunOptions(
            listen=listen,
            state=state,
            terms=terms,
            account_key=account_key,
            peers=peer,
            upload_limit=upload_limit,
            receipt_port=receipt_port,
            utp=utp,
            discover=discover,
            accept_ip_visible=accept_ip_visible,
            parent_pid=parent_pid,
            die_with_parent=die_with_parent,
        )
        config, peers = run.configure(), run.dialled()
        contents = [
            planned
            for content in _without_twins(found)
            if (planned := _plan(content, peers, verify=verify)) is not None
        ]
        if not contents:
            raise ContentError("adopt: got nothing complete to serve; see --dry-run")
        run_engine(config, contents, as_json=as_json)


def _find_all(
    qbittorrent_folders: list[Path], transmission_folders: list[Path], moved: Mapping[str, str]
) -> Iterator[FoundContent]:
    named: list[tuple[_Find, Path]] = [
        *((qbittorrent.find_contents, folder) for folder in qbittorrent_folders),
        *((transmission.find_contents, folder) for folder in transmission_folders),
    ]
    for find, folder in named:
        yield from find(folder, moved=moved)
    if named:
        return
    usual: list[tuple[_Find, str]] = [
        *((qbittorrent.find_contents, folder) for folder in qbittorrent.USUAL_FOLDERS),
        *((transmission.find_contents, folder) for folder in transmission.USUAL_FOLDERS),
    ]
    places = [(find, path) for find, text in usual if (path := Path(text).expanduser()).is_dir()]
    if not places:
        raise ContentError("adopt: got no folder of a client in its usual place, want --qbittorrent"
                           " or --transmission")  # fmt: skip
    for find, folder in places:
        yield from find(folder, moved=moved)


def _parse_moved(texts: list[str] | None) -> dict[str, str]:
    moved = {}
    for text in texts or []:
        old, equals, new = text.partition("=")
        if not (old.startswith("/") and equals and new.startswith("/")):
            raise ConfigError(f"--moved: got {text!r}, want /FROM=/TO")
        moved[old] = new
    return moved


def _without_twins(found: Iterable[FoundContent]) -> Iterator[FoundContent]:
    """Yield what can be served, once each: two clients may hold the same content."""
    seen: set[bytes] = set()
    for content in found:
        if content.torrent is not None and not content.obstacle:
            if content.torrent.content_id not in seen:
                yield content
            seen.add(content.torrent.content_id)


def _plan(content: FoundContent, peers: list[Any], *, verify: bool) -> PlannedContent | None:
    if content.torrent is None or content.save_path is None:
        return None
    options = ContentOptions(
        save_path=content.save_path,
        is_complete=not (verify or content.needs_check),
        is_read_only=True,
        renamed_files=content.renamed_files,
        peers=peers,
        uses_web_seeds=False,
    )
    return PlannedContent(torrent=content.torrent, options=options)


def _show(found: Iterable[FoundContent], *, as_json: bool) -> None:
    for content in found:
        torrent = content.torrent
        size = 0 if torrent is None else torrent.content_bytes
        if as_json:
            print_json(
                {
                    "client": content.client,
                    "name": content.name,
                    "content_id": None if torrent is None else torrent.content_id.hex(),
                    "content_bytes": size,
                    "save_path": None if content.save_path is None else str(content.save_path),
                    "adopts": not content.obstacle,
                    "obstacle": content.obstacle,
                }
            )
        else:
            verdict = f"no: {content.obstacle}" if content.obstacle else "yes"
            typer.echo(
                f"{content.client:<13}{format_byte_count(size):>18}  {content.name}  {verdict}"
            )
