"""Films as HLS: every frame once, at its time; and live streams from a source in segments."""

import asyncio
import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import av
import httpx
import m3u8
import pytest

from engine_plugin.http_face.hls import (
    HlsSegment,
    HlsWindow,
    SegmentGoneError,
    format_playlist,
)
from engine_plugin.http_face.ts_source import PACKET_BYTES, find_tables, is_transport_stream

pytestmark = pytest.mark.swarm

Times = dict[str, list[tuple[int, int]]]


def times_of(data: bytes) -> Times:
    """Time in 90 kHz from the first picture, and size, of every frame of each kind."""
    frames: Times = defaultdict(list)
    with av.open(io.BytesIO(data), "r") as container:
        for packet in container.demux():
            if packet.pts is not None:
                frames[packet.stream.type].append(
                    (round(packet.pts * packet.time_base * 90_000), packet.size)
                )
    first = min(time for time, _ in frames["video"])
    return {
        kind: sorted((time - first, size) for time, size in found) for kind, found in frames.items()
    }


def manifest_of(client: httpx.Client, infohash: str, **more: str) -> m3u8.M3U8:
    answer = client.get("/ace/manifest.m3u8", params={"infohash": infohash, **more})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/vnd.apple.mpegurl")
    return m3u8.loads(answer.text)


@pytest.fixture(scope="module")
def shared(scene: Any, clips: dict[str, Path]) -> dict[str, str]:
    """Info-hashes of the clips by their kind."""
    return {kind: scene.share(path).infohash_v1.hex() for kind, path in clips.items()}


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_segments_hold_every_frame_once_at_its_time(
    client: httpx.Client, clips: dict[str, Path], shared: dict[str, str], kind: str
) -> None:
    playlist = manifest_of(client, shared[kind])
    assert playlist.is_endlist
    assert len(playlist.segments) >= 3
    data = [client.get(segment.uri).content for segment in playlist.segments]
    want, got = times_of(clips[kind].read_bytes()), times_of(b"".join(data))
    assert got.keys() == want.keys()
    for frames in ("video", "audio"):
        assert len(got[frames]) == len(want[frames])
        # MPEG-TS counts in 1/90,000 s, the others in 1/1,000 s or the like; some put a start code
        # or an ADTS header (7 bytes) before what another container holds bare.
        off = [abs(a - b) for (a, _), (b, _) in zip(got[frames], want[frames], strict=True)]
        assert max(off) <= 180
    lasts_s = sum(segment.duration for segment in playlist.segments)
    assert abs(lasts_s - 20) < 0.2
    assert max(segment.duration for segment in playlist.segments) <= playlist.target_duration


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_any_segment_alone_begins_with_a_key_frame(
    client: httpx.Client, shared: dict[str, str], kind: str
) -> None:
    playlist = manifest_of(client, shared[kind], pid="alone")
    for segment in reversed(playlist.segments):
        answer = client.get(segment.uri)
        assert answer.headers["content-type"] == "video/mp2t"
        with av.open(io.BytesIO(answer.content), "r", format="mpegts") as container:
            first = next(p for p in container.demux(video=0) if p.pts is not None)
            assert first.is_keyframe
        with av.open(io.BytesIO(answer.content), "r", format="mpegts") as container:
            assert sum(1 for _ in container.decode(video=0)) >= 40


def test_segments_of_a_transport_stream_are_its_bytes(
    client: httpx.Client, clips: dict[str, Path], shared: dict[str, str]
) -> None:
    whole = clips["ts"].read_bytes()
    tables = find_tables(whole)
    assert len(tables) == 2 * PACKET_BYTES
    playlist = manifest_of(client, shared["ts"])
    data = [client.get(segment.uri).content for segment in playlist.segments]
    bare = [part if whole.startswith(part) else part.removeprefix(tables) for part in data]
    at = 0
    for candidates in zip(bare, data, strict=True):
        # Tables that stand in the file itself are not ours to take away.
        (part, *_) = [each for each in candidates if whole.startswith(each, at)]
        at += len(part)
    assert at == len(whole)


def test_segment_is_found_by_infohash_alone(client: httpx.Client, shared: dict[str, str]) -> None:
    url = manifest_of(client, shared["mp4"]).segments[1].uri
    assert f"/ace/c/{shared['mp4']}/1.ts" in url
    assert client.get(url.partition("?")[0]).content == client.get(url).content


def test_segment_that_is_not_there_is_refused(client: httpx.Client, shared: dict[str, str]) -> None:
    manifest_of(client, shared["mp4"])
    answer = client.get(f"/ace/c/{shared['mp4']}/999.ts")
    assert answer.status_code == 404
    assert answer.json()["response"] is None


def test_file_that_is_no_film_has_no_manifest(client: httpx.Client, film: Any) -> None:
    answer = client.get("/ace/manifest.m3u8", params={"infohash": film[0].infohash_v1.hex()})
    assert answer.status_code == 415
    assert answer.json()["error"]


def test_json_names_the_manifest_of_its_session(
    client: httpx.Client, shared: dict[str, str]
) -> None:
    query = {"infohash": shared["mp4"], "format": "json"}
    opened = client.get("/ace/manifest.m3u8", params=query).json()["response"]
    text = client.get(opened["playback_url"]).text
    assert text.startswith("#EXTM3U")
    client.get(opened["command_url"], params={"method": "stop"})
    assert client.get(m3u8.loads(text).segments[0].uri).status_code == 404


class SlidingSource:
    """Five segments, three at a time; the next comes when it is asked for."""

    is_live = True
    name = "channel"

    def __init__(self, data: list[bytes]) -> None:
        self.stream_id = bytes(range(32))
        self.data = data
        self.last = 2

    async def window(self) -> HlsWindow:
        first = max(0, self.last - 2)
        return HlsWindow(
            segments=tuple(
                HlsSegment(number=n, duration_ms=2000, program_ms=1_700_000_000_000 + 2000 * n)
                for n in range(first, self.last + 1)
            ),
            is_ended=self.last + 1 == len(self.data),
        )

    async def segment(self, number: int) -> bytes:
        if number == self.last + 1 < len(self.data):
            await asyncio.sleep(0.05)
            self.last += 1
        if not max(0, self.last - 2) <= number <= self.last:
            raise SegmentGoneError(f"segment: got {number}, want up to {self.last}")
        return self.data[number]


@pytest.fixture
def channel(scene: Any) -> Any:
    source = SlidingSource([bytes([n]) * 1000 for n in range(5)])
    scene.loop.call_soon_threadsafe(scene.face.add_live, source)
    yield source
    scene.loop.call_soon_threadsafe(scene.face.remove_live, source.stream_id)


def test_live_playlist_slides(client: httpx.Client, channel: SlidingSource) -> None:
    first = manifest_of(client, channel.stream_id.hex())
    assert [segment.media_sequence for segment in first.segments] == [0, 1, 2]
    assert not first.is_endlist
    url = first.segments[2].uri.replace("/2.ts", "/3.ts")
    assert client.get(url).content == channel.data[3]
    second = manifest_of(client, channel.stream_id.hex())
    assert second.media_sequence == 1
    assert client.get(first.segments[0].uri).status_code == 404


def test_live_stream_begins_near_its_end_and_goes_on_until_it_ends(
    client: httpx.Client, channel: SlidingSource
) -> None:
    query = {"content_id": channel.stream_id.hex()}
    answer = client.get("/ace/getstream", params=query)
    assert answer.headers["content-type"] == "video/mp2t"
    assert "content-length" not in answer.headers
    assert answer.content == b"".join(channel.data[1:])


def test_live_session_tells_its_window_in_strings(
    client: httpx.Client, channel: SlidingSource
) -> None:
    query = {"content_id": channel.stream_id.hex(), "format": "json"}
    opened = client.get("/ace/getstream", params=query).json()["response"]
    assert opened["is_live"] == 1
    assert opened["infohash"] == channel.stream_id.hex()
    told = client.get(opened["stat_url"]).json()["response"]
    assert told["is_live"] == 1
    assert told["livepos"]["live_first"] == "0"
    assert told["livepos"]["live_last"] == "2"
    assert told["livepos"]["last_ts"] == "1700000004"
    assert all(isinstance(value, str) for value in told["livepos"].values())


def test_playlist_says_what_a_window_holds() -> None:
    window = HlsWindow(
        segments=(
            HlsSegment(number=7, duration_ms=4004, program_ms=1_700_000_000_123),
            HlsSegment(number=8, duration_ms=2500, is_discontinuity=True),
        ),
        is_ended=False,
        discontinuity_sequence=3,
    )
    assert format_playlist(window, lambda number: f"{number}.ts") == (
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:5\n#EXT-X-MEDIA-SEQUENCE:7\n"
        "#EXT-X-DISCONTINUITY-SEQUENCE:3\n#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:20.123Z\n"
        "#EXTINF:4.004,\n7.ts\n#EXT-X-DISCONTINUITY\n#EXTINF:2.500,\n8.ts\n"
    )


def test_playlist_without_segments_is_still_one() -> None:
    text = format_playlist(HlsWindow(segments=(), is_ended=False), str)
    assert m3u8.loads(text).segments == []


@pytest.mark.parametrize("head", [b"", b"\x47", b"G" * 100, bytes(1504), b"\x47" + bytes(1503)])
def test_what_is_no_transport_stream_is_told(head: bytes) -> None:
    assert not is_transport_stream(head)
    assert find_tables(head) == b""
