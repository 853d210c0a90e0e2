"""Ask settlers for signatures, and keep what they answer.

Nothing here is evidence: who a settler is the chain says, signatures are checked before they are
stored and before they are used, and a signed envelope stands in the attempts.
"""

from alembic import op

revision = "0015"
down_revision = "0010"

TABLES = """
CREATE TABLE settlers (
  broadcaster bytea NOT NULL,
  key bytea NOT NULL,
  threshold bigint NOT NULL,
  CONSTRAINT pk_settlers PRIMARY KEY (broadcaster, key),
  CONSTRAINT ck_settlers_broadcaster_length CHECK (octet_length(broadcaster) = 32),
  CONSTRAINT ck_settlers_key_length CHECK (octet_length(key) = 32),
  CONSTRAINT ck_settlers_threshold_positive CHECK (threshold >= 1)
);
CREATE TABLE signature_requests (
  broadcaster bytea NOT NULL,
  purpose varchar NOT NULL,
  number bigint NOT NULL,
  epoch bigint NOT NULL,
  attempt bigint NOT NULL,
  tx_hash bytea NOT NULL,
  envelope bytea NOT NULL,
  max_ledger_sequence bigint NOT NULL,
  max_time_s bigint NOT NULL,
  CONSTRAINT pk_signature_requests PRIMARY KEY (broadcaster, purpose, number),
  CONSTRAINT uq_signature_requests_tx_hash UNIQUE (tx_hash),
  CONSTRAINT ck_signature_requests_broadcaster_length CHECK (octet_length(broadcaster) = 32),
  CONSTRAINT ck_signature_requests_tx_hash_length CHECK (octet_length(tx_hash) = 32),
  CONSTRAINT ck_signature_requests_number_natural CHECK (number >= 0),
  CONSTRAINT ck_signature_requests_attempt_natural CHECK (attempt >= 0)
);
CREATE TABLE settler_signatures (
  tx_hash bytea NOT NULL
    CONSTRAINT fk_settler_signatures_tx_hash_signature_requests
    REFERENCES signature_requests (tx_hash) ON DELETE CASCADE,
  key bytea NOT NULL,
  signature bytea NOT NULL,
  CONSTRAINT pk_settler_signatures PRIMARY KEY (tx_hash, key),
  CONSTRAINT ck_settler_signatures_key_length CHECK (octet_length(key) = 32),
  CONSTRAINT ck_settler_signatures_signature_length CHECK (octet_length(signature) = 64)
);
CREATE TABLE settler_refusals (
  tx_hash bytea NOT NULL
    CONSTRAINT fk_settler_refusals_tx_hash_signature_requests
    REFERENCES signature_requests (tx_hash) ON DELETE CASCADE,
  key bytea NOT NULL,
  reason varchar NOT NULL,
  detail varchar NOT NULL,
  signature bytea NOT NULL,
  CONSTRAINT pk_settler_refusals PRIMARY KEY (tx_hash, key),
  CONSTRAINT ck_settler_refusals_key_length CHECK (octet_length(key) = 32),
  CONSTRAINT ck_settler_refusals_signature_length CHECK (octet_length(signature) = 64)
);
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    connection.execute(TABLES)


def downgrade() -> None:
    raise RuntimeError("downgrade: got a request, want a restored backup; evidence is never undone")
