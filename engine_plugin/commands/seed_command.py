"""`engine seed`: serve content that is here already."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from engine_plugin.commands import options as o
from engine_plugin.commands.console import Failures, read_file, write_torrent
from engine_plugin.commands.running import PlannedContent, run_engine
from engine_plugin.config import ContentOptions
from engine_plugin.errors import ContentError
from engine_plugin.libtorrent_door import is_magnet
from engine_plugin.standing import PlainPeers
from engine_plugin.torrents import TorrentFile, make_torrent, read_torrent
from engine_plugin.wire import Endpoint

_Source = Annotated[
    list[str],
    typer.Argument(
        help="Content (file or folder), torrent file, or magnet link; several at once.",
        metavar="PATH|TORRENT|MAGNET...",
    ),
]
_Torrent = Annotated[Path | None, typer.Option(help="The torrent file of the one content.")]
_TorrentOut = Annotated[
    Path | None, typer.Option(help="Write the torrent made of the one content here.")
]
_Save = Annotated[
    Path | None, typer.Option(help="Folder that holds the content of torrents and magnets.")
]
_WebSeed = Annotated[list[str] | None, typer.Option(help="URL put into a new torrent.")]


def seed(
    source: _Source,
    *,
    listen: o.Listen,
    state: o.State,
    torrent: _Torrent = None,
    torrent_out: _TorrentOut = None,
    save: _Save = None,
    web_seed: _WebSeed = None,
    terms: o.TermsFile = None,
    account_key: o.AccountKey = None,
    peer: o.Peers = None,
    upload_limit: o.UploadLimit = None,
    download_limit: o.DownloadLimit = None,
    receipt_port: o.ReceiptPort = 0,
    utp: o.Utp = None,
    discover: o.Discover = None,
    accept_ip_visible: o.AcceptIpVisible = False,
    plain_peers: o.PlainPeersPolicy = PlainPeers.PROBATION,
    enforcement: o.Enforcement = True,
    min_coverage: o.MinCoverage = 0,
    issuing_binding: o.IssuingBinding = None,
    parent_pid: o.ParentPid = None,
    die_with_parent: o.DieWithParent = False,
    as_json: o.Json = False,
) -> None:
    """Serve content that is here already, until stopped.

    A torrent's content is looked for beside the torrent file, or in --save. A magnet link needs
    --save, and --peer or --discover for its metadata.
    """
    with Failures():
        if len(source) > 1 and (torrent is not None or torrent_out is not None):
            raise typer.BadParameter("want one content with --torrent and --torrent-out")
        run = o.RunOptions(
            listen=listen,
            state=state,
            terms=terms,
            account_key=account_key,
            peers=peer,
            upload_limit=upload_limit,
            download_limit=download_limit,
            receipt_port=receipt_port,
            utp=utp,
            discover=discover,
            accept_ip_visible=accept_ip_visible,
            plain_peers=plain_peers,
            enforcement=enforcement,
            min_coverage=min_coverage,
            issuing_binding=issuing_binding,
            parent_pid=parent_pid,
            die_with_parent=die_with_parent,
        )
        config = run.configure()
        plan = _Plan(run.dialled(), save, web_seed or [])
        contents = [plan.make(text, torrent, torrent_out) for text in source]
        run_engine(config, contents, as_json=as_json)


class _Plan:
    """Turns what was typed into contents to run."""

    def __init__(self, peers: list[Endpoint], save: Path | None, web_seeds: list[str]) -> None:
        self._peers = peers
        self._save = save
        self._web_seeds = web_seeds

    def make(self, text: str, torrent: Path | None, torrent_out: Path | None) -> PlannedContent:
        if is_magnet(text):
            return self._of_magnet(text)
        path = Path(text)
        if torrent is None and path.suffix == ".torrent":
            described = read_torrent(read_file(path))
            folder = self._save or path.parent
        elif torrent is not None:
            described = read_torrent(read_file(torrent))
            folder = self._save or path.resolve().parent
        else:
            described = make_torrent(path, web_seeds=self._web_seeds)
            folder = path.resolve().parent
            if torrent_out is not None:
                write_torrent(torrent_out, described.data)
            return self._of_torrent(described, folder)
        require_content(described, folder)
        return self._of_torrent(described, folder)

    def _of_torrent(self, torrent: TorrentFile, folder: Path) -> PlannedContent:
        options = ContentOptions(
            save_path=folder, is_complete=True, peers=self._peers, uses_web_seeds=False
        )
        return PlannedContent(torrent=torrent, options=options)

    def _of_magnet(self, link: str) -> PlannedContent:
        if self._save is None:
            raise typer.BadParameter("want --save FOLDER with the content of a magnet link")
        # Others fetch a v2 torrent's hashes from us: they are made by checking the files.
        options = ContentOptions(
            save_path=self._save, is_read_only=True, peers=self._peers, uses_web_seeds=False
        )
        check = partial(require_content, folder=self._save)
        return PlannedContent(link=link, options=options, check=check)


def require_content(torrent: TorrentFile, folder: Path) -> None:
    """Check that every file of a torrent is here at its full size.

    Raises:
        ContentError: One is not.
    """
    for name, size in torrent.files:
        path = folder / name
        try:
            got = path.stat().st_size
        except OSError as error:
            raise ContentError(f"{path}: {error.strerror}") from None
        if got != size:
            raise ContentError(f"{path}: got {got} bytes, want {size}")
