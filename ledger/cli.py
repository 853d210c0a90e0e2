"""The command `swarmledger`: a thin dispatcher over the entry points of `swarmledger.commands`.

It finds the named command, loads its module, and hands over; it parses no option of any command
and imports nothing outside the standard library, so `swarmledger --help` answers on a machine that
has the verifier's set only. Packages register their commands in `pyproject.toml`
(entry-point group `swarmledger.commands`); `COMMANDS` holds the one line that `--help` prints for
each, because loading every command to ask it would load every library. Exit status 2 means that
no command ran: the name is unknown, or the extra that brings the command's libraries is missing.
"""

import difflib
import gc
import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

DISTRIBUTION: Final = "swarmledger"
ENTRY_POINT_GROUP: Final = "swarmledger.commands"
EXIT_NOT_RUN: Final = 2
OWN_PACKAGES: Final = frozenset({"contracts", "engine_plugin", "ledger", "worker"})
SUGGESTIONS_MAX: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """What `--help` says about one command."""

    summary: str
    """One line, no full stop."""
    extra: str
    """The extra that brings the command's libraries; empty when the bare installation has them."""


COMMANDS: Final[Mapping[str, CommandLine]] = {
    "api": CommandLine(
        summary="Serve the collector and the public log, or the issuer", extra="server"
    ),
    "audit": CommandLine(summary="Verify an audit file without trusting the operator", extra=""),
    "bench": CommandLine(summary="Measure what the product costs on this machine", extra="engine"),
    "broadcaster": CommandLine(
        summary="Give entitlements to viewers, and take an issuing key back", extra="server"
    ),
    "cdn": CommandLine(
        summary="Serve content as the content delivery network of a demo", extra="server"
    ),
    "db": CommandLine(summary="Create and upgrade the database schema", extra="server"),
    "demo": CommandLine(summary="Run the whole path once, from a byte to an audit", extra="all"),
    "devnet": CommandLine(summary="Run a Stellar network in one process", extra="server"),
    "drill": CommandLine(
        summary="Let the operator die in the middle of payouts, and pay everybody", extra="server"
    ),
    "engine": CommandLine(summary="Seed or view content with metered, paid bytes", extra="engine"),
    "instruct": CommandLine(
        summary="Ask for the unspent deposit, rule on unplanned transactions", extra="server"
    ),
    "keys": CommandLine(summary="Encrypt seed files, check them, show public keys", extra=""),
    "log": CommandLine(summary="Mirror, verify and watch a public log, find omissions", extra=""),
    "payee": CommandLine(
        summary="See what is owed to an account, say where it is paid, ask for it", extra="server"
    ),
    "rebuild": CommandLine(
        summary="Rebuild books and payouts from log, spools and chain", extra="server"
    ),
    "reconcile": CommandLine(
        summary="Compare signed bytes with CDN logs and invoices", extra="server"
    ),
    "report": CommandLine(
        summary="Make bills, statements and books from audit files", extra="server"
    ),
    "settlement": CommandLine(
        summary="Look at payouts, cancel one, go on after a halt, tend accounts", extra="server"
    ),
    "settler": CommandLine(
        summary="Recompute what the operator wants to pay, and sign that", extra="server"
    ),
    "stellar": CommandLine(
        summary="Set up accounts on a test network, deposit, look at balances", extra="server"
    ),
    "top": CommandLine(summary="Show totals while an event runs", extra="server"),
    "worker": CommandLine(summary="Verify, seal, compute and settle on a schedule", extra="server"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name.

    Args:
        argv: The arguments after the program's name; `sys.argv[1:]` when None.

    Returns:
        The command's own exit status, or 2 when no command ran.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(format_help(), file=sys.stderr)
        return EXIT_NOT_RUN
    name, rest = arguments[0], arguments[1:]
    if name in {"-h", "--help", "help"}:
        print(format_help())
        return 0
    if name in {"-V", "--version"}:
        print(f"{DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)}")
        return 0
    entry_points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name=name)
    if not entry_points:
        print(_format_unknown(name), file=sys.stderr)
        return EXIT_NOT_RUN
    return _run(name, next(iter(entry_points)), rest)


def format_help() -> str:
    """Format the text of `--help`: usage and one line per installed command."""
    names = sorted(_installed_names())
    width = max((len(name) for name in names), default=0)
    lines = [f"usage: {DISTRIBUTION} COMMAND [OPTIONS]", "", "commands:"]
    for name in names:
        line = COMMANDS.get(name)
        lines.append(f"  {name:<{width}}  {line.summary if line else ''}".rstrip())
    lines += [
        "",
        f"`{DISTRIBUTION} COMMAND --help` lists the options of one command.",
    ]
    return "\n".join(lines)


def _run(name: str, entry_point: importlib.metadata.EntryPoint, rest: list[str]) -> int:
    sys.argv = [f"{DISTRIBUTION} {name}", *rest]
    try:
        command = _load(entry_point)
        status = command()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing in OWN_PACKAGES:
            raise
        print(_format_missing(name, missing), file=sys.stderr)
        return EXIT_NOT_RUN
    return 0 if status is None else status


def _load(entry_point: importlib.metadata.EntryPoint) -> Callable[[], int | None]:
    """Load a command; what its modules make lives on, so no garbage is looked for in it."""
    gc.disable()
    try:
        command: Callable[[], int | None] = entry_point.load()
    finally:
        gc.freeze()
        gc.enable()
    return command


def _installed_names() -> set[str]:
    return {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}


def _format_unknown(name: str) -> str:
    names = sorted(_installed_names())
    close = difflib.get_close_matches(name, names, n=SUGGESTIONS_MAX)
    advice = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"{DISTRIBUTION}: command: got {name!r}, want one of {', '.join(names)}{advice}"


def _format_missing(name: str, module: str) -> str:
    extra = COMMANDS[name].extra if name in COMMANDS else ""
    target = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
    return (
        f"{DISTRIBUTION} {name}: this command needs the package {module!r}, "
        f"which is not installed: pip install '{target}'"
    )


if __name__ == "__main__":
    sys.exit(main())
