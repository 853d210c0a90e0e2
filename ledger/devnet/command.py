"""The command `swarmledger devnet`: serve a network over HTTP, or judge it by recorded vectors."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from ledger.devnet.http import DevnetHttp
from ledger.devnet.measure import Load, MeasureError, measure
from ledger.devnet.network import Settings
from ledger.devnet.service import Devnet, Options
from ledger.devnet.state_file import StateFile, StateFileError
from ledger.devnet.vectors import VectorError, judge_files

app = typer.Typer(
    help="A Stellar network in one process, for demos and tests.", no_args_is_help=True
)


def _bind(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise typer.BadParameter(f"--listen: got {listen!r}, want HOST:PORT")
    # The protocol is named because asyncio sets TCP_NODELAY on such sockets only.
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, int(port)))
    except OSError as error:
        found.close()
        raise typer.BadParameter(f"--listen: cannot bind {listen}: {error}") from error
    return found


def _write_ready(path: Path, content: dict[str, object]) -> None:
    """Write the file in one step, so that a reader sees all of it or nothing."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file)
    Path(name).replace(path)


class _Server(uvicorn.Server):
    """Uvicorn that tells once it listens."""

    def __init__(
        self, config: uvicorn.Config, ready: Path | None, content: dict[str, object]
    ) -> None:
        super().__init__(config)
        self._ready, self._content = ready, content

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Stop on SIGTERM and SIGINT with exit code 0: being stopped is no failure."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then write the ready file."""
        await super().startup(sockets=sockets)
        if self._ready is not None:
            _write_ready(self._ready, self._content)


@app.command()
def serve(
    passphrase: Annotated[
        str, typer.Option(help="Network passphrase; the root account's seed is its hash.")
    ],
    listen: Annotated[
        str, typer.Option(help="HOST:PORT; port 0 takes any free one.")
    ] = "127.0.0.1:0",
    close_seconds: Annotated[
        float,
        typer.Option(
            help="Seconds between ledgers, 0 = on request only; below 1 their clock runs ahead."
        ),
    ] = 1.0,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="JSON with url, passphrase, root account, pid; written once listening."),
    ] = None,
    protocol: Annotated[int, typer.Option(min=19, help="Protocol number.")] = 27,
    max_tx_set_size: Annotated[
        int, typer.Option(min=1, help="Operations a network ledger takes.")
    ] = 1_000,
    base_fee: Annotated[int, typer.Option(min=1, help="Stroops per operation.")] = 100,
    base_reserve: Annotated[int, typer.Option(min=1, help="Stroops per reserve unit.")] = 5_000_000,
    submit_timeout_seconds: Annotated[
        float, typer.Option(help="How long POST /transactions waits before it answers 504.")
    ] = 30.0,
    state: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="SQLite file that survives a restart; its protocol, fees and limits then stand.",
        ),
    ] = None,
) -> None:
    """Run a network until SIGTERM or SIGINT."""
    settings = Settings(
        passphrase=passphrase,
        protocol=protocol,
        base_fee=base_fee,
        base_reserve=base_reserve,
        max_tx_set_size=max_tx_set_size,
        expected_close_seconds=max(1, math.ceil(close_seconds)),
    )
    options = Options(close_seconds=close_seconds, submit_timeout_seconds=submit_timeout_seconds)
    try:
        with ExitStack() as stack:
            file = stack.enter_context(StateFile(state)) if state is not None else None
            devnet = Devnet(settings, options, state=file)
            _run(devnet, listen, ready_file)
    except StateFileError as error:
        typer.echo(f"swarmledger devnet: {error}", err=True)
        raise typer.Exit(2) from None


def _run(devnet: Devnet, listen: str, ready_file: Path | None) -> None:
    listener = _bind(listen)
    host, port = listener.getsockname()[:2]
    url = f"http://{host}:{port}"
    asyncio.run(_serve(devnet, listener, url, ready_file))


async def _serve(
    devnet: Devnet, listener: socket.socket, url: str, ready_file: Path | None
) -> None:
    config = uvicorn.Config(
        DevnetHttp(devnet).application(),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        lifespan="on",
    )
    content: dict[str, object] = {
        "url": url,
        "rpc_url": f"{url}/rpc",
        "passphrase": devnet.network.settings.passphrase,
        "root_account": devnet.network.root.public_key,
        "pid": os.getpid(),
    }
    server = _Server(config, ready_file, content)
    sys.stderr.write(f"devnet at {url}\n")
    await server.serve(sockets=[listener])


@app.command("measure")
def measure_speed(
    ledgers: Annotated[int, typer.Option(min=1, help="Network ledgers to apply.")] = 10,
    channels: Annotated[
        int, typer.Option(min=1, max=100, help="Batches of 100 payments in each.")
    ] = 10,
    state: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Keep the network in this new SQLite file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure payments applied a second of one core."""
    try:
        found = measure(Load(ledgers=ledgers, channels=channels), state)
    except (MeasureError, StateFileError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(found))
    else:
        typer.echo(f"{found['payments_per_cpu_s']:,.0f} payments a second of one core")


@app.command("check-vectors")
def check_vectors(
    files: Annotated[
        list[Path], typer.Argument(exists=True, help="JSON lines, .gz too, or folders of them.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    group: Annotated[
        list[str] | None, typer.Option(help="Only this group of cases; NAME* for a prefix.")
    ] = None,
) -> None:
    """Judge the devnet by recorded results; exit 1 if any differ, 2 for what is no recording."""
    try:
        verdict = judge_files(files, group or [])
    except VectorError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps(verdict.as_json()))
    else:
        for difference in verdict.differ:
            typer.echo(f"{difference.name}: {difference.what}")
            typer.echo(f"  got  {difference.got}\n  want {difference.want}")
        typer.echo(f"{verdict.agree} of {verdict.cases} cases agree")
        if verdict.assumed:
            names = ", ".join(verdict.assumed)
            typer.echo(f"they claim balances that the recording does not hold: {names}")
    raise typer.Exit(0 if verdict.agree == verdict.cases else 1)


def main() -> None:
    """Entry point of `swarmledger devnet`."""
    app()


if __name__ == "__main__":
    main()
