"""What an engine tells about itself once a second: byte classes, rates, peers, receipts.

Figures come from the journal and the spool, so they are what a restart would find.
"""

from dataclasses import dataclass
from typing import Any

from engine_plugin.identity import parse_handshake
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import JournalTotals, SessionAudit, Source
from engine_plugin.ledger_side import LedgerSide
from engine_plugin.libtorrent_door import PeerSnapshot

PEERS_SHOWN_MAX = 200


def describe_totals(totals: JournalTotals) -> dict[str, Any]:
    """Return the byte classes of a journal over all its runs; content bytes."""
    return {
        "bytes": {
            "p2p_attested": totals.delivered_p2p_bytes,
            "p2p_unattested": totals.unattested_bytes,
            "cdn": totals.delivered_cdn_bytes,
            "ambiguous": totals.ambiguous_bytes,
            "pending": totals.pending_bytes,
            "failed": totals.failed_bytes,
            "redundant": totals.redundant_bytes,
            "present": totals.present_bytes,
        },
        "uploaded_bytes": totals.sent_bytes,
        "receipted_bytes": totals.claimed_bytes,
        "unsigned_bytes": totals.unclaimed_bytes,
        "is_estimated": totals.is_estimated,
    }


@dataclass(slots=True, kw_only=True)
class ProgressTeller:
    """Describes one run; remembers the last figures for the rates."""

    journal: MeterJournal
    session_id: bytes
    ledger: LedgerSide | None = None
    last_s: float = 0.0
    last_down_bytes: int = 0
    last_up_bytes: int = 0

    def describe(
        self,
        snapshots: tuple[PeerSnapshot, ...],
        *,
        content_bytes: int,
        epoch: int | None,
        now_s: float,
    ) -> dict[str, Any]:
        """Return the fields of a progress event.

        Raises:
            JournalError: The journal could not be read.
            SpoolError: The spool could not be read.
        """
        totals = self.journal.totals()
        fields = describe_totals(totals)
        down = totals.delivered_p2p_bytes + totals.delivered_cdn_bytes + totals.unattested_bytes
        passed_s = now_s - self.last_s
        is_first = not self.last_s
        fields |= {
            "content_bytes": content_bytes,
            "epoch": epoch,
            "down_bytes_per_s": 0 if is_first else int((down - self.last_down_bytes) / passed_s),
            "up_bytes_per_s": (
                0 if is_first else int((totals.sent_bytes - self.last_up_bytes) / passed_s)
            ),
            "peers": self._describe_peers(snapshots),
        }
        self.last_s, self.last_down_bytes, self.last_up_bytes = now_s, down, totals.sent_bytes
        return fields | (self.ledger.describe() if self.ledger is not None else {})

    def describe_end(self, audit: SessionAudit | None) -> dict[str, Any]:
        """Return the fields of a stopped event.

        Args:
            audit: The meters against libtorrent's counters, if there was time.

        Raises:
            JournalError: The journal could not be read.
            SpoolError: The spool could not be read.
        """
        fields = describe_totals(self.journal.totals())
        fields["audit_difference_bytes"] = None if audit is None else audit.difference_bytes
        if self.ledger is not None:
            fields |= self.ledger.describe()
            fields["unsent_bundles"] = sum(count.unsent for count in self.ledger.spool.count())
        return fields

    def _describe_peers(self, snapshots: tuple[PeerSnapshot, ...]) -> list[dict[str, Any]]:
        connected = {(snapshot.peer_id, snapshot.endpoint): snapshot for snapshot in snapshots}
        rows: list[dict[str, Any]] = []
        is_connected = None if self.ledger is None else self.ledger.exchange.is_connected
        # Every second: a run may have met any number of peers.
        for peer in self.journal.list_peers(session_id=self.session_id, newest=PEERS_SHOWN_MAX):
            snapshot = connected.get((peer.peer.peer_id, peer.peer.endpoint))
            hint = None if snapshot is None else parse_handshake(snapshot.client)
            key = peer.public_key or (None if hint is None else hint.public_key)
            rows.append(
                {
                    "endpoint": peer.peer.endpoint,
                    "source": "cdn" if peer.source is Source.CDN else "p2p",
                    "key": None if key is None else key.hex(),
                    "attested": peer.public_key is not None,
                    "connected": snapshot is not None,
                    "has_channel": bool(key and is_connected and is_connected(key)),
                    "down_bytes": peer.firm_bytes,
                    "up_bytes": peer.sent_bytes,
                }
            )
        return rows
