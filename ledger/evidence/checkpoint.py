"""Checkpoints: signed tree heads in the form of c2sp.org/tlog-checkpoint.

The text of a signed note, exactly three lines:

    <origin>                      the log's name; its key is named the same
    <tree size>                   decimal, no leading zeros
    <root hash>                   base64 of the 32-byte RFC 6962 root

The specification allows further lines and advises against them, because no monitor can audit
them; here they are malformed, so a checkpoint says nothing but the tree head. What is anchored on
the chain is the SHA-256 of this text (not of the signatures, which may be added to later).

Signatures and note form are in `note`, proofs against a tree head in `merkle` and `tlog_proof`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from ledger.evidence.errors import BadSignatureError, MalformedCheckpointError
from ledger.evidence.merkle import EMPTY_ROOT, HASH_BYTES, TREE_SIZE_LIMIT
from ledger.evidence.note import (
    Note,
    VerifierKey,
    decode_base64,
    encode_base64,
    parse_note,
    sign_note,
    verify_note,
)

ORIGIN_BYTES_MAX = 255
"""An origin is at most this long in UTF-8."""

_SIZE_DIGITS_MAX = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A tree head: which log, how many leaves, which root.

    Raises:
        MalformedCheckpointError: a field is out of range.
    """

    origin: str
    """Name of the log; 1 to 255 bytes of UTF-8 without control characters."""

    tree_size: int
    """Number of leaves; 0 to 2**63 - 1."""

    root_hash: bytes
    """RFC 6962 root of the first `tree_size` leaves; 32 bytes."""

    def __post_init__(self) -> None:
        _require_origin(self.origin)
        if not 0 <= self.tree_size < TREE_SIZE_LIMIT:
            raise MalformedCheckpointError(
                "checkpoint.tree_size", got=self.tree_size, want="0 <= tree_size < 2**63"
            )
        if len(self.root_hash) != HASH_BYTES:
            raise MalformedCheckpointError(
                "checkpoint.root_hash", got=f"{len(self.root_hash)} bytes", want="32 bytes"
            )
        if self.tree_size == 0 and self.root_hash != EMPTY_ROOT:
            raise MalformedCheckpointError(
                "checkpoint.root_hash", got=self.root_hash.hex(), want=EMPTY_ROOT.hex()
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedCheckpoint:
    """A checkpoint whose log signature was checked by `verify_checkpoint`."""

    checkpoint: Checkpoint
    """The tree head."""

    note: Note
    """The note it came in, with every signature line."""

    signers: tuple[VerifierKey, ...]
    """The known keys that signed; at least one of them has the origin as its name."""


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """Print the text of the note, three lines with their newlines."""
    root_hash = encode_base64(checkpoint.root_hash)
    return f"{checkpoint.origin}\n{checkpoint.tree_size}\n{root_hash}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Parse the text of a checkpoint's note; checks form only.

    Raises:
        MalformedCheckpointError: `text` is not what `format_checkpoint` prints.
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise MalformedCheckpointError(
            "checkpoint", got=text, want="origin, tree size, root hash, each with a newline"
        )
    origin, size_text, root_text, _ = lines
    return Checkpoint(
        origin=origin,
        tree_size=parse_decimal("checkpoint.tree_size", size_text),
        root_hash=decode_base64("checkpoint.root_hash", root_text, MalformedCheckpointError),
    )


def body_hash(checkpoint: Checkpoint) -> bytes:
    """SHA-256 of the checkpoint's text: the memo hash that anchors it on the chain; 32 bytes."""
    return hashlib.sha256(format_checkpoint(checkpoint).encode("utf-8")).digest()


def sign_checkpoint(checkpoint: Checkpoint, seed: bytes) -> Note:
    """Note over the checkpoint, signed by the log's key, which is named like the origin.

    The caller sees to it that this tree head is consistent with every one signed before.

    Args:
        checkpoint: The tree head.
        seed: Ed25519 seed of the log's key; 32 bytes.

    Raises:
        MalformedNoteError: the origin may not be a key name.
    """
    return sign_note(format_checkpoint(checkpoint), name=checkpoint.origin, seed=seed)


def verify_checkpoint(
    content: bytes, *, origin: str, known_keys: Iterable[VerifierKey]
) -> VerifiedCheckpoint:
    """Read a signed checkpoint of the log `origin`.

    Args:
        content: The signed note.
        origin: The log the reader trusts.
        known_keys: The log's keys and those of any witnesses.

    Raises:
        MalformedNoteError: the note is malformed.
        MalformedCheckpointError: its text is.
        BadSignatureError: a known key's signature fails, no key named `origin` signed, or the
            checkpoint is of another log.
    """
    note = parse_note(content)
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != origin:
        raise BadSignatureError(f"checkpoint.origin: got {checkpoint.origin!r}, want {origin!r}")
    signers = verify_note(note, known_keys)
    if all(signer.name != origin for signer in signers):
        names = ", ".join(signer.name for signer in signers)
        raise BadSignatureError(f"checkpoint signers: got {names}, want one named {origin}")
    return VerifiedCheckpoint(checkpoint=checkpoint, note=note, signers=signers)


def parse_decimal(field: str, text: str) -> int:
    """Parse ASCII decimal digits without a leading zero, at most 19 of them.

    Raises:
        MalformedCheckpointError: anything else, such as a sign, a space or other scripts' digits.
    """
    digits = text.isascii() and text.isdigit() and len(text) <= _SIZE_DIGITS_MAX
    if not digits or (text[0] == "0" and text != "0"):
        raise MalformedCheckpointError(
            field, got=text, want="a decimal number without leading zeros below 2**63"
        )
    return int(text)


def _require_origin(origin: str) -> None:
    try:
        length = len(origin.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise MalformedCheckpointError(
            "checkpoint.origin", got=str(error), want="text that UTF-8 can hold"
        ) from error
    if not 1 <= length <= ORIGIN_BYTES_MAX:
        raise MalformedCheckpointError(
            "checkpoint.origin", got=f"{length} bytes", want=f"1 to {ORIGIN_BYTES_MAX} bytes"
        )
    if any(character < " " for character in origin):
        raise MalformedCheckpointError("checkpoint.origin", got=origin, want="no control character")
