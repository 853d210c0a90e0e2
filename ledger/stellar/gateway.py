"""The port to a Stellar network: what the ledger asks, free of any API's shapes.

Keys are 32 raw bytes, amounts integer stroops, times the close times of network ledgers, places in
the chain (ledger, apply order). Every answer that could support "it did not happen" says as of
which closed ledger the source answered. The adapters are `ledger.stellar.horizon` and
`ledger.stellar.rpc`; `ledger.stellar.sources` makes one from its configured text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from ledger.books.transactions import NetworkFact

AssetKey = tuple[str, bytes]
"""(asset code, issuer)."""

NATIVE: Final[AssetKey] = ("XLM", bytes(32))
"""The key of the native asset in balances."""

Place = tuple[int, int]
"""(network ledger, apply order from 1); (0, 0) stands before everything."""

START: Place = (0, 0)
"""Before every transaction."""

LAST_ORDER: Final = 0xFFFFF
"""Largest apply order (SEP-35): (ledger, LAST_ORDER) stands after the whole ledger."""

MEMO_REQUIRED: Final = b"config.memo_required"
"""Name of the data entry by which an account asks for a memo (SEP-29); its value is then b"1"."""

PERCENTILES: Final = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99)
"""The percentiles of fee statistics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkLedger:
    """A closed network ledger."""

    sequence: int
    """Its number, ≥ 1; 0 stands for "none yet"."""

    close_time_s: int
    """Its close time, Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionPage:
    """Transactions of one account after a place, oldest first."""

    facts: tuple[NetworkFact, ...]
    """In chain order, failed ones included."""

    is_last: bool
    """Whether the source had no more of them when it answered."""

    as_of_sequence: int
    """Closed ledger up to which the source had read the network when it answered."""

    through: Place = START
    """Nothing of the account is left up to here: where to go on, if it lies behind the last fact.

    A source without a history by account reads the whole network, so a page may have no fact and
    not be the last one.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountView:
    """An account as a source saw it."""

    account: bytes
    """32 bytes."""

    sequence: int
    """The last sequence number consumed."""

    balances: Mapping[AssetKey, int]
    """(asset code, issuer) → stroops; `NATIVE` for XLM. An absent key means no trustline.

    Where only some were asked for, looking for another raises ValueError.
    """

    as_of_sequence: int
    """Closed ledger up to which the source had read the network when it answered."""

    sequence_ledger: int = 0
    """Network ledger that consumed the sequence number; 0 if the account does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotView:
    """What a source knows of the transaction that consumed a sequence number."""

    fact: NetworkFact | None
    """The transaction, successful or failed; None if none did, up to `as_of_sequence`."""

    as_of_sequence: int
    """Closed ledger up to which the source had read the network when it answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeeStatistics:
    """What inclusion costs now, in stroops per operation."""

    as_of_sequence: int
    """The newest closed ledger counted."""

    base_fee_stroops: int
    """The least the network takes."""

    base_reserve_stroops: int
    """Reserve of one unit; an account takes two, a trustline one."""

    operations_max: int
    """Operations that one network ledger takes, by its header."""

    charged_stroops: Mapping[int, int]
    """Percentile of `PERCENTILES` → what was charged in the last ledgers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryKey:
    """Names a ledger entry: an account, one of its trustlines, or one of its data entries."""

    account: bytes
    """32 bytes."""

    asset: AssetKey | None = None
    """Of a trustline; not `NATIVE`."""

    name: bytes | None = None
    """Of a data entry, 1 to 64 bytes."""

    def __post_init__(self) -> None:
        if self.asset is not None and self.name is not None:
            raise ValueError("entry key: got an asset and a name, want at most one of them")
        if self.asset == NATIVE:
            raise ValueError("entry key: got the native asset, want one with an issuer")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """An account's ledger entry."""

    sequence: int
    balance_stroops: int
    selling_liabilities_stroops: int
    buying_liabilities_stroops: int
    subentry_count: int
    sponsoring_count: int
    """Entries whose reserve it pays for others."""

    sponsored_count: int
    """Entries of its own whose reserve others pay."""

    thresholds: tuple[int, int, int]
    """Low, medium, high."""

    signers: Mapping[str, int]
    """Strkey ("G…", "T…", "X…", "P…") → weight, the master key included unless its weight is 0."""

    is_authorization_required: bool
    """Whether trustlines to its assets need its authorization."""

    is_authorization_revocable: bool
    """Whether it may freeze holders' trustlines."""

    is_clawback_enabled: bool
    """Whether new trustlines to its assets can be clawed back."""

    home_domain: str
    """"" if none."""

    @property
    def units(self) -> int:
        """Reserve units that it has to hold itself."""
        return 2 + self.subentry_count + self.sponsoring_count - self.sponsored_count


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustlineState:
    """A trustline's ledger entry."""

    balance_stroops: int
    limit_stroops: int
    buying_liabilities_stroops: int
    selling_liabilities_stroops: int
    is_authorized: bool
    """Whether it may receive and send."""

    is_clawback_enabled: bool
    """Whether the issuer may take from it."""

    @property
    def room_stroops(self) -> int:
        """The most that can be paid into it."""
        return self.limit_stroops - self.balance_stroops - self.buying_liabilities_stroops


@dataclass(frozen=True, slots=True, kw_only=True)
class DataState:
    """A data entry."""

    value: bytes
    """0 to 64 bytes."""


EntryState = AccountState | TrustlineState | DataState


@dataclass(frozen=True, slots=True, kw_only=True)
class EntriesView:
    """Ledger entries as a source saw them."""

    entries: Mapping[EntryKey, EntryState]
    """What exists of what was asked; the kind of state is the kind of key."""

    frozen: frozenset[EntryKey] | None
    """Keys asked for that the network has frozen (CAP-77); None if the source cannot tell."""

    as_of_sequence: int
    """Closed ledger up to which the source had read the network when it answered."""


FILTERED: Final = "FILTERED"
"""Code of an unknown answer that tells one thing: the source's node refuses by a policy of its own,
or has another status that the source does not know."""


class SubmitStatus(StrEnum):
    """What a submission came to, as far as the answer tells. Only REJECTED excludes anything."""

    PENDING = "pending"
    DUPLICATE = "duplicate"
    TRY_AGAIN = "try_again"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitAnswer:
    """An answer to a submission; it decides nothing: only a closed ledger does."""

    status: SubmitStatus
    code: str = ""
    """Result code such as "txBAD_SEQ" when rejected, or what went wrong when unknown."""

    result: bytes = b""
    """TransactionResult XDR when rejected."""


class Gateway(Protocol):
    """A source of network facts and a way to submit; calls are synchronous and bounded in time.

    A source that turns out to serve another network gives no answer: its reads raise, and what is
    submitted to it is answered UNKNOWN without being sent.
    """

    @property
    def name(self) -> str:
        """How people call the source."""
        ...

    @property
    def network_id(self) -> bytes:
        """SHA-256 of the network's passphrase; 32 bytes."""
        ...

    def latest_ledger(self) -> NetworkLedger:
        """Return the newest closed ledger the source knows.

        Raises:
            GatewayError: No usable answer.
        """
        ...

    def ledger(self, sequence: int) -> NetworkLedger | None:
        """Return a closed ledger, or None if the source does not have it.

        Raises:
            GatewayError: No usable answer.
        """
        ...

    def transactions_of(self, account: bytes, *, after: Place) -> TransactionPage:
        """Return transactions an account took part in, after a place, failed ones included.

        Raises:
            GatewayError: No usable answer, or the source's history begins after the place.
        """
        ...

    def transaction(self, tx_hash: bytes) -> NetworkFact | None:
        """Return an applied transaction by its inner or outer hash, or None if it is not known.

        Raises:
            GatewayError: No usable answer.
        """
        ...

    def transaction_of_slot(self, account: bytes, sequence: int, *, since: int) -> SlotView:
        """Return the transaction that consumed a sequence number of an account.

        Args:
            account: Source account of the transaction.
            sequence: The number.
            since: A network ledger before which no transaction with that number can stand.

        Raises:
            GatewayError: No usable answer, the source's history begins after `since`, or it would
                have to read too much.
        """
        ...

    def account(self, account: bytes, *, assets: Sequence[AssetKey] = ()) -> AccountView | None:
        """Return an account, or None if the source knows none.

        Args:
            account: 32 bytes.
            assets: Trustlines wanted among the balances; a source may give more.

        Raises:
            GatewayError: No usable answer.
        """
        ...

    def entries(self, keys: Sequence[EntryKey]) -> EntriesView:
        """Return ledger entries, such as a payee's before it is paid.

        Raises:
            GatewayError: No usable answer.
        """
        ...

    def fee_statistics(self) -> FeeStatistics:
        """Return what inclusion cost in the last ledgers.

        Raises:
            GatewayError: No usable answer.
        """
        ...

    def submit(self, envelope: bytes) -> SubmitAnswer:
        """Hand an envelope to the network without waiting for a ledger; never raises for it."""
        ...
