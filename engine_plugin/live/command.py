"""The live commands of `swarmledger engine`: `broadcast`, and `watch` for a stream's viewers.

With `--json` every line on stdout is one event. Exit status as in `engine_plugin.command`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from engine_plugin.commands import options as o
from engine_plugin.commands.console import print_event
from engine_plugin.config import EngineConfig, load_entitlement, parse_endpoint
from engine_plugin.live.policy import LivePolicy
from engine_plugin.live.programs import BroadcastOptions, ViewOptions
from engine_plugin.live.programs import broadcast as run_broadcast
from engine_plugin.live.programs import view as run_view

Hls = Annotated[str | None, typer.Option(help="IP:PORT of a live stream's playlist, /live.m3u8.")]
Cdn = Annotated[bool, typer.Option(help="Ask the CDN when peers are too slow.")]
Behind = Annotated[
    int, typer.Option(min=1, help="Segments behind the newest that playback begins.")
]


Source = Annotated[
    str,
    typer.Option("--input", help='File, "-" for a pipe, URL of an MPEG-TS stream or HLS playlist.'),
]
Index = Annotated[str, typer.Option(help="IP:PORT where the segment index is served.")]
IndexUrls = Annotated[
    list[str] | None, typer.Option(help="URL of the index for viewers, if not IP:PORT.")
]
DescriptorOut = Annotated[Path | None, typer.Option(help="Write the stream's descriptor here.")]
Descriptor = Annotated[Path | None, typer.Option(help="Use this descriptor, signed elsewhere.")]
IssuingKey = Annotated[Path | None, typer.Option(help="Seed file of the terms' issuing key.")]
Title = Annotated[str, typer.Option(help="For viewers; at most 64 bytes.")]
SegmentMs = Annotated[int, typer.Option(min=200, max=60_000, help="Length wanted.")]
PieceBytes = Annotated[int, typer.Option(help="A power of two from 16384.")]
Window = Annotated[int, typer.Option(min=2, help="Segments that are kept served.")]
CdnUrls = Annotated[
    list[str] | None, typer.Option(help="Base URL of another CDN with the same segments.")
]
MaxKbps = Annotated[
    int, typer.Option(min=0, help="Best variant of an HLS origin up to this rate; 0: any.")
]
Realtime = Annotated[bool, typer.Option(help="Pace a file by its media time.")]
Loop = Annotated[bool, typer.Option(help="Begin a file again at its end.")]


def broadcast(
    source: Source,
    *,
    listen: o.Listen,
    state: o.State,
    index: Index,
    index_url: IndexUrls = None,
    descriptor_out: DescriptorOut = None,
    descriptor: Descriptor = None,
    terms: o.TermsFile = None,
    issuing_key: IssuingKey = None,
    account_key: o.AccountKey = None,
    title: Title = "",
    segment_ms: SegmentMs = 1000,
    piece_bytes: PieceBytes = 32_768,
    window: Window = 12,
    cdn_url: CdnUrls = None,
    max_kbps: MaxKbps = 0,
    realtime: Realtime = False,
    loop: Loop = False,
    upload_limit: o.UploadLimit = None,
    receipt_port: o.ReceiptPort = 0,
    utp: o.Utp = None,
    accept_ip_visible: o.AcceptIpVisible = False,
    parent_pid: o.ParentPid = None,
    die_with_parent: o.DieWithParent = False,
    as_json: o.Json = False,
) -> None:
    """Broadcast a live stream: cut or indexed into segments, each shared by its viewers."""
    run = o.RunOptions(
        listen=listen,
        state=state,
        terms=terms,
        account_key=account_key,
        upload_limit=upload_limit,
        receipt_port=receipt_port,
        utp=utp,
        accept_ip_visible=accept_ip_visible,
        parent_pid=parent_pid,
        die_with_parent=die_with_parent,
    )
    options = BroadcastOptions(
        source=source,
        index_listen=parse_endpoint(index, "--index"),
        index_urls=tuple(index_url or ()),
        descriptor_path=descriptor,
        descriptor_out=descriptor_out,
        issuing_path=issuing_key,
        title=title,
        segment_ms=segment_ms,
        piece_bytes=piece_bytes,
        window_segments=window,
        cdn_urls=tuple(cdn_url or ()),
        is_realtime=realtime,
        loops=loop,
        most_kbps=max_kbps,
    )
    asyncio.run(run_broadcast(_configure(run), options, _printer(as_json=as_json)))


def watch(
    stream: Annotated[str, typer.Argument(help="A stream's descriptor file, or its URL.")],
    *,
    listen: o.Listen,
    state: o.State,
    save: Annotated[
        Path | None, typer.Option(help="Folder for segments while they are kept.")
    ] = None,
    terms: o.TermsFile = None,
    account_key: o.AccountKey = None,
    entitlement: Annotated[Path | None, typer.Option(help="For this key and stream.")] = None,
    entitlement_url: Annotated[str | None, typer.Option(help="Back end that issues one.")] = None,
    no_entitlement: Annotated[
        bool, typer.Option("--no-entitlement", help="Meter only: nothing is signed.")
    ] = False,
    hls: Hls = None,
    peer: o.Peers = None,
    cdn: Cdn = True,
    behind: Behind = 3,
    upload_limit: o.UploadLimit = None,
    download_limit: o.DownloadLimit = None,
    receipt_port: o.ReceiptPort = 0,
    allow_local_web_seeds: Annotated[
        bool, typer.Option(help="Let CDNs lie on local addresses; implied on loopback.")
    ] = False,
    utp: o.Utp = None,
    accept_ip_visible: o.AcceptIpVisible = False,
    parent_pid: o.ParentPid = None,
    die_with_parent: o.DieWithParent = False,
    as_json: o.Json = False,
) -> None:
    """Follow a live stream and share it with its other viewers, until stopped."""
    if not no_entitlement and terms is None:
        raise typer.BadParameter("want --terms with an entitlement, or --no-entitlement")
    if not no_entitlement and entitlement is None and entitlement_url is None:
        raise typer.BadParameter("want --entitlement, --entitlement-url or --no-entitlement")
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
        accept_ip_visible=accept_ip_visible,
        allow_local_web_seeds=allow_local_web_seeds,
        parent_pid=parent_pid,
        die_with_parent=die_with_parent,
    )
    run_watch(
        run,
        stream,
        save=save,
        entitlement=entitlement,
        hls=hls,
        uses_cdn=cdn,
        behind=behind,
        as_json=as_json,
    )


def run_watch(
    run: o.RunOptions,
    stream: str,
    *,
    save: Path | None,
    entitlement: Path | None,
    hls: str | None,
    uses_cdn: bool,
    behind: int,
    as_json: bool,
) -> None:
    """Follow a stream until stopped.

    Args:
        run: Options that every engine has.
        stream: A descriptor's file, or its URL.
        save: Folder for segments; None: in the state folder.
        entitlement: A file with one, if there is one.
        hls: IP:PORT of the local playlist, if one is wanted.
        uses_cdn: Whether the CDN may be asked.
        behind: Segments behind the newest that playback begins.
        as_json: Whether events are printed as JSON.

    Raises:
        EngineError: An option is wrong, or the engine could not start.
    """
    options = ViewOptions(
        stream=stream,
        folder=save or run.state / "segments",
        policy=LivePolicy(behind_segments=behind),
        entitlement=None if entitlement is None else load_entitlement(entitlement),
        peers=run.dialled(),
        uses_cdn=uses_cdn,
        hls_listen=None if hls is None else parse_endpoint(hls, "--hls"),
    )
    asyncio.run(run_view(_configure(run), options, _printer(as_json=as_json)))


def is_stream(name: str) -> bool:
    """Tell whether what was asked for is a live stream: a descriptor's file, or a URL."""
    return name.endswith(".stream") or name.startswith(("http://", "https://"))


def _configure(run: o.RunOptions) -> EngineConfig:
    # A segment's connection lives for seconds: it has no round trips to spare.
    return replace(run.configure(), dials_encrypted=False)


def _printer(*, as_json: bool) -> Callable[..., None]:
    def emit(event: str, /, **fields: Any) -> None:
        if as_json or event not in {"content", "segment_done"}:
            print_event(event, fields, as_json=as_json)

    return emit
