"""Cancel orders: the DAO or the operator says, signed, that a batch is not to be waited for.

An order names one batch by its payout hash, so it can be about nothing else, and lets settlers use
that batch's slot up before its first attempt is over. It moves no money: what the batch owes is
owed again. Whoever signs may order what delays a payment, no more. Format: FORMATS.md.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from ledger.audit.trust import Trust
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.keys import KEY_SIZE, SIGNATURE_SIZE, verify
from ledger.evidence.leaf import PayoutLeaf, payout_hash
from ledger.stellar.signing import KeyHolder

ORDER_SIZE: Final = 32 + KEY_SIZE + SIGNATURE_SIZE
"""Bytes of an order: batch hash, key, signature."""

SUFFIX: Final = ".cancel"
"""How an order's file is called, after the batch hash's digits."""

_FILES_MAX: Final = 64
_DOMAIN: Final = b"swarmledger cancel v1".ljust(24, b"\0")


def order_message(network_id: bytes, broadcaster: bytes, batch_hash: bytes) -> bytes:
    """Return what an order's signature is of; no transaction's hash and no record can be that."""
    return _DOMAIN + network_id + broadcaster + batch_hash


def sign_order(holder: KeyHolder, key: bytes, trust: Trust, leaf: PayoutLeaf) -> bytes:
    """Return an order to cancel a batch.

    Args:
        holder: Who signs.
        key: A DAO key or the log's, held there.
        trust: Says which network and broadcaster.
        leaf: The batch.

    Raises:
        StellarError: The key's holder gave no usable answer.
    """
    batch_hash = payout_hash(leaf)
    message = order_message(trust.network_id, trust.broadcaster_account, batch_hash)
    return batch_hash + key + holder.sign_message(message, key)


def require_order(data: bytes, trust: Trust, leaf: PayoutLeaf, *, epoch: int) -> None:
    """Raise unless this is an order to cancel the batch, by whoever may give one.

    Args:
        data: The order's bytes.
        trust: Names the DAO's and the log's keys.
        leaf: The batch.
        epoch: In which it is given; a key that is rotated out by then orders nothing.

    Raises:
        MalformedRecordError: It is not.
    """
    if len(data) != ORDER_SIZE:
        raise MalformedRecordError("order", got=f"{len(data)} bytes", want=f"{ORDER_SIZE}")
    batch_hash, key = data[:32], data[32 : 32 + KEY_SIZE]
    if batch_hash != payout_hash(leaf):
        raise MalformedRecordError("order.batch", got=batch_hash.hex(), want="this batch")
    if key not in {trust.dao_key_at(epoch), trust.log_key_at(epoch)}:
        raise MalformedRecordError("order.key", got=key.hex(), want="the DAO's or the log's")
    message = order_message(trust.network_id, trust.broadcaster_account, batch_hash)
    if not verify(key, message, data[32 + KEY_SIZE :]):
        raise MalformedRecordError("order.signature", got="another", want="the key's")


def has_order(folders: Collection[Path], trust: Trust, leaf: PayoutLeaf, *, epoch: int) -> bool:
    """Tell whether a folder has an order to cancel a batch; what is none is passed over."""
    name = f"{payout_hash(leaf).hex()}*{SUFFIX}"
    for folder in folders:
        for path in sorted(folder.glob(name))[:_FILES_MAX]:
            try:
                with path.open("rb") as file:
                    require_order(file.read(ORDER_SIZE + 1), trust, leaf, epoch=epoch)
            except (OSError, MalformedRecordError):
                continue
            return True
    return False
