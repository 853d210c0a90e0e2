"""Two signed checkpoints of one log: does one go on where the other ended?

Of two heads the larger must have the smaller one's tree as its beginning. Who shows that it has not
shows both notes: nobody but the log's key could have made them.
"""

from ledger.audit.errors import DisprovenError, UndecidableError
from ledger.evidence.encoding import RecordCode
from ledger.evidence.errors import EvidenceError
from ledger.evidence.leaf import RESULT_LEAF, code_of_leaf, parse_payout_leaf
from ledger.evidence.merkle import check_consistency, check_inclusion, leaf_hash
from ledger.evidence.tile import ReadFile
from ledger.evidence.tile_proofs import TileReader
from ledger.publiclog.errors import ForkError
from ledger.publiclog.log_keys import SignedHead


def require_consistent(kept: SignedHead, new: SignedHead, read_file: ReadFile) -> None:
    """Check that a new head and a kept one are of one history.

    Args:
        kept: The head that is believed.
        new: Another head of the same log, larger, equal or smaller.
        read_file: Reads the files of the larger tree; believed only as far as its root says.

    Raises:
        ForkError: They are not, and both are signed.
        UndecidableError: The files do not lead to the larger head's root, so nothing is shown.
    """
    small, large = sorted((kept, new), key=lambda head: head.checkpoint.tree_size)
    old, grown = small.checkpoint, large.checkpoint
    if old.tree_size == grown.tree_size:
        if old.root_hash != grown.root_hash:
            raise _fork(kept, new)
        return
    try:
        reader = TileReader(grown.tree_size, read_file)
        root = reader.root()
        if root != grown.root_hash:
            raise UndecidableError(
                f"tiles: got root {root.hex()} of {grown.tree_size} leaves, "
                f"want the signed {grown.root_hash.hex()}"
            )
        found = reader.root(old.tree_size)
        if found != old.root_hash:
            raise _fork(kept, new)
        proof = reader.prove_consistency(old.tree_size)
        check_consistency(old.tree_size, old.root_hash, grown.tree_size, root, proof)
    except EvidenceError as error:
        raise UndecidableError(f"tiles: {error}") from error


def epoch_of_head(head: SignedHead, read_file: ReadFile) -> int | None:
    """Return the epoch that a checkpoint closes, proven from the log's last leaf.

    None for the empty log.

    Raises:
        DisprovenError: The last leaf is neither a result nor a payout.
        UndecidableError: The files do not show the last leaf.
    """
    checkpoint = head.checkpoint
    if not checkpoint.tree_size:
        return None
    last = checkpoint.tree_size - 1
    try:
        reader = TileReader(checkpoint.tree_size, read_file)
        leaf = reader.leaf(last)
        proof = reader.prove_inclusion(last)
        check_inclusion(leaf_hash(leaf), last, checkpoint.tree_size, proof, checkpoint.root_hash)
    except EvidenceError as error:
        raise UndecidableError(f"last leaf: {error}") from error
    return epoch_of_last_leaf(leaf)


def epoch_of_last_leaf(leaf: bytes) -> int:
    """Return the epoch that a log's last leaf closes.

    Raises:
        DisprovenError: It is neither a result nor a payout.
    """
    try:
        code = code_of_leaf(leaf)
        if code == RecordCode.LEAF_RESULT:
            return RESULT_LEAF.parse_body(leaf).epoch
        if code == RecordCode.LEAF_PAYOUT:
            return parse_payout_leaf(leaf).epoch
    except EvidenceError as error:
        raise DisprovenError(f"last leaf: {error}") from error
    raise DisprovenError(f"last leaf: got {code.name}, want a result or a payout")


def _fork(kept: SignedHead, new: SignedHead) -> ForkError:
    sizes = (kept.checkpoint.tree_size, new.checkpoint.tree_size)
    roots = (kept.checkpoint.root_hash.hex(), new.checkpoint.root_hash.hex())
    return ForkError(
        f"fork: the log's key signed {sizes[0]} leaves with root {roots[0]} and "
        f"{sizes[1]} with root {roots[1]}, which are of two histories",
        first=kept.note,
        second=new.note,
    )
