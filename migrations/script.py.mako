"""${message}.

Names no model: a migration says what it does to the tables as they were then.
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    op.execute("")


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
