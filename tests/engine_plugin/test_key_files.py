"""Key files are read by their owner only, in both spellings, and never overwritten."""

from pathlib import Path

import pytest
from builders import key_of, seed_of, terms
from stellar_sdk import Keypair

from engine_plugin.key_files import KeyFileError, load_or_make_seed, read_seed, write_seed
from engine_plugin.state_dir import StateDir, StateDirError
from ledger.evidence.binding import is_valid_binding
from ledger.evidence.keys import public_key_of


def test_seed_comes_back_and_its_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "a.seed"
    write_seed(path, seed_of("viewer"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_seed(path) == seed_of("viewer")
    assert load_or_make_seed(path) == seed_of("viewer")


def test_stellar_secret_key_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.seed"
    path.touch(mode=0o600)
    path.write_text(Keypair.from_raw_ed25519_seed(seed_of("viewer")).secret + "\n")
    assert public_key_of(read_seed(path)) == key_of("viewer")


def test_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.seed"
    write_seed(path, seed_of("viewer"))
    with pytest.raises(KeyFileError, match="exists"):
        write_seed(path, seed_of("mallory"))
    assert read_seed(path) == seed_of("viewer")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.seed"]


def test_file_open_to_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.seed"
    write_seed(path, seed_of("viewer"))
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="0600"):
        read_seed(path)


@pytest.mark.parametrize("text", ["", "abc", "00" * 31, "S" + "A" * 55, "zz" * 32])
def test_file_without_a_seed_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.seed"
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(KeyFileError, match="hexadecimal") as caught:
        read_seed(path)
    assert not text or text not in str(caught.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        read_seed(tmp_path / "none")


def test_state_folder_is_private_and_locked(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    assert state.path.stat().st_mode & 0o777 == 0o700
    state.load_session_seed()
    assert {entry.stat().st_mode & 0o777 for entry in state.path.iterdir()} == {0o600}
    with pytest.raises(StateDirError, match="another engine"):
        StateDir(tmp_path / "state")
    state.close()
    StateDir(tmp_path / "state").close()


def test_binding_stays_the_same_bytes_until_the_terms_change(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    seeds = {"account_seed": seed_of("account"), "session_seed": state.load_session_seed()}
    first = state.load_binding(terms(), **seeds)
    assert is_valid_binding(first)
    assert state.load_binding(terms(), **seeds).raw == first.raw
    wider = state.load_binding(terms(last_epoch=2_000_000), **seeds)
    assert wider.value.serial == first.value.serial + 1
    state.close()
