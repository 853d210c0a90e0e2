"""A live stream in real processes: signed index, real swarm, receipts, a player's playlist."""

import io
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import httpx
import live_media
import pytest

from engine_plugin.journal_reading import read_peers
from engine_plugin.key_files import write_seed
from ledger.evidence.bundle import BundleKind

pytestmark = [pytest.mark.swarm, pytest.mark.process]


def start_broadcaster(start: Any, folder: Path, source: object, *extra: object) -> Any:
    return start(
        "broadcast",
        "--input",
        source,
        "--listen",
        "127.0.0.2:0",
        "--index",
        "127.0.0.2:0",
        "--state",
        folder / "broadcaster",
        "--descriptor-out",
        folder / "a.stream",
        *extra,
        log="broadcaster",
    )


def start_viewer(start: Any, folder: Path, number: int, *extra: object) -> Any:
    return start(
        "watch",
        folder / "a.stream",
        "--listen",
        f"127.0.0.{number}:0",
        "--state",
        folder / f"viewer-{number}",
        *extra,
        log=f"viewer-{number}",
    )


def numbers_of(viewer: Any, event: str = "segment") -> list[int]:
    return [seen["number"] for seen in viewer.of(event)]


def fetch(url: str) -> bytes:
    answer = httpx.get(url, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.content


def test_receipts_over_all_segments_equal_the_bytes(
    tmp_path: Path, make_operator: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    operator = make_operator()
    (tmp_path / "terms").write_bytes(operator.terms.raw)
    write_seed(tmp_path / "issuing.seed", operator.issuing_seed)
    source = live_media.make_media(tmp_path / "a.ts", seconds=12)
    terms = ("--terms", tmp_path / "terms")
    broadcaster = start_broadcaster(
        start_engine,
        tmp_path,
        source,
        "--realtime",
        "--issuing-key",
        tmp_path / "issuing.seed",
        *terms,
    )
    stream_id = broadcaster.wait_for("broadcasting")["stream_id"]
    viewers = [
        start_viewer(start_engine, tmp_path, number, "--entitlement-url", operator.url, *terms)
        for number in (3, 4)
    ]
    for viewer in viewers:
        viewer.wait_for("joined")
    for viewer in viewers:
        viewer.wait_for("segment", number=11)
    # Together: who leaves first would miss the other's last receipt, which then goes by relay.
    for viewer in viewers:
        viewer.process.send_signal(signal.SIGTERM)
    for viewer in viewers:
        assert viewer.process.wait(30) == 0
        viewer.kill()  # has ended: reads its last lines
    ends = [viewer.of("stopped")[0] for viewer in viewers] + [broadcaster.stop()]
    for end in ends[:2]:
        assert end["bytes"]["p2p_attested"] > 0
        assert end["bytes"]["p2p_unattested"] == 0
        assert end["unsigned_bytes"] == 0
        assert end["audit_difference_bytes"] == 0
    receipts = operator.final_receipts(BundleKind.PAYEE).values()
    attested_bytes = sum(end["bytes"]["p2p_attested"] for end in ends[:2])
    assert sum(end["receipts_out"]["p2p_bytes"] for end in ends[:2]) == attested_bytes
    assert sum(receipt.bytes_total for receipt in receipts) == attested_bytes
    entitled = {
        signed.value.content_id.hex()
        for bundle in operator.list_bundles(BundleKind.PAYEE)
        for signed in bundle.value.entitlements
    }
    assert entitled == {stream_id}
    for number in (3, 4):
        peers = read_peers(tmp_path / f"viewer-{number}" / "meter.sqlite")
        assert all(peer.public_key is not None for peer in peers if peer.firm_bytes)


def test_player_gets_every_segment_as_it_was_cut(
    tmp_path: Path, start_engine: Callable[..., Any]
) -> None:
    source = live_media.make_media(tmp_path / "a.mp4", seconds=6)
    broadcaster = start_broadcaster(
        start_engine, tmp_path, source, "--realtime", "--loop", "--title", "Harbour"
    )
    broadcaster.wait_for("broadcasting")
    viewer = start_engine(
        "view",
        tmp_path / "a.stream",
        "--save",
        tmp_path / "saved",
        "--listen",
        "127.0.0.3:0",
        "--state",
        tmp_path / "viewer",
        "--no-entitlement",
        "--hls",
        "127.0.0.3:0",
    )
    playlist_url = viewer.wait_for("hls")["url"]
    viewer.wait_for("joined")
    playlist = fetch(playlist_url).decode()
    assert "#EXT-X-TARGETDURATION:1\n" in playlist
    names = [line for line in playlist.splitlines() if not line.startswith("#")]
    for name in names:
        data = fetch(playlist_url.rpartition("/")[0] + "/" + name)
        with av.open(io.BytesIO(data)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 10
    viewer.stop()
    broadcaster.stop()


def test_late_joiner_begins_near_the_newest_segment_and_peers_serve_it(
    tmp_path: Path, start_engine: Callable[..., Any]
) -> None:
    source = live_media.make_media(tmp_path / "a.ts", seconds=6)
    broadcaster = start_broadcaster(start_engine, tmp_path, source, "--realtime", "--loop")
    broadcaster.wait_for("segment", number=0)
    early = start_viewer(start_engine, tmp_path, 3, "--no-entitlement")
    early.wait_for("segment", number=8)
    late = start_viewer(start_engine, tmp_path, 4, "--no-entitlement")
    first = late.wait_for("joined")["number"]
    newest = max(numbers_of(broadcaster))
    assert newest - first <= 4
    late.wait_for("segment", number=first + 4)
    end = late.stop()
    assert not list((tmp_path / "viewer-4" / "segments").glob("**/*.ts"))
    assert early.stop()["uploaded_bytes"] + broadcaster.stop()["uploaded_bytes"] > 0
    # Attested, or not, as each peer proved its key before its bytes came or after.
    assert end["bytes"]["p2p_attested"] + end["bytes"]["p2p_unattested"] > 0


def test_broadcaster_that_was_killed_goes_on_with_the_next_number(
    tmp_path: Path, start_engine: Callable[..., Any]
) -> None:
    source = live_media.make_media(tmp_path / "a.ts", seconds=6)
    first = start_broadcaster(start_engine, tmp_path, source, "--realtime", "--loop")
    first.wait_for("segment", number=2)
    first.kill()
    last = max(numbers_of(first))
    second = start_broadcaster(start_engine, tmp_path, source, "--realtime", "--loop")
    begun = second.wait_for("segment")
    # One more may have been signed and not told.
    assert begun["number"] in {last + 1, last + 2}
    assert begun["discontinuity"]
    second.stop()


def test_input_that_cannot_be_cut_is_said_in_words(
    tmp_path: Path, start_engine: Callable[..., Any]
) -> None:
    (tmp_path / "a.txt").write_text("no picture " * 1000)
    broadcaster = start_broadcaster(start_engine, tmp_path, tmp_path / "a.txt")
    assert broadcaster.process.wait(60) == 1
    assert "cannot be repacked" in broadcaster.log.read_text()


def test_events_are_json_lines(tmp_path: Path, start_engine: Callable[..., Any]) -> None:
    source = live_media.make_media(tmp_path / "a.ts", seconds=4)
    broadcaster = start_broadcaster(start_engine, tmp_path, source)
    broadcaster.wait_for("input_ended")
    time.sleep(0.1)
    assert numbers_of(broadcaster) == [0, 1, 2, 3]
    assert json.dumps(broadcaster.stop()["bytes"])
