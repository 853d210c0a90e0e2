"""An epoch's part of the log, proven against its signed checkpoint before anybody relies on it.

Rows can be changed by whoever writes to the database; a tree head signed with the log's key cannot.
The frontier stored with the checkpoint before and the epoch's leaves must give the signed root of
the epoch's checkpoint, which proves each of these leaves and costs no look at older ones. The key
is named by terms that the broadcaster's issuing key signed, and that key by a binding which the
broadcaster's account signed. Not here: which account is the broadcaster's (configuration says so),
and whether the checkpoint stands on the chain (`ledger.stellar`).
"""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from ledger.evidence.checkpoint import Checkpoint, verify_checkpoint
from ledger.evidence.encoding import RecordCode
from ledger.evidence.errors import EvidenceError
from ledger.evidence.leaf import RESULT_LEAF, ResultLeaf, code_of_leaf
from ledger.evidence.merkle import RootBuilder
from ledger.evidence.note import VerifierKey
from ledger.store.epoch_store import find_checkpoint, find_checkpoint_before, load_leaves
from ledger.store.errors import UnprovenError
from ledger.store.shard_store import Shard, authentic_terms


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedEpoch:
    """What an epoch appended to the log, with the checkpoint that was signed over it."""

    epoch: int
    checkpoint: Checkpoint
    first_index: int
    """Index of the first of its leaves."""

    leaves: tuple[bytes, ...]
    """All of them, from `first_index` to the checkpoint's size."""

    frontier: bytes
    """State of a `RootBuilder` over the log up to the checkpoint."""

    def result(self) -> ResultLeaf:
        """Return the epoch's result.

        Raises:
            UnprovenError: It has not exactly one.
        """
        found = [leaf for leaf in self.leaves if code_of_leaf(leaf) == RecordCode.LEAF_RESULT]
        if len(found) != 1:
            raise UnprovenError(f"epoch {self.epoch}: got {len(found)} result leaves, want one")
        return RESULT_LEAF.parse_body(found[0])


def load_signed_epoch(session: Session, shard: Shard, epoch: int) -> SignedEpoch:
    """Return an epoch's leaves with proof that the log's key signed for them.

    Raises:
        UnprovenError: There is no checkpoint, it is not signed as it must be, or the stored leaves
            are not those that were signed for.
    """
    stored = find_checkpoint(session, shard, epoch)
    if stored is None:
        raise UnprovenError(f"epoch {epoch}: got no checkpoint, want a signed one")
    terms = authentic_terms(session, shard, epoch).value
    key = VerifierKey(name=terms.log_origin, public_key=terms.log_key)
    try:
        signed = verify_checkpoint(stored.note, origin=terms.log_origin, known_keys=[key])
        before = find_checkpoint_before(session, shard, signed.checkpoint.tree_size)
        builder = RootBuilder() if before is None else RootBuilder.restore(before.frontier)
    except EvidenceError as error:
        raise UnprovenError(f"checkpoint of epoch {epoch}: {error}") from error
    checkpoint = signed.checkpoint
    first_index = builder.size
    leaves = load_leaves(session, shard, first=first_index, end=checkpoint.tree_size)
    for leaf in leaves:
        builder.append(leaf)
    got = (builder.size, builder.root())
    if got != (checkpoint.tree_size, checkpoint.root_hash):
        raise UnprovenError(
            f"leaves of epoch {epoch}: got {builder.size} with root {got[1].hex()}, "
            f"want the signed {checkpoint.tree_size} with root {checkpoint.root_hash.hex()}"
        )
    return SignedEpoch(
        epoch=epoch,
        checkpoint=checkpoint,
        first_index=first_index,
        leaves=tuple(leaves),
        frontier=builder.export_state(),
    )
