"""Keep sealed frames for recipients that their senders cannot reach.

Not evidence: a row is deleted when its recipient has received it, or after some hours.
"""

from alembic import op

revision = "0005"
down_revision = "0004"

TABLE = """
CREATE TABLE relay_frames (
  id bigserial CONSTRAINT pk_relay_frames PRIMARY KEY,
  digest bytea NOT NULL CONSTRAINT uq_relay_frames_digest UNIQUE,
  from_key bytea NOT NULL,
  to_key bytea NOT NULL,
  raw bytea NOT NULL,
  stored_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT ck_relay_frames_digest_length CHECK (octet_length(digest) = 32),
  CONSTRAINT ck_relay_frames_from_key_length CHECK (octet_length(from_key) = 32),
  CONSTRAINT ck_relay_frames_to_key_length CHECK (octet_length(to_key) = 32)
);
CREATE INDEX ix_relay_frames_to_key ON relay_frames (to_key, id);
CREATE INDEX ix_relay_frames_from_key ON relay_frames (from_key);
CREATE INDEX ix_relay_frames_stored_at ON relay_frames (stored_at);
"""


def upgrade() -> None:
    op.execute(TABLE)


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
