"""Co-signing's messages: what a settler asks the operator for, what it is asked, what it answers.

The operator's API shows which transactions it wants signed, gives settlers audit files, and takes
signatures and refusals. A signature proves itself; the other two messages are signed under tags of
their own, so that none of them can ever be a transaction's hash or another message. Formats:
FORMATS.md. Not here: what makes a settler sign (`ledger.stellar.settler`).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.keys import KEY_SIZE, SIGNATURE_SIZE, verify
from ledger.stellar.signing import KeyHolder, KeySignature

KEY_HEADER: Final = "Swarmledger-Key"
SIGNATURE_HEADER: Final = "Swarmledger-Signature"
COSIGNATURE_SIZE: Final = 32 + KEY_SIZE + SIGNATURE_SIZE
"""Bytes of a posted signature: transaction hash, key, signature."""

DETAIL_MAX: Final = 500
"""Longest detail of a refusal in bytes."""

_REASON_SIZE: Final = 32
_REFUSAL_HEAD_SIZE: Final = SIGNATURE_SIZE + KEY_SIZE + 32 + _REASON_SIZE
REFUSAL_SIZE_MAX: Final = _REFUSAL_HEAD_SIZE + DETAIL_MAX
"""Longest posted refusal in bytes."""

_AUDIT_DOMAIN: Final = b"swarmledger audit v1".ljust(24, b"\0")
_REFUSAL_DOMAIN: Final = b"swarmledger refusal v1".ljust(24, b"\0")


class Reason(StrEnum):
    """Why a settler does not sign: stable words."""

    UNKNOWN_TRANSACTION = "unknown_transaction"
    """A transaction of ours stands on the chain that no plan explains: everything is refused."""

    FACTS_DIFFER = "facts_differ"
    """An audit file tells another chain than the settler's own sources: everything is refused."""

    AUDIT_DISPROVEN = "audit_disproven"
    """An audit file does not hold: everything is refused."""

    LOG_FORKED = "log_forked"
    """An audit file does not go on where the one before ended: everything is refused."""

    SIGNERS_DIFFER = "signers_differ"
    """Escrow or payout account have other signers than the settler was told."""

    EPOCH_UNVERIFIED = "epoch_unverified"
    """The epoch's audit file, or one before it, is not there yet."""

    ANCHOR_MISSING = "anchor_missing"
    """The settler's own sources do not have the epoch's anchor."""

    LEAF_UNKNOWN = "leaf_unknown"
    """No such batch among the epoch's proven payout leaves."""

    HASH_DIFFERS = "hash_differs"
    """The transaction is not what the settler builds from the leaf."""

    SLOT_TAKEN = "slot_taken"
    """The slot's sequence number is used up, or the channel is none of the terms'."""

    BOUNDS_OVER = "bounds_over"
    """The attempt cannot be applied any more."""

    BOUNDS_FAR = "bounds_far"
    """The attempt could be applied much later than now."""

    BURN_EARLY = "burn_early"
    """The batch's payment can still be waited for, so its slot is not used up."""

    NOT_COVERED = "not_covered"
    """The paying account holds less than the batch needs: it would fail and use its slot up."""

    FEES_SPENT = "fees_spent"
    """Raising the bid may cost more than a day's raised bids should."""

    SOURCES_SILENT = "sources_silent"
    """The settler's own sources give no usable answer, or not the same one."""


class Purpose(StrEnum):
    """What a transaction that is wanted does with its batch's slot."""

    BATCH = "batch"
    """It pays."""

    BURN = "burn"
    """It uses the slot up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A transaction that the operator wants signed; nothing of it is believed."""

    epoch: int
    """Whose payout leaf it is said to be."""

    batch_number: int
    attempt: int
    tx_hash: bytes
    """32 bytes."""

    purpose: Purpose = Purpose.BATCH

    signed_by: frozenset[str] = frozenset()
    """Addresses of settlers whose signatures the operator has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A settler's signed word that it does not sign, and why."""

    key: bytes
    """The settler's; 32 bytes."""

    tx_hash: bytes
    """What it was asked to sign; 32 bytes."""

    reason: str
    """One of `Reason`."""

    detail: str
    """For people, printable; up to `DETAIL_MAX` bytes."""

    signature: bytes
    """64 bytes."""

    def is_valid(self, network_id: bytes) -> bool:
        """Tell whether the key signed exactly this."""
        message = _refusal_message(network_id, self.tx_hash, self.reason, self.detail)
        return verify(self.key, message, self.signature)


def audit_request_message(network_id: bytes, broadcaster: bytes, epoch: int) -> bytes:
    """Return what a settler signs to be given an epoch's audit file."""
    return _AUDIT_DOMAIN + network_id + broadcaster + epoch.to_bytes(4, "little")


def _refusal_message(network_id: bytes, tx_hash: bytes, reason: str, detail: str) -> bytes:
    word = reason.encode().ljust(_REASON_SIZE, b"\0")
    return _REFUSAL_DOMAIN + network_id + tx_hash + word + detail.encode()


def sign_refusal(
    holder: KeyHolder, key: bytes, network_id: bytes, tx_hash: bytes, reason: Reason, detail: str
) -> Refusal:
    """Return a signed refusal; of the detail as much is said as is allowed."""
    shown = "".join(character if character.isprintable() else "?" for character in detail)
    shown = shown.encode()[:DETAIL_MAX].decode(errors="ignore")
    message = _refusal_message(network_id, tx_hash, reason, shown)
    return Refusal(
        key=key,
        tx_hash=tx_hash,
        reason=reason,
        detail=shown,
        signature=holder.sign_message(message, key),
    )


def format_refusal(refusal: Refusal) -> bytes:
    """Return a refusal's bytes: signature, key, transaction hash, reason, detail."""
    word = refusal.reason.encode().ljust(_REASON_SIZE, b"\0")
    return refusal.signature + refusal.key + refusal.tx_hash + word + refusal.detail.encode()


def parse_refusal(data: bytes) -> Refusal:
    """Read a posted refusal; its signature is not checked.

    Raises:
        MalformedRecordError: It is none, or says no known reason.
    """
    if not _REFUSAL_HEAD_SIZE <= len(data) <= REFUSAL_SIZE_MAX:
        raise MalformedRecordError(
            "refusal", got=f"{len(data)} bytes", want=f"{_REFUSAL_HEAD_SIZE} to {REFUSAL_SIZE_MAX}"
        )
    word = data[128:_REFUSAL_HEAD_SIZE]
    reason = word.rstrip(b"\0").decode("ascii", "replace")
    if reason not in set(Reason) or reason.encode().ljust(_REASON_SIZE, b"\0") != word:
        raise MalformedRecordError("reason", got=reason, want="a known word")
    try:
        detail = data[_REFUSAL_HEAD_SIZE:].decode()
    except UnicodeDecodeError:
        detail = "\0"
    if not (detail.isprintable() or not detail):
        raise MalformedRecordError("detail", got="other bytes", want="printable UTF-8")
    return Refusal(
        signature=data[:64], key=data[64:96], tx_hash=data[96:128], reason=reason, detail=detail
    )


def format_cosignature(tx_hash: bytes, signed: KeySignature) -> bytes:
    """Return the bytes that are posted: transaction hash, key, signature."""
    return tx_hash + signed.key + signed.signature


def parse_cosignature(data: bytes) -> tuple[bytes, KeySignature]:
    """Return a transaction's hash and what is said to be a key's signature; it is not checked.

    Raises:
        MalformedRecordError: It is of another size.
    """
    if len(data) != COSIGNATURE_SIZE:
        raise MalformedRecordError(
            "cosignature", got=f"{len(data)} bytes", want=f"{COSIGNATURE_SIZE}"
        )
    return data[:32], KeySignature(key=data[32:64], signature=data[64:])


def wanted_document(wanted: Wanted) -> dict[str, Any]:
    """Return a request for signatures as a JSON object."""
    return {
        "purpose": wanted.purpose,
        "epoch": wanted.epoch,
        "batch_number": wanted.batch_number,
        "attempt": wanted.attempt,
        "tx_hash": wanted.tx_hash.hex(),
    }


def parse_wanted(document: object) -> Wanted:
    """Read a request for signatures; other fields are left alone.

    Raises:
        MalformedRecordError: It is none.
    """
    if not isinstance(document, dict):
        raise MalformedRecordError("wanted", got=type(document).__name__, want="an object")
    numbers: dict[str, int] = {}
    for field in ("epoch", "batch_number", "attempt"):
        value = document.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 32:
            raise MalformedRecordError(field, got=str(value)[:40], want="0 to 2^32 - 1")
        numbers[field] = value
    purpose = str(document.get("purpose", Purpose.BATCH))
    if purpose not in set(Purpose):
        raise MalformedRecordError("purpose", got=purpose[:40], want="batch or burn")
    tx_hash = _digits("tx_hash", str(document.get("tx_hash")), 32)
    signed_by = document.get("signed_by", [])
    if not isinstance(signed_by, list) or not all(isinstance(one, str) for one in signed_by):
        raise MalformedRecordError("signed_by", got=str(signed_by)[:40], want="addresses")
    return Wanted(
        tx_hash=tx_hash, purpose=Purpose(purpose), signed_by=frozenset(signed_by), **numbers
    )


def _digits(field: str, text: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(text) if len(text) == 2 * size else b""
    except ValueError:
        value = b""
    if len(value) != size or value.hex() != text:
        raise MalformedRecordError(field, got=text[:80], want=f"{2 * size} hexadecimal digits")
    return value
