"""Others who bid: accounts of the devnet itself that want more room than a network ledger has.

Their transactions are real ones, so the queue, the choice, the price and the history treat them as
anybody's. The root account pays for them.
"""

from __future__ import annotations

import base64
from hashlib import sha256
from typing import Final

from stellar_sdk import Account as SdkAccount
from stellar_sdk import Keypair, TransactionBuilder
from stellar_sdk.operation import BumpSequence

from ledger.devnet.closing import MAX_OPERATIONS_PER_TX
from ledger.devnet.network import Network

CROWD_XLM: Final = 1_000_000
"""What each of them is given."""

_LARGE_MAX: Final = 90
_SMALL: Final = (50, 25, 12, 6, 3, 2, 1, 1)
"""Operations of small transactions, which fill any gap that large ones leave."""


class Crowd:
    """The accounts that bid, enough to leave no room."""

    def __init__(self, network: Network) -> None:
        self._network = network
        full = -(-network.header.max_tx_set_size // MAX_OPERATIONS_PER_TX)
        large = min(_LARGE_MAX, full)
        sizes = [MAX_OPERATIONS_PER_TX] * large + list(_SMALL)
        self._pairs = [self._pair(index) for index in range(len(sizes))]
        self._sizes = sizes
        self._bids = 0

    def addresses_missing(self) -> list[str]:
        """Those that do not exist yet."""
        found = [p for p in self._pairs if self._network.account(p.raw_public_key()) is None]
        return [pair.public_key for pair in found]

    def bid(self, fee_stroops: int) -> None:
        """Queue a transaction of each, at a bid per operation; who has one queued waits.

        The larger ones bid some stroops more, so that small ones fill the gaps they leave.
        """
        busy = {tx.source for tx in self._network.queue.transactions()}
        for pair, size in zip(self._pairs, self._sizes, strict=True):
            account = self._network.account(pair.raw_public_key())
            if account is None or pair.raw_public_key() in busy:
                continue
            source = SdkAccount(pair.public_key, account.sequence)
            bid = fee_stroops + sum(other < size for other in _SMALL)
            builder = TransactionBuilder(source, self._network.settings.passphrase, bid)
            # Each bid is another transaction: what was dropped may not come back for a while.
            self._bids += 1
            builder.add_id_memo(self._bids)
            for _ in range(size):
                builder.append_operation(BumpSequence(0))
            envelope = builder.add_time_bounds(0, 0).build()
            envelope.sign(pair)
            self._network.submit(self._network.parse(base64.b64decode(envelope.to_xdr())))

    def leave(self) -> None:
        """Take what is queued of theirs out again."""
        own = {pair.raw_public_key() for pair in self._pairs}
        queue = self._network.queue
        queue.drop([tx for tx in queue.transactions() if tx.source in own])

    def _pair(self, index: int) -> Keypair:
        seed = sha256(b"devnet crowd" + self._network.network_id + bytes([index])).digest()
        return Keypair.from_raw_ed25519_seed(seed)
