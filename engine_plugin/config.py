"""What an engine and its contents are told: checked once, before anything starts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine_plugin.errors import WrongInputError
from engine_plugin.owner_settings import OwnerSettings
from engine_plugin.standing import EnforcementPolicy, PlainPeers
from engine_plugin.wire import Endpoint, pack_address
from ledger.evidence.binding import BINDING, Binding
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.errors import EvidenceError
from ledger.evidence.terms import Terms, parse_terms, require_valid_terms

_TERMS_SIZE_MAX = 1 << 16


class ConfigError(WrongInputError):
    """An option is wrong: field, got, want."""


DEFAULT_ENFORCEMENT = EnforcementPolicy(plain_peers=PlainPeers.PROBATION)
"""Under terms; plain clients are served slowly, for nobody pays for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One engine: a session, a state directory, and whose terms it works under."""

    listen: Endpoint
    """Where BitTorrent connections are taken; port 0 lets the system choose."""
    state_path: Path
    terms: Signed[Terms] | None = None
    """None: plain swarms; bytes are metered and nothing is signed."""
    receipt_port: int = 0
    """Port of the side channel on the same address; 0 lets the system choose."""
    account_path: Path | None = None
    entitlement_url: str | None = None
    issuing_binding: Signed[Binding] | None = None
    """The broadcaster's newest word on its issuing key; the collector and peers tell it too."""
    enforcement: EnforcementPolicy | None = DEFAULT_ENFORCEMENT
    """Under terms: how peers are held to their receipts; None: everybody is served."""
    min_coverage_ppm: int = 0
    """Under terms: nothing is served unless the escrow covers so much of what is owed, in parts
    per million; 0: whatever it covers."""
    owner: OwnerSettings | None = None
    """Limits to keep to while running; None: only the two rates below."""
    upload_limit: int = 0
    """Bytes per second; 0 = unlimited."""
    download_limit: int = 0
    """Bytes per second; 0 = unlimited."""
    discovers: bool = False
    """Whether to use DHT, local discovery, port mapping and trackers."""
    dials_utp: bool = True
    """Whether to dial peers over uTP before TCP."""
    dials_encrypted: bool = True
    """Whether to offer encryption when dialling: two round trips and a key exchange a connection.
    Encrypted connections are always taken."""
    allows_local_web_seeds: bool = False
    parent_pid: int | None = None
    """Stop when this process is gone."""
    stop_seconds: float = 8.0
    """Longest time a clean stop may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentOptions:
    """How one torrent of an engine is served or fetched."""

    save_path: Path
    """Folder that holds, or will hold, the torrent's name."""
    is_complete: bool = False
    """Whether the content is here already."""
    peers: Sequence[Endpoint] = ()
    """Peers to dial, and to dial again when they are lost."""
    trackers: Sequence[str] = ()
    """Trackers to ask, whatever `discovers` says; whom the first names is dialled at once, others
    at libtorrent's next full second."""
    uses_web_seeds: bool = True
    """Whether to fetch from the torrent's own web seeds."""
    exchanges_peers: bool = True
    """Whether peers are told of each other (PEX)."""
    is_sequential: bool = False
    is_read_only: bool = False
    """Whether files are never written: what is on the disk is served, and nothing fetched."""
    renamed_files: Mapping[int, str] = field(default_factory=dict)
    """Paths below `save_path` of files that lie elsewhere than the torrent says, by their place
    in it (padding files counted)."""
    entitlement: Signed[Entitlement] | None = None
    stream_id: bytes | None = None
    """32 bytes: receipts and viewing time accrue to this id over all its torrents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSession:
    """A host application's libtorrent session, and who reads its alert queue."""

    session: Any
    """A `libtorrent.session` of the pinned version."""
    on_alerts: Callable[[list[Any]], None] | None = None
    """The engine reads the queue and hands each batch to this, in the meter's thread; the alerts
    are valid until it returns. None: the host reads it and calls `Engine.feed`."""


def parse_endpoint(text: str, field: str) -> Endpoint:
    """Return an "IP:port" or "[IP]:port" as an endpoint.

    Raises:
        ConfigError: It is none.
    """
    ip, colon, port = text.rpartition(":")
    if ip.startswith("[") and ip.endswith("]"):
        ip = ip[1:-1]
    try:
        pack_address(ip)
    except ValueError:
        colon = ""
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(f"{field}: got {text!r}, want IP:PORT")
    return Endpoint(ip, int(port))


def load_terms(path: Path) -> Signed[Terms]:
    """Return the signed terms in a file.

    Raises:
        ConfigError: The file cannot be read, is malformed, or is not signed by its issuing key.
    """
    raw = _read(path, "terms")
    try:
        signed = parse_terms(raw)
        require_valid_terms(signed)
    except EvidenceError as error:
        raise ConfigError(f"{path}: {error}") from None
    return signed


def load_entitlement(path: Path) -> Signed[Entitlement]:
    """Return the entitlement in a file; whether it fits is judged later.

    Raises:
        ConfigError: The file cannot be read or is malformed.
    """
    try:
        return ENTITLEMENT.parse(_read(path, "entitlement"))
    except EvidenceError as error:
        raise ConfigError(f"{path}: {error}") from None


def load_issuing_binding(path: Path) -> Signed[Binding]:
    """Return the binding in a file; whether it is the terms' issuing key's is judged later.

    Raises:
        ConfigError: The file cannot be read or is malformed.
    """
    try:
        return BINDING.parse(_read(path, "issuing binding"))
    except EvidenceError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_TERMS_SIZE_MAX)
    except OSError as error:
        raise ConfigError(f"{what}: {path}: {error.strerror}") from None
