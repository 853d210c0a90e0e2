import functools
import hashlib
import http.server
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_plugin.errors import SessionError
from engine_plugin.identity import format_handshake, make_peer_id, parse_handshake
from engine_plugin.journal import MeterJournal
from engine_plugin.journal_reading import read_peers, read_totals
from engine_plugin.journal_records import PeerKey, Source, unpack_blocks
from engine_plugin.libtorrent_door import EngineSession, NoticeKind, SessionOptions
from engine_plugin.libtorrent_door.session_options import split_endpoint
from engine_plugin.libtorrent_door.session_records import ALL_TORRENTS, UNKNOWN_TORRENT
from engine_plugin.libtorrent_door.tiers import Tier
from engine_plugin.pump import MeterPump
from engine_plugin.torrents import TorrentFile, make_torrent

pytestmark = pytest.mark.swarm

_DEADLINE_SECONDS = 90.0


class _RangeHandler(http.server.BaseHTTPRequestHandler):
    """A web seed: single ranges, throttled so that peers serve as well."""

    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, *args: object) -> None:
        self._root = root
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        data = (self._root / self.path.lstrip("/")).read_bytes()
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        body = data[int(first) : int(last or len(data) - 1) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        try:
            for start in range(0, len(body), 65536):
                self.wfile.write(body[start : start + 65536])
                time.sleep(0.03)
        except OSError:
            self.close_connection = True


@pytest.fixture
def content(tmp_path: Path) -> Path:
    folder = tmp_path / "source" / "show"
    (folder / "extra").mkdir(parents=True)
    for name, size in (("a.bin", 3_000_017), ("extra/b.bin", 20_001), ("c.bin", 5_123_457)):
        (folder / name).write_bytes(_noise(size, size))
    (folder / "d.txt").write_bytes(b"x")
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def web_seed(content: Path) -> Iterator[str]:
    handler = functools.partial(_RangeHandler, content.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.30", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.30:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


class Node:
    """One metered session with its journal, on its own loopback address."""

    def __init__(self, state: Path, address: str, **options: object) -> None:
        self.key, self.session_id = secrets.token_bytes(32), secrets.token_bytes(16)
        state.mkdir(parents=True, exist_ok=True)
        self.state = state
        self.session = EngineSession(
            SessionOptions(
                listen=f"{address}:0",
                peer_id=make_peer_id(self.key, self.session_id),
                handshake_text=format_handshake(self.key, 7777),
                exchanges_peers=False,
                allows_local_web_seeds=True,
                **options,  # type: ignore[arg-type]
            )
        )
        self.address = address
        self.journal = MeterJournal(state / "meter.db")
        self.journal.start_run(session_id=self.session_id, session_key=self.key, started_at_ms=1)
        self.pump = MeterPump(self.session, self.journal, current_epoch=lambda: 7)
        self.number = -1
        self.notices: list[NoticeKind] = []

    def add(self, torrent: TorrentFile, **options: object) -> None:
        add: Any = self.session.add_torrent
        self.number = self.pump.add(torrent, lambda: add(torrent.data, self.state, **options))

    def step(self) -> None:
        self.notices += [notice.kind for notice in self.pump.step(20).notices]

    def dial(self, other: "Node") -> None:
        self.session.connect_peer(self.number, other.address, other.session.listen_port)

    def close(self) -> None:
        self.session.close()
        self.journal.close()


@pytest.fixture
def nodes() -> Iterator[Callable[..., Node]]:
    opened: list[Node] = []

    def open_node(*args: object, **options: object) -> Node:
        opened.append(Node(*args, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield open_node
    for node in opened:
        node.close()


def _noise(seed: int, size: int) -> bytes:
    return hashlib.shake_128(seed.to_bytes(8, "little")).digest(size)


def _run_until(done: Callable[[], bool], *nodes: Node) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not done():
        assert time.monotonic() < deadline, [node.notices for node in nodes]
        for node in nodes:
            node.step()


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def require_accounted(leecher: Node, seeder: Node, torrent: TorrentFile, content: Path) -> None:
    """Every byte of the content has its source, and each is claimed once."""
    audit = leecher.pump.audit()
    assert audit is not None
    assert audit.unexplained_bytes == 0
    assert leecher.pump.finish(grace_seconds=0.5).journal_error is None
    totals = read_totals(leecher.state / "meter.db")
    delivered = totals.delivered_p2p_bytes + totals.delivered_cdn_bytes
    assert delivered + totals.unattested_bytes + totals.ambiguous_bytes == torrent.content_bytes
    assert totals.pending_bytes == 0
    assert not totals.is_estimated
    assert totals.delivered_p2p_bytes > 0
    assert totals.delivered_cdn_bytes > 0
    assert totals.unclaimed_bytes == delivered
    claims = leecher.journal.list_claims()
    assert {claim.epoch for claim in claims} == {7}
    assert {claim.source: claim.payee_key for claim in claims} == {
        Source.P2P: seeder.key,
        Source.CDN: b"C" * 32,
    }
    with leecher.journal.transaction():
        blocks = [
            block
            for claim in claims
            for part in leecher.journal.take_credits(claim)
            for block in unpack_blocks(part.packed)
        ]
    assert len({(b.piece, b.block) for b in blocks}) == len(blocks)
    assert sum(b.length for b in blocks) == delivered
    assert _hashes(leecher.state / "show") == _hashes(content)

    # What the seeder handed out bounds what the leecher may claim.
    peer_id = make_peer_id(leecher.key, leecher.session_id)
    sent = sum(
        seeder.pump.sent_bytes(key)
        for row in seeder.journal.list_peers()
        if (key := row.peer).peer_id == peer_id
    )
    assert sent >= totals.delivered_p2p_bytes


def test_two_leechers_a_seeder_and_a_web_seed_account_for_every_content_byte(
    content: Path, web_seed: str, tmp_path: Path, nodes: Callable[..., Node]
) -> None:
    torrent = make_torrent(content, web_seeds=[web_seed])
    seeder = nodes(content.parent, "127.0.0.21", upload_limit=2_500_000)
    leechers = [nodes(tmp_path / f"leecher{n}", f"127.0.0.{22 + n}") for n in range(2)]
    seeder.add(torrent, uses_web_seeds=False)
    _run_until(lambda: NoticeKind.CHECKED in seeder.notices, seeder)
    for leecher in leechers:
        leecher.add(torrent)
    _run_until(lambda: all(NoticeKind.CHECKED in node.notices for node in leechers), *leechers)
    for leecher in leechers:
        leecher.dial(seeder)
    leechers[1].dial(leechers[0])
    everybody = (seeder, *leechers)
    _run_until(lambda: all(NoticeKind.FINISHED in node.notices for node in leechers), *everybody)

    for leecher in leechers:
        for _ in range(5):
            for node in everybody:
                node.step()
        client_of = {peer.endpoint: peer for peer in leecher.pump.peers}
        seeder_endpoint = f"{seeder.address}:{seeder.session.listen_port}"
        snapshot = client_of[seeder_endpoint]
        hint = parse_handshake(snapshot.client)
        assert hint is not None
        assert (hint.public_key, hint.receipt_port) == (seeder.key, 7777)
        assert snapshot.peer_id == make_peer_id(seeder.key, seeder.session_id)
        assert snapshot.is_outgoing
        proved = PeerKey(snapshot.peer_id, snapshot.endpoint)
        leecher.journal.prove_peer(proved, seeder.key, epoch=7)
        leecher.journal.prove_cdn(web_seed, b"C" * 32, epoch=7)

    for leecher in leechers:
        require_accounted(leecher, seeder, torrent, content)
    seeder.pump.commit()
    assert read_totals(content.parent / "meter.db").present_bytes == torrent.content_bytes
    assert read_totals(content.parent / "meter.db").delivered_p2p_bytes == 0


def test_single_file_over_several_peers_is_credited_completely(
    tmp_path: Path, nodes: Callable[..., Node]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "film.bin").write_bytes(_noise(5, 8_388_609))
    torrent = make_torrent(source / "film.bin")
    seeders = [nodes(tmp_path / f"s{n}", f"127.0.0.{41 + n}") for n in range(2)]
    for node in seeders:
        node.state = source
        node.add(torrent, is_complete=True)
    leecher = nodes(tmp_path / "leecher", "127.0.0.43", download_limit=8_000_000)
    leecher.add(torrent)
    _run_until(lambda: NoticeKind.CHECKED in leecher.notices, leecher)
    for node in seeders:
        leecher.dial(node)
    _run_until(lambda: NoticeKind.FINISHED in leecher.notices, leecher, *seeders)
    leecher.pump.finish(grace_seconds=0.5)
    totals = leecher.journal.totals()
    assert totals.unattested_bytes + totals.ambiguous_bytes == torrent.content_bytes
    rows = [row for row in leecher.journal.list_peers() if row.firm_bytes]
    assert {row.peer.endpoint.split(":")[0] for row in rows} == {"127.0.0.41", "127.0.0.42"}


def test_recheck_credits_nothing_twice_and_damaged_data_is_counted_again(
    tmp_path: Path, nodes: Callable[..., Node]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "film.bin").write_bytes(_noise(6, 2_000_003))
    torrent = make_torrent(source / "film.bin")
    seeder = nodes(tmp_path / "s", "127.0.0.51")
    seeder.state = source
    seeder.add(torrent, is_complete=True)
    leecher = nodes(tmp_path / "leecher", "127.0.0.52")
    leecher.add(torrent)
    _run_until(lambda: NoticeKind.CHECKED in leecher.notices, leecher)
    leecher.dial(seeder)
    _run_until(lambda: NoticeKind.FINISHED in leecher.notices, leecher, seeder)
    leecher.pump.commit()
    meter = leecher.pump.meter(leecher.number)
    assert sum(meter.firm.values()) + meter.pending_bytes == torrent.content_bytes

    with (leecher.state / "film.bin").open("r+b") as film:
        film.seek(10)
        film.write(b"damaged")
    leecher.notices.clear()
    leecher.session.force_recheck(leecher.number)
    _run_until(lambda: NoticeKind.CHECKED in leecher.notices, leecher, seeder)
    _run_until(lambda: meter.present_bytes == torrent.content_bytes - 65536, leecher, seeder)
    assert sum(meter.firm.values()) == torrent.content_bytes
    leecher.notices.clear()
    leecher.dial(seeder)
    _run_until(lambda: NoticeKind.FINISHED in leecher.notices, leecher, seeder)
    leecher.pump.finish(grace_seconds=0.5)
    assert sum(meter.firm.values()) == torrent.content_bytes + 65536
    assert _hashes(leecher.state)["film.bin"] == _hashes(source)["film.bin"]


_LEECHER = """
    import sys, time
    from pathlib import Path
    from engine_plugin.identity import *
    from engine_plugin.journal import MeterJournal
    from engine_plugin.libtorrent_door import *
    from engine_plugin.pump import MeterPump
    from engine_plugin.torrents import read_torrent
    state, address, port, session_id = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    torrent = read_torrent((state / "t.torrent").read_bytes())
    key, session_id = bytes(32), bytes.fromhex(session_id)
    session = EngineSession(SessionOptions(
        listen="127.0.0.62:0", peer_id=make_peer_id(key, session_id),
        handshake_text=format_handshake(key, 0), download_limit=2_000_000))
    journal = MeterJournal(state / "meter.db")
    journal.start_run(session_id=session_id, session_key=key, started_at_ms=1)
    pump = MeterPump(session, journal, current_epoch=lambda: 1)
    number = pump.add(
        torrent, lambda: session.add_torrent(torrent.data, state, peers=[(address, port)])
    )
    while True:
        result = pump.step(50)
        firm = sum(pump.meter(number).firm.values())
        print(firm, any(n.kind == "finished" for n in result.notices), flush=True)
"""


def test_killed_leecher_keeps_a_consistent_journal_and_its_successor_continues_it(
    tmp_path: Path, nodes: Callable[..., Node]
) -> None:
    source, state = tmp_path / "source", tmp_path / "leecher"
    source.mkdir()
    state.mkdir()
    (source / "film.bin").write_bytes(_noise(8, 8_000_003))
    torrent = make_torrent(source / "film.bin")
    (state / "t.torrent").write_bytes(torrent.data)
    seeder = nodes(tmp_path / "s", "127.0.0.61")
    seeder.state = source
    seeder.add(torrent, is_complete=True)
    _run_until(lambda: seeder.session.listen_port > 0, seeder)
    script = tmp_path / "leecher.py"
    script.write_text(textwrap.dedent(_LEECHER))

    def start(session_id: bytes) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                sys.executable,
                str(script),
                str(state),
                seeder.address,
                str(seeder.session.listen_port),
                session_id.hex(),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def run(process: subprocess.Popen[str], *, until: Callable[[int, str], bool]) -> None:
        assert process.stdout is not None
        with process, process.stdout as lines:
            for line in lines:
                firm, finished = line.split()
                if until(int(firm), finished):
                    process.send_signal(signal.SIGKILL)
                    break

    run(start(b"1" * 16), until=lambda firm, _: firm > 2_500_000)
    first = read_totals(state / "meter.db")
    assert 0 < first.unattested_bytes < torrent.content_bytes
    successor = MeterJournal(state / "meter.db")
    with successor.transaction() as tx:
        (credited,) = tx.execute("SELECT sum(bytes) FROM journal_credit").fetchone()
    successor.close()
    assert credited == first.unattested_bytes
    seen: list[str] = []
    run(start(b"2" * 16), until=lambda _, finished: finished == "True" or bool(seen))
    second = read_totals(state / "meter.db")
    assert second.unattested_bytes >= first.unattested_bytes
    # Never more than the content: what the first run left on disk was not fetched again.
    assert second.unattested_bytes + second.present_bytes <= (
        torrent.content_bytes + first.unattested_bytes
    )
    rows = read_peers(state / "meter.db")
    assert sum(r.firm_bytes for r in rows if r.session_id == b"1" * 16) == first.unattested_bytes


def test_handles_of_alerts_are_recognised_without_growing_a_table(
    tmp_path: Path, nodes: Callable[..., Node]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "film.bin").write_bytes(_noise(9, 1_000_000))
    node = nodes(tmp_path / "s", "127.0.0.71")
    node.state = source
    node.add(make_torrent(source / "film.bin"))
    _run_until(lambda: NoticeKind.CHECKED in node.notices, node)
    assert len(node.session._by_handle) == 1


def test_same_torrent_twice_is_refused(tmp_path: Path, nodes: Callable[..., Node]) -> None:
    (tmp_path / "film.bin").write_bytes(b"film" * 9000)
    torrent = make_torrent(tmp_path / "film.bin")
    node = nodes(tmp_path / "s", "127.0.0.81")
    node.add(torrent)
    with pytest.raises(SessionError, match="torrent"):
        node.session.add_torrent(torrent.data, tmp_path)
    with pytest.raises(SessionError, match="torrent"):
        node.session.add_torrent(b"no torrent", tmp_path)


def test_debtor_is_slowed_and_blocked_address_gets_nothing(
    tmp_path: Path, nodes: Callable[..., Node]
) -> None:
    (tmp_path / "film.bin").write_bytes(_noise(10, 4_000_000))
    torrent = make_torrent(tmp_path / "film.bin")
    seeder = nodes(tmp_path / "s", "127.0.0.91")
    seeder.state = tmp_path
    leecher = nodes(tmp_path / "leecher", "127.0.0.92")
    seeder.add(torrent, is_complete=True)
    seeder.session.tiers.limit(Tier.DEBTOR, 20_000)
    assert seeder.session.tiers.assign(leecher.address, Tier.DEBTOR)
    assert not seeder.session.tiers.assign(leecher.address, Tier.DEBTOR)
    leecher.add(torrent)
    meter = leecher.pump.meter(leecher.number)
    _run_until(lambda: NoticeKind.CHECKED in leecher.notices, leecher)
    leecher.dial(seeder)
    _run_until(lambda: any(peer.handshake_done for peer in leecher.pump.peers), leecher, seeder)
    # Unlimited, the whole film would arrive in a fraction of these steps.
    for _ in range(60):
        leecher.step()
        seeder.step()
    assert sum(meter.firm.values()) < torrent.content_bytes // 2
    seeder.session.tiers.block(leecher.address)
    _run_until(lambda: NoticeKind.DISCONNECTED in leecher.notices, leecher, seeder)
    seeder.session.tiers.unblock(leecher.address)
    seeder.session.tiers.assign(leecher.address, Tier.GOOD)
    leecher.dial(seeder)
    _run_until(lambda: NoticeKind.FINISHED in leecher.notices, leecher, seeder)


@pytest.mark.parametrize("text", ["127.0.0.1", "host:1", "127.0.0.1:65536", "[::1]", "::1:x", ""])
def test_endpoint_that_is_no_address_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"endpoint|got|address|Octet|Expected"):
        split_endpoint(text)


def test_journal_that_refuses_is_written_later_without_loss(
    tmp_path: Path, nodes: Callable[..., Node]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "film.bin").write_bytes(_noise(11, 1_000_003))
    torrent = make_torrent(source / "film.bin")
    seeder = nodes(tmp_path / "s", "127.0.0.101")
    seeder.state = source
    seeder.add(torrent, is_complete=True)
    leecher = nodes(tmp_path / "leecher", "127.0.0.102")
    leecher.add(torrent)
    _run_until(lambda: NoticeKind.CHECKED in leecher.notices, leecher)
    with leecher.journal.transaction() as tx:
        tx.execute("ALTER TABLE journal_credit RENAME TO away")
    leecher.dial(seeder)
    _run_until(lambda: NoticeKind.FINISHED in leecher.notices, leecher, seeder)
    error = leecher.pump.commit().journal_error
    assert error is not None
    assert "journal_credit" in error
    with leecher.journal.transaction() as tx:
        assert tx.execute("SELECT total(firm_bytes) FROM journal_peer").fetchone() == (0,)
        tx.execute("ALTER TABLE away RENAME TO journal_credit")
    assert leecher.pump.finish(grace_seconds=0.2).journal_error is None
    totals = leecher.journal.totals()
    assert totals.unattested_bytes + totals.ambiguous_bytes == torrent.content_bytes


def test_last_alerts_of_a_removed_torrent_touch_no_other_torrent(
    tmp_path: Path, nodes: Callable[..., Node]
) -> None:
    for name in ("one.bin", "two.bin"):
        (tmp_path / name).write_bytes(_noise(len(name) + ord(name[0]), 1_000_003))
    one, two = (make_torrent(tmp_path / name) for name in ("one.bin", "two.bin"))
    seeder = nodes(tmp_path / "s", "127.0.0.111")
    leecher = nodes(tmp_path / "leecher", "127.0.0.112", download_limit=1_000_000)
    seeder.state = tmp_path
    seeder.add(one, is_complete=True)
    seeder.add(two, is_complete=True)
    leecher.add(one)
    _run_until(lambda: NoticeKind.CHECKED in leecher.notices, leecher)
    leecher.dial(seeder)
    first, meter = leecher.number, leecher.pump.meter(leecher.number)
    _run_until(lambda: sum(meter.firm.values()) > 0, leecher, seeder)
    leecher.add(two)
    other = leecher.pump.meter(leecher.number)
    # Removed behind the pump's back, with alerts still in the queue.
    handle = leecher.session._handles[first]
    leecher.session.remove_torrent(first)
    while handle.is_valid():
        seeder.step()
    drained = leecher.session.drain()
    assert all(event[1] != ALL_TORRENTS for event in drained.events)
    leecher.pump._feed(drained)
    assert not other.firm
    assert not other._wrote
    # A handle that was never met before its torrent went names no torrent, and not all of them.
    leecher.session._by_handle.clear()
    assert leecher.session._torrent_of(handle) == UNKNOWN_TORRENT != ALL_TORRENTS
    assert not leecher.session._by_handle
    assert leecher.pump.remove(leecher.number).journal_error is None
    assert leecher.journal.totals().unattested_bytes == sum(meter.firm.values())
