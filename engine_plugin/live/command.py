"""The live commands of `swarmledger engine`: `broadcast`, and `watch` for a stream's viewers.

With `--json` every line on stdout is one event. Exit status as in `engine_plugin.command`.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from engine_plugin.config import EngineConfig, load_entitlement, load_terms, parse_endpoint
from engine_plugin.live.policy import LivePolicy
from engine_plugin.live.programs import BroadcastOptions, ViewOptions
from engine_plugin.live.programs import broadcast as run_broadcast
from engine_plugin.live.programs import view as run_view

_LOOPBACK_PREFIXES = ("127.", "[::1]")

Listen = Annotated[str, typer.Option(help="IP:PORT for BitTorrent; port 0: any free port.")]
State = Annotated[Path, typer.Option(help="Folder for keys, meter journal and spool.")]
TermsFile = Annotated[Path | None, typer.Option("--terms", help="The broadcaster's signed terms.")]
AccountKey = Annotated[Path | None, typer.Option(help="Seed file of the account (0600).")]
UploadLimit = Annotated[int, typer.Option(min=0, help="Bytes per second; 0 = unlimited.")]
DownloadLimit = Annotated[int, typer.Option(min=0, help="Bytes per second; 0 = unlimited.")]
ReceiptPort = Annotated[int, typer.Option(min=0, max=65535, help="Side channel's TCP port.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]
ParentPid = Annotated[int | None, typer.Option(help="Stop when this process is gone.")]
DieWithParent = Annotated[bool, typer.Option(help="Stop when the parent process is gone.")]
Utp = Annotated[
    bool | None, typer.Option("--utp/--tcp", help="Dial over uTP first; TCP only on loopback.")
]


def broadcast(
    source: Annotated[
        str,
        typer.Option(
            "--input", help='File, "-" for a pipe, URL of an MPEG-TS stream or HLS playlist.'
        ),
    ],
    *,
    listen: Listen,
    state: State,
    index: Annotated[str, typer.Option(help="IP:PORT where the segment index is served.")],
    index_url: Annotated[
        list[str] | None, typer.Option(help="URL of the index for viewers, if not IP:PORT.")
    ] = None,
    descriptor_out: Annotated[
        Path | None, typer.Option(help="Write the stream's descriptor here.")
    ] = None,
    descriptor: Annotated[
        Path | None, typer.Option(help="Use this descriptor, signed elsewhere.")
    ] = None,
    terms: TermsFile = None,
    issuing_key: Annotated[
        Path | None, typer.Option(help="Seed file of the terms' issuing key.")
    ] = None,
    account_key: AccountKey = None,
    title: Annotated[str, typer.Option(help="For viewers; at most 64 bytes.")] = "",
    segment_ms: Annotated[int, typer.Option(min=200, max=60_000, help="Length wanted.")] = 1000,
    piece_bytes: Annotated[int, typer.Option(help="A power of two from 16384.")] = 16_384,
    window: Annotated[int, typer.Option(min=2, help="Segments that are kept served.")] = 12,
    cdn_url: Annotated[
        list[str] | None, typer.Option(help="Base URL of another CDN with the same segments.")
    ] = None,
    max_kbps: Annotated[
        int, typer.Option(min=0, help="Best variant of an HLS origin up to this rate; 0: any.")
    ] = 0,
    realtime: Annotated[bool, typer.Option(help="Pace a file by its media time.")] = False,
    loop: Annotated[bool, typer.Option(help="Begin a file again at its end.")] = False,
    upload_limit: UploadLimit = 0,
    receipt_port: ReceiptPort = 0,
    utp: Utp = None,
    parent_pid: ParentPid = None,
    die_with_parent: DieWithParent = False,
    as_json: Json = False,
) -> None:
    """Broadcast a live stream: cut or indexed into segments, each shared by its viewers."""
    config = EngineConfig(
        listen=parse_endpoint(listen, "--listen"),
        receipt_port=receipt_port,
        state_path=state,
        terms=None if terms is None else load_terms(terms),
        account_path=account_key,
        upload_limit=upload_limit,
        dials_utp=not listen.startswith(_LOOPBACK_PREFIXES) if utp is None else utp,
        dials_encrypted=False,  # a segment's connection lives for seconds: round trips count
        parent_pid=os.getppid() if die_with_parent else parent_pid,
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
    asyncio.run(run_broadcast(config, options, _printer(as_json=as_json)))


def watch(
    stream: Annotated[str, typer.Argument(help="A stream's descriptor file, or its URL.")],
    *,
    listen: Listen,
    state: State,
    save: Annotated[
        Path | None, typer.Option(help="Folder for segments while they are kept.")
    ] = None,
    terms: TermsFile = None,
    account_key: AccountKey = None,
    entitlement: Annotated[Path | None, typer.Option(help="For this key and stream.")] = None,
    entitlement_url: Annotated[str | None, typer.Option(help="Back end that issues one.")] = None,
    no_entitlement: Annotated[
        bool, typer.Option("--no-entitlement", help="Meter only: nothing is signed.")
    ] = False,
    hls: Annotated[
        str | None, typer.Option(help="IP:PORT of the local playlist, /live.m3u8.")
    ] = None,
    peer: Annotated[list[str] | None, typer.Option(help="IP:PORT to dial; repeatable.")] = None,
    cdn: Annotated[bool, typer.Option(help="Ask the CDN when peers are too slow.")] = True,
    behind: Annotated[
        int, typer.Option(min=1, help="Segments behind the newest that playback begins.")
    ] = 3,
    upload_limit: UploadLimit = 0,
    download_limit: DownloadLimit = 0,
    receipt_port: ReceiptPort = 0,
    allow_local_web_seeds: Annotated[
        bool, typer.Option(help="Let CDNs lie on local addresses; implied on loopback.")
    ] = False,
    utp: Utp = None,
    parent_pid: ParentPid = None,
    die_with_parent: DieWithParent = False,
    as_json: Json = False,
) -> None:
    """Follow a live stream and share it with its other viewers, until stopped."""
    if not no_entitlement and terms is None:
        raise typer.BadParameter("want --terms with an entitlement, or --no-entitlement")
    if not no_entitlement and entitlement is None and entitlement_url is None:
        raise typer.BadParameter("want --entitlement, --entitlement-url or --no-entitlement")
    is_loopback = listen.startswith(_LOOPBACK_PREFIXES)
    config = EngineConfig(
        listen=parse_endpoint(listen, "--listen"),
        receipt_port=receipt_port,
        state_path=state,
        terms=None if no_entitlement or terms is None else load_terms(terms),
        account_path=account_key,
        entitlement_url=entitlement_url,
        upload_limit=upload_limit,
        download_limit=download_limit,
        dials_utp=not is_loopback if utp is None else utp,
        dials_encrypted=False,  # as above
        allows_local_web_seeds=allow_local_web_seeds or is_loopback,
        parent_pid=os.getppid() if die_with_parent else parent_pid,
    )
    options = ViewOptions(
        stream=stream,
        folder=save or state / "segments",
        policy=LivePolicy(behind_segments=behind),
        entitlement=None if entitlement is None else load_entitlement(entitlement),
        peers=[parse_endpoint(text, "--peer") for text in peer or []],
        uses_cdn=cdn,
        hls_listen=None if hls is None else parse_endpoint(hls, "--hls"),
    )
    asyncio.run(run_view(config, options, _printer(as_json=as_json)))


def _printer(*, as_json: bool) -> Callable[..., None]:
    def emit(event: str, /, **fields: Any) -> None:
        if as_json:
            line = json.dumps({"event": event, **fields})
        elif event in {"progress", "content", "segment_done"}:
            return
        else:
            line = f"{event}: " + " ".join(f"{key}={value}" for key, value in fields.items())
        try:
            print(line, flush=True)
        except BrokenPipeError:
            # Nobody listens any more; the program stops by signal, not by a closed pipe.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - stays open until exit

    return emit
