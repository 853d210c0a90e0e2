"""Make the partitions of an epoch's number again for a broadcaster that comes to it later.

Broadcasters share partitions by the number alone. One may be done with a number, and its bundles'
bytes dropped, before another begins it: whatever is missing is made, also if the lanes are there.
"""

from alembic import op

revision = "0016"
down_revision = "0011"

MAKE_PARTITIONS = """
CREATE OR REPLACE FUNCTION make_partitions(of_epoch bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  parents constant text[] := ARRAY['bundle_raws', 'receipts', 'lanes'];
  parent text;
  part text;
BEGIN
  IF (SELECT bool_and(to_regclass(format('%s_e%s', name, of_epoch)) IS NOT NULL)
      FROM unnest(parents) AS name) THEN
    RETURN;
  END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('make_partitions', of_epoch));
  FOREACH parent IN ARRAY parents LOOP
    part := format('%s_e%s', parent, of_epoch);
    -- Read from the table: what to_regclass() did not find before the lock it may not find yet.
    CONTINUE WHEN EXISTS (
      SELECT FROM pg_class
      WHERE relname = part
        AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = parent::regclass));
    -- Attached, not created as a partition: that would wait for everybody who reads the parent.
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent);
    IF parent <> 'lanes' THEN
      EXECUTE format('ALTER TABLE %I SET (autovacuum_enabled = false)', part);
    END IF;
    EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %I'
      ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', part);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES IN (%s)',
      parent, part, of_epoch);
  END LOOP;
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.driver_connection.execute(MAKE_PARTITIONS)


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
