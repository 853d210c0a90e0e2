"""A mirror takes nothing that is not proven, and goes on where it was stopped."""

from contextlib import closing
from pathlib import Path

import pytest
from public_logs import LogMaker, make_trust, serve_folder, vkey

from ledger.audit.errors import DisprovenError, UndecidableError
from ledger.publiclog.errors import ForkError
from ledger.publiclog.log_keys import keys_of_texts, keys_of_trust
from ledger.publiclog.mirror import mirror_log
from ledger.publiclog.source import FolderSource, WebSource
from ledger.publiclog.verification import verify_folder
from ledger.sealing.files import write_file

KEYS = keys_of_trust(make_trust())


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def mirror_url(url: str, folder: Path, keys):
    with closing(WebSource(url)) as source:
        return mirror_log(source, folder, keys)


def test_a_mirror_over_http_has_the_files_that_the_log_serves(tmp_path: Path) -> None:
    log = LogMaker()
    log.close(700).write(tmp_path / "log")
    with serve_folder(tmp_path / "log") as (url, _):
        first = mirror_url(url, tmp_path / "mirror", KEYS)
    assert (first.old_size, first.new_size, first.epoch) == (0, 704, 0)
    old_size = len(log.leaves)
    log.close(600).close(3).write(tmp_path / "log", old_size=old_size)
    with serve_folder(tmp_path / "log") as (url, asked):
        grown = mirror_url(url, tmp_path / "mirror", KEYS)
        assert not any("entries/000" in path for path in asked), "an old bundle is read again"
    assert (grown.old_size, grown.new_size, grown.epoch) == (704, len(log.leaves), 2)
    verified = verify_folder(tmp_path / "mirror", KEYS)
    assert (verified.tree_size, verified.last_epoch, verified.kept) == (len(log.leaves), 2, 2)
    mirrored, served = files_of(tmp_path / "mirror"), files_of(tmp_path / "log")
    assert {path: mirrored.get(path) for path in served} == served


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    LogMaker().close(300).write(tmp_path / "log")
    source = FolderSource(tmp_path / "log")
    mirror_log(source, tmp_path / "mirror", KEYS)
    before = files_of(tmp_path / "mirror")
    assert mirror_log(source, tmp_path / "mirror", KEYS).files_written == 0
    assert files_of(tmp_path / "mirror") == before


def test_a_stopped_run_is_gone_on_with(tmp_path: Path) -> None:
    LogMaker().close(1500).write(tmp_path / "log")
    source = FolderSource(tmp_path / "log")
    with pytest.raises(UndecidableError, match="got over 200000 bytes in one run"):
        mirror_log(source, tmp_path / "mirror", KEYS, bytes_max=200_000)
    assert not (tmp_path / "mirror" / "checkpoint").exists()
    assert not (tmp_path / "mirror" / "tile").exists()
    with serve_folder(tmp_path / "log") as (url, asked):
        mirror_url(url, tmp_path / "mirror", KEYS)
    assert "/tile/entries/000" not in asked
    assert not (tmp_path / "mirror" / ".incoming").exists()
    assert verify_folder(tmp_path / "mirror", KEYS).tree_size == 1504


def stop_a_run(tmp_path: Path) -> Path:
    """A mirror run that is stopped; returns one of the bundles that it left."""
    LogMaker().close(1500).write(tmp_path / "log")
    source = FolderSource(tmp_path / "log")
    with pytest.raises(UndecidableError, match="bytes in one run"):
        mirror_log(source, tmp_path / "mirror", KEYS, bytes_max=200_000)
    return tmp_path / "mirror/.incoming/tile/entries/001"


@pytest.mark.parametrize("damage", ["empty", "zeros", "another byte"])
def test_what_a_power_cut_damaged_is_fetched_anew(tmp_path: Path, damage: str) -> None:
    staged = stop_a_run(tmp_path)
    whole = staged.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    staged.write_bytes({"empty": b"", "zeros": bytes(len(whole)), "another byte": flipped}[damage])
    source = FolderSource(tmp_path / "log")
    assert mirror_log(source, tmp_path / "mirror", KEYS).new_size == 1504
    assert verify_folder(tmp_path / "mirror", KEYS).tree_size == 1504


def test_a_damaged_source_is_disproven_also_after_a_stopped_run(tmp_path: Path) -> None:
    stop_a_run(tmp_path)
    bundle = tmp_path / "log/tile/entries/005.p/224"
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"?")
    with pytest.raises(DisprovenError):
        mirror_log(FolderSource(tmp_path / "log"), tmp_path / "mirror", KEYS)
    assert not (tmp_path / "mirror/checkpoint").exists()


def test_a_run_that_is_killed_at_its_end_says_nothing_against_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogMaker()
    log.close(20).write(tmp_path / "log")
    source = FolderSource(tmp_path / "log")
    mirror_log(source, tmp_path / "mirror", KEYS)
    log.close(20).write(tmp_path / "log")

    def kill(path: Path, content: bytes) -> None:
        if path.name == "checkpoint":
            raise KeyboardInterrupt
        write_file(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("ledger.publiclog.folder.write_file", kill)
        with pytest.raises(KeyboardInterrupt):
            mirror_log(source, tmp_path / "mirror", KEYS)
    with pytest.raises(UndecidableError, match="run mirror again"):
        verify_folder(tmp_path / "mirror", KEYS)
    mirror_log(source, tmp_path / "mirror", KEYS)
    assert verify_folder(tmp_path / "mirror", KEYS).kept == 2


DAMAGES = ["leaf", "hash", "order", "cut", "missing", "checkpoint inside an epoch"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_proven_is_not_taken(tmp_path: Path, damage: str) -> None:
    log = LogMaker()
    log.close(300).write(tmp_path / "log")
    mirror_log(FolderSource(tmp_path / "log"), tmp_path / "mirror", KEYS)
    before = files_of(tmp_path / "mirror")
    old_size = len(log.leaves)
    log.close(300)
    if damage == "order":
        log.leaves[-3], log.leaves[-5] = log.leaves[-5], log.leaves[-3]
        log.notes[1] = log.sign()
    if damage == "checkpoint inside an epoch":
        log.leaves.pop()
        log.notes[1] = log.sign()
    log.write(tmp_path / "log", old_size=old_size)
    bundle, tile = tmp_path / "log/tile/entries/001", tmp_path / "log/tile/0/001"
    if damage == "leaf":
        bundle.write_bytes(bundle.read_bytes()[:-1] + b"?")
    elif damage == "hash":
        tile.write_bytes(bytes(32) + tile.read_bytes()[32:])
    elif damage == "cut":
        bundle.write_bytes(bundle.read_bytes()[:-1])
    elif damage == "missing":
        bundle.unlink()
    with pytest.raises(DisprovenError):
        mirror_log(FolderSource(tmp_path / "log"), tmp_path / "mirror", KEYS)
    assert files_of(tmp_path / "mirror") == before
    assert verify_folder(tmp_path / "mirror", KEYS).tree_size == old_size


def test_a_fork_is_refused_with_both_notes(tmp_path: Path) -> None:
    log = LogMaker().close(200)
    fork = LogMaker(salt="fork").close(200)
    log.write(tmp_path / "log")
    mirror_log(FolderSource(tmp_path / "log"), tmp_path / "mirror", KEYS)
    fork.close(100).write(tmp_path / "fork")
    with pytest.raises(ForkError) as caught:
        mirror_log(FolderSource(tmp_path / "fork"), tmp_path / "mirror", KEYS)
    assert {caught.value.first, caught.value.second} == {log.notes[0], fork.notes[1]}


def test_an_older_log_is_refused(tmp_path: Path) -> None:
    log = LogMaker().close(20)
    log.write(tmp_path / "old")
    log.close(20).write(tmp_path / "log")
    mirror_log(FolderSource(tmp_path / "log"), tmp_path / "mirror", KEYS)
    with pytest.raises(UndecidableError, match="older checkpoint"):
        mirror_log(FolderSource(tmp_path / "old"), tmp_path / "mirror", KEYS)


def test_a_checkpoint_of_an_unknown_key_says_nothing(tmp_path: Path) -> None:
    LogMaker().close(by="thief").write(tmp_path / "log")
    with pytest.raises(UndecidableError, match="unknown keys"):
        mirror_log(FolderSource(tmp_path / "log"), tmp_path / "mirror", KEYS)


def test_a_damaged_mirror_is_not_built_on(tmp_path: Path) -> None:
    log = LogMaker().close(300)
    log.write(tmp_path / "log")
    mirror_log(FolderSource(tmp_path / "log"), tmp_path / "mirror", KEYS)
    tile = next((tmp_path / "mirror/tile/0").glob("001.p/*"))
    tile.write_bytes(bytes(len(tile.read_bytes())))
    log.close(10).write(tmp_path / "log", old_size=304)
    with pytest.raises(UndecidableError, match="damaged"):
        mirror_log(FolderSource(tmp_path / "log"), tmp_path / "mirror", KEYS)


def test_full_tiles_stand_in_for_partial_ones_that_are_gone(tmp_path: Path) -> None:
    log = LogMaker().close(300)
    log.close(300).write(tmp_path / "log")
    for partial in (tmp_path / "log").rglob("*.p"):
        if (partial.parent / partial.name.removesuffix(".p")).is_file():
            for file in partial.iterdir():
                file.unlink()
    assert mirror_log(FolderSource(tmp_path / "log"), tmp_path / "m", KEYS).epoch == 1
    assert verify_folder(tmp_path / "m", keys_of_texts([vkey()])).last_epoch == 1


class TestRotation:
    """From epoch 2 on another key signs."""

    KEYS = keys_of_trust(make_trust(("log", 0), ("log 2", 2)))

    def test_each_key_signs_its_epochs(self, tmp_path: Path) -> None:
        log = LogMaker().close().close()
        log.write(tmp_path / "log")
        mirror_log(FolderSource(tmp_path / "log"), tmp_path / "m", self.KEYS)
        log.close(by="log 2").write(tmp_path / "log")
        mirror_log(FolderSource(tmp_path / "log"), tmp_path / "m", self.KEYS)
        assert verify_folder(tmp_path / "m", self.KEYS).kept == 2

    @pytest.mark.parametrize(("epochs", "by"), [(3, "log"), (2, "log 2")])
    def test_the_other_epochs_key_is_refused(self, tmp_path: Path, epochs: int, by: str) -> None:
        log = LogMaker()
        for _ in range(epochs):
            log.close(by=by)
        log.write(tmp_path / "log")
        with pytest.raises(DisprovenError, match="the log key of epoch"):
            mirror_log(FolderSource(tmp_path / "log"), tmp_path / "m", self.KEYS)
