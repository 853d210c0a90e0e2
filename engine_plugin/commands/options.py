"""Options that several subcommands share, and what they come to together.

An option wins over the environment, which wins over the state folder's `engine.toml`.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from engine_plugin.byte_amounts import parse_byte_rate
from engine_plugin.config import (
    DEFAULT_ENFORCEMENT,
    EngineConfig,
    load_issuing_binding,
    load_terms,
    parse_endpoint,
)
from engine_plugin.errors import EngineError
from engine_plugin.owner_settings import OwnerSettings, load_settings
from engine_plugin.standing import PlainPeers
from engine_plugin.wire import Endpoint

_PPM_PER_PERCENT = 10_000
_LOOPBACK_PREFIXES = ("127.", "[::1]")

Listen = Annotated[str, typer.Option(help="IP:PORT for BitTorrent; port 0: any free port.")]
State = Annotated[Path, typer.Option(help="Folder for keys, meter journal, spool and settings.")]
States = Annotated[
    list[Path], typer.Option("--state", help="Folder of an engine; may be given several times.")
]
TermsFile = Annotated[Path | None, typer.Option("--terms", help="The broadcaster's signed terms.")]
AccountKey = Annotated[
    Path | None,
    typer.Option(help="Seed file of the account (0600); the state folder's own if not given."),
]
Peers = Annotated[list[str] | None, typer.Option("--peer", help="IP:PORT to dial; repeatable.")]
UploadLimit = Annotated[
    str | None,
    typer.Option(help="Rate to all peers, as 250000 or 2 MB/s; 0 = unlimited.", metavar="RATE"),
]
DownloadLimit = Annotated[
    str | None,
    typer.Option(help="Rate from peers and CDN, as 20 Mbit/s; 0 = unlimited.", metavar="RATE"),
]
ReceiptPort = Annotated[int, typer.Option(min=0, max=65535, help="Side channel's TCP port.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]
DieWithParent = Annotated[bool, typer.Option(help="Stop when the parent process is gone.")]
ParentPid = Annotated[int | None, typer.Option(help="Stop when this process is gone.")]
Utp = Annotated[
    bool | None, typer.Option("--utp/--tcp", help="Dial over uTP first; TCP only on loopback.")
]
Discover = Annotated[
    bool | None,
    typer.Option(
        "--discover/--no-discover",
        help="Use DHT, local discovery, trackers and port mapping; needs the owner's consent.",
    ),
]
PlainPeersPolicy = Annotated[
    PlainPeers,
    typer.Option(
        "--plain-peers", help="What clients without this plugin get under terms: all, slow, none."
    ),
]
Enforcement = Annotated[
    bool,
    typer.Option(
        "--enforcement/--no-enforcement",
        help="Under terms: hold peers to their receipts, or serve everybody.",
    ),
]
MinCoverage = Annotated[
    int,
    typer.Option(
        min=0,
        max=1_000_000,
        metavar="PERCENT",
        help="Serve only while the escrow covers so much of what is owed; 0: whatever it covers.",
    ),
]
IssuingBinding = Annotated[
    Path | None,
    typer.Option(help="The broadcaster's newest binding of its issuing key, if you have one."),
]
AcceptIpVisible = Annotated[
    bool,
    typer.Option("--accept-ip-visible", help="Consent for this run that peers see the IP address."),
]


class ConsentError(EngineError):
    """Something would show the owner's IP address to strangers, and the owner has not agreed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What `seed`, `view` and `adopt` take alike, as typed."""

    listen: str
    state: Path
    terms: Path | None = None
    account_key: Path | None = None
    entitlement_url: str | None = None
    peers: list[str] | None = None
    upload_limit: str | None = None
    download_limit: str | None = None
    receipt_port: int = 0
    utp: bool | None = None
    discover: bool | None = None
    accept_ip_visible: bool = False
    plain_peers: PlainPeers = PlainPeers.PROBATION
    enforcement: bool = True
    min_coverage: int = 0
    """Percent."""
    issuing_binding: Path | None = None
    allow_local_web_seeds: bool = False
    parent_pid: int | None = None
    die_with_parent: bool = False

    def dialled(self) -> list[Endpoint]:
        """Return the peers to dial.

        Raises:
            ConfigError: One is no IP:PORT.
        """
        return [parse_endpoint(text, "--peer") for text in self.peers or []]

    def configure(self) -> EngineConfig:
        """Return what the engine is told.

        Raises:
            EngineError: An option or the settings are wrong, or consent is missing.
        """
        owner = self._settings()
        if owner.discovers and not owner.accepts_ip_visible:
            raise ConsentError(
                "discover: got no consent that peers see this machine's IP address, want"
                f" `swarmledger engine init --state {self.state} --accept-ip-visible`"
            )
        is_loopback = self.listen.startswith(_LOOPBACK_PREFIXES)
        return EngineConfig(
            listen=parse_endpoint(self.listen, "--listen"),
            receipt_port=self.receipt_port,
            state_path=self.state,
            terms=None if self.terms is None else load_terms(self.terms),
            account_path=self.account_key or _path(owner.account_key),
            entitlement_url=self.entitlement_url,
            issuing_binding=None
            if self.issuing_binding is None
            else load_issuing_binding(self.issuing_binding),
            enforcement=replace(DEFAULT_ENFORCEMENT, plain_peers=self.plain_peers)
            if self.enforcement
            else None,
            min_coverage_ppm=self.min_coverage * _PPM_PER_PERCENT,
            owner=owner,
            upload_limit=owner.upload_bytes_per_s,
            download_limit=owner.download_bytes_per_s,
            discovers=owner.discovers,
            dials_utp=not is_loopback if self.utp is None else self.utp,
            allows_local_web_seeds=self.allow_local_web_seeds or is_loopback,
            parent_pid=os.getppid() if self.die_with_parent else self.parent_pid,
        )

    def _settings(self) -> OwnerSettings:
        return load_settings(
            self.state,
            options={
                "upload_bytes_per_s": _rate(self.upload_limit, "--upload-limit"),
                "download_bytes_per_s": _rate(self.download_limit, "--download-limit"),
                "discovers": self.discover,
                "accepts_ip_visible": True if self.accept_ip_visible else None,
            },
        )


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _rate(text: str | None, field: str) -> int | None:
    return None if text is None else parse_byte_rate(text, field)
