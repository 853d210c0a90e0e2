"""The owner's limits hold: rates, months, schedule and disk, across crashes and month borders."""

import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import MeterBatch, PeerKey, PeerUpdate, Source
from engine_plugin.limits import (
    RATE_LEAST_BYTES,
    SPREAD_S,
    AllowedRates,
    QuotaError,
    StopReason,
    allow_rates,
    grant_disk,
)
from engine_plugin.owner_settings import OwnerSettings
from engine_plugin.owners_limits import OwnersLimits
from engine_plugin.torrents import make_torrent
from engine_plugin.upload_volume import UploadVolume

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
PEER = PeerKey(bytes(20), "192.0.2.1:1")


def open_journal(path: Path) -> tuple[MeterJournal, int]:
    journal = MeterJournal(path)
    journal.start_run(session_id=os.urandom(16), session_key=bytes(32), started_at_ms=0)
    return journal, journal.add_torrent(content_id=bytes(32), name="film", content_bytes=1)


def serve(journal: MeterJournal, torrent: int, sent_bytes: int) -> None:
    """Journal what a run has served so far."""
    update = PeerUpdate(torrent=torrent, peer=PEER, source=Source.P2P, sent_bytes=sent_bytes)
    journal.commit_batch(MeterBatch(peers=(update,)), epoch=None)


@given(
    limit=st.integers(0, 10**9),
    volume=st.integers(0, 10**13),
    uploaded=st.integers(0, 10**13),
)
def test_rates_never_pass_the_limit_nor_what_is_left_of_the_month(
    limit: int, volume: int, uploaded: int
) -> None:
    settings = OwnerSettings(upload_bytes_per_s=limit, monthly_upload_bytes=volume)
    rates = allow_rates(settings, NOON, uploaded_bytes=uploaded)
    left = volume - uploaded
    if volume and left < SPREAD_S * RATE_LEAST_BYTES:
        assert rates.stop_reason is StopReason.MONTHLY_VOLUME
    else:
        assert rates.stop_reason is None
        if volume:
            assert 0 < rates.upload_bytes_per_s * SPREAD_S <= left
        if limit:
            assert 0 < rates.upload_bytes_per_s <= limit
        if not limit and not volume:
            assert rates.upload_bytes_per_s == 0


def test_outside_the_schedule_nothing_is_served_and_downloads_go_on() -> None:
    settings = OwnerSettings(schedule="22:00-07:00", download_bytes_per_s=5)
    assert allow_rates(settings, NOON, uploaded_bytes=0) == AllowedRates(
        upload_bytes_per_s=0, download_bytes_per_s=5, stop_reason=StopReason.SCHEDULE
    )
    night = NOON.replace(hour=23)
    assert allow_rates(settings, night, uploaded_bytes=0).stop_reason is None


def test_month_count_goes_on_after_a_restart_and_starts_anew_with_a_month(tmp_path: Path) -> None:
    journal, torrent = open_journal(tmp_path / "meter.sqlite")
    volume = UploadVolume(journal)
    serve(journal, torrent, 1000)
    assert volume.count("2026-06") == 1000
    assert volume.count("2026-06") == 1000
    journal.close()
    journal, torrent = open_journal(tmp_path / "meter.sqlite")
    volume = UploadVolume(journal)
    serve(journal, torrent, 50)
    assert volume.count("2026-06") == 1050
    serve(journal, torrent, 80)
    assert volume.count("2026-07") == 30
    assert volume.months() == {"2026-06": 1050, "2026-07": 30}
    journal.close()


def test_history_before_the_first_count_belongs_to_no_month(tmp_path: Path) -> None:
    journal, torrent = open_journal(tmp_path / "meter.sqlite")
    serve(journal, torrent, 1000)
    assert UploadVolume(journal).count("2026-06") == 0
    journal.close()


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_limits import open_journal, serve
from engine_plugin.upload_volume import UploadVolume
journal, torrent = open_journal(Path(sys.argv[1]))
volume = UploadVolume(journal)
serve(journal, torrent, 700)
volume.count("2026-06")
serve(journal, torrent, 1000)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.process
def test_kill_9_loses_and_repeats_no_byte_of_the_month(tmp_path: Path) -> None:
    path = tmp_path / "meter.sqlite"
    run = subprocess.run(
        [sys.executable, "-c", _KILLED, str(path), str(Path(__file__).parent)], check=False
    )
    assert run.returncode == -signal.SIGKILL
    journal, torrent = open_journal(path)
    volume = UploadVolume(journal)
    assert volume.count("2026-06") == 1000
    serve(journal, torrent, 5)
    assert volume.count("2026-06") == 1005
    journal.close()


class Engine:
    """What an engine does with its owner's limits, and a clock to turn."""

    def __init__(self, folder: Path, settings: OwnerSettings, wall_s: float = 0) -> None:
        self.wall_s = wall_s or NOON.timestamp()
        self.now_s = 100.0
        self.applied: list[AllowedRates] = []
        self.events: list[dict[str, Any]] = []
        self.journal, self.torrent = open_journal(folder / "meter.sqlite")
        self.limits = OwnersLimits(
            settings,
            UploadVolume(self.journal),
            apply=self.applied.append,
            emit=lambda name, **fields: self.events.append({"event": name, **fields}),
            wall_s=lambda: self.wall_s,
        )

    def pass_time(self, seconds: float = 1) -> None:
        self.wall_s += seconds
        self.now_s += seconds
        self.limits.tick(self.now_s)


def test_engine_slows_down_then_stops_at_the_months_volume_and_goes_on_next_month(
    tmp_path: Path,
) -> None:
    settings = OwnerSettings(
        upload_bytes_per_s=10**6, monthly_upload_bytes=10**7, time_zone="Europe/Berlin"
    )
    engine = Engine(tmp_path, settings)
    engine.pass_time()
    assert [rates.upload_bytes_per_s for rates in engine.applied] == [10**6]
    serve(engine.journal, engine.torrent, 8 * 10**6)
    engine.pass_time()
    assert engine.applied[-1].upload_bytes_per_s == 500_000
    serve(engine.journal, engine.torrent, 10**7 - 1000)
    engine.pass_time()
    assert engine.applied[-1].stop_reason is StopReason.MONTHLY_VOLUME
    assert [event["reason"] for event in engine.events] == ["monthly_volume"]
    # July begins in Berlin two hours before it does in UTC.
    engine.pass_time(datetime(2026, 6, 30, 22, 0, 1, tzinfo=UTC).timestamp() - engine.wall_s)
    assert engine.applied[-1].stop_reason is None
    assert engine.applied[-1].upload_bytes_per_s == 10**6
    assert [event["serving"] for event in engine.events] == [False, True]
    engine.journal.close()


def test_unchanged_limits_are_applied_once_and_counted_once_a_second(tmp_path: Path) -> None:
    engine = Engine(tmp_path, OwnerSettings(upload_bytes_per_s=5))
    for _ in range(9):
        engine.pass_time(0.25)
    assert len(engine.applied) == 1
    assert engine.events == []
    engine.journal.close()


def test_clock_that_is_set_changes_only_the_window(tmp_path: Path) -> None:
    engine = Engine(tmp_path, OwnerSettings(schedule="12:00-13:00", time_zone="UTC"))
    engine.pass_time()
    engine.pass_time(3600)
    engine.wall_s -= 3600
    engine.pass_time()
    assert [rates.stop_reason for rates in engine.applied] == [None, StopReason.SCHEDULE, None]
    engine.journal.close()


def test_content_beyond_the_quota_is_refused_before_a_byte_is_fetched(tmp_path: Path) -> None:
    films = []
    for name in ("first", "second"):
        (tmp_path / "origin").mkdir(exist_ok=True)
        (tmp_path / "origin" / name).write_bytes(os.urandom(60_000))
        films.append(make_torrent(tmp_path / "origin" / name))
    save = tmp_path / "save"
    engine = Engine(tmp_path, OwnerSettings(disk_quota_bytes=100_000))
    engine.limits.admit(films[0], save)
    engine.limits.admit(films[0], save)
    with pytest.raises(QuotaError, match="disk_quota_bytes: got 60000 bytes for second beside"):
        engine.limits.admit(films[1], save)
    # Fetched and no longer running: the files still fill the disk, until their owner deletes them.
    save.mkdir()
    shutil.copy(tmp_path / "origin" / "first", save / "first")
    engine.limits.release(films[0].content_id)
    with pytest.raises(QuotaError):
        engine.limits.admit(films[1], save)
    engine.journal.close()
    engine = Engine(tmp_path, OwnerSettings(disk_quota_bytes=100_000))
    with pytest.raises(QuotaError):
        engine.limits.admit(films[1], save)
    assert (save / "first").exists()
    (save / "first").unlink()
    engine.limits.admit(films[1], save)
    engine.journal.close()


def test_passing_segments_fill_the_quota_only_while_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "segment").write_bytes(os.urandom(60_000))
    segment = make_torrent(tmp_path / "segment")
    save = tmp_path / "save"
    engine = Engine(tmp_path, OwnerSettings(disk_quota_bytes=100_000))
    engine.limits.admit(segment, save, bytes(32))
    (tmp_path / "next").write_bytes(os.urandom(60_000))
    with pytest.raises(QuotaError):
        engine.limits.admit(make_torrent(tmp_path / "next"), save, bytes(32))
    engine.limits.release(segment.content_id)
    engine.limits.admit(make_torrent(tmp_path / "next"), save, bytes(32))
    engine.journal.close()


def test_content_larger_than_the_free_disk_is_refused() -> None:
    with pytest.raises(QuotaError, match="film: got 99 bytes free on the disk, want 100"):
        grant_disk(OwnerSettings(), "film", wanted_bytes=100, held_bytes=0, free_bytes=99)
    grant_disk(OwnerSettings(), "film", wanted_bytes=100, held_bytes=0, free_bytes=100)
