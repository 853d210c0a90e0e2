"""Install the message queue's tables and functions in schema `pgmq`.

The script beside this file is the pinned copy of `pgmq/sql/pgmq.sql` 1.13.0 (PostgreSQL licence),
which the package `pgmq` 1.1.4 ships. A second run of it would fail, so it runs here, once. It does
no harm where the broker is another one.
"""

from pathlib import Path

from alembic import op

revision = "0000"
down_revision = None

SCRIPT = Path(__file__).with_name("pgmq-1.13.0.sql")


def upgrade() -> None:
    # The driver's own connection: the script is many statements and full of percent signs.
    op.get_bind().connection.driver_connection.execute(SCRIPT.read_text(encoding="utf-8"))


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
