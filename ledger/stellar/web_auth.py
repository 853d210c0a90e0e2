"""SEP-10 web authentication: who holds an account's keys, proven without a transaction.

The client signs a challenge, a transaction with sequence number 0 that no network takes; the
server checks it against the account's signers and medium threshold as the chain has them, or
against the account's own key while there is no such account. Building and checking challenges is
stellar-sdk's; here are the parameters, the look at the chain, and errors in our words. Not here:
sessions (`ledger.api.payee_session`). Reference: SEP-10, version 3.4.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from stellar_sdk import Keypair
from stellar_sdk.exceptions import SdkError
from stellar_sdk.sep.ed25519_public_key_signer import Ed25519PublicKeySigner
from stellar_sdk.sep.exceptions import InvalidSep10ChallengeError
from stellar_sdk.sep.stellar_web_authentication import (
    build_challenge_transaction,
    read_challenge_transaction,
    verify_challenge_transaction_signed_by_client_master_key,
    verify_challenge_transaction_threshold,
)

from ledger.audit.address import format_account, parse_account
from ledger.evidence.errors import EvidenceError
from ledger.evidence.keys import public_key_of
from ledger.stellar.errors import StellarError
from ledger.stellar.gateway import AccountState, EntryKey, Gateway

CHALLENGE_S: Final = 900
"""How long a challenge can be signed, as SEP-10 recommends."""

CHALLENGE_SIZE_MAX: Final = 8_192
"""Most characters of a challenge that comes back."""


_SEED_DOMAIN: Final = b"swarmledger web authentication v1\0"


def web_auth_seed(log_seed: bytes) -> bytes:
    """Return the seed of an operator's SIGNING_KEY, derived from its log key's seed.

    Every process of the operator has it that way, and it signs nothing but challenges.
    """
    return hmac.digest(log_seed, _SEED_DOMAIN, hashlib.sha256)


class ChallengeError(StellarError):
    """A challenge cannot be made, or does not prove what it should."""


@dataclass(frozen=True, slots=True)
class WebAuth:
    """The server's side of SEP-10 on one network."""

    seed: bytes
    """Of the signing key that the domain's stellar.toml names; 32 bytes."""

    home_domain: str
    """Where stellar.toml stands."""

    web_auth_domain: str
    """Host of the authentication endpoint."""

    passphrase: str
    """Of the Stellar network."""

    gateway: Gateway
    """Asked for an account's signers."""

    def __repr__(self) -> str:
        return f"WebAuth({self.home_domain!r}, signing key {format_account(self.signing_key)})"

    @property
    def signing_key(self) -> bytes:
        """The public key of challenges; 32 bytes."""
        return public_key_of(self.seed)

    def challenge(self, account: str) -> str:
        """Return a challenge for an account, as TransactionEnvelope XDR in base64.

        Args:
            account: The client's account address, "G…".

        Raises:
            ChallengeError: It is no account address.
        """
        try:
            parse_account(account)
            return build_challenge_transaction(
                server_secret=Keypair.from_raw_ed25519_seed(self.seed).secret,
                client_account_id=account,
                home_domain=self.home_domain,
                web_auth_domain=self.web_auth_domain,
                network_passphrase=self.passphrase,
                timeout=CHALLENGE_S,
            )
        except (EvidenceError, SdkError, ValueError) as error:
            raise ChallengeError(f"account: {error}") from None

    def verify(self, challenge: str) -> bytes:
        """Return the account that a signed challenge proves control of.

        Args:
            challenge: What `challenge` returned, with the client's signatures.

        Returns:
            The account's key; 32 bytes.

        Raises:
            ChallengeError: It is not ours, over, or not signed by enough of the account's weight.
            GatewayError: The network gave no usable answer.
        """
        if len(challenge) > CHALLENGE_SIZE_MAX:
            raise ChallengeError(
                f"transaction: got {len(challenge)} characters, want at most {CHALLENGE_SIZE_MAX}"
            )
        server = format_account(self.signing_key)
        common = (server, self.home_domain, self.web_auth_domain, self.passphrase)
        try:
            read = read_challenge_transaction(challenge, *common)
            account = parse_account(read.client_account_id)
            state = self._account(account)
            if state is None:
                verify_challenge_transaction_signed_by_client_master_key(challenge, *common)
            else:
                signers = [
                    Ed25519PublicKeySigner(address, weight)
                    for address, weight in state.signers.items()
                    if address.startswith("G") and weight
                ]
                # A threshold of 0 still wants a signature.
                least = max(1, state.thresholds[1])
                verify_challenge_transaction_threshold(challenge, *common, least, signers)
        except (InvalidSep10ChallengeError, EvidenceError, SdkError, ValueError, EOFError) as error:
            raise ChallengeError(f"transaction: {error}") from None
        return account

    def _account(self, account: bytes) -> AccountState | None:
        key = EntryKey(account=account)
        found = self.gateway.entries([key]).entries.get(key)
        return found if isinstance(found, AccountState) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerIdentity:
    """What a client knows of a server before it signs for it: from the domain's stellar.toml."""

    signing_key: bytes
    """SIGNING_KEY; 32 bytes."""

    home_domain: str
    """Where that file was read."""

    web_auth_domain: str
    """Host of WEB_AUTH_ENDPOINT."""

    passphrase: str
    """NETWORK_PASSPHRASE."""


def sign_challenge(challenge: str, server: ServerIdentity, seed: bytes) -> str:
    """Sign a challenge as a client, after checking that it is one, and whose.

    Args:
        challenge: As the server gave it, XDR in base64.
        server: Who must have made it.
        seed: Of the client's account; 32 bytes.

    Raises:
        ChallengeError: It is no challenge of that server for this account: signing it might do
            something else.
    """
    if len(challenge) > CHALLENGE_SIZE_MAX:
        raise ChallengeError(f"challenge: got {len(challenge)} characters, want a short one")
    account = format_account(public_key_of(seed))
    try:
        read = read_challenge_transaction(
            challenge,
            format_account(server.signing_key),
            server.home_domain,
            server.web_auth_domain,
            server.passphrase,
        )
        if read.client_account_id != account:
            raise ChallengeError(
                f"challenge: got one for {read.client_account_id}, want one for {account}"
            )
        read.transaction.sign(Keypair.from_raw_ed25519_seed(seed))
        return read.transaction.to_xdr()
    except (InvalidSep10ChallengeError, SdkError, ValueError, EOFError) as error:
        raise ChallengeError(f"challenge: {error}") from None
