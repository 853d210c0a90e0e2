"""Store the log's frontier with each checkpoint, so that the next one needs only new leaves.

A frontier is what `ledger.evidence.merkle.RootBuilder.export_state` prints: the tree size (u64
little-endian), then the hashes of the full subtrees, largest first. Checkpoints that stand already
get theirs from the stored leaf hashes; it need not be trusted, because whoever reads a frontier
checks it against the signed root.
"""

import hashlib

from alembic import op
from sqlalchemy import text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("ALTER TABLE checkpoints ADD COLUMN frontier bytea")
    op.execute("ALTER TABLE checkpoints DISABLE TRIGGER refuse_change")
    connection = op.get_bind()
    for broadcaster in connection.scalars(text("SELECT DISTINCT broadcaster_id FROM checkpoints")):
        _fill(broadcaster)
    op.execute("ALTER TABLE checkpoints ENABLE TRIGGER refuse_change")
    op.execute("ALTER TABLE checkpoints ALTER COLUMN frontier SET NOT NULL")
    op.execute(
        "ALTER TABLE checkpoints ADD CONSTRAINT ck_checkpoints_frontier_length"
        " CHECK (octet_length(frontier) >= 8)"
    )


def _fill(broadcaster: int) -> None:
    connection = op.get_bind()
    sizes = text("SELECT tree_size FROM checkpoints WHERE broadcaster_id = :of ORDER BY tree_size")
    hashes = text(
        "SELECT leaf_hash FROM leaves WHERE broadcaster_id = :of"
        " AND leaf_index >= :first AND leaf_index < :size ORDER BY leaf_index"
    )
    update = text(
        "UPDATE checkpoints SET frontier = :frontier WHERE broadcaster_id = :of AND tree_size = :at"
    )
    size, subtrees = 0, []
    for tree_size in connection.scalars(sizes, {"of": broadcaster}).all():
        new = connection.scalars(hashes, {"of": broadcaster, "first": size, "size": tree_size})
        for value in new:
            size += 1
            rest = size
            while rest & 1 == 0:
                value = hashlib.sha256(b"\x01" + subtrees.pop() + value).digest()  # noqa: PLW2901
                rest >>= 1
            subtrees.append(value)
        frontier = size.to_bytes(8, "little") + b"".join(subtrees)
        connection.execute(update, {"of": broadcaster, "at": tree_size, "frontier": frontier})


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
