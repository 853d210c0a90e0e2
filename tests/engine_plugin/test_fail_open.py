"""Playback goes on whatever else fails, and the accounting catches up by itself.

Whole engines in a network namespace of their own; a player without a screen reads the viewer's
HTTP face at the film's rate. While it plays, the collector and the side channel become
unreachable, every other peer is killed, and the disk with everybody's journal and spool is full.
"""

import asyncio
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import networks
import pytest
from faulty_cdn import FaultyCdn

from engine_plugin.config import ContentOptions, EngineConfig
from engine_plugin.engine import Engine
from engine_plugin.journal_reading import read_peers, read_totals
from engine_plugin.torrents import make_torrent
from engine_plugin.wire import Endpoint
from ledger.bench.paced_player import PlayFigures, play
from ledger.evidence.bundle import BundleKind
from ledger.evidence.keys import generate_seed, public_key_of
from ledger.evidence.terms import CdnTerms

IS_LONG = bool(os.environ.get("SWARMLEDGER_LONG_TESTS"))
pytestmark = [
    pytest.mark.swarm,
    pytest.mark.process,
    pytest.mark.skipif(bool(networks.missing()), reason=f"no networks: {networks.missing()}"),
]

MIB = 1 << 20
RATE = MIB
"""The film's, bytes per second."""

FILM_S = 24
TICK_S = 1.0
"""libtorrent connects CDNs once a second."""

FAULT_S = 3.0
NAMESPACE = f"swl-failopen-{os.getpid()}"
PLAYING_S = 60


class Wall:
    """Makes TCP ports of the namespace unreachable."""

    def __init__(self, name: str, *ports: int, verdict: str) -> None:
        self.name = name
        listed = ", ".join(map(str, ports))
        self.rules = f"""table inet {name} {{
            chain input {{
                type filter hook input priority 0; policy accept;
                tcp dport {{ {listed} }} counter {verdict}
                tcp sport {{ {listed} }} counter {verdict}
            }}
        }}"""

    def begin(self) -> None:
        networks.run("ip", "netns", "exec", NAMESPACE, "nft", "-f", "-", stdin=self.rules)

    def end(self) -> None:
        networks.run("ip", "netns", "exec", NAMESPACE, "nft", "delete", "table", "inet", self.name)


@dataclass
class FullDisk:
    """A small file system that holds the state of every engine."""

    folder: Path

    def begin(self) -> None:
        with (self.folder / "filler").open("wb", buffering=0) as filler:
            for part in (bytes(64 << 10), bytes(512)):
                try:
                    while filler.write(part) == len(part):
                        pass
                except OSError:
                    continue

    def end(self) -> None:
        (self.folder / "filler").unlink()


@dataclass
class HangingDisk:
    """Every sync of every file waits while a flag lies there: a disk that does not answer."""

    flag: Path

    def begin(self) -> None:
        self.flag.touch()

    def end(self) -> None:
        self.flag.unlink()


@dataclass
class Scene:
    """A seeder, a viewer with its HTTP face, a CDN and a collector."""

    tmp_path: Path
    disk: FullDisk
    cdn: FaultyCdn
    plain_cdn: FaultyCdn
    operator: Any
    start_engine: Callable[..., Any]
    data: bytes
    seeder: Any = None
    viewer: Any = None
    seeds_at: str = "127.0.0.2:0"
    receipt_port: int = 0
    figures: list[PlayFigures] = field(default_factory=list)
    plain: list[PlayFigures] = field(default_factory=list)
    players: list[threading.Thread] = field(default_factory=list)

    def start_seeder(self) -> None:
        self.seeder = self.start_engine(
            "seed", self.tmp_path / "film.ts", "--torrent", self.tmp_path / "film.torrent",
            "--listen", self.seeds_at, "--state", self.disk.folder / "seeder",
            "--terms", self.tmp_path / "terms", "--upload-limit", RATE // 2,
            "--receipt-port", self.receipt_port, log="seeder", inside=NAMESPACE,
        )  # fmt: skip
        ready = self.seeder.wait_for("ready")
        self.seeds_at, self.receipt_port = ready["listen"], ready["receipt_port"]

    def start(self) -> None:
        (self.tmp_path / "film.ts").write_bytes(self.data)
        torrent = make_torrent(self.tmp_path / "film.ts", web_seeds=[self.cdn.url("film.ts")])
        (self.tmp_path / "film.torrent").write_bytes(torrent.data)
        (self.tmp_path / "terms").write_bytes(self.operator.terms.raw)
        self.start_seeder()
        self.viewer = self.start_engine(
            "serve", self.tmp_path / "film.torrent", "--save", self.tmp_path / "saved",
            "--listen", "127.0.0.3:0", "--http", "127.0.0.1:0", "--state",
            self.disk.folder / "viewer", "--terms", self.tmp_path / "terms",
            "--entitlement-url", self.operator.url, "--peer", self.seeds_at,
            log="viewer", inside=NAMESPACE,
        )  # fmt: skip
        base = self.viewer.wait_for("http")["url"]
        self.url = f"{base}/ace/getstream?content_id={torrent.content_id.hex()}"

    def begin_to_play(self) -> None:
        """Play through the viewer and, beside it, from a like CDN: the measure of the picture."""

        def run(url: str, results: list[PlayFigures]) -> None:
            size = len(self.data)
            results.append(
                networks.call_in(
                    NAMESPACE,
                    lambda: play(url, offset=0, length=size, rate_bytes_per_s=RATE),
                )
            )

        for url, results in (
            (self.url, self.figures), (self.plain_cdn.url("film.ts"), self.plain)
        ):  # fmt: skip
            thread = threading.Thread(target=run, args=(url, results))
            thread.start()
            self.players.append(thread)

    def require_picture(self) -> None:
        for player in self.players:
            player.join(PLAYING_S)
        [figures], [plain] = self.figures, self.plain
        assert figures.digest == plain.digest == sha256(self.data).digest()
        seen = figures, plain
        assert figures.start_s <= 2 * plain.start_s + TICK_S, seen
        # A fault may cost what it takes to connect to the CDN, once.
        assert figures.stalled_s <= plain.stalled_s + 2 * TICK_S, seen

    def collector_wall(self) -> Wall:
        return Wall("collector", self.operator.port, verdict="reject with tcp reset")

    def channel_wall(self) -> Wall:
        ports = [engine.wait_for("ready")["receipt_port"] for engine in (self.seeder, self.viewer)]
        return Wall("channel", *ports, verdict="drop")

    def require_all_counted(self) -> None:
        """Every byte has its source, and every attested one its receipt at the collector."""
        self.viewer.wait_for("complete")
        viewer_end, seeder_end = self.viewer.stop(), self.seeder.stop()
        classes, size = viewer_end["bytes"], len(self.data)
        assert (self.tmp_path / "saved").exists()
        assert classes["p2p_attested"] > 0
        assert classes["cdn"] > 0
        assert classes["p2p_attested"] + classes["cdn"] == size, classes
        assert viewer_end["unsigned_bytes"] == viewer_end["audit_difference_bytes"] == 0
        assert viewer_end["unsent_bundles"] == seeder_end["unsent_bundles"] == 0
        journal = self.disk.folder / "viewer" / "meter.sqlite"
        metered: defaultdict[bytes, int] = defaultdict(int)
        for peer in read_peers(journal):
            if peer.firm_bytes:
                assert peer.public_key is not None
                metered[peer.public_key] += peer.firm_bytes
        receipted: defaultdict[bytes, int] = defaultdict(int)
        for kind in BundleKind:
            for receipt in self.operator.final_receipts(kind).values():
                receipted[receipt.payee_key] += receipt.bytes_total
        assert receipted == metered
        assert sum(receipted.values()) == read_totals(journal).claimed_bytes == size


@pytest.fixture
def namespace() -> Iterator[str]:
    networks.run("ip", "netns", "add", NAMESPACE)
    try:
        networks.run("ip", "-n", NAMESPACE, "link", "set", "lo", "up")
        yield NAMESPACE
    finally:
        networks.run("ip", "netns", "delete", NAMESPACE)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FullDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    networks.run("mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder))
    try:
        yield FullDisk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def scene(
    namespace: str,
    disk: FullDisk,
    tmp_path: Path,
    make_operator: Callable[..., Any],
    start_engine: Callable[..., Any],
) -> Iterator[Scene]:
    data = random.Random(11).randbytes(FILM_S * RATE)
    cdn, plain_cdn = (
        networks.call_in(namespace, lambda: FaultyCdn(data, rate_bytes=RATE * 5 // 4))
        for _ in range(2)
    )
    try:
        terms = CdnTerms(
            key=public_key_of(generate_seed()), account=bytes(32), price_stroops=0,
            price_quantity_bytes=1, host=cdn.host,
        )  # fmt: skip
        operator = networks.call_in(
            namespace, lambda: make_operator(epoch_length_s=5, cdns=(terms,))
        )
        made = Scene(tmp_path, disk, cdn, plain_cdn, operator, start_engine, data)
        made.start()
        yield made
        for player in made.players:
            player.join(PLAYING_S)
    finally:
        cdn.close()
        plain_cdn.close()


def test_faults_one_after_the_other_do_not_stop_the_picture_and_all_is_signed(
    scene: Scene,
) -> None:
    scene.begin_to_play()
    scene.viewer.wait_for("receipt", direction="out")
    for fault in (scene.disk, scene.channel_wall(), scene.collector_wall()):
        fault.begin()
        time.sleep(FAULT_S)
        fault.end()
    scene.seeder.kill()
    time.sleep(FAULT_S)
    scene.start_seeder()
    assert scene.players[0].is_alive()
    scene.require_picture()
    scene.require_all_counted()
    scene.viewer.wait_for("error", where="journal")


def test_everything_failing_at_once_does_not_stop_the_picture_and_all_is_signed(
    scene: Scene,
) -> None:
    scene.begin_to_play()
    scene.viewer.wait_for("receipt", direction="out")
    faults = (scene.disk, scene.channel_wall(), scene.collector_wall())
    for fault in faults:
        fault.begin()
    scene.seeder.kill()
    time.sleep(2 * FAULT_S)
    for fault in faults:
        fault.end()
    scene.start_seeder()
    assert scene.players[0].is_alive()
    scene.require_picture()
    scene.require_all_counted()
    scene.viewer.wait_for("error", where="journal")


@pytest.mark.skipif(not IS_LONG, reason="long: set SWARMLEDGER_LONG_TESTS")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: nothing hangs a sync")
def test_a_disk_that_hangs_stops_neither_the_picture_nor_what_is_signed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    library, hanging = tmp_path / "hang.so", HangingDisk(tmp_path / "hangs")
    command = ["cc", "-shared", "-fPIC", "-o", library, Path(__file__).parent / "hanging_sync.c"]
    subprocess.run([*command, "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("SYNC_HANGS_WHILE", str(hanging.flag))
    scene: Scene = request.getfixturevalue("scene")
    monkeypatch.delenv("LD_PRELOAD")
    scene.begin_to_play()
    scene.viewer.wait_for("receipt", direction="out")
    hanging.begin()
    time.sleep(FAULT_S)
    told = [len(engine.of("receipt")) for engine in (scene.viewer, scene.seeder)]
    time.sleep(FAULT_S)
    # Nothing leaves that is not on the disk; engines go on saying so, and how far they are.
    assert told == [len(engine.of("receipt")) for engine in (scene.viewer, scene.seeder)]
    for engine in (scene.viewer, scene.seeder):
        assert engine.of("error")[-1]["where"] == "disk"
        assert engine.of("progress")[-1] != engine.of("progress")[-2]
    hanging.end()
    assert scene.players[0].is_alive()
    scene.require_picture()
    scene.require_all_counted()


def test_engine_whose_output_nobody_can_write_serves_and_stops_cleanly(
    tmp_path: Path, start_engine: Callable[..., Any]
) -> None:
    data = random.Random(13).randbytes(MIB)
    (tmp_path / "part.ts").write_bytes(data)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
    words = [
        sys.executable, "-c", "from engine_plugin.command import main; main()",
        "seed", tmp_path / "part.ts", "--torrent-out", tmp_path / "t", "--listen", listen,
        "--state", tmp_path / "seeder", "--json",
    ]  # fmt: skip
    with Path("/dev/full").open("wb") as full:
        seeder = subprocess.Popen(list(map(str, words)), stdout=full, stderr=full)
    try:
        while not (tmp_path / "t").exists():
            assert seeder.poll() is None
            time.sleep(0.05)
        viewer = start_engine(
            "view", tmp_path / "t", "--save", tmp_path / "saved", "--listen", "127.0.0.1:0",
            "--state", tmp_path / "viewer", "--peer", listen, "--no-entitlement",
        )  # fmt: skip
        viewer.wait_for("complete")
        assert viewer.stop()["bytes"]["p2p_unattested"] == len(data)
        seeder.send_signal(signal.SIGTERM)
        # Python says 120 when what was printed could not be written at the end.
        assert seeder.wait(30) in {0, 120}
    finally:
        seeder.kill()
        seeder.wait()


def test_content_begins_on_a_full_disk_and_is_booked_when_there_is_room(
    disk: FullDisk, tmp_path: Path, make_operator: Callable[..., Any]
) -> None:
    data = random.Random(12).randbytes(MIB + 77)
    (tmp_path / "part.ts").write_bytes(data)
    cdn = FaultyCdn(data)
    terms = CdnTerms(
        key=public_key_of(generate_seed()), account=bytes(32), price_stroops=0,
        price_quantity_bytes=1, host=cdn.host,
    )  # fmt: skip
    operator = make_operator(cdns=(terms,))
    torrent = make_torrent(tmp_path / "part.ts")
    journal = disk.folder / "state" / "meter.sqlite"
    errors: list[str] = []
    entitled = asyncio.Event()

    def note(name: str, /, **fields: Any) -> None:
        if name == "error":
            errors.append(fields["where"])
        if name == "entitled":
            entitled.set()

    async def scene() -> None:
        config = EngineConfig(
            listen=Endpoint("127.0.0.1", 0), state_path=disk.folder / "state",
            terms=operator.terms, entitlement_url=operator.url, allows_local_web_seeds=True,
        )  # fmt: skip
        async with Engine(config, note) as engine, asyncio.timeout(60):
            disk.begin()
            options = ContentOptions(save_path=tmp_path / "saved", uses_web_seeds=False)
            content = await engine.add(torrent, options)
            with closing(sqlite3.connect(journal, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                content.add_web_seed(cdn.url("part.ts"))
            assert "cdn" in errors
            pieces = range(torrent.layout.piece_count)
            read = [await content.read_piece(piece) for piece in pieces]
            assert b"".join(read)[: len(data)] == data
            while "journal" not in errors:
                await asyncio.sleep(0.05)
            assert not content.is_settled
            disk.end()
            while not content.is_settled:
                await asyncio.sleep(0.05)
            await engine.remove(content)
            assert not engine.contents
            await entitled.wait()

    try:
        asyncio.run(scene())
    finally:
        cdn.close()
    receipts = operator.final_receipts(BundleKind.VIEWER).values()
    assert {receipt.payee_key: receipt.bytes_total for receipt in receipts} == {
        terms.key: len(data)
    }
    totals = read_totals(journal)
    assert totals.claimed_bytes == totals.delivered_cdn_bytes == len(data)
