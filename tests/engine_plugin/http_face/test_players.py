"""Players that people have, against the face: whole files, seeks, HLS; bytes as in the file."""

import json
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

FFMPEG, MPV = shutil.which("ffmpeg"), shutil.which("mpv")
VLC, SETPRIV = shutil.which("vlc"), shutil.which("setpriv")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
KINDS = ["mp4", "mkv", "ts"]

needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")
needs_mpv = pytest.mark.skipif(MPV is None, reason="mpv is not installed")
needs_vlc = pytest.mark.skipif(VLC is None or SETPRIV is None, reason="vlc is not installed")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def shared(scene: Any, clips: dict[str, Path]) -> dict[str, str]:
    """Info-hashes of the clips by their kind."""
    return {kind: scene.share(path).infohash_v1.hex() for kind, path in clips.items()}


def run(*arguments: object, timeout_s: float = 90) -> str:
    """Run a player to its end; what it wrote."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def pictures_of(source: object, *options: str, count: int | None = None) -> list[str]:
    """Digests of decoded pictures, by ffmpeg."""
    frames = () if count is None else ("-frames:v", count)
    text = run(
        FFMPEG, "-v", "error", *options, "-i", source, "-map", "0:v:0", *frames,
        "-vsync", "passthrough", "-f", "framemd5", "-",
    )  # fmt: skip
    return [line.rpartition(",")[2].strip() for line in text.splitlines() if line[:1] != "#"]


def stream_of(scene: Any, infohash: str) -> str:
    return f"{scene.face.url}/ace/getstream?infohash={infohash}"


def manifest_of(scene: Any, infohash: str) -> str:
    return f"{scene.face.url}/ace/manifest.m3u8?infohash={infohash}"


@needs_ffmpeg
@pytest.mark.parametrize("kind", KINDS)
def test_ffmpeg_sees_every_picture_of_the_stream(
    scene: Any, clips: dict[str, Path], shared: dict[str, str], kind: str
) -> None:
    pictures = pictures_of(stream_of(scene, shared[kind]))
    assert pictures == pictures_of(clips[kind])
    assert len(pictures) == 500


@needs_ffmpeg
@pytest.mark.parametrize("kind", KINDS)
def test_ffmpeg_sees_every_picture_of_the_manifest(
    scene: Any, clips: dict[str, Path], shared: dict[str, str], kind: str
) -> None:
    assert pictures_of(manifest_of(scene, shared[kind])) == pictures_of(clips[kind])


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_ffmpeg_seeks_to_the_same_picture(
    scene: Any, clips: dict[str, Path], shared: dict[str, str], kind: str
) -> None:
    there = pictures_of(stream_of(scene, shared[kind]), "-ss", "13", count=5)
    assert there == pictures_of(clips[kind], "-ss", "13", count=5)
    hls = pictures_of(manifest_of(scene, shared[kind]), "-ss", "13", count=5)
    assert set(hls) & set(there)


PLACES = """
local first, last
mp.observe_property("time-pos", "number", function(_, place)
  if place then first = first or place; last = place end
end)
mp.register_event("shutdown", function()
  local file = io.open(mp.get_opt("out"), "w")
  file:write(first .. " " .. last)
  file:close()
end)
"""


def mpv(folder: Path, *arguments: object) -> tuple[float, float]:
    """Run mpv without a screen; where it showed its first and its last picture."""
    (folder / "places.lua").write_text(PLACES)
    run(
        MPV, "--no-config", "--vo=null", "--no-audio", "--untimed", "--hr-seek=yes",
        f"--script={folder / 'places.lua'}", f"--script-opts=out={folder / 'out'}", *arguments,
    )  # fmt: skip
    first, last = (folder / "out").read_text().split()
    return float(first), float(last)


@needs_mpv
@pytest.mark.parametrize("kind", KINDS)
def test_mpv_takes_the_bytes_of_the_file(
    scene: Any, clips: dict[str, Path], shared: dict[str, str], kind: str, tmp_path: Path
) -> None:
    run(MPV, "--no-config", f"--stream-dump={tmp_path / 'dump'}", stream_of(scene, shared[kind]))
    assert (tmp_path / "dump").read_bytes() == clips[kind].read_bytes()


@needs_mpv
@pytest.mark.parametrize("kind", KINDS)
def test_mpv_plays_from_a_place_that_it_seeks(
    scene: Any, shared: dict[str, str], kind: str, tmp_path: Path
) -> None:
    first, last = mpv(tmp_path, "--start=12", "--end=15", stream_of(scene, shared[kind]))
    assert 11.9 <= first <= 12.2
    assert 14.5 <= last <= 15.5


@needs_mpv
@pytest.mark.parametrize("kind", KINDS)
def test_mpv_plays_the_manifest_to_its_end(
    scene: Any, shared: dict[str, str], kind: str, tmp_path: Path
) -> None:
    first, last = mpv(tmp_path, manifest_of(scene, shared[kind]))
    assert first < 0.5
    assert last > 19.5


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that an ordinary user may write to."""
    folder = Path(tempfile.mkdtemp(prefix="players-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def vlc(folder: Path, *arguments: object) -> None:
    """Run VLC without a screen; it refuses to be root, so it is made nobody then."""
    as_nobody: list[object] = []
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        as_nobody = [SETPRIV, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    run(
        *as_nobody, "env", f"HOME={folder}", f"XDG_RUNTIME_DIR={folder}", VLC, "--intf", "dummy",
        "--no-video-title-show", "--vout", "dummy", "--aout", "adummy", "--play-and-exit",
        *arguments,
    )  # fmt: skip


@needs_vlc
@pytest.mark.parametrize("kind", KINDS)
def test_vlc_takes_the_bytes_of_the_file(
    scene: Any, clips: dict[str, Path], shared: dict[str, str], kind: str, open_folder: Path
) -> None:
    dump = open_folder / "dump"
    vlc(open_folder, "--demux=dump", f"--demuxdump-file={dump}", stream_of(scene, shared[kind]))
    assert dump.read_bytes() == clips[kind].read_bytes()


@needs_vlc
@needs_ffmpeg
@pytest.mark.parametrize("form", [stream_of, manifest_of])
def test_vlc_plays_a_stretch_that_it_seeks(
    scene: Any, shared: dict[str, str], open_folder: Path, form: Any
) -> None:
    taken = open_folder / "taken.ts"
    vlc(
        open_folder, "--start-time=8", "--stop-time=12",
        f"--sout=#std{{access=file,mux=ts,dst={taken}}}", form(scene, shared["mp4"]),
    )  # fmt: skip
    # It begins at a key frame before 8 s; of a list of segments it does not stop before the end.
    assert 60 <= len(pictures_of(taken)) <= 25 * (20 - 6)


PAGE = """<!doctype html><video id="v" muted></video><script type="module">
const video = document.getElementById("v"), told = {errors: []};
const event = (name) => new Promise((done) => video.addEventListener(name, done, {once: true}));
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
video.addEventListener("error", () => told.errors.push(video.error.message));
try {
  video.src = "URL";
  await event("loadedmetadata");
  told.duration = video.duration;
  await video.play();
  while (video.currentTime < 1) await wait(40);
  told.first = video.currentTime;
  video.currentTime = 14;
  await event("seeked");
  while (video.currentTime < 15) await wait(40);
  told.second = video.currentTime;
  video.currentTime = 19;
  await event("ended");
  told.ended = video.currentTime;
} catch (error) { told.errors.push(String(error)); }
await fetch("/told", {method: "POST", body: JSON.stringify(told)});
</script>"""


def watch_in_chromium(url: str, folder: Path) -> dict[str, Any]:
    """What a page of another site says of a video element that plays a URL."""
    told: dict[str, Any] = {}
    has_told = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            body = PAGE.replace("URL", url).encode()
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            told.update(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()
            has_told.set()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    browser = subprocess.Popen(
        [
            str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio",
            "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required",
            "--no-first-run", "--disable-background-networking", f"--user-data-dir={folder}",
            f"http://localhost:{server.server_address[1]}/",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert has_told.wait(90), "the page told nothing"
    finally:
        os.killpg(browser.pid, 15)
        browser.wait()
        server.shutdown()
        thread.join()
        server.server_close()
    return told


@needs_chromium
def test_chromium_plays_and_seeks(scene: Any, shared: dict[str, str], tmp_path: Path) -> None:
    # A page may play what runs and starts nothing by itself.
    scene.run(scene.start_content(shared["mp4"]))
    told = watch_in_chromium(stream_of(scene, shared["mp4"]), tmp_path)
    assert told["errors"] == []
    assert 19.5 < told["duration"] < 20.5
    assert told["first"] >= 1
    assert told["second"] >= 15
    assert told["ended"] > 19.5
