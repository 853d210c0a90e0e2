"""The real devnet process of a module's tests, and its clients."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from stellar_sdk import (
    Keypair,
    Operation,
    Server,
    SorobanServer,
    TransactionBuilder,
    TransactionEnvelope,
)
from stellar_sdk.client.requests_client import RequestsClient

PASSPHRASE = "Devnet of the tests ; 2026"


@dataclass
class Net:
    url: str
    root: str
    http: httpx.Client
    horizon: Server
    rpc: SorobanServer

    def close(self, count: int = 1) -> dict[str, Any]:
        answer = self.http.post("/devnet/close", json={"count": count})
        assert answer.status_code == 200
        return dict(answer.json())

    def sequence(self) -> int:
        return int(self.http.get("/devnet/status").json()["sequence"])

    def fund(self, count: int) -> list[Keypair]:
        pairs = [Keypair.random() for _ in range(count)]
        for pair in pairs:
            answer = self.http.get("/friendbot", params={"addr": pair.public_key})
            assert answer.status_code == 200, answer.text
        return pairs

    def build(
        self,
        source: Keypair,
        *operations: Operation,
        fee: int = 100,
        memo: str | None = "test",
        max_time: int = 0,
    ) -> TransactionEnvelope:
        account = self.horizon.load_account(source.public_key)
        builder = TransactionBuilder(account, PASSPHRASE, fee)
        for operation in operations:
            builder.append_operation(operation)
        if memo is not None:
            builder.add_text_memo(memo)
        envelope = builder.add_time_bounds(0, max_time).build()
        envelope.sign(source)
        return envelope

    def send(self, envelope: TransactionEnvelope) -> str:
        answer = self.http.post("/transactions_async", data={"tx": envelope.to_xdr()})
        status: str = answer.json()["tx_status"]
        return status

    def apply(self, envelope: TransactionEnvelope) -> dict[str, Any]:
        """Submit without waiting, close, look up."""
        assert self.send(envelope) == "PENDING"
        self.close()
        return dict(self.horizon.transactions().transaction(envelope.hash_hex()).call())

    def arm(self, kind: str, **fields: Any) -> None:
        answer = self.http.post("/devnet/faults", json={"kind": kind, **fields})
        assert answer.status_code == 200, answer.text


def start(folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    ready = folder / "ready.json"
    command = [sys.executable, "-c", "from ledger.devnet.command import main; main()", "serve"]
    command += ["--passphrase", PASSPHRASE, "--ready-file", str(ready), *options]
    process = subprocess.Popen(command)
    while not ready.exists():
        assert process.poll() is None, "the devnet ended before it was ready"
        time.sleep(0.02)
    return process, json.loads(ready.read_text())


def start_net(folder: Path, *options: str) -> Iterator[Net]:
    """Yield a devnet with its clients; it ends with exit code 0 afterwards."""
    process, ready = start(folder, *options)
    client = RequestsClient(num_retries=0)
    with httpx.Client(base_url=ready["url"], timeout=20) as http:
        horizon, rpc = Server(ready["url"], client), SorobanServer(ready["rpc_url"], client)
        yield Net(ready["url"], ready["root_account"], http, horizon, rpc)
        client.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
