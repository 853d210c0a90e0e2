"""Accounts on the tests' devnet that build, sign and send whatever a test wants."""

import base64
from collections.abc import Sequence
from typing import Any

from settlement_scene import PASSPHRASE, DevnetProcess
from stellar_sdk import (
    Account,
    Asset,
    ChangeTrust,
    FeeBumpTransactionEnvelope,
    Keypair,
    Operation,
    TransactionBuilder,
    TransactionEnvelope,
)

Envelope = TransactionEnvelope | FeeBumpTransactionEnvelope


def raw(envelope: Envelope) -> bytes:
    return base64.b64decode(envelope.to_xdr())


class Parties:
    """What a test does on the devnet, past the gateway under test."""

    def __init__(self, devnet: DevnetProcess) -> None:
        self.devnet = devnet

    def fund(self, count: int) -> list[Keypair]:
        pairs = [Keypair.random() for _ in range(count)]
        for pair in pairs:
            answer = self.devnet.client.get("/friendbot", params={"addr": pair.public_key})
            assert answer.status_code == 200, answer.text
        return pairs

    def account(self, pair: Keypair) -> dict[str, Any]:
        answer = self.devnet.client.get(f"/accounts/{pair.public_key}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def sequence(self, pair: Keypair) -> int:
        return int(self.account(pair)["sequence"])

    def build(
        self,
        source: Keypair,
        *operations: Operation,
        fee: int = 100,
        ahead: int = 1,
        signers: Sequence[Keypair] | None = None,
    ) -> TransactionEnvelope:
        account = Account(source.public_key, self.sequence(source) + ahead - 1)
        builder = TransactionBuilder(account, PASSPHRASE, fee).add_time_bounds(0, 0)
        for operation in operations:
            builder.append_operation(operation)
        envelope = builder.build()
        for signer in (source,) if signers is None else signers:
            envelope.sign(signer)
        return envelope

    def bump(self, payer: Keypair, inner: TransactionEnvelope, fee: int) -> Envelope:
        bump = TransactionBuilder.build_fee_bump_transaction(payer, fee, inner, PASSPHRASE)
        bump.sign(payer)
        return bump

    def send(self, envelope: Envelope) -> str:
        answer = self.devnet.client.post("/transactions_async", data={"tx": envelope.to_xdr()})
        status: str = answer.json()["tx_status"]
        return status

    def apply(self, *envelopes: Envelope) -> None:
        for envelope in envelopes:
            assert self.send(envelope) == "PENDING"
            self.devnet.close_ledgers()

    def trust(self, asset: Asset, *holders: Keypair) -> None:
        for holder in holders:
            self.apply(self.build(holder, ChangeTrust(asset)))

    def latest(self) -> int:
        sequence: int = self.devnet.client.get("/devnet/status").json()["sequence"]
        return sequence
