"""The port to a Stellar network: what the ledger asks, free of any API's shapes.

Keys are 32 raw bytes, amounts integer stroops, times the close times of network ledgers, places in
the chain (ledger, apply order). Every answer that could support "it did not happen" says as of
which closed ledger the source answered. The adapter for Horizon is `ledger.stellar.horizon`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from ledger.books.transactions import NetworkFact

NATIVE = ("XLM", bytes(32))
"""The key of the native asset in balances."""

Place = tuple[int, int]
"""(network ledger, apply order from 1); (0, 0) stands before everything."""

START: Place = (0, 0)
"""Before every transaction."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountView:
    """An account as a source saw it."""

    account: bytes
    """32 bytes."""

    sequence: int
    """The last sequence number consumed."""

    balances: Mapping[tuple[str, bytes], int]
    """(asset code, issuer) → stroops; `NATIVE` for XLM. An absent key means no trustline."""

    as_of_sequence: int
    """Closed ledger up to which the source had read the network when it answered."""


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
    """A source of network facts and a way to submit; calls are synchronous and bounded in time."""

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
            GatewayError: No usable answer.
        """
        ...

    def transaction(self, tx_hash: bytes) -> NetworkFact | None:
        """Return an applied transaction by its inner or outer hash, or None if it is not known.

        Raises:
            GatewayError: No usable answer.
        """
        ...

    def account(self, account: bytes) -> AccountView | None:
        """Return an account, or None if the source knows none.

        Raises:
            GatewayError: No usable answer.
        """
        ...

    def submit(self, envelope: bytes) -> SubmitAnswer:
        """Hand an envelope to the network without waiting for a ledger; never raises for it."""
        ...
