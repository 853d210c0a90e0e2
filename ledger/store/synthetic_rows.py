"""Synthetic rows: makes an open epoch as full as after so many receipts, for measuring only.

What grows with an epoch are two indexes: over lanes, which come in any order, and over the bundles'
pages. Both get as many entries as real receipts would leave. The pages hold no bundles, so an epoch
filled like this can never be sealed. Used by benches alone.
"""

from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

RECEIPTS_PER_BUNDLE: Final = 1_000
PAGES_PER_BUNDLE: Final = 77

# By ascending lane: an index is built three times as fast, and holds the same.
_FILL_RECEIPTS: Final = text("""
INSERT INTO receipts
  (lane, sealing_epoch, broadcaster_id, epoch, sequence, bytes_total, bundle_id, place, is_cdn)
SELECT lane, :epoch, (SELECT min(id) FROM broadcasters), :epoch, 1, 1000000,
  -1 - number / :per_bundle, number % :per_bundle, false
FROM (SELECT gen_random_uuid() AS lane, number FROM generate_series(0, :rows - 1) AS number) AS new
ORDER BY lane
""")

_FILL_PAGES: Final = text("""
INSERT INTO bundle_raws (sealing_epoch, bundle_id, page, raw)
SELECT :epoch, -bundle, page, decode('00', 'hex')
FROM generate_series(1, :bundles) AS bundle, generate_series(0, :pages - 1) AS page
""")


def fill_epoch(session: Session, sealing_epoch: int, receipts: int) -> None:
    """Add the rows of so many receipts to an epoch that has partitions.

    Args:
        session: In a transaction.
        sealing_epoch: Open, with at least one bundle.
        receipts: ≥ 1.
    """
    session.execute(text("SET LOCAL statement_timeout = 0"))
    session.execute(
        _FILL_RECEIPTS,
        {"epoch": sealing_epoch, "rows": receipts, "per_bundle": RECEIPTS_PER_BUNDLE},
    )
    bundles = -(-receipts // RECEIPTS_PER_BUNDLE)
    session.execute(
        _FILL_PAGES, {"epoch": sealing_epoch, "bundles": bundles, "pages": PAGES_PER_BUNDLE}
    )
