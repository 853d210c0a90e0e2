"""The running devnet: a network, its clock, who waits for a close, what the faults hide.

Everything happens in one event loop, so no locks. HTTP is in `http`.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from stellar_sdk import Account as SdkAccount
from stellar_sdk import Asset, Keypair, TransactionBuilder

from ledger.devnet.closing import Closed
from ledger.devnet.envelope import Transaction
from ledger.devnet.faults import FaultKind, FaultPlane
from ledger.devnet.network import Network, Record, Settings
from ledger.devnet.queue import Status, Submission
from ledger.devnet.wire import INT64_MAX

STROOPS_PER_XLM: Final = 10_000_000
FRIENDBOT_STROOPS: Final = 10_000 * STROOPS_PER_XLM
_FUND_ATTEMPTS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the service runs; `close_seconds` 0 = only on request."""

    close_seconds: float = 1.0
    submit_timeout_seconds: float = 30.0


class ServiceError(RuntimeError):
    """A request the devnet itself could not carry out (friendbot)."""


class Devnet:
    """A network with time."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.options = options
        self.now = now
        self.network = Network(settings, int(now()))
        self.faults = FaultPlane()
        self._closed = asyncio.Condition()
        self._friendbot_turn = asyncio.Lock()

    # Closing

    async def run(self) -> None:
        """Close network ledgers by the timer until cancelled."""
        if self.options.close_seconds <= 0:
            return
        due = time.monotonic()
        while True:
            due = max(due + self.options.close_seconds, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            if self.faults.strike(FaultKind.STALL) is None:
                await self.close()

    async def close(self, close_time: int | None = None) -> Closed:
        """Close the next network ledger now and wake those who wait."""
        if self.faults.strike(FaultKind.LOSE_QUEUE) is not None:
            self.network.queue.clear()
        at = int(self.now()) if close_time is None else close_time
        jump = self.faults.strike(FaultKind.TIME_JUMP)
        if jump is not None:
            at = max(at, self.network.header.close_time) + int(jump.seconds)
        closed = self.network.close_ledger(at)
        async with self._closed:
            self._closed.notify_all()
        return closed

    async def wait_applied(self, tx_hash: bytes, seconds: float) -> Record | None:
        """The record of a transaction once a network ledger took it; None when the time is up."""
        try:
            async with asyncio.timeout(seconds), self._closed:
                while self.network.record(tx_hash) is None:
                    await self._closed.wait()
        except TimeoutError:
            return None
        return self.network.record(tx_hash)

    # Reading, through the fault plane

    def horizon_ledger(self) -> int:
        """Sequence of the last network ledger that readers may see."""
        latest = self.network.header.sequence
        stale = self.faults.strike(FaultKind.STALE_REPLICA)
        return latest if stale is None else max(1, latest - stale.ledgers)

    def visible(self, records: Sequence[Record]) -> list[Record]:
        """Records that readers may see."""
        last = self.horizon_ledger()
        hidden = self.faults.strike(FaultKind.HIDE_TRANSACTIONS)
        if hidden is not None:
            last = min(last, self.network.header.sequence - hidden.ledgers)
        return [record for record in records if record.ledger <= last]

    def find(self, tx_hash: bytes) -> Record | None:
        """A transaction by outer or inner hash, if readers may see it."""
        record = self.network.record(tx_hash)
        shown = self.visible([record] if record else [])
        return shown[0] if shown else None

    # Friendbot

    async def fund(self, address: str, stroops: int) -> Record:
        """Create an account with XLM from the root account, or pay into it when it exists.

        Raises:
            ServiceError: the amount is refused or no network ledger took the transaction.
        """
        if not 0 < stroops <= INT64_MAX:
            raise ServiceError(f"starting_balance: got {stroops} stroops, want a positive amount")
        async with self._friendbot_turn:
            for _ in range(_FUND_ATTEMPTS):
                tx = self._funding(address, stroops)
                submission = self.network.submit(tx)
                if submission.status is Status.ERROR:
                    raise ServiceError(f"friendbot: {submission.result}")
                if self.options.close_seconds <= 0:
                    await self.close()
                record = await self.wait_applied(tx.hash, self.options.submit_timeout_seconds)
                if record is not None and record.result.ok:
                    return record
        raise ServiceError("friendbot: no network ledger took the transaction")

    def _funding(self, address: str, stroops: int) -> Transaction:
        root = self.network.root
        state = self.network.account(root.raw_public_key())
        source = SdkAccount(root.public_key, state.sequence if state else 0)
        builder = TransactionBuilder(
            source, self.network.settings.passphrase, self.network.header.base_fee
        )
        amount = f"{stroops // STROOPS_PER_XLM}.{stroops % STROOPS_PER_XLM:07d}"
        if self.network.account(Keypair.from_public_key(address).raw_public_key()) is None:
            builder.append_create_account_op(address, amount)
        else:
            builder.append_payment_op(address, Asset.native(), amount)
        builder.add_time_bounds(0, 0)
        envelope = builder.build()
        envelope.sign(root)
        return self.network.parse(base64.b64decode(envelope.to_xdr()))

    def submit(self, tx: Transaction) -> Submission:
        """Offer a transaction to the queue."""
        return self.network.submit(tx)
