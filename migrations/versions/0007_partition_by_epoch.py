"""Partition by sealing epoch what an epoch leaves behind, so that it goes with one DROP each.

A bundle's bytes move out of its row into the pages of `bundle_raws`; `receipts` holds one row a
lane, the one that counts so far; `lanes` follows. Their partitions are made when the first bundle
of a seal comes in. A partition has no foreign keys: its rows come and go with it, and a lookup a
row would cost more than the row. A refusal gets the field and the numbers that disagree.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

MAKE_PARTITIONS = """
CREATE FUNCTION make_partitions(of_epoch bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  parent text;
  part text;
BEGIN
  IF to_regclass(format('lanes_e%s', of_epoch)) IS NOT NULL THEN
    RETURN;
  END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('make_partitions', of_epoch));
  FOREACH parent IN ARRAY ARRAY['bundle_raws', 'receipts', 'lanes'] LOOP
    part := format('%s_e%s', parent, of_epoch);
    CONTINUE WHEN to_regclass(part) IS NOT NULL;
    -- Attached, not created as a partition: that would wait for everybody who reads the parent.
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent);
    EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %I'
      ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', part);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES IN (%s)',
      parent, part, of_epoch);
  END LOOP;
END $$;
"""

TABLES = """
CREATE TABLE bundle_raws (
  sealing_epoch bigint NOT NULL,
  bundle_id bigint NOT NULL,
  page integer NOT NULL,
  raw bytea NOT NULL,
  CONSTRAINT pk_bundle_raws PRIMARY KEY (sealing_epoch, bundle_id, page)
) PARTITION BY LIST (sealing_epoch);
-- In place and as it is: signatures and digests do not compress, and trying costs more than the
-- check of a signature.
ALTER TABLE bundle_raws ALTER COLUMN raw SET STORAGE PLAIN;

ALTER TABLE receipts RENAME TO receipts_before;
ALTER TABLE receipts_before RENAME CONSTRAINT pk_receipts TO pk_receipts_before;
CREATE TABLE receipts (
  lane uuid NOT NULL,
  sealing_epoch bigint NOT NULL,
  broadcaster_id bigint NOT NULL,
  epoch bigint NOT NULL,
  sequence bigint NOT NULL,
  bytes_total bigint NOT NULL,
  bundle_id bigint NOT NULL,
  place integer NOT NULL,
  is_cdn boolean NOT NULL,
  CONSTRAINT pk_receipts PRIMARY KEY (lane, sealing_epoch),
  CONSTRAINT ck_receipts_sequence_natural CHECK (sequence >= 0),
  CONSTRAINT ck_receipts_bytes_total_natural CHECK (bytes_total >= 0)
) PARTITION BY LIST (sealing_epoch);

ALTER TABLE lanes RENAME TO lanes_before;
ALTER TABLE lanes_before RENAME CONSTRAINT pk_lanes TO pk_lanes_before;
CREATE TABLE lanes (
  broadcaster_id bigint NOT NULL,
  sealing_epoch bigint NOT NULL,
  lane_digest bytea NOT NULL,
  epoch bigint NOT NULL,
  sequence bigint NOT NULL,
  bytes_total bigint NOT NULL,
  CONSTRAINT pk_lanes PRIMARY KEY (broadcaster_id, sealing_epoch, lane_digest),
  CONSTRAINT ck_lanes_lane_digest_length CHECK (octet_length(lane_digest) = 32),
  CONSTRAINT ck_lanes_sequence_natural CHECK (sequence >= 0),
  CONSTRAINT ck_lanes_bytes_total_natural CHECK (bytes_total >= 0)
) PARTITION BY LIST (sealing_epoch);
"""

MOVE = """
SELECT make_partitions(sealing_epoch)
  FROM (SELECT sealing_epoch FROM bundles UNION SELECT sealing_epoch FROM lanes_before) AS known;
INSERT INTO bundle_raws
  SELECT sealing_epoch, id, page, substring(raw FROM page * 8000 + 1 FOR 8000)
  FROM bundles, generate_series(0, (octet_length(raw) - 1) / 8000) AS page;
INSERT INTO receipts
  SELECT DISTINCT ON (r.lane_digest, b.sealing_epoch)
    encode(substring(r.lane_digest FROM 1 FOR 16), 'hex')::uuid, b.sealing_epoch,
    r.broadcaster_id, r.epoch, r.sequence, r.bytes_total, r.bundle_id, r.place, r.is_cdn
  FROM receipts_before r JOIN bundles b ON b.id = r.bundle_id
  ORDER BY r.lane_digest, b.sealing_epoch, r.sequence DESC, r.bytes_total;
INSERT INTO lanes
  SELECT broadcaster_id, sealing_epoch, lane_digest, epoch, sequence, bytes_total
  FROM lanes_before;
DROP TABLE receipts_before;
DROP TABLE lanes_before;
DROP TRIGGER guard_bundle ON bundles;
ALTER TABLE bundles ADD COLUMN size_bytes bigint;
UPDATE bundles SET size_bytes = octet_length(raw);
ALTER TABLE bundles ALTER COLUMN size_bytes SET NOT NULL,
  ADD CONSTRAINT ck_bundles_size_bytes_natural CHECK (size_bytes >= 0), DROP COLUMN raw;
ALTER TABLE refusals ADD COLUMN field text, ADD COLUMN got text, ADD COLUMN want text;
"""

GUARDS = """
CREATE OR REPLACE FUNCTION guard_bundle() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  epoch_state text;
BEGIN
  IF TG_OP = 'DELETE' THEN
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
CREATE TRIGGER guard_bundle BEFORE INSERT OR UPDATE OR DELETE ON bundles
  FOR EACH ROW EXECUTE FUNCTION guard_bundle();

CREATE FUNCTION guard_receipt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.lane, NEW.sealing_epoch, NEW.broadcaster_id, NEW.epoch)
      IS DISTINCT FROM (OLD.lane, OLD.sealing_epoch, OLD.broadcaster_id, OLD.epoch)
      OR NEW.sequence < OLD.sequence
      OR (NEW.sequence = OLD.sequence AND NEW.bytes_total >= OLD.bytes_total) THEN
    RAISE EXCEPTION 'receipts: got sequence % after % on a lane, want a receipt that replaces it',
      NEW.sequence, OLD.sequence USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER guard_receipt BEFORE UPDATE ON receipts
  FOR EACH ROW EXECUTE FUNCTION guard_receipt();
CREATE TRIGGER refuse_change BEFORE DELETE ON receipts
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON receipts
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    connection.execute(MAKE_PARTITIONS)
    connection.execute(TABLES)
    for table in ("bundle_raws", "lanes"):
        connection.execute(
            f"CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        connection.execute(
            f"CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    connection.execute(MOVE)
    connection.execute(GUARDS)


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
