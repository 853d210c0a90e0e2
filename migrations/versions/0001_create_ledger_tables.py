"""Create the tables of evidence, epochs and the log.

`refuse_change` serves every append-only table, those of later migrations included. A sealed epoch
is immutable: `guard_bundle` refuses a bundle that would slip into it and a change of one that
stands in it; `guard_epoch` lets an epoch's state only go forward.
"""

from alembic import op

revision = "0001"
down_revision = "0000"

APPEND_ONLY = (
    "terms",
    "activations",
    "conflicts",
    "receipts",
    "refusals",
    "equivocations",
    "lanes",
    "leaves",
    "states",
    "results",
    "checkpoints",
)

FUNCTIONS = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%: got %, want no change: the table is append-only', TG_TABLE_NAME, TG_OP
    USING ERRCODE = 'restrict_violation';
END $$;

CREATE FUNCTION guard_bundle() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  epoch_state text;
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE EXCEPTION 'bundles: got DELETE, want no change: a promise was given'
      USING ERRCODE = 'restrict_violation';
  END IF;
  SELECT state INTO epoch_state FROM epochs
    WHERE broadcaster_id = NEW.broadcaster_id AND number = NEW.sealing_epoch;
  IF TG_OP = 'INSERT' AND epoch_state IS DISTINCT FROM 'open' THEN
    RAISE EXCEPTION 'bundles.sealing_epoch: got % in state %, want an open one',
      NEW.sealing_epoch, epoch_state USING ERRCODE = 'restrict_violation';
  END IF;
  IF TG_OP = 'UPDATE' THEN
    IF epoch_state NOT IN ('open', 'sealing') THEN
      RAISE EXCEPTION 'bundles: got UPDATE in epoch % in state %, want no change after the seal',
        NEW.sealing_epoch, epoch_state USING ERRCODE = 'restrict_violation';
    END IF;
    IF (NEW.id, NEW.broadcaster_id, NEW.digest, NEW.raw, NEW.promise, NEW.sealing_epoch)
        IS DISTINCT FROM
       (OLD.id, OLD.broadcaster_id, OLD.digest, OLD.raw, OLD.promise, OLD.sealing_epoch) THEN
      RAISE EXCEPTION 'bundles: got another bundle or promise, want only a verdict'
        USING ERRCODE = 'restrict_violation';
    END IF;
  END IF;
  RETURN NEW;
END $$;

CREATE FUNCTION guard_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  states constant text[] := ARRAY['open', 'sealing', 'sealed', 'computed', 'settled'];
  step integer;
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE EXCEPTION 'epochs: got DELETE, want no change' USING ERRCODE = 'restrict_violation';
  END IF;
  step := array_position(states, NEW.state) - array_position(states, OLD.state);
  IF step NOT IN (0, 1) OR step IS NULL THEN
    RAISE EXCEPTION 'epochs.state: got % after %, want the same or the next', NEW.state, OLD.state
      USING ERRCODE = 'restrict_violation';
  END IF;
  IF (NEW.broadcaster_id, NEW.number, NEW.salt_key)
      IS DISTINCT FROM (OLD.broadcaster_id, OLD.number, OLD.salt_key) THEN
    RAISE EXCEPTION 'epochs: got another number or salt key, want the stored one'
      USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.sealed_size IS NOT NULL AND
      (NEW.opening_size, NEW.sealed_size, NEW.last_ledger_sequence, NEW.last_ledger_close_s)
      IS DISTINCT FROM
      (OLD.opening_size, OLD.sealed_size, OLD.last_ledger_sequence, OLD.last_ledger_close_s) THEN
    RAISE EXCEPTION 'epochs: got other sizes or ledgers, want the sealed ones'
      USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
"""

TABLES = """
CREATE TABLE broadcasters (
  id bigserial CONSTRAINT pk_broadcasters PRIMARY KEY,
  account bytea NOT NULL CONSTRAINT uq_broadcasters_account UNIQUE,
  network_id bytea NOT NULL,
  binding bytea NOT NULL,
  registered_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT ck_broadcasters_account_length CHECK (octet_length(account) = 32),
  CONSTRAINT ck_broadcasters_network_id_length CHECK (octet_length(network_id) = 32)
);
CREATE TABLE terms (
  id bigserial CONSTRAINT pk_terms PRIMARY KEY,
  broadcaster_id bigint NOT NULL
    CONSTRAINT fk_terms_broadcaster_id_broadcasters REFERENCES broadcasters (id),
  digest bytea NOT NULL CONSTRAINT uq_terms_digest UNIQUE,
  raw bytea NOT NULL,
  first_epoch bigint NOT NULL,
  last_epoch bigint NOT NULL,
  CONSTRAINT ck_terms_digest_length CHECK (octet_length(digest) = 32),
  CONSTRAINT ck_terms_first_epoch_natural CHECK (first_epoch >= 0),
  CONSTRAINT ck_terms_last_epoch_natural CHECK (last_epoch >= 0)
);
CREATE TABLE activations (
  id bigserial CONSTRAINT pk_activations PRIMARY KEY,
  broadcaster_id bigint NOT NULL
    CONSTRAINT fk_activations_broadcaster_id_broadcasters REFERENCES broadcasters (id),
  first_epoch bigint NOT NULL,
  rules_digest bytea NOT NULL,
  raw bytea NOT NULL,
  CONSTRAINT uq_activations_broadcaster_id_first_epoch UNIQUE (broadcaster_id, first_epoch),
  CONSTRAINT ck_activations_first_epoch_natural CHECK (first_epoch >= 0),
  CONSTRAINT ck_activations_rules_digest_length CHECK (octet_length(rules_digest) = 32)
);
CREATE TABLE epochs (
  broadcaster_id bigint NOT NULL
    CONSTRAINT fk_epochs_broadcaster_id_broadcasters REFERENCES broadcasters (id),
  number bigint NOT NULL,
  state text NOT NULL DEFAULT 'open',
  salt_key bytea NOT NULL,
  opening_size bigint,
  sealed_size bigint,
  result_size bigint,
  last_ledger_sequence bigint,
  last_ledger_close_s bigint,
  published_at timestamptz,
  audit_digest bytea,
  CONSTRAINT pk_epochs PRIMARY KEY (broadcaster_id, number),
  CONSTRAINT ck_epochs_state_known
    CHECK (state IN ('open', 'sealing', 'sealed', 'computed', 'settled')),
  CONSTRAINT ck_epochs_number_natural CHECK (number >= 0),
  CONSTRAINT ck_epochs_salt_key_length CHECK (octet_length(salt_key) = 32),
  CONSTRAINT ck_epochs_audit_digest_length CHECK (octet_length(audit_digest) = 32),
  CONSTRAINT ck_epochs_sizes_rise
    CHECK (0 <= opening_size AND opening_size < sealed_size AND sealed_size < result_size),
  CONSTRAINT ck_epochs_sealed_with_sizes CHECK (state IN ('open', 'sealing') OR
    (sealed_size IS NOT NULL AND opening_size IS NOT NULL AND last_ledger_sequence IS NOT NULL
     AND last_ledger_close_s IS NOT NULL)),
  CONSTRAINT ck_epochs_computed_with_size
    CHECK (state NOT IN ('computed', 'settled') OR result_size IS NOT NULL)
);
CREATE TABLE bundles (
  id bigserial CONSTRAINT pk_bundles PRIMARY KEY,
  broadcaster_id bigint NOT NULL,
  submitter_key bytea NOT NULL,
  epoch bigint NOT NULL,
  kind bigint NOT NULL,
  number bigint NOT NULL,
  digest bytea NOT NULL CONSTRAINT uq_bundles_digest UNIQUE,
  raw bytea NOT NULL,
  promise bytea NOT NULL,
  sealing_epoch bigint NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(),
  state text NOT NULL DEFAULT 'received',
  attempts bigint NOT NULL DEFAULT 0,
  enqueued_at timestamptz,
  code bigint,
  receipt_codes bytea,
  final_codes bytea,
  payee_account bytea,
  CONSTRAINT uq_bundles_submitter_key_broadcaster_id_epoch_kind_number
    UNIQUE (submitter_key, broadcaster_id, epoch, kind, number),
  CONSTRAINT fk_bundles_broadcaster_id_epochs FOREIGN KEY (broadcaster_id, sealing_epoch)
    REFERENCES epochs (broadcaster_id, number),
  CONSTRAINT ck_bundles_state_known CHECK (state IN ('received', 'judged', 'poison')),
  CONSTRAINT ck_bundles_submitter_key_length CHECK (octet_length(submitter_key) = 32),
  CONSTRAINT ck_bundles_digest_length CHECK (octet_length(digest) = 32),
  CONSTRAINT ck_bundles_payee_account_length CHECK (octet_length(payee_account) = 32),
  CONSTRAINT ck_bundles_epoch_natural CHECK (epoch >= 0),
  CONSTRAINT ck_bundles_number_natural CHECK (number >= 0),
  CONSTRAINT ck_bundles_kind_known CHECK (kind IN (1, 2)),
  CONSTRAINT ck_bundles_sealed_not_before CHECK (sealing_epoch >= epoch),
  CONSTRAINT ck_bundles_verdict_whole CHECK ((state = 'received') = (code IS NULL)
    AND (code IS NULL) = (receipt_codes IS NULL) AND (code IS NULL) = (payee_account IS NULL))
);
CREATE INDEX ix_bundles_sealing_epoch ON bundles (broadcaster_id, sealing_epoch);
CREATE INDEX ix_bundles_received ON bundles (enqueued_at NULLS FIRST) WHERE state = 'received';
-- Signatures and digests do not compress; trying costs more than the check of a signature.
ALTER TABLE bundles ALTER COLUMN raw SET STORAGE EXTERNAL;
CREATE TABLE conflicts (
  id bigserial CONSTRAINT pk_conflicts PRIMARY KEY,
  bundle_id bigint NOT NULL
    CONSTRAINT fk_conflicts_bundle_id_bundles REFERENCES bundles (id),
  digest bytea NOT NULL CONSTRAINT uq_conflicts_digest UNIQUE,
  raw bytea NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT ck_conflicts_digest_length CHECK (octet_length(digest) = 32)
);
CREATE INDEX ix_conflicts_bundle_id ON conflicts (bundle_id);
CREATE TABLE receipts (
  broadcaster_id bigint NOT NULL
    CONSTRAINT fk_receipts_broadcaster_id_broadcasters REFERENCES broadcasters (id),
  epoch bigint NOT NULL,
  lane_digest bytea NOT NULL,
  sequence bigint NOT NULL,
  body_digest bytea NOT NULL,
  bundle_id bigint NOT NULL
    CONSTRAINT fk_receipts_bundle_id_bundles REFERENCES bundles (id),
  place bigint NOT NULL,
  is_cdn boolean NOT NULL,
  bytes_total bigint NOT NULL,
  CONSTRAINT pk_receipts PRIMARY KEY (broadcaster_id, epoch, lane_digest, sequence, body_digest),
  CONSTRAINT ck_receipts_lane_digest_length CHECK (octet_length(lane_digest) = 32),
  CONSTRAINT ck_receipts_body_digest_length CHECK (octet_length(body_digest) = 32),
  CONSTRAINT ck_receipts_sequence_natural CHECK (sequence >= 0),
  CONSTRAINT ck_receipts_bytes_total_natural CHECK (bytes_total >= 0)
);
CREATE TABLE refusals (
  id bigserial CONSTRAINT pk_refusals PRIMARY KEY,
  bundle_id bigint NOT NULL
    CONSTRAINT fk_refusals_bundle_id_bundles REFERENCES bundles (id),
  place bigint,
  code bigint NOT NULL,
  lane_digest bytea,
  sequence bigint,
  bytes_total bigint,
  CONSTRAINT uq_refusals_bundle_id_place UNIQUE NULLS NOT DISTINCT (bundle_id, place),
  CONSTRAINT ck_refusals_lane_digest_length CHECK (octet_length(lane_digest) = 32),
  CONSTRAINT ck_refusals_code_refuses CHECK (code > 0)
);
CREATE TABLE equivocations (
  id bigserial CONSTRAINT pk_equivocations PRIMARY KEY,
  broadcaster_id bigint NOT NULL,
  sealing_epoch bigint NOT NULL,
  first_receipt bytea NOT NULL,
  second_receipt bytea NOT NULL,
  CONSTRAINT fk_equivocations_broadcaster_id_epochs FOREIGN KEY (broadcaster_id, sealing_epoch)
    REFERENCES epochs (broadcaster_id, number)
);
CREATE TABLE lanes (
  broadcaster_id bigint NOT NULL,
  lane_digest bytea NOT NULL,
  sealing_epoch bigint NOT NULL,
  epoch bigint NOT NULL,
  sequence bigint NOT NULL,
  bytes_total bigint NOT NULL,
  CONSTRAINT pk_lanes PRIMARY KEY (broadcaster_id, lane_digest, sealing_epoch),
  CONSTRAINT fk_lanes_broadcaster_id_epochs FOREIGN KEY (broadcaster_id, sealing_epoch)
    REFERENCES epochs (broadcaster_id, number),
  CONSTRAINT ck_lanes_lane_digest_length CHECK (octet_length(lane_digest) = 32),
  CONSTRAINT ck_lanes_sequence_natural CHECK (sequence >= 0),
  CONSTRAINT ck_lanes_bytes_total_natural CHECK (bytes_total >= 0)
);
CREATE INDEX ix_lanes_sealing_epoch ON lanes (broadcaster_id, sealing_epoch);
CREATE TABLE leaves (
  broadcaster_id bigint NOT NULL,
  leaf_index bigint NOT NULL,
  epoch bigint NOT NULL,
  data bytea NOT NULL,
  leaf_hash bytea NOT NULL,
  CONSTRAINT pk_leaves PRIMARY KEY (broadcaster_id, leaf_index),
  CONSTRAINT fk_leaves_broadcaster_id_epochs FOREIGN KEY (broadcaster_id, epoch)
    REFERENCES epochs (broadcaster_id, number),
  CONSTRAINT ck_leaves_leaf_index_natural CHECK (leaf_index >= 0),
  CONSTRAINT ck_leaves_leaf_hash_length CHECK (octet_length(leaf_hash) = 32),
  CONSTRAINT ck_leaves_data_fits CHECK (octet_length(data) <= 65535)
);
CREATE TABLE states (
  broadcaster_id bigint NOT NULL,
  epoch bigint NOT NULL,
  closing bytea NOT NULL,
  root bytea NOT NULL,
  CONSTRAINT pk_states PRIMARY KEY (broadcaster_id, epoch),
  CONSTRAINT fk_states_broadcaster_id_epochs FOREIGN KEY (broadcaster_id, epoch)
    REFERENCES epochs (broadcaster_id, number),
  CONSTRAINT ck_states_root_length CHECK (octet_length(root) = 32)
);
CREATE TABLE results (
  broadcaster_id bigint NOT NULL,
  epoch bigint NOT NULL,
  journal bytea NOT NULL,
  statements bytea NOT NULL,
  sum_tree_hash bytea NOT NULL,
  sum_tree_bytes bigint NOT NULL,
  sum_tree_stroops bigint NOT NULL,
  CONSTRAINT pk_results PRIMARY KEY (broadcaster_id, epoch),
  CONSTRAINT fk_results_broadcaster_id_epochs FOREIGN KEY (broadcaster_id, epoch)
    REFERENCES epochs (broadcaster_id, number),
  CONSTRAINT ck_results_sum_tree_hash_length CHECK (octet_length(sum_tree_hash) = 32),
  CONSTRAINT ck_results_sum_tree_bytes_natural CHECK (sum_tree_bytes >= 0),
  CONSTRAINT ck_results_sum_tree_stroops_natural CHECK (sum_tree_stroops >= 0)
);
CREATE TABLE checkpoints (
  broadcaster_id bigint NOT NULL,
  epoch bigint NOT NULL,
  tree_size bigint NOT NULL,
  root bytea NOT NULL,
  body_hash bytea NOT NULL,
  note bytea NOT NULL,
  CONSTRAINT pk_checkpoints PRIMARY KEY (broadcaster_id, epoch),
  CONSTRAINT uq_checkpoints_broadcaster_id_tree_size UNIQUE (broadcaster_id, tree_size),
  CONSTRAINT fk_checkpoints_broadcaster_id_epochs FOREIGN KEY (broadcaster_id, epoch)
    REFERENCES epochs (broadcaster_id, number),
  CONSTRAINT ck_checkpoints_tree_size_natural CHECK (tree_size >= 0),
  CONSTRAINT ck_checkpoints_root_length CHECK (octet_length(root) = 32),
  CONSTRAINT ck_checkpoints_body_hash_length CHECK (octet_length(body_hash) = 32)
);
"""

GUARDS = """
CREATE TRIGGER guard_bundle BEFORE INSERT OR UPDATE OR DELETE ON bundles
  FOR EACH ROW EXECUTE FUNCTION guard_bundle();
CREATE TRIGGER guard_epoch BEFORE UPDATE OR DELETE ON epochs
  FOR EACH ROW EXECUTE FUNCTION guard_epoch();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON bundles
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON epochs
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    connection.execute(FUNCTIONS)
    connection.execute(TABLES)
    connection.execute(GUARDS)
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
