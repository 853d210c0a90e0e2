"""`engine torrent`: make a torrent of a file or folder."""

from pathlib import Path
from typing import Annotated

import typer

from engine_plugin.commands.console import Failures, print_json, write_torrent
from engine_plugin.torrents import TorrentForm, make_torrent


def make(
    path: Annotated[Path, typer.Argument(help="A file or folder.")],
    out: Annotated[Path, typer.Option(help="The torrent file to write.")],
    web_seed: Annotated[list[str] | None, typer.Option(help="CDN URL (BEP 19).")] = None,
    piece_bytes: Annotated[int | None, typer.Option(help="A power of two from 16384.")] = None,
    form: Annotated[
        TorrentForm,
        typer.Option(help="hybrid: v1 and v2; v1: for swarms with Transmission 3 or aria2."),
    ] = TorrentForm.HYBRID,
) -> None:
    """Make a torrent; print what it describes as JSON."""
    with Failures():
        described = make_torrent(path, piece_bytes=piece_bytes, web_seeds=web_seed or [], form=form)
        write_torrent(out, described.data)
        print_json(
            {
                "content_id": described.content_id.hex(),
                "content_bytes": described.content_bytes,
                "name": described.name,
                "form": str(form),
                "piece_bytes": described.layout.piece_bytes,
                "files": len(described.files),
                "web_seeds": list(described.web_seeds),
                "torrent": str(out),
            }
        )
