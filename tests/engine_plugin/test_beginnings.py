"""Torrents that are being started: early events, and callers that give up."""

import asyncio
import threading

from engine_plugin.beginnings import Beginnings


def test_events_of_one_that_is_started_wait_whatever_its_number() -> None:
    asyncio.run(_events_of_one_that_is_started_wait_whatever_its_number())


async def _events_of_one_that_is_started_wait_whatever_its_number() -> None:
    may_go_on = threading.Event()
    beginnings = Beginnings(lambda _: None)

    def start() -> int:
        may_go_on.wait(5)
        return 5

    slow = asyncio.ensure_future(beginnings.run(start))
    # A later one is known first.
    assert await beginnings.run(lambda: 6) == 6
    assert beginnings.take_early(6) == []
    beginnings.note(5, (2, 0))
    may_go_on.set()
    assert await slow == 5
    assert beginnings.take_early(5) == [(2, 0)]


def test_events_of_unknown_torrents_are_not_kept() -> None:
    asyncio.run(_events_of_unknown_torrents_are_not_kept())


async def _events_of_unknown_torrents_are_not_kept() -> None:
    beginnings = Beginnings(lambda _: None)
    beginnings.note(3, (2, 0))
    assert beginnings.take_early(3) == []


def test_torrent_whose_caller_gave_up_is_removed() -> None:
    asyncio.run(_torrent_whose_caller_gave_up_is_removed())


async def _torrent_whose_caller_gave_up_is_removed() -> None:
    has_begun, may_go_on, undone = threading.Event(), threading.Event(), asyncio.Queue[int]()
    loop = asyncio.get_running_loop()

    def start() -> int:
        has_begun.set()
        may_go_on.wait(5)
        return 7

    def undo(number: int) -> None:
        loop.call_soon_threadsafe(undone.put_nowait, number)

    beginnings = Beginnings(undo)
    task = asyncio.ensure_future(beginnings.run(start))
    await asyncio.to_thread(has_begun.wait, 5)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    may_go_on.set()
    async with asyncio.timeout(5):
        assert await undone.get() == 7
