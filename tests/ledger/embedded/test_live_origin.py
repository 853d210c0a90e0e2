"""A live HLS origin made of files: a playlist that grows by the clock and ends."""

import time
from pathlib import Path

import m3u8
import pytest

from ledger.embedded import live_origin
from ledger.embedded.live_origin import LISTED, PLAYLIST, LiveOrigin, make_live_files


def _playlist(folder: Path) -> m3u8.M3U8:
    return m3u8.loads((folder / PLAYLIST).read_text())


def test_stream_begins_with_one_segment_and_names_only_what_is_there(tmp_path: Path) -> None:
    files = make_live_files(tmp_path / "live", 10)
    assert files.size_bytes == sum(
        (tmp_path / "live" / name).stat().st_size for name in files.names
    )
    playlist = _playlist(files.folder)
    assert [segment.uri for segment in playlist.segments] == ["00000.ts"]
    assert not playlist.is_endlist


def test_playlist_slides_and_says_when_the_stream_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_origin, "SEGMENT_S", 0.04)
    files = make_live_files(tmp_path / "live", 10)
    origin = LiveOrigin(files)
    origin.start()
    seen = set()
    deadline = time.monotonic() + 30
    while not (playlist := _playlist(files.folder)).is_endlist:
        assert time.monotonic() < deadline
        assert len(playlist.segments) <= LISTED
        seen.update(segment.uri for segment in playlist.segments)
        time.sleep(0.005)
    origin.stop()
    seen.update(segment.uri for segment in playlist.segments)
    assert seen == set(files.names)
    assert playlist.media_sequence == len(files.names) - LISTED


def test_stopped_origin_publishes_nothing_more(tmp_path: Path) -> None:
    files = make_live_files(tmp_path / "live", 10)
    origin = LiveOrigin(files)
    origin.start()
    origin.stop()
    before = (files.folder / PLAYLIST).read_text()
    time.sleep(0.1)
    assert (files.folder / PLAYLIST).read_text() == before
