"""A complaint: a signed promise, and the proof that its seal does not hold the promised bundle.

    {"format": "swarmledger-complaint/1", "promise": hex, "bundle_digest": hex,
     "checkpoint": signed note, "first_index": n, "leaves": [hex, …], "hashes": [hex, …]}

Whoever has the trust file checks it off-line and needs nothing from the complainant or the
operator: promise and checkpoint are signed by the log's keys, and `sealed_range` shows the seal
complete. The bundle itself is not in it, so a complaint shows a digest and the submitter's key, and
nothing of what was submitted.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from ledger.audit.errors import DisprovenError, UndecidableError
from ledger.audit.trust import Trust
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import EvidenceError
from ledger.evidence.promise import PROMISE, Promise
from ledger.publiclog.log_keys import SignedHead, keys_of_trust
from ledger.publiclog.sealed_range import SealedRange, check_sealed_range

COMPLAINT_FORMAT: Final = "swarmledger-complaint/1"
COMPLAINT_CHARACTERS_MAX: Final = 1 << 30
"""Longest complaint that is written or read. A bundle leaf takes 327 characters, and a million
viewers who send a payee's and a viewer's bundle each leave two million of them in a seal: 0.65 GB.
"""

_FIELDS: Final = {
    "format",
    "promise",
    "bundle_digest",
    "checkpoint",
    "first_index",
    "leaves",
    "hashes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenComplaint:
    """What a complaint proves."""

    promise: Promise
    """What the operator owed."""

    tree_size: int
    """Leaves of the checkpoint that shows the seal."""

    bundle_count: int
    """Bundles that the seal holds, none of them the promised one."""


def format_complaint(promise: Signed[Promise], head: SignedHead, found: SealedRange) -> str:
    """Return a complaint as JSON text, ending in a newline; it may be too long to be checked."""
    document = {
        "format": COMPLAINT_FORMAT,
        "promise": promise.raw.hex(),
        "bundle_digest": promise.value.bundle_digest.hex(),
        "checkpoint": head.note.decode(),
        "first_index": found.first_index,
        "leaves": [leaf.hex() for leaf in found.leaves],
        "hashes": [value.hex() for value in found.hashes],
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False) + "\n"


def check_complaint(text: str, trust: Trust) -> ProvenComplaint:
    """Check a complaint.

    Raises:
        DisprovenError: It does not show a broken promise.
        UndecidableError: It is no complaint, or its checkpoint is not of a known key.
    """
    document = _parse(text)
    try:
        promise = PROMISE.parse(_hex("promise", document["promise"]))
    except EvidenceError as error:
        raise UndecidableError(f"complaint: {error}") from error
    require_promise(promise, trust)
    if _hex("bundle_digest", document["bundle_digest"]) != promise.value.bundle_digest:
        raise DisprovenError("complaint: got the digest of another bundle, want the promised one")
    keys = keys_of_trust(trust)
    head = keys.read_head(_text("checkpoint", document["checkpoint"]).encode())
    keys.require_key_from(head, promise.value.sealing_epoch)
    found = SealedRange(
        first_index=_index(document["first_index"]),
        leaves=tuple(_hex("leaves", one) for one in _list("leaves", document["leaves"])),
        hashes=tuple(_hex("hashes", one) for one in _list("hashes", document["hashes"])),
    )
    bundles = check_sealed_range(found, head.checkpoint, promise.value.sealing_epoch)
    if any(leaf.bundle_digest == promise.value.bundle_digest for leaf in bundles):
        raise DisprovenError("complaint: the seal holds the promised bundle")
    return ProvenComplaint(
        promise=promise.value,
        tree_size=head.checkpoint.tree_size,
        bundle_count=len(bundles),
    )


def require_promise(promise: Signed[Promise], trust: Trust) -> None:
    """Check that a promise binds the operator of a trust file.

    It is signed by the log key of its bundle's epoch, which the sender knows from the terms that
    its receipts stand under.

    Raises:
        DisprovenError: Another network's or broadcaster's, or not signed by that key.
    """
    value = promise.value
    for what, got, want in (
        ("network", value.network_id, trust.network_id),
        ("broadcaster", value.broadcaster_account, trust.broadcaster_account),
    ):
        if got != want:
            raise DisprovenError(f"promise: {what}: got {got.hex()}, want {want.hex()}")
    key = trust.log_key_at(value.epoch)
    if not PROMISE.is_signed_by(promise, key):
        raise DisprovenError(
            f"promise: got no valid signature by {key.hex()}, the log key of epoch {value.epoch}"
        )


def _parse(text: str) -> dict[str, Any]:
    if len(text) > COMPLAINT_CHARACTERS_MAX:
        raise UndecidableError(
            f"complaint: got over {COMPLAINT_CHARACTERS_MAX} characters, want fewer"
        )
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UndecidableError(f"complaint: {error}") from None
    if not isinstance(document, dict) or set(document) != _FIELDS:
        raise UndecidableError("complaint: want a JSON object with exactly the format's fields")
    if document["format"] != COMPLAINT_FORMAT:
        raise UndecidableError(f"complaint: got another format, want {COMPLAINT_FORMAT}")
    return document


def _index(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise UndecidableError("complaint.first_index: want 0..2**63-1")
    return value


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UndecidableError(f"complaint.{field}: want text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UndecidableError(f"complaint.{field}: want text that UTF-8 can hold") from None
    return value


def _list(field: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise UndecidableError(f"complaint.{field}: want a list")
    return value


def _hex(field: str, value: Any) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else None
    except ValueError:
        data = None
    if data is None or data.hex() != value:
        raise UndecidableError(f"complaint.{field}: want lower-case hexadecimal digits")
    return data
