"""Any engine that tells of blocks is metered; the libtorrent door is one of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from engine_plugin.adapters.protocol import Enforcement, MeteredEngine
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import Source
from engine_plugin.libtorrent_door import (
    Drained,
    EngineSession,
    PeerSnapshot,
    SessionCounters,
)
from engine_plugin.libtorrent_door.tiers import TierTable
from engine_plugin.meter import EventKind
from engine_plugin.pump import MeterPump
from engine_plugin.torrents import make_torrent

ALICE, BOB = (bytes([n]) * 20 for n in (1, 2))
BLOCK = 16384


@dataclass
class ScriptedEngine:
    """An engine of another kind: it delivers what its script says."""

    script: list[Drained]
    reports_every_write: bool = True
    removed: list[int] = field(default_factory=list)

    def wait(self, timeout_ms: int) -> bool:
        return bool(self.script)

    def drain(self) -> Drained:
        return self.script.pop(0) if self.script else Drained()

    def peers(self) -> list[PeerSnapshot]:
        return []

    def peer_key(self, peer: int) -> tuple[bytes, str]:
        return (ALICE, "10.0.0.1:1") if peer == 0 else (BOB, "10.0.0.2:2")

    def peer_numbers(self) -> list[int]:
        return [0]

    def forget_peers(self, unused: Iterable[int]) -> None:
        pass

    def find_peer(self, peer_id: bytes, endpoint: str) -> int | None:
        return {ALICE: 0, BOB: 1}.get(peer_id)

    def read_counters(self) -> tuple[SessionCounters | None, Drained]:
        counters = SessionCounters(
            recv_payload_bytes=3 * BLOCK, redundant_bytes=BLOCK, failed_bytes=0
        )
        return counters, self.drain()

    def remove_torrent(self, torrent: int, *, deletes_files: bool = False) -> None:
        self.removed.append(torrent)

    def pause(self) -> None:
        pass

    def flush(self) -> None:
        pass


def test_an_engine_of_another_kind_is_metered_to_the_byte(tmp_path: Path) -> None:
    (tmp_path / "film.bin").write_bytes(bytes(2 * BLOCK))
    torrent = make_torrent(tmp_path / "film.bin", piece_bytes=2 * BLOCK)
    events = [
        (int(EventKind.WRITTEN), 7, 0, 0, 0),
        (int(EventKind.WRITTEN), 7, 1, 0, 1),
        (int(EventKind.PASSED), 7, -1, 0, 0),
    ]
    engine = ScriptedEngine([Drained(events=events)])
    journal = MeterJournal(tmp_path / "meter.sqlite")
    journal.start_run(session_id=bytes(16), session_key=bytes(32), started_at_ms=1)
    pump = MeterPump(engine, journal, current_epoch=lambda: 1)
    assert pump.add(torrent, lambda: 7) == 7
    pump.step(0)
    assert pump.firm_bytes(7) == {Source.P2P: 2 * BLOCK, Source.CDN: 0}
    assert pump.commit().journal_error is None
    delivered = {peer.peer.peer_id: peer.firm_bytes for peer in journal.list_peers()}
    assert delivered == {ALICE: BLOCK, BOB: BLOCK}
    audit = pump.audit()
    assert audit is not None
    assert audit.difference_bytes == 0
    assert pump.remove(7).journal_error is None
    assert engine.removed == [7]
    journal.close()


def test_libtorrent_is_one_of_the_engines() -> None:
    # Checked by mypy; a name that is missing would fail here as well.
    for adapter, protocol in ((EngineSession, MeteredEngine), (TierTable, Enforcement)):
        wanted = {name for name in vars(protocol) if not name.startswith("_")}
        assert wanted
        assert wanted <= set(dir(adapter))
