"""The command `swarmledger cdn`: serve content as a demo's content delivery network."""

from pathlib import Path
from typing import Annotated

import typer

from ledger.embedded.cdn import Cdn
from ledger.serving import ListenError, bind
from ledger.serving import serve as serve_application

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
    try:
        listener = bind(listen)
    except ListenError as error:
        raise typer.BadParameter(str(error)) from None
    with access_log.open("a", encoding="utf-8") as log:
        cdn = Cdn(content, bytes_per_second=rate, access_log=log)
        serve_application(cdn.application(), listener, ready_file)


def main() -> None:
    """Entry point of `swarmledger cdn`."""
    app()
