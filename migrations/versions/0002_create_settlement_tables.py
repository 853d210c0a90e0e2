"""Create the tables of settlement: network facts, payout batches, anchors and their envelopes.

Facts and attempts are append-only: what the network did and what was signed is never edited.
`guard_settlement` lets a batch or an anchor leave no decided state, and keeps its leaf and slot.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

APPEND_ONLY = ("network_facts", "epoch_ledgers", "attempts")

FUNCTIONS = """
CREATE FUNCTION guard_settlement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE EXCEPTION '%: got DELETE, want no change: money hangs on it', TG_TABLE_NAME
      USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.state IN ('paid', 'failed', 'halted') THEN
    RAISE EXCEPTION '%: got UPDATE of a decided row in state %, want none', TG_TABLE_NAME, OLD.state
      USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.attempt < OLD.attempt THEN
    RAISE EXCEPTION '%: got attempt % after %, want a later one',
      TG_TABLE_NAME, NEW.attempt, OLD.attempt USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;

CREATE FUNCTION guard_batch_identity() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.broadcaster, NEW.number, NEW.epoch, NEW.kind, NEW.leaf, NEW.channel_account,
      NEW.channel_sequence) IS DISTINCT FROM
     (OLD.broadcaster, OLD.number, OLD.epoch, OLD.kind, OLD.leaf, OLD.channel_account,
      OLD.channel_sequence) THEN
    RAISE EXCEPTION 'batches: got another leaf or slot, want the planned one for life'
      USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
"""

STATES = "'planned', 'signed', 'in_flight', 'expired', 'paid', 'failed', 'halted'"

TABLES = f"""
CREATE TABLE network_facts (
  broadcaster bytea NOT NULL,
  ledger_sequence bigint NOT NULL,
  apply_order bigint NOT NULL,
  network_id bytea NOT NULL,
  close_time_s bigint NOT NULL,
  tx_hash bytea NOT NULL,
  source_account bytea NOT NULL,
  sequence bigint NOT NULL,
  memo_hash bytea NOT NULL,
  succeeded boolean NOT NULL,
  envelope bytea NOT NULL,
  result bytea NOT NULL,
  CONSTRAINT pk_network_facts PRIMARY KEY (broadcaster, ledger_sequence, apply_order),
  CONSTRAINT uq_network_facts_broadcaster_tx_hash UNIQUE (broadcaster, tx_hash),
  CONSTRAINT ck_network_facts_broadcaster_length CHECK (octet_length(broadcaster) = 32),
  CONSTRAINT ck_network_facts_network_id_length CHECK (octet_length(network_id) = 32),
  CONSTRAINT ck_network_facts_tx_hash_length CHECK (octet_length(tx_hash) = 32),
  CONSTRAINT ck_network_facts_source_account_length CHECK (octet_length(source_account) = 32),
  CONSTRAINT ck_network_facts_memo_hash_length CHECK (octet_length(memo_hash) = 32),
  CONSTRAINT ck_network_facts_sequence_natural CHECK (sequence >= 0)
);
CREATE INDEX ix_network_facts_broadcaster ON network_facts
  (broadcaster, source_account, sequence);

CREATE TABLE fact_cursors (
  broadcaster bytea NOT NULL,
  account bytea NOT NULL,
  ledger_sequence bigint NOT NULL,
  apply_order bigint NOT NULL,
  CONSTRAINT pk_fact_cursors PRIMARY KEY (broadcaster, account),
  CONSTRAINT ck_fact_cursors_broadcaster_length CHECK (octet_length(broadcaster) = 32),
  CONSTRAINT ck_fact_cursors_account_length CHECK (octet_length(account) = 32)
);

CREATE TABLE fact_progress (
  broadcaster bytea NOT NULL,
  ledger_sequence bigint NOT NULL,
  close_time_s bigint NOT NULL,
  CONSTRAINT pk_fact_progress PRIMARY KEY (broadcaster),
  CONSTRAINT ck_fact_progress_broadcaster_length CHECK (octet_length(broadcaster) = 32)
);

CREATE TABLE epoch_ledgers (
  broadcaster bytea NOT NULL,
  epoch bigint NOT NULL,
  ledger_sequence bigint NOT NULL,
  close_time_s bigint NOT NULL,
  CONSTRAINT pk_epoch_ledgers PRIMARY KEY (broadcaster, epoch),
  CONSTRAINT ck_epoch_ledgers_broadcaster_length CHECK (octet_length(broadcaster) = 32),
  CONSTRAINT ck_epoch_ledgers_epoch_natural CHECK (epoch >= 0)
);

CREATE TABLE batches (
  broadcaster bytea NOT NULL,
  number bigint NOT NULL,
  epoch bigint NOT NULL,
  kind bigint NOT NULL,
  leaf bytea NOT NULL,
  channel_account bytea NOT NULL,
  channel_sequence bigint NOT NULL,
  state varchar NOT NULL,
  attempt bigint NOT NULL,
  tx_hash bytea,
  reason varchar NOT NULL,
  CONSTRAINT pk_batches PRIMARY KEY (broadcaster, number),
  CONSTRAINT uq_batches_channel_account_channel_sequence
    UNIQUE (channel_account, channel_sequence),
  CONSTRAINT ck_batches_broadcaster_length CHECK (octet_length(broadcaster) = 32),
  CONSTRAINT ck_batches_channel_account_length CHECK (octet_length(channel_account) = 32),
  CONSTRAINT ck_batches_state_known CHECK (state IN ({STATES})),
  CONSTRAINT ck_batches_attempt_from CHECK (attempt >= -1)
);
CREATE INDEX ix_batches_broadcaster ON batches (broadcaster, state);

CREATE TABLE anchors (
  broadcaster bytea NOT NULL,
  epoch bigint NOT NULL,
  body_hash bytea NOT NULL,
  state varchar NOT NULL,
  attempt bigint NOT NULL,
  tx_hash bytea,
  CONSTRAINT pk_anchors PRIMARY KEY (broadcaster, epoch),
  CONSTRAINT ck_anchors_broadcaster_length CHECK (octet_length(broadcaster) = 32),
  CONSTRAINT ck_anchors_body_hash_length CHECK (octet_length(body_hash) = 32),
  CONSTRAINT ck_anchors_state_known CHECK (state IN ({STATES})),
  CONSTRAINT ck_anchors_attempt_from CHECK (attempt >= -1)
);

CREATE TABLE attempts (
  broadcaster bytea NOT NULL,
  purpose varchar NOT NULL,
  number bigint NOT NULL,
  attempt bigint NOT NULL,
  source_account bytea NOT NULL,
  sequence bigint NOT NULL,
  envelope bytea NOT NULL,
  tx_hash bytea NOT NULL,
  max_ledger_sequence bigint NOT NULL,
  max_time_s bigint NOT NULL,
  CONSTRAINT pk_attempts PRIMARY KEY (broadcaster, purpose, number, attempt),
  CONSTRAINT uq_attempts_tx_hash UNIQUE (tx_hash),
  CONSTRAINT ck_attempts_broadcaster_length CHECK (octet_length(broadcaster) = 32),
  CONSTRAINT ck_attempts_tx_hash_length CHECK (octet_length(tx_hash) = 32),
  CONSTRAINT ck_attempts_purpose_known CHECK (purpose IN ('batch', 'anchor'))
);

CREATE TABLE sendings (
  tx_hash bytea NOT NULL,
  ledger_sequence bigint NOT NULL,
  times bigint NOT NULL,
  status varchar NOT NULL,
  code varchar NOT NULL,
  CONSTRAINT pk_sendings PRIMARY KEY (tx_hash),
  CONSTRAINT ck_sendings_tx_hash_length CHECK (octet_length(tx_hash) = 32)
);

CREATE TRIGGER guard_settlement BEFORE UPDATE OR DELETE ON batches
  FOR EACH ROW EXECUTE FUNCTION guard_settlement();
CREATE TRIGGER guard_batch_identity BEFORE UPDATE ON batches
  FOR EACH ROW EXECUTE FUNCTION guard_batch_identity();
CREATE TRIGGER guard_settlement BEFORE UPDATE OR DELETE ON anchors
  FOR EACH ROW EXECUTE FUNCTION guard_settlement();
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    connection.execute(FUNCTIONS)
    connection.execute(TABLES)
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
