"""Totals of an Ace Stream engine: read from our own face, and from engines that answer nonsense."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine_plugin.adapters.ace_stream import AceEngineError, AceStreamEngine
from engine_plugin.adapters.protocol import EngineTotals
from engine_plugin.adapters.totals_journal import TOTALS_NAME, TotalsJournal, read_aggregates
from engine_plugin.config import ContentOptions, EngineConfig
from engine_plugin.engine import Engine
from engine_plugin.http_face.face import FaceConfig, start_http_face
from engine_plugin.torrents import make_torrent
from engine_plugin.wire import Endpoint

LOOPBACK = Endpoint("127.0.0.1", 0)
TOTALS = EngineTotals(
    content_id="ab",
    playback_id="p1",
    is_live=False,
    peer_count=3,
    downloaded_bytes=100,
    http_bytes=40,
    uploaded_bytes=7,
)


def _run(arguments: list[str]) -> "subprocess.Popen[str]":
    program = "from engine_plugin.command import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "totals", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )


@pytest.mark.swarm
def test_what_our_own_face_plays_is_counted_to_the_byte_and_marked_aggregate(
    tmp_path: Path,
) -> None:
    (tmp_path / "seed").mkdir()
    film = tmp_path / "seed" / "film.ts"
    film.write_bytes(os.urandom(700_001))
    torrent = make_torrent(film)

    async def scene() -> tuple[str, str, int | None]:
        ready: dict[str, Any] = {}

        def note(name: str, /, **fields: Any) -> None:
            if name == "ready":
                ready.update(fields)

        seeding = EngineConfig(listen=LOOPBACK, state_path=tmp_path / "a", dials_utp=False)
        viewing = EngineConfig(listen=LOOPBACK, state_path=tmp_path / "b", dials_utp=False)
        async with Engine(seeding, note) as seeder, Engine(viewing) as viewer:
            await seeder.add(torrent, ContentOptions(save_path=tmp_path / "seed", is_complete=True))
            ip, _, port = ready["listen"].rpartition(":")
            content = await viewer.add(torrent, ContentOptions(save_path=tmp_path / "saved"))
            face = FaceConfig(
                save_path=tmp_path / "saved", token_path=tmp_path / "token", listen=LOOPBACK
            )
            async with await start_http_face(viewer, face) as face_running:
                url = f"http://{face_running.listen}"
                counting = _run(
                    [
                        *("--engine", url, "--state", str(tmp_path / "c"), "--json"),
                        *("--infohash", torrent.infohash_v1.hex()),
                    ]
                )
                async with asyncio.timeout(60):
                    assert counting.stdout is not None
                    first = await asyncio.to_thread(counting.stdout.readline)
                    assert json.loads(first)["downloaded_bytes"] == 0
                    content.connect(Endpoint(ip, int(port)))
                    while content.missing_pieces() or not content.is_settled:
                        await asyncio.sleep(0.05)
                    async with httpx.AsyncClient(trust_env=False) as player:
                        await player.get(
                            f"{url}/ace/getstream", params={"infohash": torrent.infohash_v1.hex()}
                        )
                    await asyncio.sleep(1.5)
                    counting.send_signal(signal.SIGTERM)
                    said, complaints = await asyncio.to_thread(counting.communicate)
                return first + said, complaints, counting.returncode

    said, complaints, status = asyncio.run(scene())
    assert status == 0, complaints
    events = [json.loads(line) for line in said.splitlines()]
    assert {event["class"] for event in events} == {"aggregate"}
    assert events[-1]["event"] == "stopped"
    assert events[-1]["downloaded_bytes"] == 700_001
    (sums,) = read_aggregates(tmp_path / "c" / TOTALS_NAME)
    assert (sums.downloaded_bytes, sums.http_bytes, sums.playbacks) == (700_001, 0, 1)


def test_playbacks_add_up_and_a_playback_never_falls(tmp_path: Path) -> None:
    journal = TotalsJournal(tmp_path / "t.sqlite")
    journal.record("e", TOTALS, 1)
    journal.record("e", replace(TOTALS, downloaded_bytes=90, http_bytes=30), 2)
    journal.record("e", replace(TOTALS, downloaded_bytes=110, http_bytes=None), 3)
    journal.record("e", replace(TOTALS, playback_id="p2", downloaded_bytes=5, http_bytes=None), 4)
    journal.close()
    (sums,) = read_aggregates(tmp_path / "t.sqlite")
    assert (sums.downloaded_bytes, sums.http_bytes, sums.uploaded_bytes) == (115, 40, 14)
    assert sums.playbacks == 2
    assert read_aggregates(tmp_path / "none.sqlite") == []


class _Liar(BaseHTTPRequestHandler):
    opened: dict[str, Any]
    figures: Any

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        is_opening = self.path.startswith("/ace/getstream")
        told = self.opened if is_opening else self.figures
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def liar() -> Iterator[tuple[str, type[_Liar]]]:
    handler = type("Liar", (_Liar,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def _opened(url: str, **changes: Any) -> dict[str, Any]:
    answer = {
        "stat_url": f"{url}/s",
        "command_url": f"{url}/c",
        "infohash": "ab",
        "playback_session_id": "p",
    }
    return {"response": answer | changes, "error": None}


def _read(url: str) -> EngineTotals:
    async def read() -> EngineTotals:
        async with AceStreamEngine(url, key="infohash", value="ab") as engine:
            return await engine.read()

    return asyncio.run(read())


@pytest.mark.parametrize(
    ("figures", "complaint"),
    [
        ({"response": {"downloaded": -1}, "error": None}, "downloaded: got '-1'"),
        ({"response": {"downloaded": 1.5}, "error": None}, "downloaded: got '1.5'"),
        ({"response": {"downloaded": True}, "error": None}, "downloaded: got 'True'"),
        ({"response": {"downloaded": 2**63}, "error": None}, "downloaded"),
        ({"response": {"downloaded": 1, "http_downloaded": 2}, "error": None}, "at most 1"),
        ({"response": [], "error": None}, "downloaded"),
        ({"response": None, "error": "no such session"}, "no such session"),
        ({}, "None"),
        ([], "got list, want an object"),
        (b"{", "got no JSON"),
        (b" " * (2 << 20), "want at most"),
    ],
)
def test_nonsense_is_refused_with_its_field(
    liar: tuple[str, type[_Liar]], figures: Any, complaint: str
) -> None:
    url, handler = liar
    handler.opened, handler.figures = _opened(url), figures
    with pytest.raises(AceEngineError, match=complaint):
        _read(url)


def test_engine_that_sends_us_elsewhere_is_refused(liar: tuple[str, type[_Liar]]) -> None:
    url, handler = liar
    handler.opened = _opened(url, stat_url="http://127.0.0.1:1/s")
    with pytest.raises(AceEngineError, match="url: got"):
        _read(url)


def test_older_engine_without_a_split_leaves_it_open(liar: tuple[str, type[_Liar]]) -> None:
    url, handler = liar
    handler.opened = _opened(url, stat_url="/s", command_url="/c")
    handler.figures = {"response": {"downloaded": 9, "peers": 2, "is_live": 1}, "error": None}
    totals = _read(url)
    assert (totals.downloaded_bytes, totals.http_bytes, totals.is_live) == (9, None, True)


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        ([], 2, "content: want exactly one"),
        (["--infohash", "ab", "--magnet", "m"], 2, "content: want exactly one"),
        (["--infohash", "ab", "--engine", "127.0.0.1"], 1, "want an http URL"),
        (["--infohash", "ab", "--engine", "http://127.0.0.1:1"], 1, "127.0.0.1:1"),
    ],
)
def test_wrong_input_ends_with_one_line(
    tmp_path: Path, arguments: list[str], status: int, complaint: str
) -> None:
    counting = _run(["--state", str(tmp_path), *arguments])
    _, said = counting.communicate()
    assert counting.returncode == status
    assert complaint in said
    assert "Traceback" not in said
