"""Settlers of a world: some sign what they recompute, some are dead, some lie.

They see what the operator asks for as its API shows it, build the transaction anew from the payout
leaf, and sign that or nothing. What makes a real settler trust a leaf (audit files, its own look at
the chain) is not here: `ledger.stellar.settler` and its tests.
"""

from collections.abc import Mapping
from hashlib import sha256

from ledger.evidence.keys import public_key_of, sign
from ledger.evidence.leaf import PayoutLeaf
from ledger.simulation.domain import PASSPHRASE, SimulatedDomain
from ledger.simulation.setting_up import closing_source
from ledger.stellar.burn_rules import build_burn
from ledger.stellar.envelopes import build_payout, unsigned_transaction
from ledger.stellar.gathering import TreasurySigner
from ledger.stellar.signing import SeedKeys
from ledger.stellar.treasury import treasury_of
from ledger.stellar.treasury_setup import set_up_signers
from ledger.store import settler_store
from ledger.store.engine import SessionFactory
from ledger.store.settlement_tables import BATCH
from ledger.store.settler_store import SignatureRequest


class Settlers:
    """All settlers of one domain."""

    def __init__(self, domain: SimulatedDomain) -> None:
        """Hand escrow and payout account over to them."""
        plan = domain.plan
        self._domain = domain
        seeds = [
            sha256(f"simulated world {plan.seed}: settler {number}".encode()).digest()
            for number in range(plan.settlers)
        ]
        self._seeds = {public_key_of(seed): seed for seed in seeds}
        alive = sorted(self._seeds)[plan.settlers_dead :]
        self._lying, self._honest = alive[: plan.settlers_lying], alive[plan.settlers_lying :]
        treasury = treasury_of(domain.terms, self._seeds, plan.settlers_needed)
        own = domain.seeds()
        set_up_signers(
            closing_source("settlers' set-up", domain.network),
            PASSPHRASE,
            treasury,
            payer_seed=domain.keys.issuer,
            account_seeds=[own[account] for account in treasury.accounts],
        )

    def signer(self, sessions: SessionFactory) -> TreasurySigner:
        """Return what signs for the operator: its own keys, and what is posted."""
        terms = self._domain.terms
        cold = {terms.escrow_account, terms.payout_account}
        own = {key: seed for key, seed in self._domain.seeds().items() if key not in cold}
        return TreasurySigner(sessions, self._domain.sources[0], terms, SeedKeys(own))

    def act(self, sessions: SessionFactory, leaves: Mapping[int, PayoutLeaf]) -> None:
        """Answer what is asked.

        Args:
            sessions: Of the operator's database, as its API uses it.
            leaves: Batch number → its leaf in the log.
        """
        broadcaster = self._domain.terms.broadcaster_account
        with sessions.begin() as session:
            for request in settler_store.list_requests(session, broadcaster):
                built = self._build(request, leaves[request.number])
                for key in self._honest:
                    if built == request.tx_hash:
                        signature = sign(self._seeds[key], built)
                        settler_store.insert_signature(session, built, key, signature)
                for key in self._lying:
                    wrong = sign(self._seeds[key], sha256(request.tx_hash).digest())
                    settler_store.insert_signature(session, request.tx_hash, key, wrong)

    def _build(self, request: SignatureRequest, leaf: PayoutLeaf) -> bytes | None:
        terms = self._domain.terms
        if request.purpose == BATCH:
            unsigned = build_payout(leaf, request.attempt, terms, PASSPHRASE)
            return unsigned_transaction(unsigned).tx_hash
        for isolates in (False, True):
            unsigned = build_burn(leaf, request.attempt, terms, PASSPHRASE, isolates=isolates)
            if unsigned_transaction(unsigned).tx_hash == request.tx_hash:
                return request.tx_hash
        return None
