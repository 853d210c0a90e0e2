"""State report: what an engine's folder holds, read without disturbing a running engine.

Byte classes and peers from the meter journal, bundles from the spool. Not here: anything live.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine_plugin.adapters.totals_journal import TOTALS_NAME, read_aggregates
from engine_plugin.journal_reading import read_peers, read_totals
from engine_plugin.progress import describe_totals
from engine_plugin.spool import read_spool

_COUNTS = ("unbundled", "unsent", "sent", "archived", "refused")


def describe_state(folder: Path) -> dict[str, Any]:
    """Return byte classes, peers and spool of a state folder.

    Raises:
        JournalError: The meter journal is missing or cannot be read.
        SpoolError: The spool cannot be read.
    """
    journal = folder / "meter.sqlite"
    return {
        "state": str(folder),
        **describe_totals(read_totals(journal)),
        "peers": [
            {
                "endpoint": peer.peer.endpoint,
                "source": str(peer.source),
                "key": None if peer.public_key is None else peer.public_key.hex(),
                "down_bytes": peer.firm_bytes,
                "up_bytes": peer.sent_bytes,
            }
            for peer in read_peers(journal)
        ],
        "spool": describe_spool(folder) if _has_spool(folder) else None,
        # Another engine's word, apart from every class above.
        "aggregate": [asdict(sums) for sums in read_aggregates(folder / TOTALS_NAME)],
    }


def describe_spool(folder: Path) -> dict[str, Any]:
    """Return what the spool of a state folder holds: counts in all and by epoch, and bundles.

    Raises:
        JournalError: The meter journal is missing or cannot be read.
        SpoolError: The spool cannot be read.
    """
    counts, bundles = read_spool(folder / "spool.sqlite") if _has_spool(folder) else ([], [])
    return {
        **{name: sum(getattr(count, name) for count in counts) for name in _COUNTS},
        "unsigned_bytes": read_totals(folder / "meter.sqlite").unclaimed_bytes,
        "epochs": [
            {"epoch": count.epoch, **{name: getattr(count, name) for name in _COUNTS}}
            for count in counts
        ],
        "bundles": [
            {
                "epoch": bundle.epoch,
                "number": bundle.number,
                "kind": bundle.kind.name.lower(),
                "digest": bundle.digest.hex(),
                "receipts": bundle.receipt_count,
                "bytes": bundle.bytes_total,
                "state": str(bundle.state),
                "code": bundle.code,
                "detail": bundle.detail,
            }
            for bundle in bundles
        ],
    }


def _has_spool(folder: Path) -> bool:
    """Tell whether an engine ever worked under terms here; until then the file is empty."""
    spool = folder / "spool.sqlite"
    return spool.exists() and spool.stat().st_size > 0
