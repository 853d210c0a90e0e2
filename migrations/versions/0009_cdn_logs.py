"""Keep what CDNs' own logs and invoices say, beside what viewers signed.

Files, their counts and faults, and invoices are never changed. Lines are: a repeat raises `copies`,
a contradiction marks all lines of a request id, and lines of days long closed are folded into
totals and deleted, so that the known request ids stay bounded.
"""

from alembic import op

revision = "0009"
down_revision = "0008"

SOURCES = """
CREATE TABLE cdn_sources (
  id bigserial CONSTRAINT pk_cdn_sources PRIMARY KEY,
  account bytea NOT NULL,
  cdn text NOT NULL,
  format text NOT NULL,
  time_format text,
  sampled_one_in bigint NOT NULL,
  closed_through_day bigint NOT NULL DEFAULT -1,
  forgotten_through_day bigint NOT NULL DEFAULT -1,
  CONSTRAINT uq_cdn_sources_account_cdn UNIQUE (account, cdn),
  CONSTRAINT ck_cdn_sources_account_length CHECK (octet_length(account) = 32),
  CONSTRAINT ck_cdn_sources_sampled_one_in_natural CHECK (sampled_one_in >= 0),
  CONSTRAINT ck_cdn_sources_forgotten_is_closed
    CHECK (-1 <= forgotten_through_day AND forgotten_through_day <= closed_through_day)
);
CREATE TABLE cdn_files (
  id bigserial CONSTRAINT pk_cdn_files PRIMARY KEY,
  source_id bigint NOT NULL
    CONSTRAINT fk_cdn_files_source_id_cdn_sources REFERENCES cdn_sources (id),
  content_digest bytea NOT NULL,
  name text NOT NULL,
  lines bigint NOT NULL,
  imported_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT uq_cdn_files_source_id_content_digest UNIQUE (source_id, content_digest),
  CONSTRAINT ck_cdn_files_content_digest_length CHECK (octet_length(content_digest) = 32),
  CONSTRAINT ck_cdn_files_lines_natural CHECK (lines >= 0)
);
CREATE TABLE cdn_file_counts (
  file_id bigint NOT NULL CONSTRAINT fk_cdn_file_counts_file_id_cdn_files REFERENCES cdn_files (id),
  reason text NOT NULL,
  lines bigint NOT NULL,
  sent_bytes bigint NOT NULL,
  CONSTRAINT pk_cdn_file_counts PRIMARY KEY (file_id, reason),
  CONSTRAINT ck_cdn_file_counts_lines_natural CHECK (lines >= 0),
  CONSTRAINT ck_cdn_file_counts_sent_bytes_natural CHECK (sent_bytes >= 0)
);
CREATE TABLE cdn_faults (
  file_id bigint NOT NULL CONSTRAINT fk_cdn_faults_file_id_cdn_files REFERENCES cdn_files (id),
  line bigint NOT NULL,
  reason text NOT NULL,
  CONSTRAINT pk_cdn_faults PRIMARY KEY (file_id, line),
  CONSTRAINT ck_cdn_faults_line_natural CHECK (line >= 0)
);
"""

LINES = """
CREATE TABLE cdn_lines (
  source_id bigint NOT NULL
    CONSTRAINT fk_cdn_lines_source_id_cdn_sources REFERENCES cdn_sources (id),
  request_key bytea NOT NULL,
  line_digest bytea NOT NULL,
  copies bigint NOT NULL,
  day bigint NOT NULL,
  content_id bytea NOT NULL,
  session_id bytea NOT NULL,
  body_bytes bigint NOT NULL,
  total_bytes bigint NOT NULL,
  header_bytes bigint NOT NULL,
  payload_bytes bigint NOT NULL,
  has_body boolean NOT NULL,
  has_total boolean NOT NULL,
  is_aborted boolean NOT NULL,
  is_late boolean NOT NULL,
  is_conflict boolean NOT NULL DEFAULT false,
  CONSTRAINT pk_cdn_lines PRIMARY KEY (source_id, request_key, line_digest),
  CONSTRAINT ck_cdn_lines_request_key_length CHECK (octet_length(request_key) = 16),
  CONSTRAINT ck_cdn_lines_line_digest_length CHECK (octet_length(line_digest) = 16),
  CONSTRAINT ck_cdn_lines_copies_natural CHECK (copies >= 0),
  CONSTRAINT ck_cdn_lines_payload_bytes_natural CHECK (payload_bytes >= 0)
);
CREATE INDEX ix_cdn_lines_source_id_day ON cdn_lines (source_id, day);
CREATE TABLE cdn_totals (
  source_id bigint NOT NULL
    CONSTRAINT fk_cdn_totals_source_id_cdn_sources REFERENCES cdn_sources (id),
  content_id bytea NOT NULL,
  session_id bytea NOT NULL,
  day bigint NOT NULL,
  lines bigint NOT NULL,
  body_bytes bigint NOT NULL,
  body_lines bigint NOT NULL,
  total_bytes bigint NOT NULL,
  total_lines bigint NOT NULL,
  header_bytes bigint NOT NULL,
  payload_bytes bigint NOT NULL,
  aborted_lines bigint NOT NULL,
  aborted_bytes bigint NOT NULL,
  late_lines bigint NOT NULL,
  late_bytes bigint NOT NULL,
  late_total_bytes bigint NOT NULL,
  duplicate_lines bigint NOT NULL,
  duplicate_bytes bigint NOT NULL,
  conflict_lines bigint NOT NULL,
  conflict_bytes bigint NOT NULL,
  CONSTRAINT pk_cdn_totals PRIMARY KEY (source_id, content_id, session_id, day)
);
"""

INVOICES = """
CREATE TABLE cdn_invoices (
  account bytea NOT NULL,
  cdn text NOT NULL,
  number text NOT NULL,
  first_day bigint NOT NULL,
  last_day bigint NOT NULL,
  quantity text NOT NULL,
  unit text NOT NULL,
  basis text NOT NULL,
  content_id bytea NOT NULL,
  stored_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT pk_cdn_invoices PRIMARY KEY (account, cdn, number),
  CONSTRAINT ck_cdn_invoices_account_length CHECK (octet_length(account) = 32),
  CONSTRAINT ck_cdn_invoices_days_rise CHECK (first_day <= last_day)
);
"""

APPEND_ONLY = ("cdn_files", "cdn_file_counts", "cdn_faults", "cdn_invoices")
GUARDS = """
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON {table}
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {table}
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    for tables in (SOURCES, LINES, INVOICES):
        op.execute(tables)
    for table in APPEND_ONLY:
        op.execute(GUARDS.format(table=table))


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
