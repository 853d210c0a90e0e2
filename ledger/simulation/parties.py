"""What everybody else does in a world: payees, the broadcaster, strangers; all chosen by its seed.

Payees fill or leave their trustlines and close their accounts, and come back; they have themselves
paid at another address, or below the threshold. The broadcaster deposits little by little, so that
escrow runs low. Strangers pay into escrow and get it back. All of it are real transactions and
real signed instructions; what preflight sees joins the instructions as in production.
"""

import random
from collections import Counter
from typing import Final

from ledger.books.state import State
from ledger.evidence.encoding import ZERO_KEY, Signed
from ledger.evidence.instruction import (
    RULING,
    Booking,
    Instruction,
    PayeeInstruction,
    PayeeWish,
    Ruling,
    order_of_instruction,
    parse_instruction,
    sign_payee_instruction,
)
from ledger.evidence.keys import public_key_of
from ledger.simulation.domain import DAO_SEED, LOG_SEED, PASSPHRASE, SimulatedDomain
from ledger.simulation.setting_up import calm_source
from ledger.stellar.domain import PAYEE_XLM_STROOPS
from ledger.stellar.errors import GatewayError
from ledger.stellar.preflight import ACCOUNTS_MAX, notes_of, sign_note
from ledger.stellar.transacting import (
    Transacting,
    Work,
    account_creation,
    account_merge,
    asset_payment,
    memo_wish,
    path_payment,
    trust,
)

AILING_MAX: Final = 3
"""Most payees that cannot be paid at once."""

AILMENTS: Final = ("full", "left", "gone", "wanting a memo")
"""A trustline without room, one that is closed, an account that is, and one that asks for a memo
with every payment (SEP-29), which no payout has."""

DEPOSIT_STROOPS_MAX: Final = 40_000_000
LAST_DEPOSIT_STROOPS: Final = 10**12
STRANGER_STROOPS_MAX: Final = 1_000
RULED_AFTER_LEDGERS: Final = 4
"""Network ledgers after which the DAO has looked at what nobody planned."""


class Parties:
    """Everybody who is not the operator."""

    def __init__(self, domain: SimulatedDomain) -> None:
        self._domain = domain
        self._chance = random.Random(f"{domain.plan.seed} parties")
        self._network = domain.network
        self._transacting = Transacting(calm_source("parties", domain.network), PASSPHRASE)
        self._asset = (domain.made.asset_code, domain.made.issuer)
        self._seeds = {public_key_of(seed): seed for seed in domain.keys.payees.values()}
        self._ailing: set[bytes] = set()
        self._is_filled = False
        self._serials: dict[tuple[bytes, int], int] = {}
        self._instructions: dict[int, tuple[Signed[Instruction], ...]] = {}

        self.events: Counter[str] = Counter()
        """How often each thing was done."""

    def act(self) -> None:
        """Do what is done before the next network ledger closes."""
        plan = self._domain.plan
        if plan.has_ailing_payees and self._chance.random() < 0.2:
            payee = self._chance.choice(self._domain.payees)
            if len(self._ailing) < AILING_MAX:
                self._ail(payee)
        if self._ailing and self._chance.random() < 0.1:
            self._heal(self._chance.choice(sorted(self._ailing)))
        if plan.has_low_escrow and self._chance.random() < 0.2:
            self._deposit(self._chance.randint(1, DEPOSIT_STROOPS_MAX))
        if plan.has_strangers and self._chance.random() < 0.2:
            self._stray()

    def recover(self) -> None:
        """Let everybody be payable again, and escrow full; called at each ledger of the end."""
        if self._domain.plan.has_ailing_payees:
            # All of them: what made one ail may have been applied after it was seen to be well.
            for payee in self._domain.payees:
                self._heal(payee)
        # Again until it is there: a deposit before it may still be waiting for its ledger.
        escrow = self._network.line_of(self._domain.made.escrow)
        if self._domain.plan.has_low_escrow and not self._is_filled:
            self._is_filled = escrow is not None and escrow.balance >= LAST_DEPOSIT_STROOPS
            if not self._is_filled:
                self._deposit(LAST_DEPOSIT_STROOPS)
        # Before the payouts that come with it, nobody had anything to pay by mistake.
        if self._domain.plan.has_strangers and not self.events["strangers' payments"]:
            self._stray()

    def instructions(self, number: int, opening: State) -> tuple[Signed[Instruction], ...]:
        """Return what is sealed with an epoch: the same whenever it is asked for again.

        Only rulings come to it later; the epoch cannot be computed before them.
        """
        if number not in self._instructions:
            found: list[Signed[Instruction]] = [*self._notes(opening), *self._wishes(number)]
            self.events["instructions sealed"] += len(found)
            self._instructions[number] = tuple(found)
        found = [*self._instructions[number], *self._rulings(number)]
        return tuple(sorted(found, key=order_of_instruction))

    # Instructions

    def _notes(self, opening: State) -> list[Signed[Instruction]]:
        domain = self._domain
        if not domain.plan.has_ailing_payees:
            return []
        try:
            notes = list(notes_of(opening, domain.terms, domain.sources[0], ACCOUNTS_MAX))
        except GatewayError:
            return []
        return [sign_note(note, LOG_SEED) for note in notes]

    def _rulings(self, number: int) -> list[Signed[Instruction]]:
        """The DAO sees what was clawed back from escrow, and a while later books it as a loss."""
        terms, network = self._domain.terms, self._network
        found = []
        for tx_hash in self._domain.powers.seizures:
            record = network.network.record(tx_hash)
            closed = None if record is None else network.network.ledger(record.ledger)
            if closed is None or network.sequence < closed.header.sequence + RULED_AFTER_LEDGERS:
                continue
            if terms.epoch_at(closed.header.close_time) == number:
                found.append(self._rule(tx_hash))
        return found

    def _rule(self, tx_hash: bytes) -> Signed[Instruction]:
        ruling = Ruling(
            network_id=self._domain.terms.network_id,
            broadcaster_account=self._domain.terms.broadcaster_account,
            dao_key=public_key_of(DAO_SEED),
            serial=1,
            tx_hash=tx_hash,
            booking=Booking.LOSS,
        )
        return parse_instruction(RULING.sign(ruling, DAO_SEED).raw)

    def _wishes(self, number: int) -> list[Signed[Instruction]]:
        plan = self._domain.plan
        if not plan.has_wishes:
            return []
        is_over = number >= plan.earning_epochs
        chance = random.Random(f"{plan.seed} wishes of epoch {number}")
        wishes = [
            self._wish(payee, PayeeWish.CASH_OUT, ZERO_KEY)
            for payee in self._domain.payees
            if is_over or chance.random() < 0.1
        ]
        for second, payee in sorted(self._domain.owners.items()):
            if chance.random() < 0.3:
                pay_to = chance.choice([second, payee])
                wishes.append(self._wish(payee, PayeeWish.PAY_TO, pay_to))
        return wishes

    def _wish(self, payee: bytes, kind: PayeeWish, pay_to: bytes) -> Signed[Instruction]:
        serial = self._serials.get((payee, kind), 0) + 1
        self._serials[payee, kind] = serial
        value = PayeeInstruction(
            network_id=self._domain.terms.network_id,
            broadcaster_account=self._domain.terms.broadcaster_account,
            account=payee,
            kind=kind,
            serial=serial,
            pay_to=pay_to,
        )
        return sign_payee_instruction(value, self._seeds[payee], self._seeds.get(pay_to))

    # Transactions

    def _ail(self, payee: bytes) -> None:
        line = self._network.line_of(payee)
        if line is None:
            return
        issuer = self._asset[1]
        leaving = [trust(payee, self._asset, limit_stroops=0)]
        if line.balance:
            leaving.insert(0, asset_payment(payee, issuer, self._asset, line.balance))
        kind = self._chance.choice(AILMENTS)
        if kind == "full" and line.balance:
            leaving = [trust(payee, self._asset, limit_stroops=line.balance)]
        elif kind == "gone":
            leaving.append(account_merge(payee, issuer))
        elif kind == "wanting a memo":
            leaving = [memo_wish(payee, is_wanted=True)]
        self._submit((leaving, [self._seeds[payee]]))
        self.events[f"payees' accounts or lines {kind}"] += 1
        self._ailing.add(payee)

    def _heal(self, payee: bytes) -> None:
        """Do the next step towards an account that can be paid; it may take a few ledgers."""
        issuer, seed = self._domain.keys.issuer, self._seeds[payee]
        line = self._network.line_of(payee)
        if self._network.account_at(payee, self._network.sequence) is None:
            creation = account_creation(public_key_of(issuer), payee, PAYEE_XLM_STROOPS)
            self._submit(([creation, trust(payee, self._asset)], [issuer, seed]))
        elif line is None or line.limit < 2**62:
            self._submit(([trust(payee, self._asset)], [seed]))
        elif self._network.wants_memo(payee):
            self._submit(([memo_wish(payee, is_wanted=False)], [seed]))
        else:
            self._ailing.discard(payee)

    def _deposit(self, amount_stroops: int) -> None:
        made, build = self._domain.made, self._chance.choice([asset_payment, path_payment])
        operation = build(made.broadcaster, made.escrow, self._asset, amount_stroops)
        self._submit(([operation], [self._domain.keys.broadcaster]))
        self.events["deposits"] += 1

    def _stray(self) -> None:
        """One of some payees, the first that can, pays into escrow without saying what for."""
        amount_stroops = self._chance.randint(1, STRANGER_STROOPS_MAX)
        for sender in self._chance.sample(self._domain.payees, min(5, len(self._domain.payees))):
            line = self._network.line_of(sender)
            if line is None or line.balance < amount_stroops or sender in self._ailing:
                continue
            escrow = self._domain.made.escrow
            payment = asset_payment(sender, escrow, self._asset, amount_stroops)
            self._submit(([payment], [self._seeds[sender]]))
            self.events["strangers' payments"] += 1
            return

    def _submit(self, work: Work) -> None:
        operations, seeds = work
        self._network.submit(self._transacting.sign(operations, seeds).envelope)
