"""Resumable uploads, provisional reports, totals per content, and an index for fair shares.

Uploads and provisional reports are not evidence: their rows are deleted when they are done with.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

UPLOADS = """
CREATE TABLE uploads (
  id bytea CONSTRAINT pk_uploads PRIMARY KEY,
  sender bytea NOT NULL,
  digest bytea NOT NULL,
  size_bytes bigint NOT NULL,
  received_bytes bigint NOT NULL DEFAULT 0,
  touched_at timestamptz NOT NULL DEFAULT now(),
  answer_status bigint,
  answer bytea,
  CONSTRAINT uq_uploads_sender_digest_size_bytes UNIQUE (sender, digest, size_bytes),
  CONSTRAINT ck_uploads_id_length CHECK (octet_length(id) = 16),
  CONSTRAINT ck_uploads_sender_length CHECK (octet_length(sender) = 16),
  CONSTRAINT ck_uploads_digest_length CHECK (octet_length(digest) = 32),
  CONSTRAINT ck_uploads_received_within
    CHECK (0 <= received_bytes AND received_bytes <= size_bytes),
  CONSTRAINT ck_uploads_answered_whole CHECK ((answer_status IS NULL) = (answer IS NULL))
);
CREATE INDEX ix_uploads_touched_at ON uploads (touched_at);
CREATE TABLE upload_chunks (
  upload_id bytea NOT NULL
    CONSTRAINT fk_upload_chunks_upload_id_uploads REFERENCES uploads (id) ON DELETE CASCADE,
  offset_bytes bigint NOT NULL,
  raw bytea NOT NULL,
  CONSTRAINT pk_upload_chunks PRIMARY KEY (upload_id, offset_bytes),
  CONSTRAINT ck_upload_chunks_offset_bytes_natural CHECK (offset_bytes >= 0)
);
ALTER TABLE upload_chunks ALTER COLUMN raw SET STORAGE EXTERNAL;
"""

PROVISIONAL = """
CREATE TABLE provisional_totals (
  broadcaster_id bigint NOT NULL
    CONSTRAINT fk_provisional_totals_broadcaster_id_broadcasters REFERENCES broadcasters (id),
  epoch bigint NOT NULL,
  submitter_key bytea NOT NULL,
  kind bigint NOT NULL,
  content_id bytea NOT NULL,
  taken_ms bigint NOT NULL,
  bytes_total bigint NOT NULL,
  lane_count bigint NOT NULL,
  CONSTRAINT pk_provisional_totals
    PRIMARY KEY (broadcaster_id, epoch, submitter_key, kind, content_id),
  CONSTRAINT ck_provisional_totals_submitter_key_length CHECK (octet_length(submitter_key) = 32),
  CONSTRAINT ck_provisional_totals_content_id_length CHECK (octet_length(content_id) = 32),
  CONSTRAINT ck_provisional_totals_kind_known CHECK (kind IN (1, 2)),
  CONSTRAINT ck_provisional_totals_epoch_natural CHECK (epoch >= 0),
  CONSTRAINT ck_provisional_totals_taken_ms_natural CHECK (taken_ms >= 0),
  CONSTRAINT ck_provisional_totals_bytes_total_natural CHECK (bytes_total >= 0),
  CONSTRAINT ck_provisional_totals_lane_count_natural CHECK (lane_count >= 0)
);
"""

CONTENT_TOTALS = """
CREATE TABLE content_totals (
  broadcaster_id bigint NOT NULL,
  sealing_epoch bigint NOT NULL,
  epoch bigint NOT NULL,
  content_id bytea NOT NULL,
  is_cdn boolean NOT NULL,
  bytes_delta bigint NOT NULL,
  lane_count bigint NOT NULL,
  CONSTRAINT pk_content_totals
    PRIMARY KEY (broadcaster_id, sealing_epoch, epoch, content_id, is_cdn),
  CONSTRAINT fk_content_totals_broadcaster_id_epochs
    FOREIGN KEY (broadcaster_id, sealing_epoch) REFERENCES epochs (broadcaster_id, number),
  CONSTRAINT ck_content_totals_content_id_length CHECK (octet_length(content_id) = 32),
  CONSTRAINT ck_content_totals_epoch_natural CHECK (epoch >= 0),
  CONSTRAINT ck_content_totals_lane_count_natural CHECK (lane_count >= 0)
);
CREATE INDEX ix_content_totals_epoch ON content_totals (broadcaster_id, epoch);
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON content_totals
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON content_totals
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

FAIR_SHARES = """
CREATE INDEX ix_bundles_waiting_of ON bundles (submitter_key) WHERE state = 'received';
"""


def upgrade() -> None:
    for statements in (UPLOADS, PROVISIONAL, CONTENT_TOTALS, FAIR_SHARES):
        op.execute(statements)


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
