"""A treasury of settlers on a real devnet, and an operator whose epochs are real audit files.

The operator is the simulated one with another network: its transactions are sent to a devnet, and
its facts are what the devnet tells. Settlers are the product's, each with a folder of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import simulated_operator
from settlement_scene import DevnetProcess, setting_up
from simulated_operator import Operator, key, keypair, make_entitlement, seed
from stellar_sdk import Account, TransactionBuilder

from ledger.audit.address import format_account
from ledger.books.folding import domain_accounts
from ledger.books.transactions import NetworkFact
from ledger.evidence.leaf import PayoutLeaf
from ledger.stellar.cosigning import Wanted
from ledger.stellar.domain import DomainKeys, set_up_domain
from ledger.stellar.envelopes import (
    SignedEnvelope,
    attach_signatures,
    build_payout,
    next_attempt,
    payout_demands,
    unsigned_transaction,
)
from ledger.stellar.gateway import START, Gateway
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.settler import RefusedError, Settler
from ledger.stellar.settler_chain import OwnChain
from ledger.stellar.settler_records import SettlerFolder
from ledger.stellar.signing import KeySignature, SeedKeys
from ledger.stellar.treasury import Treasury, choose_keys, read_signers, treasury_of
from ledger.stellar.treasury_setup import set_up_signers

PASSPHRASE = simulated_operator.PASSPHRASE
SETTLERS = ("settler a", "settler b", "settler c")
THRESHOLD = 2
CHANNELS = ("channel 0", "channel 1")
DEPOSIT_STROOPS = 10**12


def domain_keys(*, with_fee: bool = False) -> DomainKeys:
    return DomainKeys(
        issuer=seed("issuer"),
        broadcaster=seed("broadcaster"),
        escrow=seed("escrow"),
        payout=seed("payout"),
        anchor=seed("anchor"),
        channels=tuple(seed(name) for name in CHANNELS),
        payees={"seeder": seed("seeder account")},
        fee=seed("fee") if with_fee else None,
    )


class ChainOperator(Operator):
    """The simulated operator on a devnet; `close` seals the epoch that the network has reached."""

    def __init__(self, devnet: DevnetProcess, gateway: HorizonGateway, **terms_fields: Any) -> None:
        self.devnet = devnet
        self.gateway = gateway
        self.accounts: frozenset[bytes] = frozenset()
        self.sealed_through = 0
        genesis_s = gateway.latest_ledger().close_time_s
        terms = simulated_operator.make_terms(genesis_s=genesis_s, **terms_fields)
        super().__init__(terms=terms)
        self.trust = replace(self.trust, genesis_s=genesis_s)
        self.accounts = domain_accounts(terms)
        self.audit_files: dict[int, bytes] = {}
        self.plans: dict[int, tuple[PayoutLeaf, ...]] = {}
        self.close_s = 0

    def builder(self, source: str, sequence: int) -> TransactionBuilder:
        del sequence
        view = self.gateway.account(key(source))
        assert view is not None
        account = Account(format_account(key(source)), view.sequence)
        return TransactionBuilder(account, PASSPHRASE, base_fee=100).add_time_bounds(0, 0)

    def fact(self, builder: TransactionBuilder, *signers: str, code: int = 0) -> NetworkFact:
        del code
        envelope = builder.build()
        for signer in signers:
            envelope.sign(keypair(signer))
        answer = self.gateway.submit(envelope.to_xdr_object().to_xdr_bytes())
        assert answer.status == "pending", answer
        self.devnet.close_ledgers()
        found = self.gateway.transaction(envelope.hash())
        assert found is not None
        return found

    def last_ledger_close_s(self) -> int:
        return self.close_s

    def close(self, bundles: list[bytes] = ()) -> bytes:  # type: ignore[assignment]
        end_s = self.terms.epoch_end_s(self.epoch)
        while self.gateway.latest_ledger().close_time_s < end_s:
            self.devnet.close_ledgers()
        last = self.gateway.latest_ledger()
        while last is not None and last.close_time_s >= end_s:
            last = self.gateway.ledger(last.sequence - 1)
        assert last is not None
        self.pending = self.facts_between(self.sealed_through, last.sequence)
        self.sealed_through, self.close_s = last.sequence, last.close_time_s
        self.ledger_sequence = last.sequence - 1
        epoch = self.epoch
        self.audit_files[epoch] = super().close(bundles)
        assert self.result is not None
        self.plans[epoch] = tuple(self.result.payouts)
        self.devnet.close_ledgers(3)
        return self.audit_files[epoch]

    def facts_between(self, after: int, through: int) -> list[NetworkFact]:
        found: dict[tuple[int, int], NetworkFact] = {}
        for account in self.accounts:
            place, is_last = START, False
            while not is_last:
                page = self.gateway.transactions_of(account, after=place)
                is_last = page.is_last
                for fact in page.facts:
                    found[fact.order] = fact
                    place = fact.order
        return [found[place] for place in sorted(found) if after < place[0] <= through]

    def owe(self, bytes_total: int = 999_983) -> bytes:
        """A bundle of the seeder in the current epoch, under an entitlement of its own."""
        viewer = f"viewer {self.epoch}"
        entitlement = make_entitlement(self, viewer, not_after_s=1 << 40)
        receipt = simulated_operator.make_receipt(
            entitlement, viewer, "seeder", self.epoch, bytes_total
        )
        return simulated_operator.make_payee_bundle("seeder", self.epoch, [entitlement], [receipt])


@dataclass
class TreasuryScene:
    devnet: DevnetProcess
    gateway: HorizonGateway
    operator: ChainOperator
    treasury: Treasury
    folder: Path
    settlers: dict[str, Settler] = field(default_factory=dict)

    def settler(self, name: str, *gateways: Gateway) -> Settler:
        """A settler that goes on from its folder."""
        made = Settler(
            trust=self.operator.trust,
            key=key(name),
            holder=SeedKeys({key(name): seed(name)}),
            chain=OwnChain(gateways or [self.gateway], margin_ledgers=1),
            folder=SettlerFolder(self.folder / name.replace(" ", "-")),
            fetch_audit=self.fetch,
        )
        self.settlers[name] = made
        return made

    def fetch(self, epoch: int, path: Path) -> bool:
        content = self.operator.audit_files.get(epoch)
        if content is not None:
            path.write_bytes(content)
        return content is not None

    def attempt(self, leaf: PayoutLeaf) -> int:
        latest = self.gateway.latest_ledger()
        terms = self.operator.terms
        return next_attempt(leaf, terms, latest, least=0, margin_ledgers=3, margin_s=6)

    def wanted(self, leaf: PayoutLeaf, attempt: int | None = None) -> Wanted:
        number = self.attempt(leaf) if attempt is None else attempt
        unsigned = build_payout(leaf, number, self.operator.terms, PASSPHRASE)
        return Wanted(
            epoch=leaf.epoch,
            batch_number=leaf.batch_number,
            attempt=number,
            tx_hash=unsigned_transaction(unsigned).tx_hash,
        )

    def gather(self, leaf: PayoutLeaf, *names: str) -> dict[bytes, KeySignature]:
        """Ask settlers; those who refuse are left out."""
        wanted = self.wanted(leaf)
        signed = {}
        for name in names:
            settler = self.settlers.get(name) or self.settler(name)
            settler.look()
            try:
                signed[settler.key] = settler.sign(wanted)
            except RefusedError:
                continue
        return signed

    def assemble(
        self, leaf: PayoutLeaf, signed: dict[bytes, KeySignature]
    ) -> SignedEnvelope | None:
        """Exactly the needed signatures, or None if they are too few."""
        demands = payout_demands(leaf)
        signers = read_signers(self.gateway, [demand.account for demand in demands])
        chosen = choose_keys(signers, demands, signed)
        if chosen is None:
            return None
        unsigned = build_payout(leaf, self.attempt(leaf), self.operator.terms, PASSPHRASE)
        return attach_signatures(unsigned, [signed[key] for key in chosen])

    def pay(self, leaf: PayoutLeaf, *names: str) -> bool:
        """Have settlers sign and send; tells whether it was paid."""
        envelope = self.assemble(leaf, self.gather(leaf, *names))
        if envelope is None:
            return False
        answer = self.gateway.submit(envelope.envelope)
        assert answer.status == "pending", answer
        self.devnet.close_ledgers(2)
        return self.gateway.transaction(envelope.tx_hash) is not None

    def balance(self, name: str) -> int:
        view = self.gateway.account(key(name))
        assert view is not None
        return view.balances[("EURT", key("issuer"))]


@contextmanager
def treasury_scene(folder: Path, *, with_fee: bool = False) -> Iterator[TreasuryScene]:
    """A scene with a devnet of its own, stopped at the end."""
    home = folder / "devnet"
    home.mkdir()
    devnet = DevnetProcess(home, PASSPHRASE)
    try:
        made = make_treasury_scene(devnet, folder, with_fee=with_fee)
        yield made
        made.gateway.close()
    finally:
        devnet.client.close()
        devnet.stop()


def make_treasury_scene(
    devnet: DevnetProcess, folder: Path, *, with_fee: bool = False
) -> TreasuryScene:
    """Settlers sign for escrow and payout; money in escrow; no epoch closed yet."""
    gateway = HorizonGateway(devnet.url, PASSPHRASE)
    keys = domain_keys(with_fee=with_fee)
    fields = {"fee_account": key("fee"), "fee_bid_max_stroops": 50_000} if with_fee else {}
    accounts = simulated_operator.make_terms(**fields)
    treasury = treasury_of(accounts, [key(name) for name in SETTLERS], THRESHOLD)
    with setting_up(devnet, PASSPHRASE) as setter:
        set_up_domain(setter, PASSPHRASE, keys, asset_code="EURT", deposit_stroops=DEPOSIT_STROOPS)
        set_up_signers(
            setter,
            PASSPHRASE,
            treasury,
            payer_seed=seed("issuer"),
            account_seeds=keys.operator_seeds,
        )
    # The log begins when the accounts are as they should be.
    operator = ChainOperator(devnet, gateway, **fields)
    return TreasuryScene(devnet, gateway, operator, treasury, folder)
