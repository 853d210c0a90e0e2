"""A devnet in one process with funded accounts, for the devnet's tests."""

from __future__ import annotations

import base64
import hashlib

from stellar_sdk import (
    Account,
    BumpSequence,
    CreateAccount,
    Keypair,
    Operation,
    TransactionBuilder,
    TransactionEnvelope,
)

from ledger.devnet.closing import Closed
from ledger.devnet.envelope import Transaction
from ledger.devnet.network import Network, Settings
from ledger.devnet.queue import Status
from ledger.devnet.results import TxCode
from ledger.devnet.state_file import StateFile

PASSPHRASE = "Network of the unit tests ; 2026"
START = 1_800_000_000


class Bench:
    """A network with some funded accounts whose next sequence numbers are known."""

    def __init__(
        self,
        accounts: int = 3,
        max_tx_set_size: int = 1_000,
        state: StateFile | None = None,
    ) -> None:
        self.network = Network(Settings(passphrase=PASSPHRASE), START, state)
        self.now = START
        self.keys = [
            Keypair.from_raw_ed25519_seed(hashlib.sha256(bytes([i])).digest())
            for i in range(accounts)
        ]
        creations = [CreateAccount(key.public_key, "1000") for key in self.keys]
        self.submit(self.tx(self.network.root, *creations, sequence=1))
        self.close()
        self.network.header.max_tx_set_size = max_tx_set_size
        self.first = (2 << 32) + 1

    def tx(
        self,
        source: Keypair,
        *operations: Operation,
        sequence: int | None = None,
        fee: int = 100,
        max_time: int = 0,
        signers: tuple[Keypair, ...] | None = None,
    ) -> Transaction:
        number = self.first if sequence is None else sequence
        builder = TransactionBuilder(Account(source.public_key, number - 1), PASSPHRASE, fee)
        for operation in operations or (BumpSequence(0),):
            builder.append_operation(operation)
        envelope = builder.add_time_bounds(0, max_time).build()
        for signer in signers if signers is not None else (source,):
            envelope.sign(signer)
        return self.network.parse(base64.b64decode(envelope.to_xdr()))

    def bump(self, payer: Keypair, inner: Transaction, base_fee: int) -> Transaction:
        raw = base64.b64encode(inner.raw).decode()
        envelope = TransactionBuilder.from_xdr(raw, PASSPHRASE)
        assert isinstance(envelope, TransactionEnvelope)
        outer = TransactionBuilder.build_fee_bump_transaction(payer, base_fee, envelope, PASSPHRASE)
        outer.sign(payer)
        return self.network.parse(base64.b64decode(outer.to_xdr()))

    def submit(self, tx: Transaction) -> tuple[Status, TxCode | None]:
        answer = self.network.submit(tx)
        return answer.status, answer.result.code if answer.result else None

    def close(self, seconds: int = 5) -> Closed:
        self.now += seconds
        return self.network.close_ledger(self.now)

    def balance(self, key: Keypair) -> int:
        account = self.network.account(key.raw_public_key())
        assert account is not None
        return account.balance
