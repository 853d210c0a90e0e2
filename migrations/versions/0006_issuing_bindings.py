"""Keep every binding of a broadcaster's issuing keys: a newer one may revoke a key.

A broadcaster's first binding stays where it is, in its own row.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

TABLE = """
CREATE TABLE issuing_bindings (
  broadcaster_id bigint NOT NULL
    CONSTRAINT fk_issuing_bindings_broadcaster_id_broadcasters REFERENCES broadcasters (id),
  key bytea NOT NULL,
  serial bigint NOT NULL,
  raw bytea NOT NULL,
  CONSTRAINT pk_issuing_bindings PRIMARY KEY (broadcaster_id, key, serial),
  CONSTRAINT ck_issuing_bindings_key_length CHECK (octet_length(key) = 32),
  CONSTRAINT ck_issuing_bindings_serial_natural CHECK (serial >= 0)
);
"""


GUARDS = """
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON issuing_bindings
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON issuing_bindings
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    op.execute(TABLE)
    op.execute(GUARDS)


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
