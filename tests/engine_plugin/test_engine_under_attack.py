"""A whole engine serves an honest viewer while everybody else attacks its receipt port."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adversaries.channel_actors import (
    Actor,
    ClaimFlood,
    ConnectionFlood,
    CopiedPeerId,
    FrameFlood,
    OversizedFrame,
    ProofReflector,
    Reflector,
    SealForger,
    StolenKey,
    WrongNetwork,
)
from adversaries.speaker import Party
from builders import entitlement

from engine_plugin.config import ContentOptions, EngineConfig
from engine_plugin.engine import Engine
from engine_plugin.torrents import make_torrent
from engine_plugin.wire import ChannelRole, Endpoint
from ledger.evidence.encoding import RecordCode

pytestmark = pytest.mark.swarm

MIB = 1 << 20
SIZE = 12 * MIB


class Told:
    """What an engine tells, and where it can be reached."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, name: str, /, **fields: Any) -> None:
        self.events.append((name, fields))

    def first(self, name: str) -> dict[str, Any]:
        return next(fields for told, fields in self.events if told == name)


def actors_of(party: Callable[[int], Party]) -> list[Actor]:
    """One of each kind, each from an address of its own."""
    return [
        CopiedPeerId(party(1), victim="alice"),
        StolenKey(party(2), victim="alice"),
        WrongNetwork(party(3)),
        Reflector(party(4)),
        Reflector(party(5), as_role=ChannelRole.DIALLER),
        ProofReflector(party(6)),
        OversizedFrame(party(7)),
        ConnectionFlood(party(8), 40),
        FrameFlood(party(9), RecordCode.ENTITLEMENT, entitlement().raw, 2000),
        ClaimFlood(party(10), records=40),
        SealForger(party(11), "made up"),
        SealForger(party(12), "repeated"),
    ]


def test_honest_viewer_is_served_and_everybody_else_is_refused_and_told_once(
    tmp_path: Path, make_operator: Callable[..., Any]
) -> None:
    (tmp_path / "film.bin").write_bytes(random.Random(6).randbytes(SIZE))
    torrent = make_torrent(tmp_path / "film.bin")
    operator = make_operator()
    told = Told()

    def config(name: str, ip: str, **fields: Any) -> EngineConfig:
        return EngineConfig(
            listen=Endpoint(ip, 0),
            state_path=tmp_path / name,
            terms=operator.terms,
            entitlement_url=operator.url,
            dials_utp=False,
            **fields,
        )

    def party(number: int) -> Party:
        return Party(
            name=f"mallory {number}",
            ip=f"127.0.0.{200 + number}",
            network_id=operator.terms.value.network_id,
            broadcaster=operator.terms.value.broadcaster_account,
        )

    async def run() -> dict[str, int]:
        seeding = Engine(config("s", "127.0.0.91", upload_limit=3 * MIB), told)
        async with seeding as seeder, Engine(config("v", "127.0.0.92")) as viewer:
            await seeder.add(torrent, ContentOptions(save_path=tmp_path, is_complete=True))
            ready = told.first("ready")
            ip, _, port = ready["listen"].rpartition(":")
            target = Endpoint(ip, ready["receipt_port"])
            options = ContentOptions(save_path=tmp_path / "got", peers=(Endpoint(ip, int(port)),))
            content = await viewer.add(torrent, options)
            assert seeder.ledger is not None
            exchange, spool = seeder.ledger.exchange, seeder.ledger.spool
            await asyncio.gather(*(actor.attack(target) for actor in actors_of(party)))
            await asyncio.gather(*(actor.attack(target) for actor in actors_of(party)))
            async with asyncio.timeout(120):
                while not content.is_finished or spool.total_bytes() < SIZE:
                    await asyncio.sleep(0.02)
            # Whoever attacked has left nothing behind.
            assert len(exchange.side.table.proved) == 1
            assert exchange.proved_keys() == list(exchange.side.table.proved)
            return dict(exchange.totals.refusals)

    refusals = asyncio.run(run())
    assert refusals.keys() >= {
        "peer_id_mismatch",
        "bad_proof",
        "wrong_network",
        "wrong_role",
        "own_key",
        "malformed",
        "too_many",
        "bad_seal",
    }
    # Counted every time, told once per address and reason.
    news = [(f["peer"].rpartition(":")[0], f["code"]) for n, f in told.events if n == "refused"]
    assert len(news) == len(set(news))
    assert sum(refusals.values()) > len(news)
    assert (tmp_path / "got" / "film.bin").read_bytes() == (tmp_path / "film.bin").read_bytes()
