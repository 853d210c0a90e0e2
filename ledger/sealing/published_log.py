"""What was published bounds what may be signed: a database behind its own log signs nothing.

A database restored from a backup that is older than the last published checkpoint would seal the
same epochs again, of fewer bundles, and sign a second history. Before anything is sealed, the
checkpoint that readers were shown has to be one that the database knows. Not here: writing the
files (`publishing`), and readers' own watch over forks.
"""

from pathlib import Path

from ledger.sealing.publishing import log_folder, read_published
from ledger.store.engine import Session
from ledger.store.epoch_store import find_checkpoint_before
from ledger.store.errors import UnprovenError
from ledger.store.shard_store import Shard


def require_published_known(session: Session, shard: Shard, log_dir: Path) -> None:
    """See to it that the published checkpoint is one of the database's.

    Its signature is not looked at: whoever can write into the folder can do worse, and a key that
    was changed since must not hold back a seal.

    Raises:
        UnprovenError: It is not: the database is older than its log, or another log's.
        OSError: The file cannot be read.
    """
    published = read_published(log_folder(log_dir, shard))
    if published is None:
        return
    nearest = find_checkpoint_before(session, shard, published.tree_size + 1)
    size, root = (0, b"") if nearest is None else (nearest.tree_size, nearest.root)
    if (size, root) != (published.tree_size, published.root_hash):
        raise UnprovenError(
            f"public log: got a checkpoint over {published.tree_size} leaves with root "
            f"{published.root_hash.hex()}, want one of the database, whose nearest is over {size} "
            f"leaves with root {root.hex() or 'none'}: it was restored from too old a backup, or "
            "the folder is another log's"
        )
