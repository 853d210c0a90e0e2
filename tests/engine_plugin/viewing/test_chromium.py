"""Chromium's video element and the heartbeats about it agree within 0.1 %.

A page plays, pauses, seeks and stalls a real clip from a server that holds bytes back, with the
reporting script as pages use it. The truth is the element's own `played` ranges. Heartbeats go
through the desk, the spool and bundles, and are judged and measured as an auditor would.
"""

import asyncio
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
import uvicorn
from builders import (
    EPOCH,
    EPOCH_LENGTH_S,
    GENESIS_S,
    binding,
    digest_of,
    entitlement,
    key_of,
    seed_of,
    signed_terms,
    terms,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from engine_plugin.bundler import Bundler
from engine_plugin.spool import Spool
from engine_plugin.viewing.desk import ViewingDesk
from engine_plugin.viewing.routes import make_routes, report_path
from ledger.books.heartbeats import judge_heartbeats
from ledger.books.judgement import check_bundle
from ledger.books.viewing_time import measure_viewing
from ledger.evidence.bundle import BundleKind
from ledger.evidence.heartbeat import Heartbeat

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.timeout(180),
]

CLIP_S = 60
FRAMES_PER_S = 25
SCOPE = digest_of("content")

PAGE = """<!doctype html><video id="video" width="160"></video>
<script src="/ace/cmcd/viewing.js"></script><script type="module">
const video = document.getElementById("video");
const viewing = swarmledgerViewing(video, {url: "CMCD_URL"});
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const event = (name) => new Promise((done) => video.addEventListener(name, done, {once: true}));
const played = async (seconds) => {
  const goal = video.currentTime + seconds;
  while (video.currentTime < goal) await wait(40);
};
let startedMs = Infinity, stalls = 0;
const noteStart = () => {
  const began = performance.timeOrigin + performance.now() - video.currentTime * 1000;
  if (video.currentTime > 0.5) startedMs = Math.min(startedMs, began);
};
video.addEventListener("timeupdate", noteStart);
video.addEventListener("waiting", () => { if (!video.seeking) stalls++; });
async function seek(position) {
  const seeked = event("seeked");
  video.currentTime = position;
  await seeked;
}
const beganMs = performance.now();
video.src = "/clip.webm?page=" + viewing.sid;
SCRIPT
await wait(300);
const answer = {sid: viewing.sid, started: startedMs, stalls: stalls, ranges: []};
for (let place = 0; place < video.played.length; place++) {
  answer.ranges.push([video.played.start(place), video.played.end(place)]);
}
answer.wall = performance.now() - beganMs;
while (!viewing.isIdle()) await wait(20);
await fetch("/truth", {method: "POST", body: JSON.stringify(answer)});
</script>"""

EVERYTHING = """
await video.play();
await played(4);
video.pause();
await wait(700);
await video.play();
await played(3);
await seek(20);
await played(2.5);
video.pause();
await seek(40);
await wait(300);
await video.play();
await played(4);
await seek(57);
await event("ended");
"""
"""Seeks go to parts that were not played, so the ranges add up to all that was played."""

STALLED = "await video.play(); await played(9); video.pause();"
FIRST_TAB = "await video.play(); await played(7); video.pause();"
SECOND_TAB = "await video.play(); await played(9); video.pause();"


def make_clip(path: Path) -> bytes:
    """A minute of moving picture and sound, with a key frame every second."""
    with av.open(str(path), "w", format="webm", options={"cues_to_front": "1"}) as container:
        video = container.add_stream("libvpx", rate=FRAMES_PER_S)
        video.width, video.height, video.pix_fmt = 160, 96, "yuv420p"
        video.bit_rate = 400_000
        video.options = {"g": str(FRAMES_PER_S), "deadline": "realtime", "cpu-used": "8"}
        audio = container.add_stream("libopus", rate=48_000)
        chance = random.Random(1)
        for number in range(CLIP_S * FRAMES_PER_S):
            picture = av.VideoFrame(160, 96, "yuv420p")
            for plane in picture.planes:
                plane.update(chance.randbytes(plane.buffer_size))
            picture.pts = number
            container.mux(video.encode(picture))
            if number % FRAMES_PER_S == 0:
                sound = av.AudioFrame("s16", "mono", 48_000)
                sound.planes[0].update(bytes(sound.planes[0].buffer_size))
                sound.sample_rate, sound.pts = 48_000, number // FRAMES_PER_S * 48_000
                container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path.read_bytes()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.webm")


class LedgerTime:
    """Ledger time that runs with the machine's monotonic clock, from the start of an epoch."""

    def __init__(self) -> None:
        self.offset_ms = (GENESIS_S + EPOCH * EPOCH_LENGTH_S) * 1000 - int(time.monotonic() * 1000)

    def now_ms(self) -> int | None:
        return int(time.monotonic() * 1000) + self.offset_ms


class Scene:
    """A desk, the pages and the clip behind one port; the truths that pages told."""

    def __init__(self, path: Path, clip: bytes) -> None:
        self.clip = clip
        self.truths: list[dict[str, Any]] = []
        self.scripts: dict[str, str] = {}
        self.hold_from: int | None = None
        self.hold_s = 0.0
        self.spool = Spool(path / "spool.sqlite")
        self.spool.add_entitlement(entitlement())
        self.ledger_time = LedgerTime()
        self.desk = ViewingDesk(
            terms=terms(),
            spool=self.spool,
            session_seed=seed_of("viewer"),
            ledger_time=self.ledger_time,
            find_entitlement=lambda _scope, _epoch: entitlement(),
            bytes_by_source=lambda _scope: (len(clip), 0),
        )
        self.url = f"/ace/cmcd{report_path(self.desk.open(SCOPE))}"
        self.app = Starlette(
            routes=[
                Mount("/ace/cmcd", routes=make_routes(self.desk)),
                Route("/page/{name}", self._page),
                Route("/clip.webm", self._clip),
                Route("/truth", self._truth, methods=["POST"]),
            ]
        )

    async def _page(self, request: Request) -> Response:
        script = self.scripts[request.path_params["name"]]
        return HTMLResponse(PAGE.replace("SCRIPT", script).replace("CMCD_URL", self.url))

    async def _clip(self, request: Request) -> Response:
        start, _, end = request.headers.get("range", "bytes=0-")[6:].partition("-")
        begin, stop = int(start), int(end) + 1 if end else len(self.clip)
        return StreamingResponse(
            self._send(begin, stop),
            status_code=206,
            media_type="video/webm",
            headers={
                "accept-ranges": "bytes",
                "content-length": str(stop - begin),
                "content-range": f"bytes {begin}-{stop - 1}/{len(self.clip)}",
            },
        )

    async def _send(self, begin: int, stop: int) -> AsyncIterator[bytes]:
        hold_from = self.hold_from
        if hold_from is not None and begin <= hold_from < stop:
            yield self.clip[begin:hold_from]
            await asyncio.sleep(self.hold_s)
            begin = hold_from
        for at in range(begin, stop, 1 << 16):
            yield self.clip[at : min(at + (1 << 16), stop)]

    async def _truth(self, request: Request) -> Response:
        self.truths.append(await request.json())
        return Response(status_code=204)

    async def tick(self) -> None:
        while True:
            self.desk.tick()
            await asyncio.sleep(0.25)

    def judged(self) -> list[Heartbeat]:
        """What the bundles of all epochs prove; every heartbeat holds."""
        bundler = Bundler(
            terms=terms(),
            spool=self.spool,
            session_seed=seed_of("viewer"),
            session_key=key_of("viewer"),
            binding=binding("viewer"),
        )
        checks = []
        for epoch in self.spool.list_unbundled_epochs(BundleKind.VIEWER):
            spooled = bundler.bundle_epoch(epoch, BundleKind.VIEWER)
            assert spooled is not None
            checks.append(check_bundle(spooled.raw, signed_terms(), epoch))
        judgement = judge_heartbeats(checks, signed_terms())
        assert judgement.refused == 0
        (beats,) = judgement.by_viewer.values()
        return list(beats)


@asynccontextmanager
async def serving(scene: Scene) -> AsyncIterator[str]:
    config = uvicorn.Config(scene.app, host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    served, ticking = asyncio.create_task(server.serve()), asyncio.create_task(scene.tick())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        ticking.cancel()
        server.force_exit = server.should_exit = True
        await served


def start_chromium(folder: str, url: str) -> subprocess.Popen[bytes]:
    assert CHROMIUM is not None
    return subprocess.Popen(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--autoplay-policy=no-user-gesture-required",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
            url,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def open_tab(folder: str, url: str) -> None:
    port = (Path(folder) / "DevToolsActivePort").read_text().splitlines()[0]
    httpx.put(f"http://127.0.0.1:{port}/json/new?{url}", timeout=10).raise_for_status()


async def watch(scene: Scene, *names: str) -> None:
    """Run pages in tabs of one browser until each has told its truth."""
    async with serving(scene) as origin:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            browser = start_chromium(folder, f"{origin}/page/{names[0]}")
            try:
                for name in names[1:]:
                    while not scene.desk.signed_count:
                        await asyncio.sleep(0.1)
                    await asyncio.sleep(2)
                    await asyncio.to_thread(open_tab, folder, f"{origin}/page/{name}")
                async with asyncio.timeout(120):
                    while len(scene.truths) < len(names):
                        await asyncio.sleep(0.05)
            finally:
                browser.terminate()
                browser.wait(10)
        scene.desk.close_all()


def run(path: Path, clip: bytes, scripts: dict[str, str], **options: Any) -> Scene:
    scene = Scene(path, clip)
    scene.scripts = scripts
    for name, value in options.items():
        setattr(scene, name, value)
    asyncio.run(watch(scene, *scripts))
    return scene


def playing_ms(beats: list[Heartbeat]) -> int:
    """Viewing time over every epoch alone, added up."""
    first, last = min(b.timestamp_ms for b in beats), max(b.timestamp_ms for b in beats)
    length_ms = EPOCH_LENGTH_S * 1000
    starts = range(first - first % length_ms, last + 1, length_ms)
    return sum(
        measure_viewing(beats, start_ms=start, end_ms_exclusive=start + length_ms).playing_ms
        for start in starts
    )


def played_ms(truth: dict[str, Any]) -> float:
    return sum(end - begin for begin, end in truth["ranges"]) * 1000


def assert_within_a_thousandth(got_ms: float, truth_ms: float) -> None:
    assert abs(got_ms - truth_ms) <= truth_ms / 1000, f"got {got_ms} ms, want {truth_ms:.1f} ms"


def test_play_pause_and_seeks_agree_with_the_video_element(tmp_path: Path, clip: bytes) -> None:
    scene = run(tmp_path, clip, {"everything": EVERYTHING})
    (truth,) = scene.truths
    beats = scene.judged()
    assert len(truth["ranges"]) == 4
    assert {"p", "a", "k", "e"} <= {beat.state for beat in beats}
    assert_within_a_thousandth(playing_ms(beats), played_ms(truth))
    assert playing_ms(beats) <= truth["wall"]


def test_stalls_of_a_throttled_server_are_no_viewing_time(tmp_path: Path, clip: bytes) -> None:
    scene = run(tmp_path, clip, {"stalled": STALLED}, hold_from=len(clip) * 5 // CLIP_S, hold_s=8.0)
    (truth,) = scene.truths
    beats = scene.judged()
    assert truth["stalls"] >= 1
    assert "r" in {beat.state for beat in beats}
    assert_within_a_thousandth(playing_ms(beats), played_ms(truth))
    assert playing_ms(beats) <= truth["wall"] - 1000


def test_two_tabs_count_their_union_and_never_more_than_wall_clock(
    tmp_path: Path, clip: bytes
) -> None:
    scene = run(tmp_path, clip, {"first": FIRST_TAB, "second": SECOND_TAB})
    beats = scene.judged()
    assert len({beat.session_id for beat in beats}) == 2
    spans = sorted(
        (truth["started"], truth["started"] + played_ms(truth)) for truth in scene.truths
    )
    (first_begin_ms, first_end_ms), (second_begin_ms, second_end_ms) = spans
    assert second_begin_ms < first_end_ms
    union_ms = max(first_end_ms, second_end_ms) - first_begin_ms
    assert_within_a_thousandth(playing_ms(beats), union_ms)
    both_ms = sum(played_ms(truth) for truth in scene.truths)
    assert playing_ms(beats) < both_ms - 1000
