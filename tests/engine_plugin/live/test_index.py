"""The index over HTTP: entries in order, waiting, mirrors, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random

import builders
import httpx
import pytest

from engine_plugin.live import index_client
from engine_plugin.live.gossip import IndexEntry, format_entry, parse_entries
from engine_plugin.live.index_client import (
    IndexClient,
    IndexUnreachableError,
    fetch_descriptor,
)
from engine_plugin.live.index_server import IndexServer, IndexService
from engine_plugin.live.rendezvous import Rendezvous
from engine_plugin.name_lookup import NameLookup
from engine_plugin.wire import Endpoint
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.segment import hash_pieces

SOURCE = Endpoint("127.0.0.1", 6881)


def entries(count: int) -> list[IndexEntry]:
    made: list[IndexEntry] = []
    for number in range(count):
        data = bytes([number]) * (20_000 + number)
        before = made[-1].signed if made else None
        signed = builders.segment(number, before=before, data=data)
        made.append(IndexEntry(signed, hash_pieces(data, 16_384)))
    return made


@asynccontextmanager
async def serving(kept: int = 512) -> AsyncIterator[tuple[IndexService, str]]:
    service = IndexService(
        builders.signed_stream(), Rendezvous(Random(1)), sources=[SOURCE], kept=kept
    )
    server = IndexServer(Endpoint("127.0.0.1", 0))
    server.start(service.app())
    try:
        yield service, f"http://{server.endpoint}/live/{builders.digest_of('stream').hex()}"
    finally:
        await server.stop()


def test_entries_travel_with_their_hashes() -> None:
    made = entries(3)
    raw = b"".join(format_entry(entry) for entry in made)
    assert parse_entries(raw, most=3) == made
    with pytest.raises(MalformedRecordError, match="at most 2"):
        parse_entries(raw, most=2)
    with pytest.raises(MalformedRecordError):
        parse_entries(raw[:-1], most=3)
    with pytest.raises(MalformedRecordError, match="hashes"):
        parse_entries(raw[:-1] + bytes([raw[-1] ^ 1]), most=3)


def test_reader_gets_what_is_there_and_waits_for_what_comes() -> None:
    async def run() -> None:
        made = entries(5)
        async with serving() as (service, url):
            client = IndexClient([url])
            for entry in made[:4]:
                await service.publish(entry)
            assert await client.newest(2) == made[2:4]
            assert await client.wait_entries(1) == made[1:4]
            waiting = asyncio.create_task(client.wait_entries(4))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await service.publish(made[4])
            assert await waiting == made[4:]
            await client.close()

    asyncio.run(run())


def test_index_keeps_only_the_newest() -> None:
    async def run() -> None:
        made = entries(6)
        async with serving(kept=2) as (service, url):
            client = IndexClient([url])
            for entry in made:
                await service.publish(entry)
            assert await client.wait_entries(0) == made[4:]
            await client.close()

    asyncio.run(run())


def test_descriptor_is_served_and_checked() -> None:
    async def run() -> None:
        async with serving() as (service, url):
            assert await fetch_descriptor(url) == service.descriptor

    asyncio.run(run())


def test_another_url_answers_when_the_first_is_dead() -> None:
    async def run() -> None:
        async with serving() as (service, url):
            await service.publish(entries(1)[0])
            client = IndexClient(["http://127.0.0.1:9/live", url])
            assert len(await client.newest(1)) == 1
            dead = IndexClient(["http://127.0.0.1:9/live"])
            with pytest.raises(IndexUnreachableError, match=r"127\.0\.0\.1:9"):
                await dead.newest(1)
            await client.close()
            await dead.close()

    asyncio.run(run())


def test_viewers_find_each_other_and_the_first_the_source() -> None:
    async def run() -> None:
        async with serving() as (_, url):
            client = IndexClient([url])
            one, two = Endpoint("127.0.0.1", 1001), Endpoint("127.0.0.1", 1002)
            first = await client.announce(one)
            assert (first.sources, first.peers) == ((SOURCE,), ())
            assert (await client.announce(two)).peers == (one,)
            await client.announce(one, is_leaving=True)
            assert (await client.announce(two)).peers == ()
            await client.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/entries?from=x", b"", 400),
        ("GET", "/entries?newest=1e9", b"", 400),
        ("POST", "/peers", b"[]", 400),
        ("POST", "/peers", b'{"listen": "nowhere"}', 400),
        ("POST", "/peers", b"x" * 5000, 413),
        ("GET", "/unknown", b"", 404),
    ],
)
def test_what_makes_no_sense_is_refused(method: str, path: str, body: bytes, status: int) -> None:
    async def run() -> None:
        async with serving() as (_, url), httpx.AsyncClient() as http:
            answer = await http.request(method, url + path, content=body)
            assert answer.status_code == status

    asyncio.run(run())


def test_answer_that_is_no_index_counts_as_none() -> None:
    async def run() -> None:
        async with serving() as (_, url):
            client = IndexClient([url + "/descriptor?"])
            with pytest.raises(IndexUnreachableError):
                await client.newest(1)
            await client.close()

    asyncio.run(run())


@pytest.mark.parametrize("part", [b"x" * 65_536, b"."])
def test_answers_without_end_are_given_up(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_client, "_ANSWER_MOST", 1 << 20)
    monkeypatch.setattr(index_client, "_SLACK_S", 0.2)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(OSError):
            while not writer.is_closing():
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.001)
        writer.close()

    async def scene() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = IndexClient([f"http://127.0.0.1:{port}/live"], wait_ms=1)
        async with asyncio.timeout(10):
            with pytest.raises(IndexUnreachableError):
                await client.newest(1)
        await client.close()
        server.close()
        await asyncio.sleep(0.05)  # until the answers have noticed

    asyncio.run(scene())


def test_index_whose_name_leads_nowhere_is_told_and_its_mirror_asked() -> None:
    def resolve(_: str) -> None:
        raise OSError("no such name")

    async def scene() -> None:
        async with serving() as (service, url):
            for entry in entries(3):
                await service.publish(entry)
            client = IndexClient(["http://index.example/live", url], names=NameLookup(resolve))
            assert len(await client.newest(3)) == 3
            await client.close()
        client = IndexClient(["http://index.example/live"], names=NameLookup(resolve))
        with pytest.raises(IndexUnreachableError, match="no such name"):
            await client.newest(3)
        await client.close()

    asyncio.run(scene())
