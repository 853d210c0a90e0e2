"""What a worker process works with: made once, after the fork, on first use.

Connections do not survive a fork, so nothing here is made when modules are imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ledger.audit.trust import Trust, parse_trust
from ledger.config import Settings, load_settings, need, require_sources
from ledger.evidence.recent import RecentSet
from ledger.evidence.terms import Terms
from ledger.sealing.audit_files import AuditFileParts
from ledger.sealing.driver import SealingParts
from ledger.sealing.judging import make_memory
from ledger.sealing.log_seeds import read_log_seeds
from ledger.stellar.domain import Policy, SettlementDomain
from ledger.stellar.gateway import Gateway
from ledger.stellar.gathering import TreasurySigner
from ledger.stellar.key_sources import open_operator_keys
from ledger.stellar.preflight import Preflight
from ledger.stellar.signing import AccountSigner, Signer
from ledger.stellar.sources import open_source
from ledger.store.engine import SessionFactory, open_sessions
from ledger.store.errors import UnknownBroadcasterError
from ledger.store.instruction_store import newest_computed_epoch
from ledger.store.shard_store import Shard, authentic_terms, find_shard, list_shards


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParts:
    """What tasks are done with."""

    settings: Settings
    sessions: SessionFactory
    sealing: SealingParts
    trust: Trust
    """Its broadcaster is the one that is served."""

    gateways: Sequence[Gateway]
    """The one that is submitted to first."""

    preflight: Preflight
    known_entitlements: RecentSet[bytes]
    """Entitlements whose signatures this process found good."""

    def domain_of(self, shard: Shard) -> SettlementDomain:
        """Return a broadcaster's settlement domain with its keys.

        Raises:
            SeedFileError: A key is missing, or a file or variable cannot be used.
            ExternalSignerError: The signer command gives no usable answer.
            UnprovenError: The stored terms are not the broadcaster's.
        """
        terms = self._terms_after(shard, 0)
        with self.sessions.begin() as session:
            announced = authentic_terms(session, shard).value
        keys = open_operator_keys(self.settings.keys_dir, self.settings.signer_command)
        signer: Signer = AccountSigner(keys)
        if self.settings.treasury == "settlers":
            signer = TreasurySigner(self.sessions, self.gateways[0], terms, keys)
        return SettlementDomain(
            terms=terms,
            announced=announced,
            passphrase=self.settings.network_passphrase,
            signer=signer,
            policy=Policy(
                evidence_sources=self.settings.sources_to_agree,
                margin_ledgers=self.settings.margin_ledgers,
                surplus_max_stroops=self.settings.surplus_max_stroops,
                fee_day_max_stroops=self.settings.fee_day_max_stroops,
                lane_share_ppm=self.settings.lane_share_ppm,
            ),
        )

    def sealing_terms(self, shard: Shard) -> Terms:
        """Return the terms of the epoch that is sealed next: its log key signs what joins it.

        Raises:
            UnprovenError: The stored terms are not the broadcaster's.
        """
        return self._terms_after(shard, 1)

    def _terms_after(self, shard: Shard, epochs: int) -> Terms:
        """Return the terms in force so many epochs after the newest computed one.

        Settlers go by the terms of the newest epoch that they have proven, never by announced ones.
        """
        with self.sessions.begin() as session:
            computed = newest_computed_epoch(session, shard)
            epoch = self.trust.first_epoch if computed is None else computed + epochs
            return authentic_terms(session, shard, epoch).value

    def list_accounts(self) -> list[bytes]:
        """Return the account keys of the registered broadcasters that this worker serves.

        That is the one of the trust file: keys and money are used for whom a person configured,
        never for whom a row names.
        """
        with self.sessions.begin() as session:
            accounts = [shard.account for shard in list_shards(session)]
        return [account for account in accounts if account == self.trust.broadcaster_account]

    def find_shard(self, account: bytes) -> Shard:
        """Return the broadcaster with this account key.

        Raises:
            UnknownBroadcasterError: There is none, or the trust file names another.
        """
        if account != self.trust.broadcaster_account:
            raise UnknownBroadcasterError(account)
        with self.sessions.begin() as session:
            return find_shard(session, account)


def make_parts(settings: Settings) -> WorkerParts:
    """Make what tasks are done with.

    Raises:
        ConfigError: A key is missing.
        SeedFileError: The log key's file cannot be used.
        MalformedRecordError: The trust file is malformed.
    """
    need("gateway_url", settings.gateway_url)
    passphrase = need("network_passphrase", settings.network_passphrase)
    require_sources(settings)
    seeds = read_log_seeds(need("log_key_file", settings.log_key_file))
    trust = parse_trust(need("trust_file", settings.trust_file).read_text(encoding="utf-8"))
    sessions = open_sessions(need("database_url", settings.database_url), pool_size=4)
    return WorkerParts(
        settings=settings,
        sessions=sessions,
        preflight=Preflight(sessions),
        sealing=SealingParts(
            sessions=sessions,
            log_seed=seeds.current,
            next_log_seed=seeds.next,
            log_dir=need("log_dir", settings.log_dir),
            audit=AuditFileParts(
                audit_dir=need("audit_dir", settings.audit_dir),
                trust=trust,
                log_seed=seeds.current,
            ),
        ),
        trust=trust,
        gateways=[open_source(url, passphrase) for url in settings.gateway_urls],
        known_entitlements=make_memory(),
    )


@cache
def parts() -> WorkerParts:
    """Return this process's parts."""
    return make_parts(load_settings())
