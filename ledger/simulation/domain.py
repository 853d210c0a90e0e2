"""What all simulated worlds are made of: a plan, a domain on a network, and what the chain paid."""

import random
from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from contracts.registry import load_standard
from ledger.books.folding import domain_accounts
from ledger.books.transactions import AppliedTransaction, Movement
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.keys import network_id_of, public_key_of
from ledger.evidence.leaf import ACTIVATION, EVIDENCE_DAO_KEY, Activation
from ledger.evidence.terms import Terms, sign_terms
from ledger.simulation.errors import SimulationError
from ledger.simulation.faults import FaultKind, Weather
from ledger.simulation.network import CLOSE_S, ROOM_OPERATIONS, SimulatedNetwork, read_fact
from ledger.simulation.powers import Powers
from ledger.simulation.setting_up import DEPOSIT_STROOPS, set_up_accounts
from ledger.simulation.source import SimulatedSource
from ledger.simulation.turns import Mortal
from ledger.stellar.domain import DomainKeys, Policy, SettlementDomain, SetUp
from ledger.stellar.signing import SeedSigner, Signer
from ledger.stellar.slots import Slot
from ledger.store.engine import SessionFactory
from ledger.store.shard_store import parse_registration, register

GENESIS_S: Final = 1_000_000_000
PASSPHRASE: Final = "swarmledger simulation"  # noqa: S105 - a network's name
ASSET_CODE: Final = "USD"
EPOCH_LENGTH_S: Final = 30
SOURCES: Final = 2
SECOND: Final = "second-"
SECONDS_MAX: Final = 8
"""Most payees that have a second address."""

THRESHOLD_STROOPS: Final = 600_000
LOW_DEPOSIT_STROOPS: Final = 10_000_000
STRAY_REFUND_S: Final = 60

LOG_SEED: Final = sha256(b"log of a simulated operator").digest()
ISSUING_SEED: Final = sha256(b"issuing key of a simulated broadcaster").digest()
DAO_SEED: Final = sha256(b"DAO of a simulated network").digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldPlan:
    """How a world is made."""

    seed: int
    payees: int
    earning_epochs: int
    batch_payments: int
    channels: int = 2
    window_ledgers: int = 20
    """Network ledgers for which an envelope can be applied."""

    workers: int = 2
    kill_share: float = 0.03
    """Chance of a worker to die at each commit or submission."""

    lane_share_ppm: int = 1_000_000
    """Most of a network ledger's operations that payments take, parts per million."""

    raises_bids: bool = True
    """Whether there is a fee account that raises bids in a surge."""

    has_ailing_payees: bool = False
    """Whether payees fill or leave their trustlines, or close their accounts, for a while."""

    has_wishes: bool = False
    """Whether payees ask to be paid elsewhere, or below a threshold that there is then."""

    has_low_escrow: bool = False
    """Whether the broadcaster deposits little by little, and too late."""

    has_strangers: bool = False
    """Whether payees pay into escrow as strangers do, and get it back."""

    has_seizures: bool = False
    """Whether the issuer claws back from escrow too, until somebody rules how that is booked."""

    challenge_window_s: int = 0
    """How long an amount waits before it may be paid."""

    settlers: int = 0
    """How many settlers sign for escrow and payout account; 0: the accounts' own keys do."""

    settlers_needed: int = 0
    """How many of them must."""

    settlers_dead: int = 0
    """How many never answer."""

    settlers_lying: int = 0
    """How many post what is no signature of what was asked."""

    focus: FaultKind | None = None
    """The kind that most spells have; None: any."""

    ambushes: tuple[tuple[str, str], ...] = ()
    """(moment, spell): there a worker dies once for certain, as the spell begins."""

    is_calm: bool = False
    """No fault and no death at all."""


class PaidOnChain:
    """What the chain has paid to whom, and how much of it nobody had earned."""

    def __init__(
        self,
        network: SimulatedNetwork,
        payer: bytes,
        ours: frozenset[bytes],
        *,
        escrow: bytes = b"",
        owners: Mapping[bytes, bytes] | None = None,
        strangers: frozenset[bytes] = frozenset(),
    ) -> None:
        """Look at what comes from now on.

        Args:
            network: The chain.
            payer: Account that pays payees.
            ours: All accounts of the domain.
            escrow: Account into which strangers pay, who get it back; empty: nobody does.
            owners: Second address → the payee whom a payment there pays.
            strangers: Who may pay into escrow by mistake.
        """
        self._network, self._payer, self._ours = network, payer, ours
        self._escrow, self._owners, self._strangers = escrow, owners or {}, strangers
        self._refundable: Counter[bytes] = Counter()
        self._seen = len(network.network.records)
        self._by_slot: Counter[Slot] = Counter()
        self._truth = SimulatedSource(
            "truth", network, Weather(random.Random(0), None, calm=True), None
        )
        self.by_payee: dict[bytes, int] = {}
        self.payouts = 0
        self.second_payouts = 0
        """Those to second addresses."""

        self.double_paid_stroops = 0
        self.double_paid_payouts = 0
        self.fees_stroops = 0

    def take_new(self, earned: Mapping[bytes, int]) -> None:
        """Take in what was applied since, given what each payee has earned so far."""
        records = self._network.network.records
        for record in records[self._seen :]:
            self._take(self._read(record.tx.hash), earned)
        self._seen = len(records)

    def payouts_of(self, slots: AbstractSet[Slot]) -> int:
        """Return how many payouts were made in some slots."""
        return sum(self._by_slot[slot] for slot in slots)

    def _take(self, transaction: AppliedTransaction, earned: Mapping[bytes, int]) -> None:
        if transaction.fee_account in self._ours:
            self.fees_stroops += transaction.fee_charged_stroops
        slot = (transaction.source_account, transaction.sequence)
        for movement in transaction.movements:
            self._take_stray(movement)
            payee = self._owners.get(movement.destination, movement.destination)
            if movement.source != self._payer or movement.is_native or payee in self._ours:
                continue
            paid_stroops = self.by_payee.get(payee, 0) + movement.amount_stroops
            self.by_payee[payee] = paid_stroops
            excess_stroops = min(
                movement.amount_stroops, max(0, paid_stroops - earned.get(payee, 0))
            )
            self.payouts += 1
            self._by_slot[slot] += 1
            self.second_payouts += payee != movement.destination
            self.double_paid_stroops += excess_stroops
            self.double_paid_payouts += excess_stroops > 0

    @property
    def unreturned_stroops(self) -> int:
        """What strangers paid into escrow and did not get back yet."""
        return self._refundable.total()

    def _take_stray(self, movement: Movement) -> None:
        """A stranger gets back what it paid into escrow, and never more."""
        if movement.is_native or movement.source == movement.destination:
            return
        if movement.destination == self._escrow and movement.source in self._strangers:
            self._refundable[movement.source] += movement.amount_stroops
        elif movement.source == self._escrow and movement.destination in self._strangers:
            self._refundable[movement.destination] -= movement.amount_stroops
            excess_stroops = max(0, -self._refundable[movement.destination])
            self.double_paid_stroops += excess_stroops

    def _read(self, tx_hash: bytes) -> AppliedTransaction:
        fact = self._truth.transaction(tx_hash)
        if fact is None:
            raise SimulationError(f"transaction {tx_hash.hex()}: got none, want an applied one")
        return read_fact(fact)


class SimulatedDomain:
    """Accounts, keys and terms of a domain on a network of its own, and the weather there."""

    def __init__(self, plan: WorldPlan) -> None:
        """Set everything up on a fresh network."""
        self.plan = plan
        self.chance = random.Random(plan.seed)
        self.keys = _keys_of(plan)
        asset = (ASSET_CODE, public_key_of(self.keys.issuer))
        self.network = SimulatedNetwork(PASSPHRASE, GENESIS_S, asset)
        deposit_stroops = LOW_DEPOSIT_STROOPS if plan.has_low_escrow else DEPOSIT_STROOPS
        self.made = set_up_accounts(
            self.network, PASSPHRASE, self.keys, ASSET_CODE, deposit_stroops
        )
        self.terms = make_terms(self.made, plan, genesis_s=self.network.close_time_s)
        self.ours = domain_accounts(self.terms)
        self.weather = Weather(self.chance, plan.focus, calm=plan.is_calm)
        self.mortal = Mortal(
            self.chance,
            0.0 if plan.is_calm else plan.kill_share,
            lambda: self.weather.spell,
            ambushes=set(plan.ambushes),
            turn_to=self.weather.turn_to,
        )
        # RPC tells what is frozen and Horizon does not; some operators read by one first.
        self.sources = [
            SimulatedSource(
                f"source {number}",
                self.network,
                self.weather,
                self.mortal,
                tells_frozen=(plan.seed + number) % 2 == 0,
            )
            for number in range(SOURCES)
        ]
        named = self.made.payees
        self.owners = {
            account: named[f"payee-{name.removeprefix(SECOND)}"]
            for name, account in named.items()
            if name.startswith(SECOND)
        }
        """Second address → its payee."""

        self.payees = sorted(named[f"payee-{number}"] for number in range(plan.payees))
        self.powers = Powers(
            self.network,
            self.weather,
            PASSPHRASE,
            asset,
            self.keys.issuer,
            self.payees,
            self.made.escrow,
            seizes=plan.has_seizures,
        )

    def seeds(self) -> dict[bytes, bytes]:
        """Account key → seed of the operator's accounts."""
        keys = self.keys
        seeds = [keys.escrow, keys.payout, keys.anchor, *keys.channels]
        if keys.fee is not None:
            seeds.append(keys.fee)
        return {public_key_of(seed): seed for seed in seeds}

    def close_ledger(self) -> bool:
        """Turn the weather and close the next network ledger, if one closes; tells whether."""
        weather = self.weather
        weather.turn()
        blind = self.chance.randrange(len(self.sources))
        for number, source in enumerate(self.sources):
            source.turn(may_be_blind=number == blind)
        self.powers.act()
        if weather.strikes(FaultKind.STALL):
            return False
        if weather.strikes(FaultKind.LOST_QUEUE):
            self.network.lose_queue()
        self.network.set_room(1 if weather.strikes(FaultKind.SURGE) else ROOM_OPERATIONS)
        jump_s = self.chance.randint(20, 200) if weather.strikes(FaultKind.TIME_JUMP) else 0
        self.network.close(jump_s)
        self.network.set_room(ROOM_OPERATIONS)
        return True

    def settlement(self, signer: Signer | None = None) -> SettlementDomain:
        """Return the domain as the settlement wants it; without a signer: the accounts' keys."""
        return SettlementDomain(
            terms=self.terms,
            passphrase=PASSPHRASE,
            signer=signer or SeedSigner(self.seeds()),
            policy=Policy(evidence_sources=SOURCES, lane_share_ppm=self.plan.lane_share_ppm),
        )


def _keys_of(plan: WorldPlan) -> DomainKeys:
    """Return everybody's keys, the same for the same seed."""

    def seed_of(name: str) -> bytes:
        return sha256(f"simulated world {plan.seed}: {name}".encode()).digest()

    seconds = min(SECONDS_MAX, plan.payees) if plan.has_wishes else 0
    return DomainKeys(
        issuer=seed_of("issuer"),
        broadcaster=seed_of("broadcaster"),
        escrow=seed_of("escrow"),
        payout=seed_of("payout"),
        anchor=seed_of("anchor"),
        fee=seed_of("fee") if plan.raises_bids else None,
        channels=tuple(seed_of(f"channel {number}") for number in range(plan.channels)),
        payees={
            **{f"payee-{number}": seed_of(f"payee {number}") for number in range(plan.payees)},
            **{f"{SECOND}{number}": seed_of(f"second {number}") for number in range(seconds)},
        },
    )


def make_terms(made: SetUp, plan: WorldPlan, *, genesis_s: int) -> Terms:
    """Return the terms of a simulated domain: everybody is paid every epoch."""
    return Terms(
        network_id=network_id_of(PASSPHRASE),
        broadcaster_account=made.broadcaster,
        issuing_key=public_key_of(ISSUING_SEED),
        log_key=public_key_of(LOG_SEED),
        log_origin="log.example/simulation",
        collector_url="http://127.0.0.1:1",
        asset_code=made.asset_code,
        asset_issuer=made.issuer,
        escrow_account=made.escrow,
        payout_account=made.payout,
        anchor_account=made.anchor,
        rules_digest=load_standard("traffic").digest,
        price_version=1,
        price_stroops=1,
        price_quantity_bytes=1,
        fee_ppm=0,
        genesis_s=genesis_s,
        epoch_length_s=EPOCH_LENGTH_S,
        grace_s=1,
        correction_epochs=1,
        first_epoch=0,
        last_epoch=1_000_000,
        payout_threshold_stroops=THRESHOLD_STROOPS if plan.has_wishes else 1,
        fee_bid_stroops=100,
        attempt_window_ledgers=plan.window_ledgers,
        attempt_window_s=plan.window_ledgers * CLOSE_S,
        batch_payments=plan.batch_payments,
        fee_account=made.fee or bytes(32),
        fee_bid_max_stroops=100_000 if made.fee else 100,
        challenge_window_s=plan.challenge_window_s,
        cash_out_least_stroops=1,
        address_delay_s=0,
        suspense_refund_s=STRAY_REFUND_S if plan.has_strangers else 86_400,
        channel_accounts=made.channels,
        cdns=(),
    )


def register_domain(sessions: SessionFactory, terms: Terms, broadcaster_seed: bytes) -> None:
    """Register the broadcaster with terms, binding and activation, all signed."""
    account, network_id = terms.broadcaster_account, terms.network_id
    binding = Binding(
        network_id=network_id,
        account=account,
        key=terms.issuing_key,
        role=Role.ISSUING,
        first_epoch=0,
        last_epoch=10**6,
        serial=1,
    )
    activation = Activation(
        network_id=network_id,
        broadcaster_account=account,
        rules_digest=terms.rules_digest,
        first_epoch=0,
        evidence_kind=EVIDENCE_DAO_KEY,
        dao_key=public_key_of(DAO_SEED),
    )
    registration = parse_registration(
        terms=sign_terms(terms, ISSUING_SEED).raw,
        binding=BINDING.sign(binding, broadcaster_seed, ISSUING_SEED).raw,
        activation=ACTIVATION.sign(activation, DAO_SEED).raw,
    )
    with sessions.begin() as session:
        register(session, registration)
