"""Enforcement in real libtorrent sessions: what cheaters get, and what honest viewers notice.

Keys and receipts follow a script here: a key counts as proved some time after its connection came,
an honest viewer's receipts are a moment behind. Whole engines are tested in `test_engines`.
"""

import hashlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from engine_plugin.enforcement import Enforcer, list_addresses_of, list_takings
from engine_plugin.identity import format_handshake, make_peer_id, parse_handshake
from engine_plugin.libtorrent_door import EngineSession, SessionOptions
from engine_plugin.meter import BLOCK_BYTES, EventKind
from engine_plugin.standing import EnforcementPolicy, KeyExposure, PlainPeers
from engine_plugin.torrents import TorrentFile, make_torrent

pytestmark = pytest.mark.swarm

MIB = 1 << 20
KIB = 1 << 10
SIZE = 28 * MIB
RATE = 4 * MIB
BUFFERS = 12 * MIB
"""What loopback takes at once from a seeder whose viewer reads slowly, beside what it reads."""

PROOF_S = 0.4
RECEIPTS_BEHIND_S = 0.5
POLICY = EnforcementPolicy(plain_peers=PlainPeers.PROBATION)


@dataclass(eq=False)
class Viewer:
    """A leeching session and how it behaves on the side channel that is not there."""

    session: EngineSession
    peer_id: bytes
    key: bytes
    address: str
    proves: bool
    acknowledges: bool
    taken: int = 0
    is_finished: bool = False
    sent: deque[tuple[float, int]] = field(default_factory=deque)
    receipted: int = 0


class Swarm:
    """A seeder under enforcement and its viewers, all in this thread."""

    def __init__(self, folder: Path, policy: EnforcementPolicy | None) -> None:
        self.folder = folder
        (folder / "film.bin").write_bytes(hashlib.shake_128(b"film").digest(SIZE))
        self.torrent: TorrentFile = make_torrent(folder / "film.bin")
        self.viewers: list[Viewer] = []
        self.seeder, _, _ = self._open("127.0.0.2", is_plain=False)
        self.seeder.add_torrent(self.torrent.data, folder, is_complete=True)
        while not self.seeder.listen_port:
            self.seeder.wait(20)
        self.enforcer = (
            None
            if policy is None
            else Enforcer(
                self.seeder.tiers,
                policy,
                list_addresses=lambda: list_addresses_of(self.seeder.peers()),
            )
        )
        self.cut_offs: list[str] = []
        self._sent: dict[int, int] = {}
        self._seen_s: dict[int, float] = {}
        self._next_s = 0.0

    def _open(self, address: str, *, is_plain: bool) -> tuple[EngineSession, bytes, bytes]:
        key, session_id = secrets.token_bytes(32), secrets.token_bytes(16)
        peer_id = b"-XX0100-abcdefghijkl" if is_plain else make_peer_id(key, session_id)
        text = "Plain/1" if is_plain else format_handshake(key, 7777)
        options = SessionOptions(
            listen=f"{address}:0",
            peer_id=peer_id,
            handshake_text=text,
            exchanges_peers=False,
            dials_utp=False,
            download_limit=RATE,
        )
        if address == "127.0.0.2":
            options = replace(options, download_limit=0)
        return EngineSession(options), peer_id, key

    def join(
        self,
        address: str,
        *,
        proves: bool = True,
        acknowledges: bool = True,
        is_plain: bool = False,
    ) -> Viewer:
        session, peer_id, key = self._open(address, is_plain=is_plain)
        place = self.folder / f"viewer-{len(self.viewers)}"
        place.mkdir()
        session.add_torrent(
            self.torrent.data, place, peers=[("127.0.0.2", self.seeder.listen_port)]
        )
        viewer = Viewer(session, peer_id, key, address, proves, acknowledges)
        self.viewers.append(viewer)
        return viewer

    def run_until(self, done: Callable[[], bool], timeout_s: float = 60) -> float:
        """Run until it is done; seconds it took."""
        begin_s = time.monotonic()
        while not done():
            now_s = time.monotonic()
            assert now_s - begin_s < timeout_s, [
                (viewer.address, viewer.taken, viewer.is_finished) for viewer in self.viewers
            ]
            self._step(now_s)
            time.sleep(0.01)
        return time.monotonic() - begin_s

    def run_for(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        self.run_until(lambda: time.monotonic() >= end_s)

    def _step(self, now_s: float) -> None:
        by_id = {viewer.peer_id: viewer for viewer in self.viewers}
        for event in self.seeder.drain().events:
            if event[0] in {EventKind.SENT, EventKind.SENT_BLOCKS}:
                count = event[3] if event[0] == EventKind.SENT_BLOCKS else 1
                self._sent[event[2]] = self._sent.get(event[2], 0) + count * BLOCK_BYTES
                by_id[self.seeder.peer_key(event[2])[0]].taken += count * BLOCK_BYTES
        for viewer in self.viewers:
            kinds = {event[0] for event in viewer.session.drain().events}
            viewer.is_finished = viewer.is_finished or EventKind.FINISHED in kinds
        if now_s >= self._next_s:
            self._next_s = now_s + 0.25
            self._enforce(now_s)

    def _enforce(self, now_s: float) -> None:
        snapshots = self.seeder.peers()
        by_key = {viewer.key: viewer for viewer in self.viewers}
        proved: dict[int, bytes] = {}
        keys: dict[bytes, KeyExposure] = {}
        for snapshot in snapshots:
            self._seen_s.setdefault(snapshot.peer, now_s)
            hint = parse_handshake(snapshot.client)
            viewer = None if hint is None else by_key.get(hint.public_key)
            is_late = now_s - self._seen_s[snapshot.peer] >= PROOF_S
            if viewer is not None and viewer.proves and is_late:
                proved[snapshot.peer] = viewer.key
        for key in proved.values():
            viewer = by_key[key]
            viewer.sent.append((now_s, viewer.taken))
            while viewer.acknowledges and viewer.sent[0][0] <= now_s - RECEIPTS_BEHIND_S:
                viewer.receipted = viewer.sent.popleft()[1]
            keys[key] = KeyExposure(sent_bytes=viewer.taken, receipted_bytes=viewer.receipted)
        if self.enforcer is not None:
            takings = list_takings(snapshots, self._sent, lambda one: proved.get(one.peer))
            self.enforcer.tick(takings, keys, now_s)

    def close(self) -> None:
        for viewer in self.viewers:
            viewer.session.close()
        self.seeder.close()


@pytest.fixture
def open_swarm(tmp_path: Path) -> Iterator[Callable[[EnforcementPolicy | None], Swarm]]:
    swarms: list[Swarm] = []

    def open_one(policy: EnforcementPolicy | None = POLICY) -> Swarm:
        folder = tmp_path / str(len(swarms))
        folder.mkdir()
        swarms.append(Swarm(folder, policy))
        return swarms[-1]

    yield open_one
    for swarm in swarms:
        swarm.close()


def test_a_cheater_gets_its_bound_and_an_honest_viewer_everything(open_swarm):
    swarm = open_swarm()
    honest = swarm.join("127.0.0.31")
    swarm.run_for(0.6)
    mute = swarm.join("127.0.0.32", proves=False)
    swarm.run_for(0.6)
    debtor = swarm.join("127.0.0.33", acknowledges=False)
    swarm.run_until(lambda: honest.is_finished)
    # Overshoot: a reaction at the probation rate; a second of the viewer's own, and buffers.
    assert mute.taken <= POLICY.unknown_bytes + POLICY.probation_rate
    assert debtor.taken <= POLICY.known_bytes + RATE + BUFFERS
    assert not mute.is_finished
    swarm.run_until(lambda: swarm.enforcer.totals.cut == ("127.0.0.32", "127.0.0.33"))
    swarm.run_for(1.0)
    assert debtor.taken <= POLICY.known_bytes + RATE + BUFFERS


def test_without_enforcement_the_same_cheater_gets_everything(open_swarm):
    swarm = open_swarm(None)
    mute = swarm.join("127.0.0.32", proves=False)
    debtor = swarm.join("127.0.0.33", acknowledges=False)
    swarm.run_until(lambda: mute.is_finished and debtor.is_finished)
    assert min(mute.taken, debtor.taken) >= SIZE


def test_who_came_in_the_same_moment_as_a_cheater_is_freed_without_a_new_connection(open_swarm):
    swarm = open_swarm()
    honest = swarm.join("127.0.0.41")
    mute = swarm.join("127.0.0.42", proves=False)
    swarm.run_until(lambda: honest.is_finished)
    assert mute.taken <= POLICY.unknown_bytes + 2 * POLICY.probation_rate
    assert (
        len(
            [
                peer
                for peer in swarm._seen_s
                if swarm.seeder.peer_key(peer)[1].startswith("127.0.0.41:")
            ]
        )
        == 1
    )


def test_of_two_viewers_behind_one_address_only_the_cheater_is_held(open_swarm):
    swarm = open_swarm()
    honest = swarm.join("127.0.0.51")
    swarm.run_for(0.8)
    mute = swarm.join("127.0.0.51", proves=False)
    swarm.run_until(lambda: honest.is_finished)
    assert 0 < mute.taken <= POLICY.unknown_bytes + POLICY.probation_rate
    assert swarm.enforcer.totals.cut == ()


def test_plain_clients_share_their_slow_rate_or_are_served_as_the_policy_says(open_swarm):
    slow = open_swarm()
    plain = slow.join("127.0.0.61", is_plain=True)
    slow.run_until(lambda: plain.taken > 0)
    slow.run_for(2.0)
    assert plain.taken <= 4 * POLICY.plain_rate
    generous = open_swarm(replace(POLICY, plain_peers=PlainPeers.SERVE))
    served = generous.join("127.0.0.62", is_plain=True)
    generous.run_until(lambda: served.is_finished)
    strict = open_swarm(replace(POLICY, plain_peers=PlainPeers.REFUSE))
    refused = strict.join("127.0.0.63", is_plain=True)
    strict.run_until(lambda: strict.enforcer.totals.cut == ("127.0.0.63",))
    assert refused.taken <= POLICY.unknown_bytes


def test_a_stopped_enforcer_leaves_no_limit_behind(open_swarm):
    swarm = open_swarm()
    mute = swarm.join("127.0.0.71", proves=False)
    swarm.run_until(lambda: swarm.enforcer.totals.held == 1)
    swarm.enforcer.stop()
    swarm.enforcer = None
    swarm.run_until(lambda: mute.is_finished)


def test_a_limit_of_a_slot_is_shared_by_its_members(open_swarm):
    swarm = open_swarm(None)
    swarm.seeder.tiers.limit_slot(3, MIB)
    swarm.seeder.tiers.direct(3)
    both = [swarm.join("127.0.0.81"), swarm.join("127.0.0.82")]
    swarm.run_until(lambda: all(viewer.taken > 256 * KIB for viewer in both))
    before = sum(viewer.taken for viewer in both)
    swarm.run_for(3.0)
    taken = sum(viewer.taken for viewer in both) - before
    assert taken < 5 * MIB
