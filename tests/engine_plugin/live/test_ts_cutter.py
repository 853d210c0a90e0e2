"""The cutter: every byte in exactly one segment, each playable alone, whatever the chunks."""

import io
import threading
from pathlib import Path

import av
import live_media
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_plugin.live.inputs import open_input
from engine_plugin.live.ts_cutter import (
    PACKET_BYTES,
    CutSegment,
    TsCutter,
    is_transport_stream,
    read_timestamp,
)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("media") / "a.ts"
    return live_media.make_media(path, seconds=5).read_bytes()


def cut(data: bytes, *, segment_ms: int = 1000, chunk: int = 10_000) -> list[CutSegment]:
    cutter = TsCutter(segment_ms)
    segments: list[CutSegment] = []
    for at in range(0, len(data), chunk):
        segments += cutter.feed(data[at : at + chunk])
    return segments + cutter.finish()


def count_pictures(data: bytes) -> int:
    with av.open(io.BytesIO(data)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_every_byte_is_in_exactly_one_segment(stream: bytes) -> None:
    segments = cut(stream)
    assert b"".join(segment.data for segment in segments) == stream
    assert [segment.media_ms for segment in segments] == [1000] * 5


@settings(max_examples=20, deadline=None)
@given(chunk=st.integers(1, 5000))
def test_cuts_do_not_depend_on_how_the_bytes_arrive(stream: bytes, chunk: int) -> None:
    assert cut(stream, chunk=chunk) == cut(stream)


def test_every_segment_plays_alone(stream: bytes) -> None:
    assert [count_pictures(segment.data) for segment in cut(stream)] == [10] * 5


def test_longer_segments_hold_several_key_frames(stream: bytes) -> None:
    segments = cut(stream, segment_ms=2000)
    assert [segment.media_ms for segment in segments] == [2000, 2000, 1000]


def test_segment_without_tables_gets_the_latest_in_front(stream: bytes) -> None:
    tables, others = stream[: 3 * PACKET_BYTES], bytearray()
    for at in range(3 * PACKET_BYTES, len(stream), PACKET_BYTES):
        packet = stream[at : at + PACKET_BYTES]
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if pid not in {0, 17, 4096}:
            others += packet
    segments = cut(tables + bytes(others))
    assert len(segments) == 5
    assert [count_pictures(segment.data) for segment in segments] == [10] * 5


def test_bytes_that_are_no_packets_are_skipped_and_counted(stream: bytes) -> None:
    cutter = TsCutter(1000)
    middle = 100 * PACKET_BYTES
    noisy = b"\x00" * 77 + stream[:middle] + b"\x11" * 55 + stream[middle:]
    segments = cutter.feed(noisy) + cutter.finish()
    assert cutter.skipped_bytes == 77 + 55
    assert b"".join(segment.data for segment in segments) == stream


def test_jump_of_the_timestamps_begins_a_discontinuity(stream: bytes) -> None:
    cutter = TsCutter(1000)
    segments = cutter.feed(stream) + cutter.finish()
    cutter.mark_discontinuity()
    again = cutter.feed(stream) + cutter.finish()
    assert not any(segment.is_discontinuous for segment in segments)
    assert [segment.is_discontinuous for segment in again] == [True] + [False] * 4


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=2000))
def test_no_bytes_make_the_cutter_fail(data: bytes) -> None:
    sync = b"".join(
        b"\x47" + data[at : at + PACKET_BYTES - 1].ljust(PACKET_BYTES - 1, b"\xff")
        for at in range(0, len(data), PACKET_BYTES - 1)
    )
    for raw in (data, sync):
        cutter = TsCutter(500)
        segments = cutter.feed(raw) + cutter.finish()
        assert sum(len(segment.data) for segment in segments) <= len(raw)


def test_transport_streams_are_told_by_their_rhythm(stream: bytes) -> None:
    assert is_transport_stream(stream[:1024])
    assert not is_transport_stream(b"\x47" * 100)
    assert not is_transport_stream(b"RIFF" * 300)


def test_packet_that_starts_nothing_has_no_timestamp() -> None:
    assert read_timestamp(b"\x47\x40\x00\x10".ljust(PACKET_BYTES, b"\xff")) is None


def test_containers_are_repacked_without_losing_a_picture(tmp_path: Path) -> None:
    path = live_media.make_media(tmp_path / "a.mkv", seconds=3)
    segments = list(
        open_input(
            str(path),
            segment_ms=1000,
            is_realtime=False,
            loops=False,
            stopping=threading.Event(),
            report=print,
        )
    )
    assert [count_pictures(segment.data) for segment in segments] == [10] * 3
