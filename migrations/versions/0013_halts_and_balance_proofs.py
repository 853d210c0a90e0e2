"""Keep why nothing is paid, and that books and chain agree.

A proof is never changed, and a halt only by being closed; what a source told is kept until the
facts reach it.
"""

from alembic import op

revision = "0013"
down_revision = "0015"

TABLES = """
CREATE TABLE settlement_halts (
  id bigserial CONSTRAINT pk_settlement_halts PRIMARY KEY,
  broadcaster bytea NOT NULL,
  name varchar NOT NULL,
  detail varchar NOT NULL,
  opened_ledger bigint NOT NULL,
  cleared_ledger bigint,
  CONSTRAINT ck_settlement_halts_broadcaster_length CHECK (octet_length(broadcaster) = 32),
  CONSTRAINT ck_settlement_halts_opened_ledger_natural CHECK (opened_ledger >= 0)
);
CREATE UNIQUE INDEX uq_settlement_halts_open
  ON settlement_halts (broadcaster, name) WHERE cleared_ledger IS NULL;
CREATE TABLE balance_samples (
  broadcaster bytea NOT NULL,
  account bytea NOT NULL,
  first_ledger bigint NOT NULL,
  last_ledger bigint NOT NULL,
  stroops bigint NOT NULL,
  CONSTRAINT pk_balance_samples PRIMARY KEY (broadcaster, account),
  CONSTRAINT ck_balance_samples_broadcaster_length CHECK (octet_length(broadcaster) = 32),
  CONSTRAINT ck_balance_samples_account_length CHECK (octet_length(account) = 32),
  CONSTRAINT ck_balance_samples_stroops_natural CHECK (stroops >= 0)
);
CREATE TABLE balance_proofs (
  broadcaster bytea NOT NULL,
  epoch bigint NOT NULL,
  account bytea NOT NULL,
  ledger_sequence bigint NOT NULL,
  stroops bigint NOT NULL,
  CONSTRAINT pk_balance_proofs PRIMARY KEY (broadcaster, epoch, account),
  CONSTRAINT ck_balance_proofs_broadcaster_length CHECK (octet_length(broadcaster) = 32),
  CONSTRAINT ck_balance_proofs_account_length CHECK (octet_length(account) = 32),
  CONSTRAINT ck_balance_proofs_epoch_natural CHECK (epoch >= 0),
  CONSTRAINT ck_balance_proofs_stroops_natural CHECK (stroops >= 0)
);
"""

GUARDS = """
CREATE FUNCTION guard_settlement_halts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.cleared_ledger IS NOT NULL OR NEW.cleared_ledger IS NULL
     OR (NEW.id, NEW.broadcaster, NEW.name, NEW.detail, NEW.opened_ledger)
        IS DISTINCT FROM (OLD.id, OLD.broadcaster, OLD.name, OLD.detail, OLD.opened_ledger) THEN
    RAISE EXCEPTION 'settlement_halts: a halt is closed once, and nothing else of it changes';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER guard_update BEFORE UPDATE ON settlement_halts
  FOR EACH ROW EXECUTE FUNCTION guard_settlement_halts();
CREATE TRIGGER refuse_delete BEFORE DELETE ON settlement_halts
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON balance_proofs
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON balance_proofs
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    connection.execute(TABLES)
    connection.execute(GUARDS)


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
