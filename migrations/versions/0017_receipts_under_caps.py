"""Keep each merged receipt's entitlement and its cap: what is pending counts no more than the cap.

Rows that are there keep nulls: they are gone some epochs later.
"""

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.execute("ALTER TABLE receipts ADD COLUMN entitlement uuid, ADD COLUMN cap_bytes bigint")


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
