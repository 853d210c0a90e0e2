"""What the accounting does again and again, and what only once."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import EPOCH, key_of
from engine_nodes import Node

from engine_plugin.journal_records import (
    CreditedBlock,
    MeterBatch,
    PeerKey,
    PeerUpdate,
    Source,
)

URL = "http://127.0.0.9:8080/"
BLOCK = 16_384


def _credit_cdn(node: Node, block: int, *, epoch: int) -> None:
    update = PeerUpdate(
        torrent=node.torrent,
        peer=PeerKey(b"W" * 20, "127.0.0.9:8080"),
        source=Source.CDN,
        url=URL,
        blocks=(CreditedBlock(0, block, BLOCK),),
    )
    node.journal.commit_batch(MeterBatch(peers=(update,)), epoch=epoch)


def _run(folder: Path, scene: Callable[[Node], None]) -> None:
    async def play() -> None:
        async with Node("viewer", "127.0.0.181", folder) as node:
            node.read_clock()
            node.take_entitlement()
            node.journal.prove_cdn(URL, key_of("cdn"), epoch=EPOCH)
            _credit_cdn(node, 0, epoch=EPOCH)
            node.accounting.tick(node.time())
            node.accounting.sign_all()
            scene(node)

    asyncio.run(play())


def test_cdn_receipts_of_an_ended_epoch_are_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scene(node: Node) -> None:
        looked_at: list[int] = []
        list_cdn = node.lanes.list_cdn

        def watch(epoch: int) -> list[object]:
            looked_at.append(epoch)
            return list_cdn(epoch)  # type: ignore[return-value]  # only counted

        monkeypatch.setattr(node.lanes, "list_cdn", watch)
        node.read_clock(epoch=EPOCH + 1, into_s=60)
        for _ in range(3):
            node.accounting.tick(node.time())
        assert looked_at == [EPOCH]
        (stored,) = list_cdn(EPOCH)
        assert stored.bytes_total == BLOCK
        # What is signed late for an ended epoch is handed on too.
        _credit_cdn(node, 1, epoch=EPOCH)
        for _ in range(3):
            node.accounting.tick(node.time())
        assert looked_at == [EPOCH, EPOCH]
        assert [bundle.number for bundle in node.spool.list_bundles()] == [0, 1]
        (stored,) = list_cdn(EPOCH)
        assert stored.bytes_total == 2 * BLOCK

    _run(tmp_path, scene)


def test_cdn_receipts_that_the_spool_has_pruned_are_not_sent_again(tmp_path: Path) -> None:
    def scene(node: Node) -> None:
        node.read_clock(epoch=EPOCH + 101, into_s=60)
        node.accounting.tick(node.time())
        node.accounting.tick(node.time())
        (stored,) = node.lanes.list_cdn(EPOCH)
        assert stored.bytes_total == BLOCK
        assert node.spool.list_bundles() == []

    _run(tmp_path, scene)
