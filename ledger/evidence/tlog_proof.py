"""Proof that a leaf is in a log, in one text file: c2sp.org/tlog-proof@v1, `.tlog-proof`.

    c2sp.org/tlog-proof@v1
    extra <base64>                optional, unauthenticated, nothing may rest on it
    index <n>                     decimal, no leading zeros, counts from 0
    <base64 hash>                 inclusion proof, leaf to root, one hash a line, maybe none
    (blank line)
    the signed checkpoint, verbatim

The file is checked off-line with the leaf, the log's origin and its key. Parsing is exact: what
would not print back identically is malformed. The hash algorithm is `merkle`'s, the signature
rule `note`'s.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ledger.evidence.checkpoint import (
    VerifiedCheckpoint,
    parse_checkpoint,
    parse_decimal,
    verify_checkpoint,
)
from ledger.evidence.errors import (
    MalformedCheckpointError,
    MalformedProofError,
)
from ledger.evidence.merkle import HASH_BYTES, TREE_SIZE_LIMIT, check_inclusion, leaf_hash
from ledger.evidence.note import (
    NOTE_BYTES_MAX,
    Note,
    VerifierKey,
    decode_base64,
    encode_base64,
    format_note,
    parse_note,
)

PROOF_HASHES_MAX = 63
"""A tree of fewer than 2**63 leaves has no longer inclusion proof."""

EXTRA_BYTES_MAX = 65_535
"""Extra data is at most this long; that of a log leaf."""

_HEADER = "c2sp.org/tlog-proof@v1"
_HEAD_BYTES_MAX = 64 * (3 + PROOF_HASHES_MAX) + (EXTRA_BYTES_MAX + 2) // 3 * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TlogProof:
    """A leaf's place in a log, the hashes beside its path and the signed tree head.

    Raises:
        MalformedProofError: a field is out of range, or the note holds no checkpoint.
    """

    leaf_index: int
    """Place of the leaf in the log, from 0; below 2**63."""

    hashes: tuple[bytes, ...]
    """Inclusion proof, leaf to root; 0 to 63 hashes of 32 bytes."""

    note: Note
    """The signed checkpoint."""

    extra: bytes = b""
    """Data for the reader's convenience, not authenticated; empty when the line is absent."""

    def __post_init__(self) -> None:
        if not 0 <= self.leaf_index < TREE_SIZE_LIMIT:
            raise MalformedProofError(
                "tlog_proof.index", got=self.leaf_index, want="0 <= index < 2**63"
            )
        if len(self.hashes) > PROOF_HASHES_MAX:
            raise MalformedProofError(
                "tlog_proof.hashes", got=len(self.hashes), want=f"at most {PROOF_HASHES_MAX}"
            )
        for value in self.hashes:
            if len(value) != HASH_BYTES:
                raise MalformedProofError(
                    "tlog_proof.hashes", got=f"{len(value)} bytes", want="32 bytes each"
                )
        if len(self.extra) > EXTRA_BYTES_MAX:
            raise MalformedProofError(
                "tlog_proof.extra", got=len(self.extra), want=f"at most {EXTRA_BYTES_MAX} bytes"
            )
        try:
            parse_checkpoint(self.note.text)
        except MalformedCheckpointError as error:
            raise MalformedProofError(
                f"tlog_proof.{error.field}", got=error.got, want=error.want
            ) from error


def format_tlog_proof(proof: TlogProof) -> bytes:
    """Print a proof."""
    lines = [_HEADER]
    if proof.extra:
        lines.append(f"extra {encode_base64(proof.extra)}")
    lines.append(f"index {proof.leaf_index}")
    lines.extend(encode_base64(value) for value in proof.hashes)
    head = "\n".join(lines) + "\n\n"
    return head.encode("ascii") + format_note(proof.note)


def parse_tlog_proof(content: bytes) -> TlogProof:
    """Parse a proof; checks form only.

    Raises:
        MalformedProofError: `content` is not what `format_tlog_proof` prints.
        MalformedNoteError: the signed note in it is malformed.
    """
    if len(content) > _HEAD_BYTES_MAX + NOTE_BYTES_MAX:
        raise MalformedProofError(
            "tlog_proof", got=f"{len(content)} bytes", want="extra data and note within limits"
        )
    # The head has no blank line of its own, so its first one ends it.
    head, blank, rest = content.partition(b"\n\n")
    if not blank:
        raise MalformedProofError(
            "tlog_proof", got="no blank line", want="head, blank line, checkpoint"
        )
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise MalformedProofError("tlog_proof", got=str(error), want="ASCII lines") from error
    if lines[0] != _HEADER:
        raise MalformedProofError("tlog_proof.header", got=lines[0], want=_HEADER)
    del lines[0]
    extra = b""
    if lines and lines[0].startswith("extra "):
        extra = decode_base64("tlog_proof.extra", lines.pop(0)[6:], MalformedProofError)
        if not extra:
            raise MalformedProofError("tlog_proof.extra", got="nothing", want="data or no line")
    if not lines or not lines[0].startswith("index "):
        raise MalformedProofError("tlog_proof.index", got=lines[:1], want="index <n>")
    return TlogProof(
        leaf_index=_parse_index(lines[0][6:]),
        hashes=tuple(
            decode_base64("tlog_proof.hashes", line, MalformedProofError) for line in lines[1:]
        ),
        note=parse_note(rest),
        extra=extra,
    )


def check_tlog_proof(
    proof: TlogProof, leaf: bytes, *, origin: str, known_keys: Iterable[VerifierKey]
) -> VerifiedCheckpoint:
    """Check that the log `origin` holds `leaf` at the index the proof names.

    Args:
        proof: A parsed proof.
        leaf: The bytes of the leaf, from elsewhere than the proof.
        origin: The log the reader trusts.
        known_keys: The log's keys and those of any witnesses.

    Returns:
        The checkpoint the leaf is proven against.

    Raises:
        BadSignatureError: the checkpoint is of another log or not signed by it.
        InclusionError: the leaf is not proven to be there.
    """
    verified = verify_checkpoint(format_note(proof.note), origin=origin, known_keys=known_keys)
    checkpoint = verified.checkpoint
    check_inclusion(
        leaf_hash(leaf),
        proof.leaf_index,
        checkpoint.tree_size,
        proof.hashes,
        checkpoint.root_hash,
    )
    return verified


def _parse_index(text: str) -> int:
    try:
        return parse_decimal("tlog_proof.index", text)
    except MalformedCheckpointError as error:
        raise MalformedProofError(error.field, got=error.got, want=error.want) from error
