"""A damaged meter journal: put aside with its key, so that the next run contradicts nothing."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from builders import entitlement, key_of, receipt

from engine_plugin.config import EngineConfig
from engine_plugin.damage import AsideError, choose_aside, find_damage
from engine_plugin.engine import Engine
from engine_plugin.journal import MeterJournal
from engine_plugin.key_files import read_seed
from engine_plugin.spool import Spool
from engine_plugin.state_dir import StateDir
from engine_plugin.wire import Endpoint
from ledger.evidence.bundle import BundleKind


def _use(state: Path) -> tuple[bytes, bytes]:
    """A folder as an engine leaves it; its session and account seeds."""
    folder = StateDir(state)
    seeds = folder.load_session_seed(), folder.load_account_seed(None)
    journal = MeterJournal(folder.journal_path)
    journal.start_run(session_id=bytes(16), session_key=bytes(32), started_at_ms=1)
    journal.close()
    spool = Spool(folder.spool_path)
    spool.add_entitlement(entitlement())
    spool.put_receipt(receipt(), kind=BundleKind.PAYEE, session_key=key_of("viewer"))
    spool.close()
    folder.close()
    return seeds


def _damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(200))


@pytest.mark.swarm
def test_engine_with_a_damaged_journal_starts_with_a_new_key_and_keeps_the_old_spool(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    session, account = _use(state)
    _damage(state / "meter.sqlite")
    told: list[tuple[str, dict[str, Any]]] = []

    async def run() -> None:
        config = EngineConfig(listen=Endpoint("127.0.0.95", 0), state_path=state)
        async with Engine(config, lambda name, /, **fields: told.append((name, fields))):
            pass

    asyncio.run(run())
    ((_, salvaged),) = [event for event in told if event[0] == "salvaged"]
    aside = Path(salvaged["aside"])
    assert salvaged["what"] == "journal"
    assert read_seed(state / "session.seed") != session
    assert read_seed(state / "account.seed") == account
    # The old key, the account and the spool lie together: `engine send` finds all it needs.
    assert (read_seed(aside / "session.seed"), read_seed(aside / "account.seed")) == (
        session,
        account,
    )
    spool = Spool(aside / "spool.sqlite")
    assert spool.total_bytes() == receipt().value.bytes_total
    spool.close()
    assert find_damage(aside / "meter.sqlite") is not None
    # The next start is an ordinary one.
    told.clear()
    asyncio.run(run())
    assert [name for name, _ in told if name == "salvaged"] == []


def test_kill_while_putting_aside_is_gone_on_with(tmp_path: Path) -> None:
    state = tmp_path / "state"
    session, _ = _use(state)
    _damage(state / "meter.sqlite")
    folder = StateDir(state)
    # As if killed before the journal moved: key and spool are aside already.
    first = choose_aside(state / "state")
    first.mkdir()
    (state / "session.seed").rename(first / "session.seed")
    (state / "spool.sqlite").rename(first / "spool.sqlite")
    done = folder.set_damaged_aside()
    assert done is not None
    assert done[0] != first
    assert folder.set_damaged_aside() is None
    assert folder.load_session_seed() != session
    folder.close()


def test_sound_and_missing_files_are_left_alone(tmp_path: Path) -> None:
    _use(tmp_path / "state")
    folder = StateDir(tmp_path / "state")
    assert folder.set_damaged_aside() is None
    assert find_damage(tmp_path / "none") is None
    folder.close()


def test_file_that_is_only_out_of_reach_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(AsideError, match="unable to open"):
        find_damage(tmp_path / "folder")
