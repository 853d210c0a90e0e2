"""Commits become durable beside whoever makes them; real files, syncs that a test lets through."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine_plugin import disk_sync
from engine_plugin.disk_sync import LATE_S, UNASKED_S, DiskSync


@dataclass
class Disk:
    """A disk whose syncs wait until a test lets them through, and fail when it says so."""

    opens: threading.Event = field(default_factory=threading.Event)
    begun: int = 0
    failures: int = 0

    def sync(self, log: int) -> None:
        self.begun += 1
        assert self.opens.wait(20)
        if self.failures:
            self.failures -= 1
            raise OSError(5, "Input/output error")
        os.fdatasync(log)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def open_database(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE word (it TEXT)")
    return connection


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_hanging_sync_holds_up_nobody_but_who_waits_for_it(tmp_path: Path) -> None:
    disk, told, durable, clock = Disk(), [], [], Clock()

    async def scene() -> None:
        syncing = DiskSync(lambda *failure: told.append(failure), sync=disk.sync, clock=clock)
        syncing.on_durable.append(durable.append)
        with closing(open_database(tmp_path / "a")) as database:
            syncing.adopt(tmp_path / "a", database)
            database.execute("INSERT INTO word VALUES ('one')")
            first = syncing.request()
            await until(lambda: disk.begun)
            for _ in range(100):
                database.execute("INSERT INTO word VALUES ('more')")
                syncing.note_commit(tmp_path / "a")
                last = syncing.request()
            clock.now_s = LATE_S
            syncing.tick()
            assert (durable, disk.begun, len(told)) == ([], 1, 1)
            assert not syncing.finish(timeout_s=0.01)
            disk.opens.set()
            await until(lambda: durable)
            assert durable[0] == first
            # All that was asked for meanwhile is one sync.
            await until(lambda: durable[-1] >= last)
            assert disk.begun == 2
            assert syncing.finish()

    asyncio.run(scene())


def test_what_nobody_waits_for_is_synced_after_a_while_and_only_what_changed(
    tmp_path: Path,
) -> None:
    disk, clock = Disk(), Clock()
    disk.opens.set()

    async def scene() -> None:
        syncing = DiskSync(lambda *_: None, sync=disk.sync, clock=clock)
        with (
            closing(open_database(tmp_path / "a")) as a,
            closing(open_database(tmp_path / "b")) as b,
        ):
            syncing.adopt(tmp_path / "a", a)
            syncing.adopt(tmp_path / "b", b)
            await syncing.reach()
            assert disk.begun == 2
            syncing.note_commit(tmp_path / "b")
            syncing.tick()
            await asyncio.sleep(0.05)
            assert disk.begun == 2
            clock.now_s = UNASKED_S
            syncing.tick()
            await until(lambda: disk.begun == 3)
            clock.now_s += UNASKED_S
            syncing.tick()
            await syncing.reach()
            assert disk.begun == 3
            assert syncing.finish()

    asyncio.run(scene())


def test_after_a_failed_sync_the_next_one_is_not_believed_before_all_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, told = Disk(failures=1), []
    disk.opens.set()
    monkeypatch.setattr(disk_sync, "RETRY_S", 0.01)

    async def scene() -> None:
        syncing = DiskSync(lambda *failure: told.append(failure), sync=disk.sync)
        with closing(open_database(tmp_path / "a")) as database:
            syncing.adopt(tmp_path / "a", database)
            database.execute("INSERT INTO word VALUES ('one')")
            await syncing.reach()
            assert told[0][0] == "disk"
            # The kernel may have dropped what the log held: the file itself has it now.
            copy = tmp_path / "copy"
            copy.write_bytes((tmp_path / "a").read_bytes())
            with closing(sqlite3.connect(f"file:{copy}?immutable=1", uri=True)) as other:
                assert other.execute("SELECT it FROM word").fetchall() == [("one",)]
            assert syncing.finish()

    asyncio.run(scene())


def test_logs_are_carried_over_so_that_they_do_not_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    disk.opens.set()
    monkeypatch.setattr(disk_sync, "CARRY_OVER_ROUNDS", 3)

    async def scene() -> None:
        syncing = DiskSync(lambda *_: None, sync=disk.sync)
        with closing(open_database(tmp_path / "a")) as database:
            syncing.adopt(tmp_path / "a", database)
            sizes = [-1]
            for _ in range(500):
                database.execute("INSERT INTO word VALUES (?)", ("x" * 3000,))
                syncing.note_commit(tmp_path / "a")
                await syncing.reach()
                sizes.append((tmp_path / "a-wal").stat().st_size)
                if sizes[-1] == sizes[-2]:
                    break  # it began anew
                # Who writes meanwhile keeps it for another time.
                await asyncio.sleep(0.02)
            assert sizes[-1] == sizes[-2]
            assert syncing.finish()

    asyncio.run(scene())
