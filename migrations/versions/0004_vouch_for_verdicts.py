"""Let workers vouch for their verdicts, so that a seal can tell them from rows that others wrote.

Null for verdicts from before, and for bundles without one: a seal judges those again.
"""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE bundles ADD COLUMN vouch bytea")
    op.execute(
        "ALTER TABLE bundles ADD CONSTRAINT ck_bundles_vouch_length"
        " CHECK (octet_length(vouch) = 32)"
    )


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
