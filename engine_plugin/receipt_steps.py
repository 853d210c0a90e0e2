"""Receipts on the wire as steps: what one channel said before is not said again.

Sender and receiver of a direction both number the full receipts that went through it. A later
receipt of the same entitlement, payee and nonce names such a number and states only what differs;
the receiver rebuilds the very bytes that were signed. What was rebuilt wrongly has no valid
signature, so nothing here needs to be trusted.

Pure; no sockets. Source: FORMATS.md, "Side channel".
"""

from dataclasses import replace
from typing import NamedTuple

from engine_plugin.wire import RECEIPT_STEP, ReceiptStep
from ledger.evidence.encoding import RecordCode, Signed
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.receipt import RECEIPT, Receipt

BASES_MAX = 256
"""How many full receipts of one direction can be built on; the next takes the oldest's number."""

_EPOCH_STEPS_MAX = 0xFFFF


class StepName(NamedTuple):
    """Names a receipt's lane within one direction of one channel."""

    base: int
    epoch_step: int


class ReceiptBases:
    """The full receipts of one direction of one channel."""

    def __init__(self) -> None:
        self._bases: dict[int, Receipt] = {}
        self._numbers: dict[tuple[int, bytes, bytes, int], int] = {}
        self._count = 0

    def note(self, receipt: Receipt) -> None:
        """Take note of a full receipt that was sent or came in; both sides do so in order."""
        number = self._count % BASES_MAX
        self._count += 1
        replaced = self._bases.get(number)
        if replaced is not None and self._numbers.get(_key_of(replaced)) == number:
            del self._numbers[_key_of(replaced)]
        self._bases[number] = receipt
        self._numbers[_key_of(receipt)] = number

    def name_of(self, receipt: Receipt) -> StepName | None:
        """Return how this direction names the receipt's lane, or None when it cannot."""
        number = self._numbers.get(_key_of(receipt))
        if number is None or receipt.network_id != self._bases[number].network_id:
            return None
        epoch_step = receipt.epoch - self._bases[number].epoch
        return StepName(number, epoch_step) if 0 <= epoch_step <= _EPOCH_STEPS_MAX else None

    def format(self, signed: Signed[Receipt]) -> tuple[RecordCode, bytes]:
        """Return a receipt as it goes out: as a step where it fits, else in full."""
        receipt, name = signed.value, self.name_of(signed.value)
        if name is not None:
            step = ReceiptStep(
                base=name.base,
                epoch_step=name.epoch_step,
                sequence=receipt.sequence,
                bytes_total=receipt.bytes_total,
                media_ms_total=receipt.media_ms_total,
                credit_root=receipt.credit_root,
                signature=signed.signatures[0],
            )
            try:
                return RecordCode.RECEIPT_STEP, RECEIPT_STEP.pack(step)
            except MalformedRecordError:
                pass  # a number outgrew its field; the full record has room
        self.note(receipt)
        return RecordCode.RECEIPT, signed.raw

    def rebuild(self, record: bytes) -> bytes:
        """Return the full receipt, as it was signed, from a step that came in.

        Raises:
            MalformedRecordError: The step is malformed or builds on nothing.
        """
        step = ReceiptStep(**RECEIPT_STEP.unpack(record))
        base = self._bases.get(step.base)
        if base is None:
            raise MalformedRecordError(
                "receipt_step.base", got=step.base, want=f"below {len(self._bases)}"
            )
        receipt = replace(
            base,
            epoch=base.epoch + step.epoch_step,
            sequence=step.sequence,
            bytes_total=step.bytes_total,
            media_ms_total=step.media_ms_total,
            credit_root=step.credit_root,
        )
        return step.signature + RECEIPT.format_body(receipt)


def _key_of(receipt: Receipt) -> tuple[int, bytes, bytes, int]:
    return receipt.flags, receipt.entitlement_digest, receipt.payee_key, receipt.nonce
