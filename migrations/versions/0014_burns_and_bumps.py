"""Burning slots, fee bumps, sources' marks, and stops.

Bumps are append-only like the attempts around which they are. A stop is lifted once and never
changes otherwise. A domain that had a halted batch stands still as before: it gets an open stop.
"""

from alembic import op

revision = "0014"
down_revision = "0012"

APPEND_ONLY = ("bumps",)

STATES = (
    "'planned', 'signed', 'in_flight', 'expired', 'burning', 'paid', 'burned', 'failed', 'halted'"
)

FUNCTIONS = """
CREATE OR REPLACE FUNCTION guard_settlement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE EXCEPTION '%: got DELETE, want no change: money hangs on it', TG_TABLE_NAME
      USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.state IN ('paid', 'burned', 'failed', 'halted') THEN
    RAISE EXCEPTION '%: got UPDATE of a decided row in state %, want none', TG_TABLE_NAME, OLD.state
      USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.attempt < OLD.attempt THEN
    RAISE EXCEPTION '%: got attempt % after %, want a later one',
      TG_TABLE_NAME, NEW.attempt, OLD.attempt USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;

CREATE FUNCTION guard_stop() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' OR OLD.lifted_ledger IS NOT NULL OR
     (NEW.id, NEW.broadcaster, NEW.account, NEW.is_halt, NEW.cause, NEW.reason, NEW.since_ledger)
     IS DISTINCT FROM
     (OLD.id, OLD.broadcaster, OLD.account, OLD.is_halt, OLD.cause, OLD.reason, OLD.since_ledger)
  THEN
    RAISE EXCEPTION 'stops: got %, want no change but lifting an open one', TG_OP
      USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
"""

STATE_CHECKS = f"""
ALTER TABLE batches DROP CONSTRAINT ck_batches_state_known;
ALTER TABLE batches ADD CONSTRAINT ck_batches_state_known CHECK (state IN ({STATES}));
ALTER TABLE anchors DROP CONSTRAINT ck_anchors_state_known;
ALTER TABLE anchors ADD CONSTRAINT ck_anchors_state_known CHECK (state IN ({STATES}));
"""

TABLES = """
ALTER TABLE batches ADD COLUMN isolates boolean NOT NULL DEFAULT false;
ALTER TABLE batches ALTER COLUMN isolates DROP DEFAULT;
ALTER TABLE attempts DROP CONSTRAINT ck_attempts_purpose_known;
ALTER TABLE attempts ADD CONSTRAINT ck_attempts_purpose_known
  CHECK (purpose IN ('batch', 'anchor', 'burn'));
ALTER TABLE sendings ADD COLUMN first_sequence bigint;
UPDATE sendings SET first_sequence = ledger_sequence;
ALTER TABLE sendings ALTER COLUMN first_sequence SET NOT NULL;

CREATE TABLE bumps (
  outer_hash bytea NOT NULL,
  broadcaster bytea NOT NULL,
  tx_hash bytea NOT NULL,
  step bigint NOT NULL,
  bid_stroops bigint NOT NULL,
  fee_stroops bigint NOT NULL,
  envelope bytea NOT NULL,
  ledger_sequence bigint NOT NULL,
  close_time_s bigint NOT NULL,
  CONSTRAINT pk_bumps PRIMARY KEY (outer_hash),
  CONSTRAINT uq_bumps_tx_hash_step UNIQUE (tx_hash, step),
  CONSTRAINT ck_bumps_broadcaster_length CHECK (octet_length(broadcaster) = 32),
  CONSTRAINT ck_bumps_outer_hash_length CHECK (octet_length(outer_hash) = 32),
  CONSTRAINT ck_bumps_tx_hash_length CHECK (octet_length(tx_hash) = 32),
  CONSTRAINT ck_bumps_step_natural CHECK (step >= 0),
  CONSTRAINT ck_bumps_fee_stroops_natural CHECK (fee_stroops >= 0)
);
CREATE INDEX ix_bumps_broadcaster ON bumps (broadcaster, close_time_s);

CREATE TABLE source_marks (
  broadcaster bytea NOT NULL,
  source varchar NOT NULL,
  ledger_sequence bigint NOT NULL,
  close_time_s bigint NOT NULL,
  looks bigint NOT NULL,
  CONSTRAINT pk_source_marks PRIMARY KEY (broadcaster, source),
  CONSTRAINT ck_source_marks_broadcaster_length CHECK (octet_length(broadcaster) = 32)
);

CREATE TABLE stops (
  id bigint GENERATED ALWAYS AS IDENTITY,
  broadcaster bytea NOT NULL,
  account bytea NOT NULL,
  is_halt boolean NOT NULL,
  cause varchar NOT NULL,
  reason varchar NOT NULL,
  since_ledger bigint NOT NULL,
  lifted_ledger bigint,
  lifted_why varchar,
  CONSTRAINT pk_stops PRIMARY KEY (id),
  CONSTRAINT ck_stops_broadcaster_length CHECK (octet_length(broadcaster) = 32),
  CONSTRAINT ck_stops_account_length CHECK (octet_length(account) = 32)
);
CREATE UNIQUE INDEX uq_stops_open ON stops (broadcaster, account, cause)
  WHERE lifted_ledger IS NULL;
CREATE TRIGGER guard_stop BEFORE UPDATE OR DELETE ON stops
  FOR EACH ROW EXECUTE FUNCTION guard_stop();
"""

HALTED = """
INSERT INTO stops (broadcaster, account, is_halt, cause, reason, since_ledger)
  SELECT broadcaster, decode(repeat('00', 32), 'hex'), true, 'unplanned', min(reason), 0
  FROM batches WHERE state = 'halted' GROUP BY broadcaster;
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    connection.execute(FUNCTIONS)
    connection.execute(STATE_CHECKS)
    connection.execute(TABLES)
    connection.execute(HALTED)
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            f"CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
