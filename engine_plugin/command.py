"""The command `swarmledger engine`: seed, view, make a torrent, look at a state directory.

With `--json` every line on stdout is one event or one answer; talk and logs go to stderr. Exit
status: 0 after a clean stop, 1 when the engine could not start or lost something it must not lose,
2 for wrong options.
"""

import asyncio
import functools
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from engine_plugin.config import (
    ContentOptions,
    EngineConfig,
    load_entitlement,
    load_terms,
    parse_endpoint,
)
from engine_plugin.engine import Engine
from engine_plugin.errors import ContentError, EngineError
from engine_plugin.key_files import read_seed
from engine_plugin.live.command import broadcast, watch
from engine_plugin.state_report import describe_spool, describe_state
from engine_plugin.torrents import TorrentFile, make_torrent, read_torrent
from ledger.evidence.keys import public_key_of

_TORRENT_SIZE_MAX = 64 << 20
_LOOPBACK_PREFIXES = ("127.", "[::1]")

app = typer.Typer(
    name="swarmledger engine",
    help="Seed or view content with metered, paid bytes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Listen = Annotated[str, typer.Option(help="IP:PORT for BitTorrent; port 0: any free port.")]
State = Annotated[Path, typer.Option(help="Folder for keys, meter journal and spool.")]
States = Annotated[
    list[Path], typer.Option("--state", help="Folder of an engine; may be given several times.")
]
TermsFile = Annotated[Path | None, typer.Option("--terms", help="The broadcaster's signed terms.")]
AccountKey = Annotated[
    Path | None,
    typer.Option(help="Seed file of the account (0600); made in the state folder if not given."),
]
Peers = Annotated[list[str] | None, typer.Option("--peer", help="IP:PORT to dial; repeatable.")]
UploadLimit = Annotated[int, typer.Option(min=0, help="Bytes per second; 0 = unlimited.")]
DownloadLimit = Annotated[int, typer.Option(min=0, help="Bytes per second; 0 = unlimited.")]
ReceiptPort = Annotated[int, typer.Option(min=0, max=65535, help="Side channel's TCP port.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]
DieWithParent = Annotated[bool, typer.Option(help="Stop when the parent process is gone.")]
ParentPid = Annotated[int | None, typer.Option(help="Stop when this process is gone.")]
Utp = Annotated[
    bool | None, typer.Option("--utp/--tcp", help="Dial over uTP first; TCP only on loopback.")
]
Discover = Annotated[bool, typer.Option(help="Use DHT, local discovery and port mapping.")]
EntitlementFile = Annotated[Path | None, typer.Option(help="An entitlement for this key.")]
EntitlementUrl = Annotated[str | None, typer.Option(help="Back end that issues entitlements.")]
NoEntitlement = Annotated[
    bool, typer.Option("--no-entitlement", help="Meter a plain swarm: nothing is signed.")
]


@app.command()
def seed(
    path: Annotated[Path, typer.Argument(help="The content, or its torrent file.")],
    *,
    listen: Listen,
    state: State,
    torrent: Annotated[Path | None, typer.Option(help="The content's torrent file.")] = None,
    torrent_out: Annotated[Path | None, typer.Option(help="Write the torrent made here.")] = None,
    save: Annotated[Path | None, typer.Option(help="Folder of the content of a torrent.")] = None,
    web_seed: Annotated[list[str] | None, typer.Option(help="URL put into a new torrent.")] = None,
    terms: TermsFile = None,
    account_key: AccountKey = None,
    peer: Peers = None,
    upload_limit: UploadLimit = 0,
    download_limit: DownloadLimit = 0,
    receipt_port: ReceiptPort = 0,
    utp: Utp = None,
    discover: Discover = False,
    parent_pid: ParentPid = None,
    die_with_parent: DieWithParent = False,
    as_json: Json = False,
) -> None:
    """Serve content that is here already, until stopped."""
    with _Failures():
        if torrent is None and path.suffix == ".torrent":
            torrent, content = path, None
        else:
            content = path
        if torrent is not None:
            described = read_torrent(_read_file(torrent))
            folder = save or (path.parent if content is None else content.resolve().parent)
            _require_content(described, folder)
        else:
            described = make_torrent(path, web_seeds=web_seed or [])
            folder = path.resolve().parent
            if torrent_out is not None:
                _write_torrent(torrent_out, described)
        options = ContentOptions(
            save_path=folder,
            is_complete=True,
            peers=[parse_endpoint(text, "--peer") for text in peer or []],
            uses_web_seeds=False,
        )
        config = EngineConfig(
            listen=parse_endpoint(listen, "--listen"),
            receipt_port=receipt_port,
            state_path=state,
            terms=None if terms is None else load_terms(terms),
            account_path=account_key,
            upload_limit=upload_limit,
            download_limit=download_limit,
            discovers=discover,
            dials_utp=not listen.startswith(_LOOPBACK_PREFIXES) if utp is None else utp,
            parent_pid=os.getppid() if die_with_parent else parent_pid,
        )
        _run(config, [(described, options)], as_json=as_json)


@app.command()
def view(
    torrent: Annotated[Path, typer.Argument(help="The torrent file.")],
    *,
    save: Annotated[Path, typer.Option(help="Folder that the content is saved to.")],
    listen: Listen,
    state: State,
    terms: TermsFile = None,
    account_key: AccountKey = None,
    entitlement: EntitlementFile = None,
    entitlement_url: EntitlementUrl = None,
    no_entitlement: NoEntitlement = False,
    peer: Peers = None,
    upload_limit: UploadLimit = 0,
    download_limit: DownloadLimit = 0,
    receipt_port: ReceiptPort = 0,
    web_seeds: Annotated[bool, typer.Option(help="Use the torrent's web seeds.")] = True,
    allow_local_web_seeds: Annotated[
        bool, typer.Option(help="Let web seeds lie on local addresses; implied on loopback.")
    ] = False,
    sequential: Annotated[bool, typer.Option(help="Prefer pieces in order.")] = False,
    utp: Utp = None,
    discover: Discover = False,
    parent_pid: ParentPid = None,
    die_with_parent: DieWithParent = False,
    as_json: Json = False,
) -> None:
    """Fetch content, sign for every byte, and serve it on until stopped."""
    with _Failures():
        if not no_entitlement and terms is None:
            raise typer.BadParameter("want --terms with an entitlement, or --no-entitlement")
        if not no_entitlement and entitlement is None and entitlement_url is None:
            raise typer.BadParameter("want --entitlement, --entitlement-url or --no-entitlement")
        described = read_torrent(_read_file(torrent))
        try:
            save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ContentError(f"{save}: {error.strerror}") from None
        options = ContentOptions(
            save_path=save,
            peers=[parse_endpoint(text, "--peer") for text in peer or []],
            uses_web_seeds=web_seeds,
            is_sequential=sequential,
            entitlement=None if entitlement is None else load_entitlement(entitlement),
        )
        config = EngineConfig(
            listen=parse_endpoint(listen, "--listen"),
            receipt_port=receipt_port,
            state_path=state,
            terms=None if no_entitlement or terms is None else load_terms(terms),
            account_path=account_key,
            entitlement_url=entitlement_url,
            upload_limit=upload_limit,
            download_limit=download_limit,
            discovers=discover,
            dials_utp=not listen.startswith(_LOOPBACK_PREFIXES) if utp is None else utp,
            allows_local_web_seeds=allow_local_web_seeds or listen.startswith(_LOOPBACK_PREFIXES),
            parent_pid=os.getppid() if die_with_parent else parent_pid,
        )
        _run(config, [(described, options)], as_json=as_json)


@app.command("torrent")
def make(
    path: Annotated[Path, typer.Argument(help="A file or folder.")],
    out: Annotated[Path, typer.Option(help="The torrent file to write.")],
    web_seed: Annotated[list[str] | None, typer.Option(help="CDN URL (BEP 19).")] = None,
    piece_bytes: Annotated[int | None, typer.Option(help="A power of two from 16384.")] = None,
) -> None:
    """Make a hybrid (v1 and v2) torrent; print what it describes as JSON."""
    with _Failures():
        described = make_torrent(path, piece_bytes=piece_bytes, web_seeds=web_seed or [])
        _write_torrent(out, described)
        _print(
            {
                "content_id": described.content_id.hex(),
                "content_bytes": described.content_bytes,
                "name": described.name,
                "piece_bytes": described.layout.piece_bytes,
                "files": len(described.files),
                "web_seeds": list(described.web_seeds),
                "torrent": str(out),
            }
        )


@app.command()
def keys(state: State) -> None:
    """Print the public keys of a state folder as JSON; seeds are never printed."""
    with _Failures():
        answer: dict[str, Any] = {
            "session_key": public_key_of(read_seed(state / "session.seed")).hex()
        }
        account = state / "account.seed"
        if account.exists():
            answer["account"] = public_key_of(read_seed(account)).hex()
        _print(answer)


@app.command()
def status(state: States, as_json: Json = False) -> None:
    """Print byte classes and peers of state folders, and what their spools hold.

    With --json: one object a line, one line a folder.
    """
    with _Failures():
        for folder in state:
            answer = describe_state(folder)
            if as_json:
                _print(answer)
            else:
                _show_status(answer)


def _show_status(answer: dict[str, Any]) -> None:
    typer.echo(answer["state"])
    for name, count in answer["bytes"].items():
        typer.echo(f"{name:<16}{count:>20,}")
    for name in ("uploaded_bytes", "receipted_bytes", "unsigned_bytes"):
        typer.echo(f"{name:<16}{answer[name]:>20,}")
    for row in answer["peers"]:
        key = (row["key"] or "unattested")[:16]
        typer.echo(f"{row['endpoint']:<24}{key:<18}{row['down_bytes']:>16,}{row['up_bytes']:>16,}")


@app.command()
def spool(state: State, as_json: Json = False) -> None:
    """Print what a state folder's spool holds of each epoch."""
    with _Failures():
        answer = describe_spool(state)
        if as_json:
            _print(answer)
            return
        typer.echo("epoch   unbundled  unsent    sent  archived  refused")
        for count in answer["epochs"]:
            typer.echo(
                f"{count['epoch']:<8}{count['unbundled']:>9}{count['unsent']:>8}{count['sent']:>8}"
                f"{count['archived']:>10}{count['refused']:>9}"
            )
        for bundle in answer["bundles"]:
            if bundle["code"] or bundle["detail"]:
                typer.echo(
                    f"{bundle['epoch']}/{bundle['number']}: {bundle['code']} {bundle['detail']}"
                )


def main() -> None:
    """Run the command; the dispatcher's entry point."""
    for live in (broadcast, watch):
        app.command()(_failing(live))
    app()


def _failing(command: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        with _Failures():
            command(*arguments, **options)

    return run


class _Failures:
    """Turns the plugin's own errors into one line on stderr and exit status 1."""

    def __enter__(self) -> None:
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.LogfmtRenderer(),
            ],
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, EngineError):
            typer.echo(f"swarmledger engine: {error}", err=True)
            raise typer.Exit(1) from None


def _run(
    config: EngineConfig, contents: list[tuple[TorrentFile, ContentOptions]], *, as_json: bool
) -> None:
    asyncio.run(_run_until_stopped(config, contents, as_json=as_json))


async def _run_until_stopped(
    config: EngineConfig, contents: list[tuple[TorrentFile, ContentOptions]], *, as_json: bool
) -> None:
    def emit(event: str, /, **fields: Any) -> None:
        if as_json:
            _print({"event": event, **fields})
        elif event != "progress":
            typer.echo(f"{event}: " + " ".join(f"{key}={value}" for key, value in fields.items()))

    engine = Engine(config, emit)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, engine.request_stop)
    await engine.start()
    try:
        for torrent, options in contents:
            await engine.add(torrent, options)
        engine.announce()
        await engine.wait_for_stop()
    finally:
        await engine.stop()


def _print(answer: dict[str, Any]) -> None:
    try:
        print(json.dumps(answer), flush=True)
    except BrokenPipeError:
        # Nobody listens any more; the engine stops by signal, not by a closed pipe.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - stays open until exit


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_TORRENT_SIZE_MAX)
    except OSError as error:
        raise ContentError(f"{path}: {error.strerror}") from None


def _write_torrent(path: Path, torrent: TorrentFile) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(torrent.data)
        draft.replace(path)
    except OSError as error:
        raise ContentError(f"{path}: {error.strerror}") from None


def _require_content(torrent: TorrentFile, folder: Path) -> None:
    for name, size in torrent.files:
        path = folder / name
        try:
            got = path.stat().st_size
        except OSError as error:
            raise ContentError(f"{path}: {error.strerror}") from None
        if got != size:
            raise ContentError(f"{path}: got {got} bytes, want {size}")
