"""Large bundles go in chunks, and a cut costs only what was not stored yet."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from killable_api import KillableApi
from shard_scene import ShardScene, digest, make_shard_scene
from simulated_operator import make_entitlement, make_payee_bundle, make_receipt, seed
from sqlalchemy import text

from engine_plugin import chunked_upload
from engine_plugin import collector as collector_module
from engine_plugin.collector import Collector, CollectorRefusedError
from engine_plugin.errors import CollectorUnavailableError
from engine_plugin.spool import BundleState, Spool, SpooledBundle
from engine_plugin.uploader import TOLD_JITTER, Uploader, _WaitAsTold
from ledger.evidence.bundle import BundleKind, parse_bundle
from ledger.evidence.promise import PROMISE
from ledger.evidence.terms import sign_terms

CHUNK = 16 << 10


class Wire(httpx.AsyncHTTPTransport):
    """The real transport, with a look at what goes over it."""

    def __init__(self, after: Callable[[int], None] = lambda _: None) -> None:
        super().__init__()
        self.sent: list[tuple[str, int, int]] = []
        self._after = after

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        size = int(request.headers.get("content-length", "0"))
        offset = int(request.headers.get("upload-offset", "0"))
        response = await super().handle_async_request(request)
        self.sent.append((request.method, offset, size))
        if request.method == "PATCH":
            self._after(len(self.chunks))
        return response

    @property
    def chunks(self) -> list[tuple[int, int]]:
        return [(offset, size) for method, offset, size in self.sent if method == "PATCH"]


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.reach_epoch(1)
        yield made


@pytest.fixture
def api(scene: ShardScene, database_url: str, tmp_path: Path) -> Iterator[KillableApi]:
    made = KillableApi(database_url, tmp_path, scene.clock.ledger.close_time_s)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def large(scene: ShardScene, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(collector_module, "CHUNKED_ABOVE_BYTES", 2 * CHUNK)
    monkeypatch.setattr(chunked_upload, "CHUNK_BYTES", CHUNK)
    ann = make_entitlement(scene.operator, "ann")
    receipts = [make_receipt(ann, "ann", "seeder", 1, 999_983, nonce=n) for n in range(400)]
    return make_payee_bundle("seeder", 1, [ann], receipts)


def collector_of(scene: ShardScene, url: str, wire: httpx.AsyncBaseTransport) -> Collector:
    terms = sign_terms(replace(scene.terms, collector_url=url), seed("issuing"))
    return Collector(terms, transport=wire)


@pytest.mark.postgres
@pytest.mark.process
def test_uploader_goes_on_where_the_killed_collector_stopped(scene, api, large, tmp_path):
    """The process dies by SIGKILL between two chunks; another one takes the rest."""

    def cut(chunks: int) -> None:
        if chunks == 3:
            api.kill()

    wire, events = Wire(cut), []

    async def scene_of_the_cut() -> None:
        spool = Spool(tmp_path / "spool.sqlite")
        spool.put_bundle(
            SpooledBundle(
                epoch=1,
                kind=BundleKind.PAYEE,
                number=0,
                digest=digest(large),
                raw=large,
                receipt_count=400,
                bytes_total=400 * 999_983,
                state=BundleState.UNSENT,
                promise=None,
                code="",
                detail="",
            ),
            [],
        )
        collector = collector_of(scene, api.url, wire)
        uploader = Uploader(
            spool=spool, collector=collector, emit=lambda name, **_: events.append(name)
        )
        running = asyncio.create_task(uploader.run())
        while api.process is not None:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(api.start)
        async with asyncio.timeout(60):
            await uploader.drain()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        (sent,) = spool.list_bundles(BundleState.SENT)
        assert PROMISE.parse(sent.promise).value.bundle_digest == digest(large)
        spool.close()
        await collector.close()

    asyncio.run(scene_of_the_cut())
    assert events == ["bundle"]
    offsets = [offset for offset, _ in wire.chunks]
    assert offsets == sorted(set(offsets)), "a chunk that was stored went twice"
    assert sum(size for _, size in wire.chunks) == len(large)
    with scene.sessions.begin() as session:
        assert session.scalar(text("SELECT count(*) FROM bundles")) == 1
        assert session.scalar(text("SELECT count(*) FROM upload_chunks")) == 0


@pytest.mark.postgres
@pytest.mark.process
def test_lost_last_answer_is_read_again(scene, api, large):
    """The promise was given and did not arrive: the next try asks for it and sends nothing."""

    class Deaf(Wire):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await super().handle_async_request(request)
            if request.headers.get("upload-complete") == "?1":
                raise httpx.ReadError("cut", request=request)
            return response

    async def scene_of_the_cut() -> None:
        deaf, hearing = Deaf(), Wire()
        for wire in (deaf, hearing):
            collector = collector_of(scene, api.url, wire)
            try:
                promise = await collector.send_bundle(parse_bundle(large))
            except CollectorUnavailableError:
                assert wire is deaf
            else:
                assert wire is hearing
                assert promise.value.bundle_digest == digest(large)
            await collector.close()
        assert hearing.chunks == []

    asyncio.run(scene_of_the_cut())


@pytest.mark.postgres
@pytest.mark.process
def test_refusal_of_a_large_bundle_has_its_code(scene, api, large):
    async def scene_of_refusal() -> None:
        forged = bytes(64) + large[64:]
        collector = collector_of(scene, api.url, Wire())
        for _ in range(2):
            with pytest.raises(CollectorRefusedError, match="bad_signature"):
                await collector.send_bundle(parse_bundle(forged))
        await collector.close()

    asyncio.run(scene_of_refusal())


@pytest.mark.postgres
def test_collector_without_uploads_gets_the_bundle_whole(scene, large):
    async def scene_of_an_old_collector() -> None:
        asked: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request.url.path)
            if request.url.path == "/v1/uploads":
                return httpx.Response(404, json={"code": "http_404", "detail": ""})
            return httpx.Response(503, headers={"retry-after": "7"})

        collector = collector_of(scene, "http://collector.example", httpx.MockTransport(answer))
        with pytest.raises(CollectorUnavailableError) as caught:
            await collector.send_bundle(parse_bundle(large))
        assert caught.value.retry_after_s == 7
        assert asked == ["/v1/uploads", "/v1/bundles"]
        await collector.close()

    asyncio.run(scene_of_an_old_collector())


def test_wait_is_never_shorter_than_told_and_differs_by_chance():
    class Outcome:
        def exception(self) -> Exception:
            return CollectorUnavailableError("full", retry_after_s=100.0)

    class State:
        attempt_number = 1
        outcome = Outcome()

    waits = {_WaitAsTold()(State()) for _ in range(20)}
    assert len(waits) > 1
    assert all(100 <= wait <= 100 * (1 + TOLD_JITTER) for wait in waits)
