"""The running devnet: a network, its clock, who waits for a close, what the faults hide.

Everything happens in one event loop, so no locks. HTTP is in `http`.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stellar_sdk import Account as SdkAccount
from stellar_sdk import Asset, Keypair, TransactionBuilder

from ledger.devnet.closing import MAX_OPERATIONS_PER_TX, Closed
from ledger.devnet.codes import result_codes
from ledger.devnet.envelope import Transaction
from ledger.devnet.faults import FaultKind, FaultPlane
from ledger.devnet.network import Network, Record, Settings
from ledger.devnet.queue import Submission
from ledger.devnet.state_file import StateFile
from ledger.devnet.surge import CROWD_XLM, Crowd
from ledger.devnet.view import Past, View
from ledger.devnet.wire import INT64_MAX

STROOPS_PER_XLM: Final = 10_000_000
FRIENDBOT_STROOPS: Final = 10_000 * STROOPS_PER_XLM
_FUND_ATTEMPTS: Final = 20
_FRIENDBOT_BID: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the service runs; `close_seconds` 0 = only on request."""

    close_seconds: float = 1.0
    submit_timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class _Wish:
    """A request to friendbot and where its answer is awaited."""

    address: str
    stroops: int
    record: asyncio.Future[Record]


class ServiceError(RuntimeError):
    """A request the devnet itself could not carry out (friendbot)."""


class Devnet:
    """A network with time."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        now: Callable[[], float] = time.time,
        state: StateFile | None = None,
    ) -> None:
        self.options = options
        self.now = now
        self.network = Network(settings, int(now()), state)
        self.faults = FaultPlane()
        self._past = Past(self.network)
        self._crowd: Crowd | None = None
        self._closed = asyncio.Condition()
        self._friendbot_turn = asyncio.Lock()
        self._wishes: list[_Wish] = []

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
        surge = self.faults.strike(FaultKind.SURGE)
        if surge is not None and self._crowd is not None:
            self._crowd.bid(surge.fee)
        closed = self.network.close_ledger(at)
        self._past.note(closed)
        if surge is not None and self._crowd is not None:
            if surge.left == 0:
                self._crowd.leave()
            else:
                self._crowd.bid(surge.fee)
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

    def view(self, path: str, *, of_transactions: bool = False) -> View:
        """What the reader of a path sees; only who reads transactions may find some hidden."""
        latest = self.network.header.sequence
        stale = self.faults.strike(FaultKind.STALE_REPLICA, path)
        last = latest if stale is None else max(1, latest - stale.ledgers)
        shown = last
        hidden = self.faults.strike(FaultKind.HIDE_TRANSACTIONS, path) if of_transactions else None
        if hidden is not None:
            shown = min(last, latest - hidden.ledgers)
        return View(network=self.network, state=self._past.at(last), last=last, shown=shown)

    async def wait_ledger(self, after: int, seconds: float) -> None:
        """Wait until a network ledger closes after one, or the time is up."""
        try:
            async with asyncio.timeout(seconds), self._closed:
                while self.network.header.sequence <= after:
                    await self._closed.wait()
        except TimeoutError:
            return

    # Others

    async def crowd(self, fee_stroops: int) -> None:
        """Let others bid; the first time this takes a network ledger, to give them money."""
        if self._crowd is None:
            self._crowd = Crowd(self.network)
            missing = self._crowd.addresses_missing()
            funded = [self.fund(address, CROWD_XLM * STROOPS_PER_XLM) for address in missing]
            await asyncio.gather(*funded)
        self._crowd.bid(fee_stroops)

    def calm(self) -> None:
        """Disarm all faults and send the others home."""
        self.faults.clear()
        if self._crowd is not None:
            self._crowd.leave()

    # Friendbot

    async def fund(self, address: str, stroops: int) -> Record:
        """Create an account with XLM from the root account, or pay into it when it exists.

        Requests that wait for the same network ledger share one transaction.

        Raises:
            ServiceError: the amount is refused or no network ledger took the transaction.
        """
        if not 0 < stroops <= INT64_MAX:
            raise ServiceError(f"starting_balance: got {stroops} stroops, want a positive amount")
        wish = _Wish(address, stroops, asyncio.get_running_loop().create_future())
        self._wishes.append(wish)
        async with self._friendbot_turn:
            await asyncio.sleep(0)  # whoever asks in the same turn of the loop joins
            if not wish.record.done():
                await self._grant(self._next_wishes())
        return await wish.record

    def _next_wishes(self) -> list[_Wish]:
        """The oldest wishes that fit one transaction, one for each address."""
        taken: dict[str, _Wish] = {}
        for wish in self._wishes:
            if len(taken) < MAX_OPERATIONS_PER_TX:
                taken.setdefault(wish.address, wish)
        chosen = list(taken.values())
        self._wishes = [wish for wish in self._wishes if wish not in chosen]
        return chosen

    async def _grant(self, wishes: list[_Wish]) -> None:
        """Fund several at once; if that fails, each by itself so that each hears its own reason."""
        try:
            record = await self._pay_from_root(wishes)
        except ServiceError as error:
            if len(wishes) == 1:
                wishes[0].record.set_exception(error)
                return
            for wish in wishes:
                await self._grant([wish])
            return
        for wish in wishes:
            wish.record.set_result(record)

    async def _pay_from_root(self, wishes: list[_Wish]) -> Record:
        for _ in range(_FUND_ATTEMPTS):
            tx = self._funding(wishes)
            submission = self.network.submit(tx)
            if submission.result is not None:
                raise ServiceError(f"friendbot: {result_codes(submission.result)}")
            if self.options.close_seconds <= 0:
                await self.close()
            record = await self.wait_applied(tx.hash, self.options.submit_timeout_seconds)
            if record is None:
                continue
            if record.result.ok:
                return record
            raise ServiceError(f"friendbot: {result_codes(record.result)}")
        raise ServiceError("friendbot: no network ledger took the transaction")

    def _funding(self, wishes: list[_Wish]) -> Transaction:
        root = self.network.root
        state = self.network.account(root.raw_public_key())
        source = SdkAccount(root.public_key, state.sequence if state else 0)
        # Enough for any surge; without one it pays the base fee like everybody.
        bid = _FRIENDBOT_BID * self.network.header.base_fee
        builder = TransactionBuilder(source, self.network.settings.passphrase, bid)
        for wish in wishes:
            amount = f"{wish.stroops // STROOPS_PER_XLM}.{wish.stroops % STROOPS_PER_XLM:07d}"
            key = Keypair.from_public_key(wish.address).raw_public_key()
            if self.network.account(key) is None:
                builder.append_create_account_op(wish.address, amount)
            else:
                builder.append_payment_op(wish.address, Asset.native(), amount)
        builder.add_time_bounds(0, 0)
        envelope = builder.build()
        envelope.sign(root)
        return self.network.parse(base64.b64decode(envelope.to_xdr()))

    def submit(self, tx: Transaction) -> Submission:
        """Offer a transaction to the queue."""
        return self.network.submit(tx)
