"""Signing: from a transaction's hash to exactly the signatures that authorise it.

A transaction is authorised for (account, threshold) pairs, in the order in which the network checks
them: its source at the low one, then each operation's source. `Signer` is the port by which the
settlement asks for signatures; who holds the keys, and how many must agree, is behind it.
`SeedSigner` holds seeds of single-key accounts in memory; a `KeyHolder` may be somebody else's
program. Signatures always stand in the ascending
order of their keys, so that whoever assembles an envelope makes the same bytes. Not here: how
accounts' signers are chosen from the chain, and how settlers' signatures are gathered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from ledger.evidence.keys import KEY_SIZE, SIGNATURE_SIZE, public_key_of, sign
from ledger.stellar.errors import SeedFileError

HINT_SIZE = 4
"""Bytes of a key that stand before its signature in an envelope."""


class Threshold(IntEnum):
    """Which of an account's thresholds an operation must reach."""

    LOW = 0
    """Being a transaction's or a fee bump's source."""

    MEDIUM = 1
    """Payments, trustlines, a set_options without signers and thresholds."""

    HIGH = 2
    """Signers, thresholds, merges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a transaction needs one account's signers to agree to."""

    account: bytes
    """Account key; 32 bytes."""

    threshold: Threshold
    """Which of its thresholds must be reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsignedTransaction:
    """A transaction that waits for signatures."""

    envelope: bytes
    """TransactionEnvelope XDR with an empty list of signatures."""

    tx_hash: bytes
    """What is signed; 32 bytes."""

    passphrase: str
    """Of the network whose id is in the hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySignature:
    """A signature and the key that made it."""

    key: bytes
    """Public key; 32 bytes."""

    signature: bytes
    """64 bytes."""

    @property
    def hint(self) -> bytes:
        """The last bytes of the key, by which the network finds the signer."""
        return self.key[-HINT_SIZE:]

    def __post_init__(self) -> None:
        if len(self.key) != KEY_SIZE or len(self.signature) != SIGNATURE_SIZE:
            raise ValueError(
                f"signature: got {len(self.key)} and {len(self.signature)} bytes, "
                f"want {KEY_SIZE} and {SIGNATURE_SIZE}"
            )


class SignaturesMissingError(Exception):
    """Not enough keys have signed yet: ask for them, and try again later. Nothing is wrong."""

    def __init__(self, transaction: UnsignedTransaction, message: str) -> None:
        super().__init__(message)
        self.transaction = transaction
        """What is to be signed."""


class Signer(Protocol):
    """Signs transactions for accounts."""

    def covers(self, account: bytes) -> bool:
        """Tell whether signatures for this account can ever come from here."""
        ...

    def refresh(self) -> None:
        """Forget what was read of the network; called at the beginning of each tick.

        Raises:
            GatewayError: No usable answer.
        """
        ...

    def sign(
        self, transaction: UnsignedTransaction, demands: Sequence[Demand]
    ) -> tuple[KeySignature, ...]:
        """Return exactly the signatures that meet the demands, in ascending order of keys.

        Args:
            transaction: What is signed.
            demands: In the order in which the network checks them.

        Raises:
            SignaturesMissingError: Others have not signed yet.
            StellarError: A key or its holder gave no usable answer.
        """
        ...


class KeyHolder(Protocol):
    """Holds private keys, or knows who does."""

    @property
    def keys(self) -> frozenset[bytes]:
        """Public keys that can sign."""
        ...

    def sign(self, transaction: UnsignedTransaction, key: bytes) -> bytes:
        """Return a key's valid signature of a transaction's hash; 64 bytes.

        Raises:
            SeedFileError: The key is not held here.
            StellarError: Its holder gave no usable answer.
        """
        ...

    def sign_message(self, message: bytes, key: bytes) -> bytes:
        """Return a key's valid signature of a message that no transaction's hash can be; 64 bytes.

        Raises:
            SeedFileError: The key is not held here.
            StellarError: Its holder gave no usable answer.
        """
        ...


class SeedKeys:
    """Seeds in memory; nothing prints them."""

    def __init__(self, seeds: Mapping[bytes, bytes]) -> None:
        """Hold seeds.

        Args:
            seeds: Public key → 32-byte seed.

        Raises:
            SeedFileError: A seed belongs to another key.
        """
        for key, seed in seeds.items():
            if public_key_of(seed) != key:
                raise SeedFileError(f"account {key.hex()}: got another account's seed")
        self._seeds = dict(seeds)

    def __repr__(self) -> str:
        return f"SeedKeys({len(self._seeds)} seeds)"

    @property
    def keys(self) -> frozenset[bytes]:
        """Public keys of the seeds."""
        return frozenset(self._seeds)

    def sign(self, transaction: UnsignedTransaction, key: bytes) -> bytes:
        """Return a key's signature.

        Raises:
            SeedFileError: Its seed is not there.
        """
        return self.sign_message(transaction.tx_hash, key)

    def sign_message(self, message: bytes, key: bytes) -> bytes:
        """Return a key's signature.

        Raises:
            SeedFileError: Its seed is not there.
        """
        if key not in self._seeds:
            raise SeedFileError(f"account {key.hex()}: got no seed, want one in the keys")
        return sign(self._seeds[key], message)


class AccountSigner:
    """Signs for accounts that have one key each: their own."""

    def __init__(self, holder: KeyHolder) -> None:
        self._holder = holder

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._holder!r})"

    def covers(self, account: bytes) -> bool:
        """Tell whether the account's own key is held."""
        return account in self._holder.keys

    def refresh(self) -> None:
        """Do nothing: an account's own key does not change."""

    def sign(
        self, transaction: UnsignedTransaction, demands: Sequence[Demand]
    ) -> tuple[KeySignature, ...]:
        """Return one signature of each account.

        Raises:
            StellarError: A key is not held, or its holder gave no usable answer.
        """
        accounts = sorted({demand.account for demand in demands})
        return tuple(
            KeySignature(key=account, signature=self._holder.sign(transaction, account))
            for account in accounts
        )


class SeedSigner(AccountSigner):
    """Signs with seeds in memory, one for each account."""

    def __init__(self, seeds: Mapping[bytes, bytes]) -> None:
        """Hold seeds.

        Args:
            seeds: Account key → 32-byte seed.

        Raises:
            SeedFileError: A seed belongs to another account.
        """
        super().__init__(SeedKeys(seeds))
