"""Gathering: the operator's side of co-signing by settlers.

`TreasurySigner` signs for accounts whose signers stand on the chain: with the operator's own keys,
and with what settlers have posted for exactly that transaction. Until enough of them have, it says
so; the tick then asks for signatures (`ask_settlers`) and goes on with other work. Whatever was
posted is verified again here, and only as many signatures are taken as the network needs: a
forged, repeated or surplus one changes nothing. How settlers decide is `ledger.stellar.settler`'s.
"""

import logging
from collections.abc import Collection, Sequence

from ledger.evidence.keys import verify
from ledger.evidence.leaf import PayoutLeaf
from ledger.evidence.terms import Terms
from ledger.stellar.envelopes import payout_bounds
from ledger.stellar.errors import TreasuryError
from ledger.stellar.gateway import Gateway
from ledger.stellar.signing import (
    Demand,
    KeyHolder,
    KeySignature,
    SignaturesMissingError,
    UnsignedTransaction,
)
from ledger.stellar.treasury import SignerSet, choose_keys, read_signers, settlers_of
from ledger.store import settler_store as store
from ledger.store.engine import SessionFactory
from ledger.store.settlement_tables import BATCH

_log = logging.getLogger(__name__)


class TreasurySigner:
    """Signs by the signers that the chain names, settlers' posted signatures among them."""

    def __init__(
        self, sessions: SessionFactory, gateway: Gateway, terms: Terms, keys: KeyHolder
    ) -> None:
        """Read nothing yet.

        Args:
            sessions: Where settlers' signatures are posted.
            gateway: Asked for accounts' signers.
            terms: Whose accounts.
            keys: The operator's own: of channel, anchor and fee accounts.
        """
        self._sessions = sessions
        self._gateway = gateway
        self._terms = terms
        self._keys = keys
        self._signers: dict[bytes, SignerSet] = {}

    def covers(self, account: bytes) -> bool:
        """Tell whether settlers sign for the account, or a key is held that may."""
        cold = (self._terms.escrow_account, self._terms.payout_account)
        return account in cold or bool(self._keys.keys)

    def refresh(self) -> None:
        """Read who the settlers are now, so that the API takes their requests and signatures.

        Raises:
            GatewayError: No usable answer.
            TreasuryError: Escrow or payout account is not on the network.
        """
        self._signers = {}
        terms = self._terms
        cold = (terms.escrow_account, terms.payout_account)
        found = [settlers_of(account, self._read(account)) for account in cold]
        keys, threshold = found[0]
        if found[0] != found[1]:
            # Nobody is asked then; what is decided already is still followed.
            _log.error("escrow and payout accounts: got different signers, want the same")
            keys = ()
        with self._sessions.begin() as session:
            settlers = store.Settlers(keys=keys, threshold=threshold)
            store.save_settlers(session, terms.broadcaster_account, settlers)

    def _read(self, account: bytes) -> SignerSet:
        if account not in self._signers:
            found = read_signers(self._gateway, [account])
            if account not in found:
                raise TreasuryError(f"account {account.hex()}: not on the network")
            self._signers |= found
        return self._signers[account]

    def sign(
        self, transaction: UnsignedTransaction, demands: Sequence[Demand]
    ) -> tuple[KeySignature, ...]:
        """Return exactly the signatures that the chain's signers need.

        Raises:
            SignaturesMissingError: Too few settlers have signed this very transaction.
            GatewayError: Signers could not be read.
            StellarError: The operator's own key gave no usable answer.
        """
        signers = {demand.account: self._read(demand.account) for demand in demands}
        known = {key for signer_set in signers.values() for key in signer_set.weights}
        with self._sessions() as session:
            posted = store.load_signatures(session, transaction.tx_hash)
        valid = {
            key: signature
            for key, signature in posted.items()
            if key in known and verify(key, transaction.tx_hash, signature)
        }
        own = self._keys.keys & known
        chosen = choose_keys(signers, demands, valid.keys() | own)
        if chosen is None:
            raise SignaturesMissingError(
                transaction, f"transaction {transaction.tx_hash.hex()}: {len(valid)} have signed"
            )
        return tuple(
            KeySignature(key=key, signature=valid.get(key) or self._keys.sign(transaction, key))
            for key in chosen
        )


def ask_settlers(
    sessions: SessionFactory,
    terms: Terms,
    leaf: PayoutLeaf,
    attempt: int,
    transaction: UnsignedTransaction,
    *,
    purpose: str = BATCH,
) -> None:
    """Ask settlers for their signatures of an attempt; asking twice changes nothing.

    Args:
        sessions: One commit is made.
        terms: In force.
        leaf: Of the batch.
        attempt: Its number.
        transaction: What is to be signed.
        purpose: `BATCH`: its payment; `BURN`: the no-op that uses its slot up.
    """
    bounds = payout_bounds(leaf, terms, attempt)
    request = store.SignatureRequest(
        purpose=purpose,
        number=leaf.batch_number,
        epoch=leaf.epoch,
        attempt=attempt,
        tx_hash=transaction.tx_hash,
        envelope=transaction.envelope,
        max_ledger_sequence=bounds.max_ledger_sequence,
        max_time_s=bounds.max_time_s,
    )
    with sessions.begin() as session:
        store.ask_for_signatures(session, terms.broadcaster_account, request)


def drop_requests(
    sessions: SessionFactory, broadcaster: bytes, waiting: Collection[tuple[str, int]]
) -> None:
    """Forget the requests of all batches but those that still wait for signatures.

    Args:
        sessions: One commit is made, if there is something to forget.
        broadcaster: Whose.
        waiting: (purpose, batch number) of each that does.
    """
    with sessions() as session:
        over = store.requested(session, broadcaster) - set(waiting)
    if over:
        with sessions.begin() as session:
            store.drop_requests(session, broadcaster, over)
