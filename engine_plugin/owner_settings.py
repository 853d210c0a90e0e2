"""What the owner decided: consent, limits, schedule, payout account.

One file, `engine.toml` in the state folder; every field may be overridden by an environment
variable `SWARMLEDGER_ENGINE_FIELD` and then by the command's options. Read strictly: an unknown
field, a wrong type or a value out of range is an error that names the field. Written whole or not
at all. Holds no secret; keys are files of their own.

Not here: what the limits do (`limits`), questions to the owner (`commands`).
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from engine_plugin.account_address import parse_address
from engine_plugin.byte_amounts import BYTES_MAX, parse_byte_count, parse_byte_rate
from engine_plugin.errors import WrongInputError
from engine_plugin.key_files import write_private
from engine_plugin.schedule import Schedule, parse_schedule

FILE_NAME = "engine.toml"
PREFIX = "SWARMLEDGER_ENGINE_"

_FILE_SIZE_MAX = 64 * 1024
_RATES = ("upload_bytes_per_s", "download_bytes_per_s")
_SWITCHES = ("accepts_ip_visible", "discovers", "tells_totals")
_COUNTS = ("monthly_upload_bytes", "disk_quota_bytes")


class SettingsError(WrongInputError):
    """The settings cannot be read, written or used: field, got, want."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerSettings:
    """The owner's decisions. Build with `make_settings`, which checks them."""

    accepts_ip_visible: bool = False
    """Whether the owner agreed that peers see this machine's IP address."""
    discovers: bool = False
    """Whether DHT, local discovery, trackers and port mapping are used without being asked for."""
    upload_bytes_per_s: int = 0
    """0 = unlimited."""
    download_bytes_per_s: int = 0
    """0 = unlimited."""
    monthly_upload_bytes: int = 0
    """Most content bytes handed to peers in a calendar month; 0 = unlimited."""
    disk_quota_bytes: int = 0
    """Most bytes that fetched content may fill; 0 = unlimited."""
    schedule: str = ""
    """When the engine serves; "" = always. See `schedule`."""
    time_zone: str = ""
    """IANA name for schedule and months; "" = the machine's."""
    account_key: str = ""
    """Seed file of the account to earn to; "" = the state folder's own."""
    payout_account: str = ""
    """Address the owner wants the money at in the end; "" = the account that earns it."""
    tells_totals: bool = True
    """Whether the collector is told receipts while their epoch runs, not only after it."""

    @property
    def windows(self) -> Schedule:
        """The schedule, parsed."""
        return parse_schedule(self.schedule)

    def local_time(self, now_s: float) -> datetime:
        """Return the owner's local time.

        Args:
            now_s: Unix seconds.
        """
        utc = datetime.fromtimestamp(now_s, UTC)
        zone: tzinfo | None = ZoneInfo(self.time_zone) if self.time_zone else None
        return utc.astimezone(zone)


_NOTES = {
    "accepts_ip_visible": "Peers see this machine's IP address: whether that is accepted.",
    "discovers": "Use DHT, local discovery, trackers and port mapping (needs the line above).",
    "upload_bytes_per_s": "Bytes per second to all peers; 0: unlimited.",
    "download_bytes_per_s": "Bytes per second from peers and CDN; 0: unlimited.",
    "monthly_upload_bytes": "Content bytes served in a calendar month; 0: unlimited.",
    "disk_quota_bytes": "Bytes of fetched content on disk; 0: unlimited.",
    "schedule": 'When to serve, as "Mon-Fri 22:00-07:00; Sat,Sun 00:00-24:00"; empty: always.',
    "time_zone": 'Of schedule and months, as "Europe/Berlin"; empty: the machine\'s.',
    "account_key": "Seed file (0600) of the account to earn to; empty: the recovery phrase's.",
    "tells_totals": "Tell the collector receipts while their epoch runs, for live totals.",
    "payout_account": "Where earnings shall go in the end, G…; empty: they stay there.",
}


def make_settings(values: Mapping[str, Any], *, where: str = "") -> OwnerSettings:
    """Return checked settings.

    Args:
        values: Fields by name. Amounts are integers of bytes or texts with a unit.
        where: What an error names before the field, such as the file.

    Raises:
        SettingsError: A field is unknown, of another type, or out of range.
        EngineError: A schedule, an amount or an address is wrong; the message names the field.
    """
    known = {field.name for field in fields(OwnerSettings)}
    at = f"{where}: " if where else ""
    if unknown := sorted(set(values) - known):
        raise SettingsError(f"{at}{unknown[0]}: got an unknown field, want {sorted(known)}")
    checked = {name: _check(name, value, at) for name, value in values.items()}
    settings = OwnerSettings(**checked)
    parse_schedule(settings.schedule, f"{at}schedule")
    if settings.payout_account:
        parse_address(settings.payout_account, f"{at}payout_account")
    if settings.time_zone:
        _require_zone(settings.time_zone, at)
    return settings


def load_settings(
    folder: Path, *, environ: Mapping[str, str] | None = None, options: Mapping[str, Any] = {}
) -> OwnerSettings:
    """Return the settings of a state folder: file, then environment, then options.

    Args:
        folder: The state folder; without a settings file the defaults hold.
        environ: Instead of the process's environment.
        options: Fields given on the command line; None means not given.

    Raises:
        EngineError: As `make_settings`, or the file cannot be read.
    """
    path = folder / FILE_NAME
    settings = read_settings(path) if path.exists() else OwnerSettings()
    known = {field.name for field in fields(OwnerSettings)}
    overrides: dict[str, Any] = {}
    for name, text in (os.environ if environ is None else environ).items():
        field = name.removeprefix(PREFIX).lower()
        if name.startswith(PREFIX):
            if field not in known:
                raise SettingsError(f"{name}: got an unknown field, want {sorted(known)}")
            overrides[field] = text
    overrides = {name: _from_text(name, value) for name, value in overrides.items()}
    overrides |= {name: value for name, value in options.items() if value is not None}
    return _with(settings, overrides) if overrides else settings


def read_settings(path: Path) -> OwnerSettings:
    """Return the settings in a file.

    Raises:
        EngineError: The file cannot be read, is no TOML, or states something wrong.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_SIZE_MAX)
        values = tomllib.loads(content.decode())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: got no TOML: {error}") from None
    return make_settings(values, where=str(path))


def change_settings(settings: OwnerSettings, changes: Mapping[str, Any]) -> OwnerSettings:
    """Return settings with some fields changed and checked; None leaves a field as it is.

    Raises:
        EngineError: As `make_settings`.
    """
    return _with(settings, {name: value for name, value in changes.items() if value is not None})


def write_settings(folder: Path, settings: OwnerSettings) -> Path:
    """Write the settings file of a state folder, whole or not at all.

    Returns:
        The file.

    Raises:
        SettingsError: It cannot be written.
    """
    path = folder / FILE_NAME
    try:
        write_private(path, format_settings(settings).encode())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    return path


def format_settings(settings: OwnerSettings) -> str:
    """Return settings as the text of their file; `read_settings` gives them back."""
    lines = ["# What the owner of this engine decided. Read at its next start.", ""]
    for field in fields(settings):
        lines.append(f"# {_NOTES[field.name]}")
        lines.append(f"{field.name} = {_format_value(getattr(settings, field.name))}")
    return "\n".join(lines) + "\n"


def _with(settings: OwnerSettings, changes: Mapping[str, Any]) -> OwnerSettings:
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return replace(make_settings(values | dict(changes)))


def _check(name: str, value: Any, at: str) -> Any:
    field = f"{at}{name}"
    if name in (*_RATES, *_COUNTS):
        if isinstance(value, str):
            parse = parse_byte_rate if name in _RATES else parse_byte_count
            return parse(value, field)
        if type(value) is not int or not 0 <= value <= BYTES_MAX:
            raise SettingsError(f"{field}: got {value!r}, want a whole number of bytes, n >= 0")
        return value
    wanted = bool if name in _SWITCHES else str
    if type(value) is not wanted:
        want = "true or false" if wanted is bool else "a text in quotes"
        raise SettingsError(f"{field}: got {value!r}, want {want}")
    if isinstance(value, str) and not value.isprintable():
        raise SettingsError(f"{field}: got {value!r}, want printable characters")
    return value


def _from_text(name: str, text: str) -> Any:
    if name not in _SWITCHES:
        return text
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise SettingsError(f"{PREFIX}{name.upper()}: got {text!r}, want true or false")
    return known[text.lower()]


def _require_zone(name: str, at: str) -> None:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise SettingsError(
            f"{at}time_zone: got {name!r}, want a zone of this machine, as Europe/Berlin"
        ) from None


def _format_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
