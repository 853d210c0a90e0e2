"""The engine as a library: many contents, pieces in hand, streams of many torrents."""

import asyncio
import hashlib
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from engine_plugin.config import ContentOptions, EngineConfig
from engine_plugin.content import Content, SourceBytes
from engine_plugin.engine import Engine
from engine_plugin.errors import ContentError, SessionError
from engine_plugin.events import EventHub
from engine_plugin.journal_reading import read_peers, read_totals
from engine_plugin.torrents import TorrentFile, make_torrent
from engine_plugin.wire import Endpoint
from ledger.evidence.bundle import BundleKind

pytestmark = pytest.mark.swarm

KIB = 1 << 10
STREAM = bytes(range(32))


def _noise(seed: int, size: int) -> bytes:
    return hashlib.shake_128(seed.to_bytes(8, "little")).digest(size)


def _torrent(folder: Path, name: str, seed: int, size: int) -> TorrentFile:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(_noise(seed, size))
    return make_torrent(folder / name, piece_bytes=16 * KIB)


def _config(state: Path, address: str, **changes: Any) -> EngineConfig:
    return EngineConfig(listen=Endpoint(address, 0), state_path=state, dials_utp=False, **changes)


def _listen(fields: dict[str, Any]) -> Endpoint:
    ip, _, port = fields["listen"].rpartition(":")
    return Endpoint(ip, int(port))


class Told:
    """Remembers what an engine tells."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, name: str, /, **fields: Any) -> None:
        self.events.append((name, fields))

    def all(self, name: str) -> list[dict[str, Any]]:
        return [fields for told, fields in self.events if told == name]


async def _until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not done():
            await asyncio.sleep(0.02)


async def _complete(engine: Engine, content: Content) -> None:
    await _until(lambda: content.is_complete_told)
    assert engine.contents[content.number] is content


def test_one_engine_serves_and_fetches_many_contents_and_hands_out_their_pieces(
    tmp_path: Path,
) -> None:
    films = [_torrent(tmp_path / "seed", f"{n}.bin", n, 100_000 + n) for n in range(3)]

    async def scene() -> None:
        told = Told()
        async with (
            Engine(_config(tmp_path / "a", "127.0.0.71"), told) as seeder,
            Engine(_config(tmp_path / "b", "127.0.0.72")) as viewer,
        ):
            listen = _listen(told.all("ready")[0])
            for film in films:
                await seeder.add(
                    film, ContentOptions(save_path=tmp_path / "seed", is_complete=True)
                )
            fetched = [
                await viewer.add(film, ContentOptions(save_path=tmp_path / "saved", peers=[listen]))
                for film in films
            ]
            last = films[1].layout.piece_count - 1
            fetched[1].want_piece(last, 0)
            tail = await fetched[1].read_piece(last)
            assert tail == _noise(1, 100_001)[last * 16 * KIB :]
            for content, film in zip(fetched, films, strict=True):
                await _complete(viewer, content)
                assert content.missing_pieces() == []
                assert content.bytes_by_source() == SourceBytes(p2p_bytes=film.content_bytes)
            await viewer.remove(fetched[0], deletes_files=True)
            await _until(lambda: not (tmp_path / "saved" / "0.bin").exists())
            assert (tmp_path / "saved" / "1.bin").exists()
            with pytest.raises(ContentError, match="removed"):
                await fetched[0].read_piece(0)
            with pytest.raises(SessionError, match="torrent"):
                await seeder.add(films[0], ContentOptions(save_path=tmp_path / "seed"))

    asyncio.run(scene())
    totals = read_totals(tmp_path / "b" / "meter.sqlite")
    # What was removed stays in the sums, and libtorrent's own count agrees with all of it.
    assert totals.unattested_bytes == sum(film.content_bytes for film in films)
    assert totals.unexplained_bytes == 0


def test_waiting_for_a_piece_ends_when_its_content_is_removed(tmp_path: Path) -> None:
    film = _torrent(tmp_path / "seed", "film.bin", 1, 100_000)

    async def scene() -> None:
        async with Engine(_config(tmp_path / "a", "127.0.0.73")) as engine:
            content = await engine.add(film, ContentOptions(save_path=tmp_path / "saved"))
            waiting = asyncio.create_task(content.wait_for_piece(0))
            await asyncio.sleep(0.1)
            await engine.remove(content)
            with pytest.raises(ContentError, match="removed"):
                await waiting

    asyncio.run(scene())


def test_caller_who_gives_up_leaves_no_half_begun_or_half_removed_content(tmp_path: Path) -> None:
    film = _torrent(tmp_path / "seed", "film.bin", 1, 100_000)
    options = ContentOptions(save_path=tmp_path / "saved")

    async def give_up(action: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(action)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    async def scene() -> None:
        told = Told()
        async with Engine(_config(tmp_path / "a", "127.0.0.79"), told) as engine:
            await give_up(engine.add(film, options))
            assert engine.contents == {}
            content: Content | None = None
            async with asyncio.timeout(30):
                while content is None:
                    with suppress(SessionError):  # until what was begun for nobody is gone
                        content = await engine.add(film, options)
            await give_up(engine.remove(content))
            await _until(lambda: not engine.contents)
            assert content.bytes_by_source() == SourceBytes()
            assert told.all("content")[-1]["state"] == "removed"
            await engine.remove(content)

    asyncio.run(scene())


def test_receipts_of_a_stream_name_the_stream_and_cover_all_its_torrents(
    tmp_path: Path, make_operator: Callable[..., Any]
) -> None:
    operator = make_operator()
    segments = [_torrent(tmp_path / "seed", f"{n}.ts", n, 60_000 + n) for n in range(4)]

    async def scene() -> None:
        told, viewed = Told(), Told()
        seeder_config = _config(tmp_path / "a", "127.0.0.74", terms=operator.terms)
        viewer_config = _config(
            tmp_path / "b", "127.0.0.75", terms=operator.terms, entitlement_url=operator.url
        )
        async with Engine(seeder_config, told) as seeder, Engine(viewer_config, viewed) as viewer:
            listen = _listen(told.all("ready")[0])
            for segment in segments:
                await seeder.add(
                    segment,
                    ContentOptions(save_path=tmp_path / "seed", is_complete=True, stream_id=STREAM),
                )
                content = await viewer.add(
                    segment,
                    ContentOptions(save_path=tmp_path / "saved", peers=[listen], stream_id=STREAM),
                )
                await _complete(viewer, content)
                await viewer.remove(content, deletes_files=True)
        assert {fields["content_bytes"] for fields in viewed.all("complete")} == {
            60_000 + n for n in range(4)
        }

    asyncio.run(scene())
    whole = sum(segment.content_bytes for segment in segments)
    finals = list(operator.final_receipts(BundleKind.PAYEE).values())
    assert sum(receipt.bytes_total for receipt in finals) == whole
    # One entitlement, so one lane an epoch: segments share it.
    assert len({receipt.lane_digest for receipt in finals}) == len({r.epoch for r in finals})
    totals = read_totals(tmp_path / "b" / "meter.sqlite")
    assert (totals.delivered_p2p_bytes, totals.claimed_bytes) == (whole, whole)
    # Nothing of four torrents is left but sums.
    assert read_peers(tmp_path / "b" / "meter.sqlite") == []


def test_payee_that_leaves_a_stream_first_takes_its_last_receipt_along(
    tmp_path: Path, make_operator: Callable[..., Any]
) -> None:
    operator = make_operator()
    segments = [_torrent(tmp_path / "seed", f"{n}.ts", n, 60_001) for n in range(4)]

    async def scene() -> None:
        told = Told()
        seeder_config = _config(tmp_path / "a", "127.0.0.76", terms=operator.terms)
        viewer_config = _config(
            tmp_path / "b", "127.0.0.77", terms=operator.terms, entitlement_url=operator.url
        )
        seeder = Engine(seeder_config, told)
        async with Engine(viewer_config) as viewer:
            async with seeder:
                listen = _listen(told.all("ready")[0])
                # The first bytes are receipted at once; the others would wait for more.
                for segment in segments:
                    await seeder.add(
                        segment,
                        ContentOptions(
                            save_path=tmp_path / "seed", is_complete=True, stream_id=STREAM
                        ),
                    )
                    content = await viewer.add(
                        segment,
                        ContentOptions(
                            save_path=tmp_path / "saved", peers=[listen], stream_id=STREAM
                        ),
                    )
                    await _complete(viewer, content)
            # The viewer goes on; the seeder has nothing to wait for any more.
            (stopped,) = told.all("stopped")
            assert stopped["receipts_in"] == {"p2p_bytes": 4 * 60_001}

    asyncio.run(scene())


def test_start_that_fails_leaves_no_port_and_no_file_behind(
    tmp_path: Path, make_operator: Callable[..., Any]
) -> None:
    terms = make_operator().terms

    async def scene() -> None:
        with socket.socket() as taken, socket.socket() as probe:
            taken.bind(("127.0.0.78", 0))
            taken.listen()
            probe.bind(("127.0.0.78", 0))
            port, receipt_port = taken.getsockname()[1], probe.getsockname()[1]
            probe.close()
            config = EngineConfig(
                listen=Endpoint("127.0.0.78", port),
                receipt_port=receipt_port,
                state_path=tmp_path / "a",
                terms=terms,
                dials_utp=False,
            )
            with pytest.raises(SessionError, match="cannot be bound"):
                await Engine(config).start()
        # Everything is free for whoever comes next, at once.
        async with Engine(config) as engine:
            assert engine.ledger is not None

    asyncio.run(scene())


def test_slow_listener_is_told_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine_plugin.events.QUEUE_MAX", 2)

    async def scene() -> list[tuple[str, int]]:
        hub = EventHub()
        events = hub.listen()
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        for number in range(5):
            hub.tell(str(number))
        hub.close()
        heard = [await first]
        async for event in events:
            heard.append(event)  # noqa: PERF401 - an asynchronous comprehension reads worse
        return [(event.name, event.missed) for event in heard]

    assert asyncio.run(scene()) == [("3", 3), ("4", 0)]
