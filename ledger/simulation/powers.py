"""Those with power over other people's accounts: the validators, who freeze, and the issuer.

While a spell of their kind is on, they freeze payees' trustlines, revoke the authorization to hold
the asset, or claw back what was paid; when it is over, whoever was frozen or revoked is free again.
What the issuer does are real transactions, and may take several network ledgers. Reference: CAP-77
(frozen keys), CAP-29 (trustline authorization), CAP-35 (clawback).
"""

import random
from collections.abc import Sequence
from typing import Final

from ledger.devnet.entries import AUTHORIZED, TRUSTLINE_CLAWBACK
from ledger.simulation.faults import FaultKind, Weather
from ledger.simulation.network import SimulatedNetwork
from ledger.simulation.setting_up import calm_source
from ledger.stellar.transacting import Step, Transacting, authorization, clawback

HELD_MAX: Final = 2
"""Most payees that are frozen at once; as many may be revoked."""

SEIZED_SHARE: Final = 0.3
"""Share of clawbacks that take from escrow, where any does."""

SEIZED_STROOPS_MAX: Final = 1_000


class Powers:
    """What validators and issuer do to the payees of one domain."""

    def __init__(
        self,
        network: SimulatedNetwork,
        weather: Weather,
        passphrase: str,
        asset: tuple[str, bytes],
        issuer_seed: bytes,
        payees: Sequence[bytes],
        escrow: bytes,
        *,
        seizes: bool,
    ) -> None:
        """Do nothing yet.

        Args:
            network: Where they have power.
            weather: When they use it.
            passphrase: Of the network.
            asset: Code and issuer.
            issuer_seed: The issuer's.
            payees: Whom it may strike.
            escrow: The domain's.
            seizes: Whether escrow is clawed back from too, which no worker expects.
        """
        self._network, self._weather = network, weather
        self._chance = random.Random(f"{issuer_seed.hex()} powers")
        self._transacting = Transacting(calm_source("powers", network), passphrase)
        self._asset = asset
        self._issuer_seed, self._payees = issuer_seed, payees
        self._escrow, self._seizes = escrow, seizes
        self._frozen: set[bytes] = set()
        self._revoked: set[bytes] = set()
        self._ever_revoked: set[bytes] = set()
        self.seizures: list[bytes] = []
        """Hashes of the transactions that claw back from escrow, applied or not."""

    def act(self) -> None:
        """Do what is done before the next network ledger closes."""
        self._freeze()
        work = [*self._authorize(), *self._revoke(), *self._claw_back()]
        if work:
            self._submit(work)

    def seize(self, amount_stroops: int) -> None:
        """Claw back from escrow, alone in its transaction, which is ruled on as a whole."""
        self.seizures.append(self._submit([clawback(self._escrow, self._asset, amount_stroops)]))

    def _freeze(self) -> None:
        if self._weather.spell != FaultKind.FROZEN:
            for payee in self._frozen:
                self._network.unfreeze_line(payee)
            self._frozen.clear()
        elif len(self._frozen) < HELD_MAX and self._weather.strikes(FaultKind.FROZEN):
            payee = self._chance.choice(self._payees)
            self._network.freeze_line(payee)
            self._frozen.add(payee)

    def _authorize(self) -> list[Step]:
        """Give back what was taken in a spell that is over; again until it is seen to be so."""
        if self._weather.spell != FaultKind.REVOKED:
            self._revoked.clear()
        # All of them: a revocation may be applied after the line was seen to be well.
        found = sorted(self._ever_revoked - self._revoked)
        return [
            authorization(payee, self._asset, is_given=True)
            for payee in found
            if self._has(payee, 0)
        ]

    def _revoke(self) -> list[Step]:
        payee = self._chance.choice(self._payees)
        is_possible = len(self._revoked) < HELD_MAX and self._has(payee, AUTHORIZED)
        if not is_possible or not self._weather.strikes(FaultKind.REVOKED):
            return []
        self._revoked.add(payee)
        self._ever_revoked.add(payee)
        return [authorization(payee, self._asset, is_given=False)]

    def _claw_back(self) -> list[Step]:
        is_seizure = self._seizes and self._chance.random() < SEIZED_SHARE
        holder = self._escrow if is_seizure else self._chance.choice(self._payees)
        line = self._network.line_of(holder)
        if line is None or not line.balance or not line.flags & TRUSTLINE_CLAWBACK:
            return []
        if not self._weather.strikes(FaultKind.CLAWED_BACK):
            return []
        if not is_seizure:
            return [clawback(holder, self._asset, self._chance.randint(1, line.balance))]
        self.seize(self._chance.randint(1, SEIZED_STROOPS_MAX))
        return []

    def _has(self, payee: bytes, flag: int) -> bool:
        """Tell whether a payee has a trustline, and its authorization is as said."""
        line = self._network.line_of(payee)
        return line is not None and line.flags & AUTHORIZED == flag

    def _submit(self, work: Sequence[Step]) -> bytes:
        """Offer a transaction of the issuer's; returns its hash."""
        envelope = self._transacting.sign(work, [self._issuer_seed])
        self._network.submit(envelope.envelope)
        return envelope.tx_hash
