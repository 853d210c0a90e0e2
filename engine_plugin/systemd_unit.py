"""systemd units for engines: ordinary users, nothing writable but what an engine needs.

The unit of the whole machine stands in packaging/systemd; this one is for one user's own systemd,
which cannot change users or hide the file system, so it restricts what it can.

Source: systemd.service(5), systemd.exec(5).
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

from engine_plugin.config import ConfigError

_FOLDER_OPTIONS = ("--state", "--save")

_UNIT = """\
# ~/.config/systemd/user/swarmledger-engine.service
[Unit]
Description=swarmledger engine
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart={command}
# The engine sends its last receipts before it ends.
KillSignal=SIGTERM
TimeoutStopSec=20
Restart=on-failure
RestartSec=10
# 2: what was typed or configured is wrong; trying again does not help.
RestartPreventExitStatus=2
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
ProtectSystem=strict
ReadWritePaths={writable}
LimitNOFILE=65536

[Install]
WantedBy=default.target
"""


def format_user_unit(*, program: Path, arguments: Sequence[str], writable: Sequence[Path]) -> str:
    """Return the unit that runs `swarmledger engine ARGUMENTS…` for one user.

    Args:
        program: Path of `swarmledger`.
        arguments: The subcommand and what follows it.
        writable: Folders written to beside those of --state and --save.

    Raises:
        ConfigError: An argument holds a character that a unit cannot.
    """
    folders = [path.absolute() for path in writable]
    for option, value in itertools.pairwise(arguments):
        if option in _FOLDER_OPTIONS:
            folders.append(Path(value).absolute())
    if not folders:
        raise ConfigError("command: got no --state, want the folder the engine keeps")
    absolute = _make_absolute(arguments)
    return _UNIT.format(
        command=" ".join(quote_argument(text) for text in (str(program), "engine", *absolute)),
        # "-": a folder that does not exist yet is no fault.
        writable=" ".join(quote_argument(f"-{path}") for path in dict.fromkeys(folders)),
    )


def quote_argument(text: str) -> str:
    """Return an argument as systemd reads it back, whatever it holds.

    Raises:
        ConfigError: It holds a control character.
    """
    if not text.isprintable():
        raise ConfigError(f"argument: got {text!r}, want printable characters")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if not text or set(text) & set(" \t'\"\\;$%") else escaped


def _make_absolute(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with paths that do not depend on where the unit is started."""
    absolute = []
    for number, text in enumerate(arguments):
        follows_folder = number and arguments[number - 1] in _FOLDER_OPTIONS
        is_path = follows_folder or (number and not text.startswith("-") and Path(text).exists())
        absolute.append(str(Path(text).absolute()) if is_path else text)
    return absolute
