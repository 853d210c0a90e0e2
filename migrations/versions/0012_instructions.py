"""Keep the signed instructions that change how money moves, each sealed once.

An instruction waits with a null epoch; the seal that takes it fills the epoch in, and its
computation the code. Nothing else of a row ever changes, and no row goes.
"""

from alembic import op

revision = "0012"
down_revision = "0013"

TABLE = """
CREATE TABLE instructions (
  id bigserial CONSTRAINT pk_instructions PRIMARY KEY,
  broadcaster_id bigint NOT NULL
    CONSTRAINT fk_instructions_broadcaster_id_broadcasters REFERENCES broadcasters (id),
  digest bytea NOT NULL,
  kind bigint NOT NULL,
  subject bytea NOT NULL,
  raw bytea NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(),
  sealed_epoch bigint,
  code bigint,
  CONSTRAINT uq_instructions_broadcaster_id_digest UNIQUE (broadcaster_id, digest),
  CONSTRAINT fk_instructions_broadcaster_id_epochs FOREIGN KEY (broadcaster_id, sealed_epoch)
    REFERENCES epochs (broadcaster_id, number),
  CONSTRAINT ck_instructions_digest_length CHECK (octet_length(digest) = 32),
  CONSTRAINT ck_instructions_subject_length CHECK (octet_length(subject) = 32),
  CONSTRAINT ck_instructions_code_natural CHECK (code >= 0),
  CONSTRAINT ck_instructions_kind_known CHECK (kind BETWEEN 21 AND 24),
  CONSTRAINT ck_instructions_sealed_before_code CHECK (code IS NULL OR sealed_epoch IS NOT NULL)
);
CREATE INDEX ix_instructions_waiting ON instructions (broadcaster_id, kind, id)
  WHERE sealed_epoch IS NULL;
CREATE INDEX ix_instructions_sealed_epoch ON instructions (broadcaster_id, sealed_epoch);
CREATE INDEX ix_instructions_subject ON instructions (broadcaster_id, subject, id);

CREATE FUNCTION guard_instruction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE'
      AND (NEW.id, NEW.broadcaster_id, NEW.digest, NEW.kind, NEW.subject, NEW.raw, NEW.received_at)
        = (OLD.id, OLD.broadcaster_id, OLD.digest, OLD.kind, OLD.subject, OLD.raw, OLD.received_at)
      AND (OLD.sealed_epoch IS NULL OR NEW.sealed_epoch = OLD.sealed_epoch)
      AND (OLD.code IS NULL OR NEW.code = OLD.code) THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'instructions: got %, want no change: the table is append-only', TG_OP
    USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER guard_instruction BEFORE UPDATE OR DELETE ON instructions
  FOR EACH ROW EXECUTE FUNCTION guard_instruction();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON instructions
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    op.get_bind().connection.driver_connection.execute(TABLE)


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
