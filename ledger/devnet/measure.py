"""How many payments a second of one core the devnet applies: decoded, checked, queued, closed.

Time is processor time of this process alone, so that a busy machine does not matter. Envelopes are
built and signed before the clock starts.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stellar_sdk import Account, Asset, CreateAccount, Keypair, Operation, Payment
from stellar_sdk import TransactionBuilder as Builder

from ledger.devnet.network import Network, Settings
from ledger.devnet.queue import Status
from ledger.devnet.state_file import StateFile

NETWORK: Final = "Devnet under measurement ; 2026"
_START: Final = 1_800_000_000
_BATCH: Final = 100
_PAYEES: Final = 1_000
_CLOSE_SECONDS: Final = 5


class MeasureError(RuntimeError):
    """A payment that was not applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is applied: network ledgers of `channels` transactions with 100 payments each."""

    ledgers: int = 10
    channels: int = 10


def _keys(name: str, count: int) -> list[Keypair]:
    seeds = (hashlib.sha256(f"{name} {number}".encode()).digest() for number in range(count))
    return [Keypair.from_raw_ed25519_seed(seed) for seed in seeds]


class _Sender:
    """Signs as the accounts of the measurement and counts their sequence numbers."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._next: dict[str, int] = {}

    def envelope(self, source: Keypair, operations: list[Operation], *signers: Keypair) -> bytes:
        held = self.network.account(source.raw_public_key())
        if held is None:
            raise MeasureError(f"source: got no account {source.public_key}, want one")
        number = self._next.setdefault(source.public_key, held.sequence)
        self._next[source.public_key] = number + 1
        builder = Builder(Account(source.public_key, number), NETWORK, 100)
        for operation in operations:
            builder.append_operation(operation)
        made = builder.add_time_bounds(0, 0).build()
        for signer in (source, *signers):
            made.sign(signer)
        return base64.b64decode(made.to_xdr())

    def apply(self, envelopes: list[bytes]) -> None:
        """Submit and close one network ledger that must take everything."""
        network = self.network
        for raw in envelopes:
            submission = network.submit(network.parse(raw))
            if submission.status is not Status.PENDING:
                raise MeasureError(f"submission: got {submission}, want PENDING")
        closed = network.close_ledger(network.header.close_time + _CLOSE_SECONDS)
        good = sum(item.result.ok for item in closed.applied)
        if good != len(envelopes):
            raise MeasureError(f"applied: got {good} good, want {len(envelopes)}")


def _batches(keys: list[Keypair]) -> Iterator[list[Keypair]]:
    for start in range(0, len(keys), _BATCH):
        yield keys[start : start + _BATCH]


def measure(load: Load, state: Path | None = None) -> dict[str, Any]:
    """Apply a load; payments and seconds of processor time, and their quotient.

    Raises:
        MeasureError: something was refused or failed.
        StateFileError: the state file cannot be used.
    """
    room = load.channels * _BATCH
    settings = Settings(passphrase=NETWORK, max_tx_set_size=max(room, 2 * _PAYEES))
    file = StateFile(state) if state is not None else None
    network = Network(settings, _START, file)
    sender = _Sender(network)
    payees, channels = _keys("payee", _PAYEES), _keys("channel", load.channels)
    for batch in _batches([*payees, *channels]):
        made: list[Operation] = [CreateAccount(key.public_key, "100") for key in batch]
        sender.apply([sender.envelope(network.root, made)])
    sets = [
        [sender.envelope(key, _payments(payees, number), network.root) for number, key in lot]
        for lot in (list(enumerate(channels, at * load.channels)) for at in range(load.ledgers))
    ]
    started = time.process_time()
    for envelopes in sets:
        sender.apply(envelopes)
    spent = time.process_time() - started
    if file is not None:
        file.close()
    payments = load.ledgers * room
    return {
        "payments": payments,
        "ledgers": load.ledgers,
        "cpu_s": spent,
        "payments_per_cpu_s": payments / spent,
        "in_file": state is not None,
    }


def _payments(payees: list[Keypair], number: int) -> list[Operation]:
    root = Keypair.from_raw_ed25519_seed(hashlib.sha256(NETWORK.encode()).digest())
    first = number * _BATCH
    chosen = (payees[(first + index) % len(payees)] for index in range(_BATCH))
    return [
        Payment(key.public_key, Asset.native(), "0.0001", source=root.public_key) for key in chosen
    ]
