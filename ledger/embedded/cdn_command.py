"""The command `swarmledger cdn`: serve content as a demo's content delivery network."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from ledger.embedded.cdn import Cdn, write_ready_file

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    content: Annotated[Path, typer.Option(exists=True, help="File or folder to serve.")],
    access_log: Annotated[Path, typer.Option(help="Access log, nginx combined format.")],
    listen: Annotated[str, typer.Option(help="IP:PORT; port 0: any free one.")] = "127.0.0.1:0",
    rate: Annotated[int, typer.Option(min=0, help="Bytes per second over all; 0 = no limit.")] = 0,
    ready_file: Annotated[Path | None, typer.Option(help="JSON with the URL once ready.")] = None,
) -> None:
    """Serve content over HTTP with byte ranges, a rate limit and an access log."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise typer.BadParameter(f"--listen: got {listen!r}, want IP:PORT")
    listener = socket.create_server((host, int(port)))
    with access_log.open("a", encoding="utf-8") as log:
        cdn = Cdn(content, bytes_per_second=rate, access_log=log)
        config = uvicorn.Config(
            cdn.application(),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        url = "http://{}:{}".format(*listener.getsockname()[:2])
        if ready_file is not None:
            # The socket listens already: a client that comes before the loop waits in its queue.
            write_ready_file(ready_file, {"url": url, "pid": os.getpid()})
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


def main() -> None:
    """Entry point of `swarmledger cdn`."""
    app()
