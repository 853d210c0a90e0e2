"""A monitor believes only what goes on where the last checkpoint ended."""

from pathlib import Path

import pytest
from public_logs import LogMaker, make_trust

from ledger.audit.errors import DisprovenError, UndecidableError
from ledger.publiclog.errors import ForkError
from ledger.publiclog.evidence_folder import save_fork
from ledger.publiclog.log_keys import keys_of_trust
from ledger.publiclog.monitoring import look_once
from ledger.publiclog.source import FolderSource

KEYS = keys_of_trust(make_trust())


def look(folder: Path, state: Path, keys=KEYS):
    return look_once(FolderSource(folder), state, keys)


def test_the_state_follows_a_growing_log(tmp_path: Path) -> None:
    log, state = LogMaker(), tmp_path / "state"
    sizes = []
    for bundles in (3, 700, 20):
        log.close(bundles).write(tmp_path / "log")
        sizes.append(look(tmp_path / "log", state).tree_size)
        assert state.read_bytes() == log.notes[log.epoch - 1]
    assert sizes == sorted(set(sizes))
    again = look(tmp_path / "log", state)
    assert (again.old_size, again.tree_size, again.epoch) == (sizes[-1], sizes[-1], 2)


@pytest.mark.parametrize("more", [0, 1, 300])
def test_a_fork_is_evidence_and_the_state_stays(tmp_path: Path, more: int) -> None:
    log, state = LogMaker().close(50), tmp_path / "state"
    fork = LogMaker(salt="fork").close(50)
    log.write(tmp_path / "log")
    look(tmp_path / "log", state)
    if more:
        fork.close(more)
    fork.write(tmp_path / "fork")
    for _ in range(2):
        with pytest.raises(ForkError) as caught:
            look(tmp_path / "fork", state)
        evidence = save_fork(tmp_path / "evidence", caught.value)
    assert state.read_bytes() == log.notes[0]
    assert [path.name for path in (tmp_path / "evidence").iterdir()] == [evidence.name]
    notes = {(evidence / f"{name}.checkpoint").read_bytes() for name in ("first", "second")}
    assert notes == {log.notes[0], fork.notes[fork.epoch - 1]}


def test_an_older_tree_of_the_same_history_is_no_fork(tmp_path: Path) -> None:
    log, state = LogMaker().close(50), tmp_path / "state"
    log.write(tmp_path / "old")
    log.close(5).write(tmp_path / "log")
    look(tmp_path / "log", state)
    with pytest.raises(UndecidableError, match="after one of"):
        look(tmp_path / "old", state)
    assert state.read_bytes() == log.notes[1]


def test_a_checkpoint_whose_tiles_lead_elsewhere_is_not_believed(tmp_path: Path) -> None:
    log, state = LogMaker().close(50), tmp_path / "state"
    log.write(tmp_path / "log")
    look(tmp_path / "log", state)
    log.close(5)
    log.notes[1] = log.sign(root=bytes(32))
    log.write(tmp_path / "log")
    with pytest.raises(UndecidableError, match="want the signed 0000"):
        look(tmp_path / "log", state)
    assert state.read_bytes() == log.notes[0]


def test_another_epochs_key_is_refused(tmp_path: Path) -> None:
    LogMaker().close().write(tmp_path / "log")
    keys = keys_of_trust(make_trust(("log 2", 0), ("log", 1)))
    with pytest.raises(DisprovenError, match="log key of epoch 0"):
        look(tmp_path / "log", tmp_path / "state", keys)


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"x" * 2_000_000])
def test_a_state_that_is_no_checkpoint_is_told(tmp_path: Path, content: bytes) -> None:
    LogMaker().close().write(tmp_path / "log")
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(UndecidableError, match="state: checkpoint refused"):
        look(tmp_path / "log", tmp_path / "state")
