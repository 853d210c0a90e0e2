"""`engine keys`: the public keys of a state folder, and where its earnings shall go."""

from pathlib import Path
from typing import Annotated, Any

import typer

from engine_plugin.account_address import format_address, parse_address
from engine_plugin.commands import options as o
from engine_plugin.commands.console import Failures, print_json
from engine_plugin.key_files import KeyFileError, read_seed
from engine_plugin.owner_settings import change_settings, load_settings, write_settings
from engine_plugin.state_dir import ACCOUNT_FILE, SESSION_FILE
from ledger.evidence.keys import public_key_of

app = typer.Typer(
    name="keys",
    help="Print the public keys of a state folder as JSON; seeds are never printed.",
    invoke_without_command=True,
)


@app.callback()
def keys(
    context: typer.Context,
    state: Annotated[
        Path | None, typer.Option(help="Folder for keys, meter journal, spool and settings.")
    ] = None,
) -> None:
    """Print the public keys of a state folder as JSON; seeds are never printed."""
    if context.invoked_subcommand is not None:
        return
    if state is None:
        raise typer.BadParameter("want --state FOLDER")
    with Failures():
        session = public_key_of(read_seed(state / SESSION_FILE))
        answer: dict[str, Any] = {"session_key": session.hex()}
        settings = load_settings(state, environ={})
        account = Path(settings.account_key) if settings.account_key else state / ACCOUNT_FILE
        if settings.account_key or account.exists():
            key = public_key_of(read_seed(account))
            answer |= {"account": key.hex(), "address": format_address(key)}
        if settings.payout_account:
            answer["payout_account"] = settings.payout_account
        print_json(answer)


@app.command("set-payout")
def set_payout(
    address: Annotated[str, typer.Argument(help='The account to be paid to, G…; "" forgets it.')],
    state: o.State,
) -> None:
    """Note the account that earnings shall go to; needed only when you want to be paid."""
    with Failures():
        if not (state / SESSION_FILE).exists():
            raise KeyFileError(f"{state / SESSION_FILE}: No such file; see `engine init`")
        if address:
            parse_address(address, "payout_account")
        settings = change_settings(load_settings(state, environ={}), {"payout_account": address})
        write_settings(state, settings)
        print_json({"payout_account": address or None})
