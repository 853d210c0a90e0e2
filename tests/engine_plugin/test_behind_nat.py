"""Receipts reach their payee wherever BitTorrent got through: real engines behind four translators.

The real API (collector, relay, clock) and the real issuer stand on a public host; receipt ports are
closed to the outside everywhere, so that only the relay is left. With `SWARMLEDGER_NAT_TABLE=1` and
`-s` every pair of translators is measured, and printed as a table.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from networks import NATS, Host, Internet, Nat, PortMapper, missing
from served_app import serve_app
from shard_scene import make_shard_scene
from simulated_operator import seed
from sqlalchemy import text

from ledger.api.app import make_app
from ledger.api.issuer import Caps, IssuedFile, Issuer, make_issuer_app
from ledger.api.relay import RelayLimits
from ledger.serving import bind
from ledger.store.engine import SessionFactory

_WHY_NOT = missing()
pytestmark = [
    pytest.mark.postgres,
    pytest.mark.swarm,
    pytest.mark.process,
    pytest.mark.skipif(bool(_WHY_NOT), reason=f"no network namespaces: {_WHY_NOT}"),
]

MIB = 1 << 20
BT_PORT, RECEIPT_PORT = 6881, 7001
PORT_SHIFT = 100
"""Outside ports of the port-mapping router less those inside."""
SHARE_LEAST_PPM = 980_000
SETTLE_S = 150
"""How long an engine stays after its download, at most: people watch longer than they load."""
WHOLE_TABLE = bool(os.environ.get("SWARMLEDGER_NAT_TABLE"))


@dataclass
class Scene:
    """An internet with the operator's and the broadcaster's services on it."""

    net: Internet
    sessions: SessionFactory
    folder: Path
    start: Callable[..., Any]
    stack: ExitStack
    mapped: dict[tuple[str, int], int] = field(default_factory=dict)

    def add_seeder(
        self, nat: Nat, *, utp: bool, maps_ports: bool = False, is_open: bool = False
    ) -> Any:
        """A seeder whose BitTorrent port is reachable over one transport, and no other port.

        With `maps_ports` it is left to the seeder to have ports mapped; with `is_open` nothing is
        closed.
        """
        host = self.net.add_host("seeder", nat)
        if maps_ports:
            mapper = self.stack.enter_context(PortMapper(host, shift=PORT_SHIFT))
            self.mapped = mapper.mapped
        elif host.router:
            host.forward_port(BT_PORT, tcp=not utp, udp=utp)
        elif not is_open:
            closed = {"tcp": [RECEIPT_PORT, BT_PORT]} if utp else {"tcp": [RECEIPT_PORT]}
            host.block_inbound(**closed)
        (self.folder / "seed").mkdir()
        content = self.folder / "seed" / "film.bin"
        content.write_bytes(random.Random(3).randbytes(6 * MIB + 4321))
        return self._start(
            host, "seed", content, "--torrent-out", self.folder / "film.torrent",
            *(("--discover", "--accept-ip-visible") if maps_ports else ()), utp=utp,
        )  # fmt: skip

    def start_viewer(self, host: Host, to: Host, *, utp: bool, port: int = BT_PORT) -> Any:
        """A viewer that dials one peer from a host whose receipt port is closed."""
        if not host.router:
            host.block_inbound(tcp=[RECEIPT_PORT])
        torrent, save = self.folder / "film.torrent", self.folder / f"saved-{host.name}"
        return self._start(
            host, "view", torrent, "--save", save, "--peer", f"{to.public_ip}:{port}",
            "--entitlement-url", f"http://{self.net.ip}:8081", utp=utp,
        )  # fmt: skip

    def relayed_frames(self) -> int:
        """Frames that the relay took so far."""
        with self.sessions.begin() as session:
            return int(session.scalar(text("SELECT last_value FROM relay_frames_id_seq")) or 0)

    def _start(self, host: Host, *words: object, utp: bool) -> Any:
        state = self.folder / f"state-{host.name}"
        return self.start(
            *words, "--listen", f"{host.ip}:{BT_PORT}", "--state", state,
            "--terms", self.folder / "terms", "--receipt-port", RECEIPT_PORT,
            "--utp" if utp else "--tcp", log=host.name, inside=host.namespace,
        )  # fmt: skip


@pytest.fixture
def scene(
    database_url: str,
    tmp_path: Path,
    start_engine: Callable[..., Any],
    request: pytest.FixtureRequest,
) -> Iterator[Scene]:
    """Everything that is served; a parameter bounds the relay."""
    with ExitStack() as stack:
        net = stack.enter_context(Internet())
        collector_url = f"http://{net.ip}:8080"
        shard = stack.enter_context(
            make_shard_scene(
                database_url, tmp_path, collector_url=collector_url, epoch_length_s=3600
            )
        )
        shard.reach_epoch(1)
        issuer = Issuer(
            terms=shard.operator.signed_terms,
            issuing_seed=seed("issuing"),
            caps=Caps(max_bytes=0, valid_s=86_400),
            issued=IssuedFile(tmp_path / "issued"),
            now_s=lambda: now_s(shard),
        )
        limits = getattr(request, "param", RelayLimits())
        api = make_app(replace(shard.api_parts(), relay_limits=limits))
        for app, port in ((api, 8080), (make_issuer_app(issuer), 8081)):
            listener = net.call(lambda port=port: bind(f"{net.ip}:{port}"))
            stack.enter_context(serve_app(app, listener))
        (tmp_path / "terms").write_bytes(shard.operator.signed_terms.raw)
        yield Scene(net, shard.sessions, tmp_path, start_engine, stack)


def now_s(shard: Any) -> int:
    now = shard.ledger_time.read()
    assert now is not None
    return int(now.now_s)


@dataclass(frozen=True)
class Share:
    """What became of one viewer's bytes from peers."""

    firm: int
    attested: int
    """Receipted: the payee's key proved the connection."""
    acknowledged: int
    """The payee has stored the receipt for them."""

    @property
    def ppm(self) -> int:
        """Acknowledged, in parts per million of the firm."""
        return self.acknowledged * 1_000_000 // self.firm


def share_of(viewer: Any) -> Share:
    stopped = viewer.of("stopped")[0]["bytes"]
    acknowledged: dict[str, int] = {}
    for event in viewer.of("acknowledged"):
        known = acknowledged.get(event["peer"], 0)
        acknowledged[event["peer"]] = max(known, event["bytes_total"])
    firm = stopped["p2p_attested"] + stopped["p2p_unattested"] + stopped["ambiguous"]
    return Share(firm, stopped["p2p_attested"], sum(acknowledged.values()))


def is_settled(viewer: Any) -> bool:
    """Whether every byte from peers is receipted, and every receipt acknowledged."""
    newest = viewer.of("progress")[-1]
    is_signed = not newest["unsigned_bytes"] and not newest["bytes"]["p2p_unattested"]
    return is_signed and not newest["receipts_out"]["unacknowledged_lanes"]


def await_settled(viewers: list[Any]) -> None:
    deadline_s = time.monotonic() + SETTLE_S
    for viewer in viewers:
        while not is_settled(viewer) and time.monotonic() < deadline_s:
            time.sleep(0.1)


def measure(scene: Scene, seeder_nat: Nat, nats: tuple[Nat, ...], *, utp: bool) -> dict[Nat, Share]:
    """Let viewers behind these translators fetch from one seeder."""
    seeder = scene.add_seeder(seeder_nat, utp=utp)
    seeder.wait_for("ready")
    to = scene.net.hosts["seeder"]
    hosts = {nat: scene.net.add_host(f"viewer{number}", nat) for number, nat in enumerate(nats)}
    viewers = {nat: scene.start_viewer(host, to, utp=utp) for nat, host in hosts.items()}
    for viewer in viewers.values():
        viewer.wait_for("complete", timeout_s=120)
    await_settled(list(viewers.values()))
    threads = [threading.Thread(target=engine.stop) for engine in viewers.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seeder.stop()
    return {nat: share_of(viewer) for nat, viewer in viewers.items()}


def print_shares(title: str, found: dict[Nat, Share]) -> None:
    for nat, share in found.items():
        print(
            f"{title} | {nat} | {share.firm} | {share.attested} | {share.acknowledged}"
            f" | {share.ppm / 10_000:.2f} %"
        )


@pytest.mark.parametrize("utp", [False, True], ids=["tcp", "utp"])
def test_viewers_behind_any_translator_pay_a_public_seeder_whose_receipt_port_is_closed(
    scene: Scene, utp: bool
) -> None:
    found = measure(scene, Nat.NONE, NATS, utp=utp)
    print_shares(f"{'uTP' if utp else 'TCP'} | public", found)
    assert min(share.ppm for share in found.values()) >= SHARE_LEAST_PPM, found
    assert scene.relayed_frames() >= 6 * len(NATS)


BOTH = [(nat, utp) for nat in NATS for utp in (False, True)]
SEEDERS = BOTH if WHOLE_TABLE else [(Nat.SYMMETRIC, False)]


@pytest.mark.parametrize(("seeder_nat", "utp"), SEEDERS)
def test_viewers_behind_any_translator_pay_a_seeder_behind_one_with_a_forwarded_port(
    scene: Scene, seeder_nat: Nat, utp: bool
) -> None:
    found = measure(scene, seeder_nat, (Nat.NONE, *NATS), utp=utp)
    print_shares(f"{'uTP' if utp else 'TCP'} | {seeder_nat}", found)
    assert min(share.ppm for share in found.values()) >= SHARE_LEAST_PPM, found
    assert scene.relayed_frames() >= 6 * len(NATS)


@pytest.mark.parametrize("nat", NATS if WHOLE_TABLE else (Nat.SYMMETRIC,))
def test_a_router_that_maps_ports_makes_both_of_a_seeders_ports_reachable(
    scene: Scene, nat: Nat
) -> None:
    seeder = scene.add_seeder(nat, utp=False, maps_ports=True)
    seeder.wait_for("notice", kind="port_mapped", detail=lambda text: str(7101) in text)
    assert scene.mapped["tcp", BT_PORT] == BT_PORT + PORT_SHIFT
    assert scene.mapped["tcp", RECEIPT_PORT] == RECEIPT_PORT + PORT_SHIFT
    host = scene.net.add_host("viewer")
    viewer = scene.start_viewer(
        host, scene.net.hosts["seeder"], utp=False, port=BT_PORT + PORT_SHIFT
    )
    viewer.wait_for("complete")
    await_settled([viewer])
    viewer.stop()
    assert share_of(viewer).ppm >= SHARE_LEAST_PPM
    # The channel was dialled, at the outside port that the handshake names.
    assert scene.relayed_frames() <= 1


@pytest.mark.parametrize("scene", [RelayLimits(total_bytes=0)], indirect=True, ids=["no-relay"])
def test_a_channel_dialled_through_a_translator_attests_without_the_relay(scene: Scene) -> None:
    scene.add_seeder(Nat.NONE, utp=False, is_open=True).wait_for("ready")
    host = scene.net.add_host("viewer", Nat.SYMMETRIC)
    viewer = scene.start_viewer(host, scene.net.hosts["seeder"], utp=False)
    viewer.wait_for("complete")
    await_settled([viewer])
    viewer.stop()
    assert share_of(viewer).ppm >= SHARE_LEAST_PPM
