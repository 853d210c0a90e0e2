"""Let the viewer material of epochs long settled be erased, and note that it was.

A row in `erasures` permits, for one epoch, what is refused otherwise: deleting its bundles,
receipts, lanes, refusals, conflicts and equivocations, emptying the state that it opened with, and
destroying its salt key, after which nobody can tell whose a commitment in the log was. Leaves,
checkpoints, results and statements stay, so proofs and sums verify as before. An erasure is never
taken back, and is refused for an epoch that is not settled or whose window is not over.
"""

from alembic import op

revision = "0010"
down_revision = "0009"

TABLE = """
CREATE TABLE erasures (
  broadcaster_id bigint NOT NULL,
  epoch bigint NOT NULL,
  window_epochs bigint NOT NULL,
  reason text NOT NULL,
  bundle_count bigint NOT NULL,
  erased_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT pk_erasures PRIMARY KEY (broadcaster_id, epoch),
  CONSTRAINT fk_erasures_broadcaster_id_epochs FOREIGN KEY (broadcaster_id, epoch)
    REFERENCES epochs (broadcaster_id, number),
  CONSTRAINT ck_erasures_window_epochs_natural CHECK (window_epochs >= 0),
  CONSTRAINT ck_erasures_reason_known CHECK (reason IN ('retention', 'viewer')),
  CONSTRAINT ck_erasures_bundle_count_natural CHECK (bundle_count >= 0)
);
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON erasures
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON erasures
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

FUNCTIONS = """
CREATE FUNCTION is_erased(of_broadcaster bigint, of_epoch bigint) RETURNS boolean
LANGUAGE sql STABLE AS $$
  SELECT EXISTS (SELECT FROM erasures WHERE broadcaster_id = of_broadcaster AND epoch = of_epoch)
$$;

CREATE FUNCTION guard_erasure() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  found bigint;
BEGIN
  -- Every epoch whose seal can hold receipts of this one has its audit file.
  SELECT count(*) INTO found FROM epochs
    WHERE broadcaster_id = NEW.broadcaster_id AND state = 'settled' AND audit_digest IS NOT NULL
      AND number BETWEEN NEW.epoch AND NEW.epoch + NEW.window_epochs;
  IF found <> NEW.window_epochs + 1 THEN
    RAISE EXCEPTION 'erasures: got epoch % with % settled epochs from it on, want %',
      NEW.epoch, found, NEW.window_epochs + 1 USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER guard_erasure BEFORE INSERT ON erasures
  FOR EACH ROW EXECUTE FUNCTION guard_erasure();

CREATE FUNCTION guard_erasable() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  of_broadcaster bigint;
  of_epoch bigint;
BEGIN
  IF TG_OP = 'DELETE' THEN
    IF TG_ARGV[0] = 'by bundle' THEN
      SELECT b.broadcaster_id, b.sealing_epoch INTO of_broadcaster, of_epoch
        FROM bundles b WHERE b.id = OLD.bundle_id;
    ELSE
      of_broadcaster := OLD.broadcaster_id;
      of_epoch := OLD.sealing_epoch;
    END IF;
    IF is_erased(of_broadcaster, of_epoch) THEN
      RETURN OLD;
    END IF;
  END IF;
  RAISE EXCEPTION '%: got %, want no change: the table is append-only', TG_TABLE_NAME, TG_OP
    USING ERRCODE = 'restrict_violation';
END $$;

CREATE FUNCTION guard_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- What the next epoch opened with is needed as long as that epoch can be computed again.
  IF TG_OP = 'UPDATE' AND NEW.closing = ''::bytea
      AND (NEW.broadcaster_id, NEW.epoch, NEW.root) = (OLD.broadcaster_id, OLD.epoch, OLD.root)
      AND is_erased(OLD.broadcaster_id, OLD.epoch + 1) THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION '%: got %, want no change: the table is append-only', TG_TABLE_NAME, TG_OP
    USING ERRCODE = 'restrict_violation';
END $$;
"""

GUARDS = """
CREATE OR REPLACE FUNCTION guard_bundle() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  epoch_state text;
BEGIN
  IF TG_OP = 'DELETE' THEN
    IF is_erased(OLD.broadcaster_id, OLD.sealing_epoch) THEN
      RETURN OLD;
    END IF;
    RAISE EXCEPTION 'bundles: got DELETE, want no change: a promise was given'
      USING ERRCODE = 'restrict_violation';
  END IF;
  SELECT state INTO epoch_state FROM epochs
    WHERE broadcaster_id = NEW.broadcaster_id AND number = NEW.sealing_epoch;
  IF TG_OP = 'INSERT' THEN
    IF epoch_state IS DISTINCT FROM 'open' THEN
      RAISE EXCEPTION 'bundles.sealing_epoch: got % in state %, want an open one',
        NEW.sealing_epoch, epoch_state USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM make_partitions(NEW.sealing_epoch);
  END IF;
  IF TG_OP = 'UPDATE' THEN
    IF epoch_state NOT IN ('open', 'sealing') THEN
      RAISE EXCEPTION 'bundles: got UPDATE in epoch % in state %, want no change after the seal',
        NEW.sealing_epoch, epoch_state USING ERRCODE = 'restrict_violation';
    END IF;
    IF (NEW.id, NEW.broadcaster_id, NEW.digest, NEW.size_bytes, NEW.promise, NEW.sealing_epoch)
        IS DISTINCT FROM
       (OLD.id, OLD.broadcaster_id, OLD.digest, OLD.size_bytes, OLD.promise, OLD.sealing_epoch)
    THEN
      RAISE EXCEPTION 'bundles: got another bundle or promise, want only a verdict'
        USING ERRCODE = 'restrict_violation';
    END IF;
  END IF;
  RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION guard_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  states constant text[] := ARRAY['open', 'sealing', 'sealed', 'computed', 'settled'];
  no_key constant bytea := decode(repeat('00', 32), 'hex');
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
  IF (NEW.broadcaster_id, NEW.number) IS DISTINCT FROM (OLD.broadcaster_id, OLD.number)
      OR (NEW.salt_key IS DISTINCT FROM OLD.salt_key
          AND NOT (NEW.salt_key = no_key AND is_erased(OLD.broadcaster_id, OLD.number))) THEN
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

DROP TRIGGER refuse_change ON states;
CREATE TRIGGER guard_state BEFORE UPDATE OR DELETE ON states
  FOR EACH ROW EXECUTE FUNCTION guard_state();
DROP TRIGGER refuse_change ON receipts;
CREATE TRIGGER guard_erasable BEFORE DELETE ON receipts
  FOR EACH ROW EXECUTE FUNCTION guard_erasable('by row');
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    connection.execute(TABLE)
    connection.execute(FUNCTIONS)
    connection.execute(GUARDS)
    for table, found in (
        ("equivocations", "by row"),
        ("lanes", "by row"),
        ("bundle_raws", "by bundle"),
        ("refusals", "by bundle"),
        ("conflicts", "by bundle"),
    ):
        connection.execute(f"DROP TRIGGER refuse_change ON {table}")
        connection.execute(
            f"CREATE TRIGGER guard_erasable BEFORE UPDATE OR DELETE ON {table}"
            f" FOR EACH ROW EXECUTE FUNCTION guard_erasable('{found}')"
        )


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
