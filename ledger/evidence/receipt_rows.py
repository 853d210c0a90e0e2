"""Receipts of a bundle as rows: checked at once, judged as tuples, made objects on demand.

A row is (flags, network id, entitlement digest, payee key, epoch, nonce, sequence, bytes total,
media ms total, credit root): the order of the record in FORMATS.md. Not here: what a receipt means
(`receipt`), the checks common to all rows (`record_rows`).
"""

from hashlib import sha256
from itertools import pairwise
from struct import Struct
from typing import Final

from ledger.evidence.encoding import TAG_SIZE
from ledger.evidence.keys import SIGNATURE_SIZE
from ledger.evidence.receipt import LANE_DOMAIN, RECEIPT, Receipt
from ledger.evidence.record_rows import RecordRows, row_fields, row_struct

ROW_FIELDS: Final = row_fields(RECEIPT)
"""Names of a row's items, in order."""

_LANE_AT = SIGNATURE_SIZE + TAG_SIZE
_LANE_SIZE = 72
_SEQUENCE_AT = _LANE_AT + _LANE_SIZE
_LANE_PART = Struct(f"{_LANE_AT}x{_LANE_SIZE}s{RECEIPT.size - _SEQUENCE_AT}x")


class ReceiptRows(RecordRows[Receipt]):
    """Signed receipts over the bytes they came in."""

    __slots__ = ("_lane_digests",)

    record = RECEIPT
    layout = row_struct(RECEIPT)

    def lane_digest(self, index: int) -> bytes:
        """Return the 32-byte name of a receipt's lane."""
        return self.lane_digests()[index]

    def lane_digests(self) -> tuple[bytes, ...]:
        """Return the names of all receipts' lanes, in the order of the receipts; kept once made."""
        known: tuple[bytes, ...] | None = getattr(self, "_lane_digests", None)
        if known is None:
            # The lane's key fields stand side by side in the record as they are hashed.
            domain, keys = LANE_DOMAIN, self.rows(_LANE_PART)
            known = tuple([sha256(domain + key).digest() for (key,) in keys])
            self._lane_digests = known
        return known

    def first_disorder(self) -> int | None:
        """Return the place of the first receipt that is not above the one before; None: ordered.

        The order is by (lane digest, sequence, body), strictly ascending.
        """
        digests = self.lane_digests()
        for at, (before, after) in enumerate(pairwise(digests), 1):
            if before < after:
                continue
            if before > after or self._order(at - 1) >= self._order(at):
                return at
        return None

    def _order(self, index: int) -> tuple[int, bytes]:
        at = self.start + index * self.record.size + _SEQUENCE_AT
        return int.from_bytes(self.buffer[at : at + 8], "little"), self.body(index)

    def _keeps_rule(self) -> bool:
        """Every sequence is at least 1."""
        if 0 not in self.column(_SEQUENCE_AT):
            return True
        columns = [self.column(_SEQUENCE_AT + at) for at in range(8)]
        return all(map(any, zip(*columns, strict=True)))
