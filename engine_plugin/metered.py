"""One torrent as the pump keeps it: its meter, and what no batch of the journal holds yet."""

from collections import defaultdict
from dataclasses import dataclass, field

from engine_plugin.journal_records import TorrentGauges
from engine_plugin.meter import Credit, TorrentMeter
from engine_plugin.peer_sources import WebSeeds
from engine_plugin.torrents import TorrentFile


@dataclass(slots=True, kw_only=True)
class Metered:
    """One torrent of the pump."""

    torrent: TorrentFile
    scope_id: bytes | None
    meter: TorrentMeter
    journal_id: int | None = None
    """None until the journal has taken it."""
    is_refused: bool = False
    """Whether it was told that the journal knows it under another scope: it books nothing."""
    settle_at: float | None = None
    unsaved: defaultdict[int, list[Credit]] = field(default_factory=lambda: defaultdict(list))
    """Credits of each peer that no batch holds yet."""
    touched: set[int] = field(default_factory=set)
    web_seeds: WebSeeds = field(default_factory=WebSeeds)

    def gauges(self, journal_id: int) -> TorrentGauges:
        """Return its figures for the journal."""
        meter = self.meter
        return TorrentGauges(
            torrent=journal_id,
            passed_bytes=meter.passed_bytes,
            pending_bytes=meter.pending_bytes,
            ambiguous_bytes=meter.ambiguous_bytes,
            present_bytes=meter.present_bytes,
            is_estimated=meter.is_estimated,
        )
