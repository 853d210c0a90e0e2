"""Accounts of a simulated domain, made by the product's own set-up on a network that is in step."""

import random
from typing import Final

from ledger.devnet.network import root_keypair
from ledger.evidence.keys import public_key_of
from ledger.simulation.faults import Weather
from ledger.simulation.network import SimulatedNetwork
from ledger.simulation.source import SimulatedSource
from ledger.stellar.domain import DomainKeys, SetUp, set_up_domain
from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import NetworkLedger
from ledger.stellar.transacting import Transacting, account_creation, issuer_powers

DEPOSIT_STROOPS: Final = 10**15
ISSUER_XLM_STROOPS: Final = 10**12


class ClosingSource(SimulatedSource):
    """A source on a network that closes a ledger whenever somebody asks for the newest."""

    def latest_ledger(self) -> NetworkLedger:
        """Close a ledger and return it."""
        self._network.close()
        return super().latest_ledger()

    def fund_by_friendbot(self, account: bytes) -> None:
        """Refuse: the root account's key is at hand here.

        Raises:
            GatewayError: Always.
        """
        raise GatewayError(f"{self.name}: friendbot: got none for {account.hex()}")


def calm_source(name: str, network: SimulatedNetwork) -> SimulatedSource:
    """Return a source at which nothing goes wrong."""
    return SimulatedSource(name, network, Weather(random.Random(0), None, calm=True), None)


def closing_source(name: str, network: SimulatedNetwork) -> ClosingSource:
    """Return a source for set-up: nothing goes wrong, and ledgers close as they are waited for."""
    return ClosingSource(name, network, Weather(random.Random(0), None, calm=True), None)


def set_up_accounts(
    network: SimulatedNetwork,
    passphrase: str,
    keys: DomainKeys,
    asset_code: str,
    deposit_stroops: int = DEPOSIT_STROOPS,
) -> SetUp:
    """Make accounts, trustlines, asset and a first deposit.

    Raises:
        StellarError: The network refused something.
    """
    source = closing_source("set-up", network)
    root = root_keypair(passphrase)
    issuer = public_key_of(keys.issuer)
    creation = account_creation(root.raw_public_key(), issuer, ISSUER_XLM_STROOPS)
    transacting = Transacting(source, passphrase)
    transacting.apply_all([([creation], [root.raw_secret_key()])])
    # Before anybody trusts the asset: lines made earlier could not be clawed back.
    transacting.apply_all([([issuer_powers(issuer)], [keys.issuer])])
    return set_up_domain(
        source, passphrase, keys, asset_code=asset_code, deposit_stroops=deposit_stroops
    )
