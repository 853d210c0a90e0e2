"""Configuration of the server's processes: environment first, one optional TOML file second.

Every key is an environment variable with the prefix `SWARMLEDGER_`, or the same name in lower case
in the TOML file that `SWARMLEDGER_CONFIG` names. `DATABASE_URL` and `BROKER_URL` are also read
without the prefix, as hosting platforms set them. A process asks for what it needs with `need`, so
that a missing key is named once, at the start. Secrets are never values here, only files.
"""

import os
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

PREFIX: Final = "SWARMLEDGER_"
CONFIG_FILE_VARIABLE: Final = f"{PREFIX}CONFIG"
PUBLIC_NETWORK: Final = "Public Global Stellar Network ; September 2015"
"""Passphrase of the network on which money is real."""

EMBEDDED_BROKER: Final = "pgmq://"

_ValueT = TypeVar("_ValueT")


class ConfigError(Exception):
    """A key is missing or has a value that cannot be; the message names it."""


class Settings(BaseSettings):
    """All keys; what a process does not use may be absent."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    database_url: str = Field(
        default="",
        validation_alias=AliasChoices(f"{PREFIX}DATABASE_URL", "DATABASE_URL", "database_url"),
    )
    """PostgreSQL, `postgresql://…`."""

    broker_url: str = Field(
        default=EMBEDDED_BROKER,
        validation_alias=AliasChoices(f"{PREFIX}BROKER_URL", "BROKER_URL", "broker_url"),
    )
    """`pgmq://` (queues in the database itself), `amqp://…` or `redis://…`."""

    gateway_url: str = ""
    """`horizon:URL` or `rpc:URL`; several, separated by commas, for evidence from several sources.

    A bare URL is Horizon's. The first one is submitted to.
    """

    network_passphrase: str = ""
    """Of the Stellar network; its SHA-256 is the network id of every record."""

    log_key_file: Path | None = None
    """Seed of the log key, mode 0600: signs checkpoints, promises, clock and audit files."""

    keys_dir: Path | None = None
    """Folder of the accounts' seeds: escrow, payout, anchor, fee, channels; `*.seed`, mode 0600."""

    signer_command: str = ""
    """External signer that holds keys of these accounts, beside or instead of files."""

    treasury: Literal["single", "settlers"] = "single"
    """Who signs for escrow and payout accounts: their own keys, or settlers by the chain's word."""

    terms_file: Path | None = None
    """Signed terms to register."""

    binding_file: Path | None = None
    """Signed binding of the issuing key, registered with the terms."""

    activation_file: Path | None = None
    """Signed activation of the contract, registered with the terms."""

    trust_file: Path | None = None
    """The published `trust.json`: workers serve its broadcaster, audit files name its digest."""

    log_dir: Path | None = None
    """Where the public logs' static files stand, one folder a broadcaster."""

    audit_dir: Path | None = None
    """Where `epoch-N.audit` files are written."""

    evidence_sources: int = Field(default=0, ge=0, le=8)
    """Sources that must agree on what happened and what never will.

    0: two where `gateway_url` names two or more, else one. The public network takes no less than 2.
    """

    surplus_max_stroops: int = Field(default=10_000_000, ge=0)
    """How much more than the books say escrow or payout account may hold before payouts stop.

    Anybody can send money by a contract, which the books cannot read. A deficit always stops them.
    """

    fee_day_max_stroops: int = Field(default=1_000_000_000, ge=0)
    """Most that raised network fees may cost in a day of ledger time, XLM stroops."""

    lane_share_ppm: int = Field(default=100_000, ge=1, le=1_000_000)
    """Most of a network ledger's operations that payments take, parts per million."""

    low_balance_stroops: int = Field(default=0, ge=0)
    """Unspent deposit at or below which the alarm says "low"; 0: only when nothing is left."""

    stellar_toml: Path | None = None
    """File of SEP-1 that the API serves at `/.well-known/stellar.toml`."""

    margin_ledgers: int = Field(default=2, ge=0, le=100)
    """Network ledgers that facts are trusted to lag behind a source's newest ledger."""

    clock_interval_s: float = Field(default=0.5, gt=0, le=60)
    """Seconds between two looks at the network's latest ledger."""

    clock_stale_s: float = Field(default=60, gt=0, le=3_600)
    """Age of the last good look after which the collector takes nothing more."""

    schedule_s: float = Field(default=1, gt=0, le=60)
    """Seconds between two runs of each scheduled task."""

    lease_s: float = Field(default=30, gt=0, le=3_600)
    """Seconds without a verdict after which a bundle's task counts as lost."""

    attempts_max: int = Field(default=5, ge=1, le=100)
    """Attempts at a bundle before it is set aside as poison."""

    sweep_bundles_max: int = Field(default=500, ge=1, le=100_000)
    """Most bundles for which one sweep publishes tasks."""

    visibility_timeout_s: int = Field(default=90, ge=5, le=43_200)
    """Seconds after which a broker hands an unacknowledged message to another worker."""

    api_requests_max: int = Field(default=256, ge=1, le=100_000)
    """Requests that an API process handles at once; more are answered 503."""

    api_bodies_max: int = Field(default=32, ge=1, le=10_000)
    """Of these, requests with a body: each may hold 4 MiB."""

    api_body_timeout_s: float = Field(default=60, gt=0, le=3_600)
    """Seconds in which a body has to come in."""

    api_address_per_s: float = Field(default=500, gt=0)
    """Requests with a body a second from one address (IPv6: /64), on average."""

    api_address_burst: int = Field(default=5_000, ge=1)
    """The same at once."""

    api_sender_per_s: float = Field(default=50, gt=0)
    """Signed bundles a second of one submitter's key, on average."""

    api_sender_burst: int = Field(default=1_000, ge=1)
    """The same at once."""

    api_fair_bundles: int = Field(default=32, ge=1)
    """Unjudged bundles of one submitter while the backlog is over half of its limit."""

    api_backlog_bundles: int = Field(default=20_000, ge=1)
    """Unjudged bundles above which nothing more is taken in."""

    api_backlog_bytes: int = Field(default=4 << 30, ge=1)
    """The same in bytes."""

    api_broadcaster_percent: int = Field(default=80, ge=1, le=100)
    """Share of the two that one broadcaster may take."""

    api_disk_free_bytes: int = Field(default=256 << 20, ge=0)
    """Free disk space below which nothing more is taken in."""

    api_disk_dirs: str = ""
    """Folders whose disks are looked at beside `log_dir`'s, separated by commas."""

    api_chunk_bytes: int = Field(default=1 << 20, ge=4_096, le=4 << 20)
    """Largest chunk of an upload."""

    api_uploads_sender: int = Field(default=32, ge=1)
    """Unfinished uploads of one address."""

    api_uploads_max: int = Field(default=1_024, ge=1)
    """Unfinished uploads in all."""

    api_uploads_bytes: int = Field(default=1 << 30, ge=1)
    """What all unfinished uploads received, a chunk more of each, up to which one may begin."""

    api_upload_keep_s: int = Field(default=3_600, ge=1)
    """Seconds without a byte after which an unfinished upload is dropped."""

    api_report_rows: int = Field(default=200_000, ge=1)
    """Rows of provisional reports that an epoch may have."""

    api_log_addresses: bool = False
    """Whether log lines say senders' addresses in clear."""

    api_totals_token_file: Path | None = None
    """Bearer token that may read totals per content; without one nobody does over HTTP."""

    home_domain: str = "localhost"
    """Domain whose `stellar.toml` payees read before they sign in (SEP-10)."""

    web_auth_domain: str = ""
    """Host of the API's `/auth`, if it is another."""

    @property
    def gateway_urls(self) -> tuple[str, ...]:
        """All gateways as they are named, the one that is submitted to first."""
        return tuple(url.strip() for url in self.gateway_url.split(",") if url.strip())

    @property
    def sources_to_agree(self) -> int:
        """How many of the gateways must agree, ≥ 1."""
        return self.evidence_sources or min(2, max(1, len(set(self.gateway_urls))))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then the environment, then the TOML file."""
        toml = TomlConfigSettingsSource(settings_cls, os.environ.get(CONFIG_FILE_VARIABLE))
        return init_settings, env_settings, toml


def load_settings() -> Settings:
    """Read the configuration.

    Raises:
        ConfigError: A value cannot be, a key of the file is unknown, or the file is missing.
    """
    path = os.environ.get(CONFIG_FILE_VARIABLE)
    if path and not Path(path).is_file():
        raise ConfigError(f"{CONFIG_FILE_VARIABLE}: got {path}, want a readable TOML file")
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, x['loc']))}: {x['msg']}" for x in error.errors()]
        raise ConfigError("; ".join(lines)) from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def require_sources(settings: Settings) -> None:
    """Raise where too few sources of the network's facts are named for what is at stake.

    One source that lies can tell a payment that never was, or hide one that was.

    Raises:
        ConfigError: Fewer gateways than must agree; or fewer than two on the public network.
    """
    wanted, named = settings.sources_to_agree, len(set(settings.gateway_urls))
    if settings.network_passphrase == PUBLIC_NETWORK:
        wanted = max(2, wanted)
        if settings.sources_to_agree < wanted:
            raise ConfigError(
                f"{PREFIX}EVIDENCE_SOURCES: got {settings.sources_to_agree} on the public network, "
                f"want 2 or more, and as many in {PREFIX}GATEWAY_URL, of different operators"
            )
    if named < wanted:
        raise ConfigError(
            f"{PREFIX}GATEWAY_URL: got {named} sources, want {wanted} that must agree"
        )


def need(name: str, value: _ValueT | None) -> _ValueT:
    """Return a value that the process cannot do without.

    Args:
        name: The key, in lower case.
        value: Its value.

    Raises:
        ConfigError: It is absent.
    """
    if value is None or value == "":
        raise ConfigError(f"{PREFIX}{name.upper()}: got nothing, want a value")
    return value
