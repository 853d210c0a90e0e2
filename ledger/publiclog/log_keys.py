"""Whose signature a reader takes for the log's: a trust file, or verifier keys by hand.

A note is refused when a known key's signature fails or no known key signed; signatures of unknown
keys and unknown types are carried and ignored (c2sp.org/signed-note). With a trust file the key
must also be the one of the epoch that the checkpoint closes: a rotated key signs nothing new, and
its successor nothing old.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.audit.errors import DisprovenError, UndecidableError
from ledger.audit.trust import Trust
from ledger.evidence.checkpoint import Checkpoint, verify_checkpoint
from ledger.evidence.errors import EvidenceError
from ledger.evidence.note import VerifierKey, parse_verifier_key


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHead:
    """A tree head that a known key signed."""

    checkpoint: Checkpoint
    note: bytes
    """The signed note, verbatim."""

    signers: tuple[VerifierKey, ...]
    """Known keys that signed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogKeys:
    """A log and the keys that its reader knows."""

    origin: str
    """Name of the log."""

    keys: tuple[VerifierKey, ...]
    """Known keys; at least one is named like the origin."""

    trust: Trust | None = None
    """The reader's trust file, which says from which epoch each key signs; None: keys by hand."""

    def read_head(self, note: bytes) -> SignedHead:
        """Read a signed checkpoint.

        Raises:
            UndecidableError: It is malformed, another log's, or not signed by a known key; whoever
                sent it says nothing about the log.
        """
        try:
            verified = verify_checkpoint(note, origin=self.origin, known_keys=self.keys)
        except EvidenceError as error:
            raise UndecidableError(f"checkpoint refused: {error}") from error
        return SignedHead(
            checkpoint=verified.checkpoint, note=bytes(note), signers=verified.signers
        )

    def require_key_of(self, head: SignedHead, epoch: int) -> None:
        """Refuse a checkpoint after an epoch's result that another epoch's key signed.

        Raises:
            DisprovenError: The key of this epoch is not among the signers.
        """
        if self.trust is None:
            return
        wanted = self.trust.log_key_at(epoch)
        if all(signer.public_key != wanted for signer in head.signers):
            got = ", ".join(signer.public_key.hex() for signer in head.signers)
            raise DisprovenError(
                f"checkpoint of {head.checkpoint.tree_size} leaves: got a signature by {got}, "
                f"want one by {wanted.hex()}, the log key of epoch {epoch}"
            )

    def require_key_from(self, head: SignedHead, epoch: int) -> None:
        """Refuse a checkpoint that no log key of this epoch or a later one signed.

        For a checkpoint that shows a leaf of the epoch, when it is not known which one it closes.

        Raises:
            DisprovenError: The signers' keys had been rotated out before.
        """
        if self.trust is None:
            return
        later = {key.key for key in self.trust.log_keys if key.first_epoch > epoch}
        if not any(
            signer.public_key in {self.trust.log_key_at(epoch), *later} for signer in head.signers
        ):
            raise DisprovenError(
                f"checkpoint of {head.checkpoint.tree_size} leaves: got a key from before epoch "
                f"{epoch}, want one that signs from then on"
            )


def keys_of_trust(trust: Trust) -> LogKeys:
    """Return the log and the keys of a trust file."""
    return LogKeys(origin=trust.log_origin, keys=trust.log_verifier_keys(), trust=trust)


def keys_of_texts(texts: Sequence[str]) -> LogKeys:
    """Return the log of verifier keys in text form, `name+id+key`; the first names the log.

    Raises:
        UndecidableError: None is given, or one is malformed.
    """
    try:
        keys = tuple(parse_verifier_key(text.strip()) for text in texts)
    except EvidenceError as error:
        raise UndecidableError(f"verifier key: {error}") from error
    if not keys:
        raise UndecidableError("keys: got none, want a trust file or a verifier key")
    return LogKeys(origin=keys[0].name, keys=keys)
