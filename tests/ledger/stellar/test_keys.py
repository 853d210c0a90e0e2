"""Keys at rest and away: encrypted files, the environment, external signers, and no secret told."""

import json
import logging
import os
import stat
import sys
import time
import traceback
from hashlib import sha256
from pathlib import Path

import pytest
from stellar_sdk import StrKey

from ledger.evidence.keys import public_key_of, verify
from ledger.stellar import keys_command, seed_files
from ledger.stellar.errors import ExternalSignerError, SeedFileError
from ledger.stellar.external_signer import ANSWER_BYTES_MAX, CommandKeys
from ledger.stellar.key_sources import open_operator_keys
from ledger.stellar.seed_files import (
    decrypt_seed,
    encrypt_seed,
    public_key_in,
    read_seed,
    seeds_of_environment,
    write_secret,
)
from ledger.stellar.signing import (
    AccountSigner,
    Demand,
    SeedKeys,
    Threshold,
    UnsignedTransaction,
)

SEED = sha256(b"a key at rest").digest()
KEY = public_key_of(SEED)
ADDRESS = StrKey.encode_ed25519_public_key(KEY)
PASSPHRASE = "four words nobody wrote"
TRANSACTION = UnsignedTransaction(
    envelope=b"\0\0\0\2" + bytes(40),
    tx_hash=sha256(b"transaction").digest(),
    passphrase="a network",
)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase costs little here, and the environment is empty."""
    monkeypatch.setattr(encrypt_seed, "__kwdefaults__", {"passes": 1, "memory_kib": 64})
    for name in list(os.environ):
        if name.startswith("SWARMLEDGER_") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    seed_files._warn_plain.cache_clear()


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_encrypted_file_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    line = encrypt_seed(SEED, PASSPHRASE.encode())
    assert decrypt_seed("x", line, PASSPHRASE.encode()) == SEED
    assert public_key_in("x", line) == KEY
    assert SEED.hex() not in line
    with pytest.raises(SeedFileError, match="another passphrase"):
        decrypt_seed("x", line, b"another")


def test_the_same_seed_is_never_encrypted_to_the_same_bytes() -> None:
    assert encrypt_seed(SEED, b"p") != encrypt_seed(SEED, b"p")


@pytest.mark.parametrize("at", range(7))
def test_a_changed_word_of_an_encrypted_seed_is_noticed(at: int) -> None:
    words = encrypt_seed(SEED, b"p").split(" ")
    other = encrypt_seed(sha256(b"other").digest(), b"p").split(" ")
    words[at] = "x" if at < 2 else str(int(words[at]) + 1) if at < 4 else other[at]
    with pytest.raises(SeedFileError):
        decrypt_seed("x", " ".join(words), b"p")


@pytest.mark.parametrize(("passes", "memory_kib"), [(11, 64), (1, 2 << 20), (0, 64), (1, 1)])
def test_a_file_cannot_make_its_reader_work_without_bound(passes: int, memory_kib: int) -> None:
    words = encrypt_seed(SEED, b"p").split(" ")
    words[2:4] = [str(passes), str(memory_kib)]
    with pytest.raises(SeedFileError, match="cost out of range"):
        decrypt_seed("x", " ".join(words), b"p")


@pytest.mark.parametrize("way", ["file", "environment", "credential"])
def test_passphrase_comes_from_file_environment_or_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path = private(tmp_path / "x.seed", encrypt_seed(SEED, PASSPHRASE.encode()) + "\n")
    with pytest.raises(SeedFileError, match="passphrase: got none"):
        read_seed(path)
    if way == "file":
        secret = private(tmp_path / "secret", PASSPHRASE + "\n")
        monkeypatch.setenv("SWARMLEDGER_PASSPHRASE_FILE", str(secret))
    elif way == "environment":
        monkeypatch.setenv("SWARMLEDGER_PASSPHRASE", PASSPHRASE)
    else:
        (tmp_path / "swarmledger-passphrase").write_text(PASSPHRASE + "\n")
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_seed(path) == SEED
    if way == "file":
        secret.chmod(0o644)
        with pytest.raises(SeedFileError, match="want mode 0600"):
            read_seed(path)


def test_plain_file_is_taken_silently_with_a_warning_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = private(tmp_path / "x.seed", SEED.hex())
    monkeypatch.setenv("SWARMLEDGER_PLAIN_KEYS", "allow")
    assert read_seed(path) == SEED
    assert not caplog.records
    monkeypatch.setenv("SWARMLEDGER_PLAIN_KEYS", "warn")
    assert read_seed(path) == read_seed(path) == SEED
    assert len(caplog.records) == 1
    monkeypatch.setenv("SWARMLEDGER_PLAIN_KEYS", "refuse")
    with pytest.raises(SeedFileError, match="want an encrypted one"):
        read_seed(path)
    monkeypatch.setenv("SWARMLEDGER_PLAIN_KEYS", "sometimes")
    with pytest.raises(SeedFileError, match="want allow, warn, refuse"):
        read_seed(path)


def test_seeds_of_the_environment_are_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMLEDGER_SEED_ANCHOR", SEED.hex())
    assert seeds_of_environment() == {KEY: SEED}
    assert open_operator_keys(None, "").keys == {KEY}
    monkeypatch.setenv("SWARMLEDGER_SEED_FEE", "nonsense")
    with pytest.raises(SeedFileError, match="SWARMLEDGER_SEED_FEE: want") as caught:
        seeds_of_environment()
    assert "nonsense" not in str(caught.value)


def test_keys_command_encrypts_checks_and_shows_without_telling_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = private(tmp_path / "x.seed", SEED.hex())
    assert keys_command.main(["encrypt", str(path)]) == 1
    assert path.read_text() == SEED.hex()
    monkeypatch.setenv("SWARMLEDGER_PASSPHRASE", PASSPHRASE)
    capsys.readouterr()
    for action in ("encrypt", "encrypt", "check", "show"):
        assert keys_command.main([action, str(path)]) == 0
        told = json.loads(capsys.readouterr().out)["keys"][0]
        assert told == {
            "file": str(path), "account": ADDRESS, "key": KEY.hex(), "encrypted": True
        }  # fmt: skip
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SEED.hex() not in path.read_text()
    monkeypatch.setenv("SWARMLEDGER_PASSPHRASE", "another")
    assert keys_command.main(["check", str(path)]) == 1
    assert keys_command.main(["show", str(path)]) == 0
    assert keys_command.main(["make", str(path)]) == 1
    assert keys_command.main(["make", str(tmp_path / "new.seed")]) == 0
    assert read_seed(tmp_path / "new.seed") != SEED


def signer_script(folder: Path, body: str) -> list[str]:
    """A signer command in Python: `question` is at hand, `answer` is printed."""
    path = folder / "signer.py"
    path.write_text(
        "import base64, json, sys, time\n"
        "from nacl.signing import SigningKey\n"
        f"key = SigningKey(bytes.fromhex({SEED.hex()!r}))\n"
        "question = json.loads(sys.stdin.readline())\n"
        "assert question['format'] == 'swarmledger-signer/1'\n"
        "if question['kind'] == 'keys':\n"
        f"    print(json.dumps({{'keys': [{ADDRESS!r}]}}))\n"
        "    sys.exit()\n"
        "data = bytes.fromhex(question['hash']) if 'hash' in question"
        " else base64.b64decode(question['message'])\n"
        "signature = base64.b64encode(key.sign(data).signature).decode()\n" + body
    )
    return [sys.executable, str(path)]


def test_external_signer_signs_for_its_keys(tmp_path: Path) -> None:
    keys = CommandKeys(signer_script(tmp_path, "print(json.dumps({'signature': signature}))"))
    assert keys.keys == {KEY}
    signer = AccountSigner(keys)
    (signed,) = signer.sign(TRANSACTION, [Demand(account=KEY, threshold=Threshold.LOW)])
    assert verify(KEY, TRANSACTION.tx_hash, signed.signature)
    message = b"swarmledger message"
    assert verify(KEY, message, keys.sign_message(message, KEY))


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("print(json.dumps({'signature': base64.b64encode(bytes(64)).decode()}))", "is not"),
        ("print(json.dumps({'signature': 'nonsense'}))", "is not"),
        ("print(json.dumps({'error': 'the operator said no'}))", "refused: 'the operator said no'"),
        ("print('[]')", "no JSON object"),
        ("print('nonsense')", "no JSON line"),
        ("pass", "no JSON line"),
        (f"sys.stdout.write('x' * {ANSWER_BYTES_MAX + 1})", "got over"),
        ("sys.stdout.write(' ' * (1 << 26))", "got over"),
    ],
)
def test_external_signers_answer_is_not_believed(tmp_path: Path, body: str, fault: str) -> None:
    keys = CommandKeys(signer_script(tmp_path, body))
    with pytest.raises(ExternalSignerError, match=fault):
        keys.sign(TRANSACTION, KEY)


def test_external_signer_is_told_no_secret_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARMLEDGER_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("SWARMLEDGER_SEED_ANCHOR", SEED.hex())
    monkeypatch.setenv("ITS_OWN", "kept")
    told = "import os\nnames = [n for n in os.environ if n[:3] in {'SWA', 'ITS'}]\n"
    told += "print(json.dumps({'error': ' '.join(names)}))"
    keys = CommandKeys(signer_script(tmp_path, told))
    with pytest.raises(ExternalSignerError, match="ITS_OWN") as caught:
        keys.sign(TRANSACTION, KEY)
    assert "SWARMLEDGER_" not in str(caught.value)


def test_external_signer_that_never_answers_is_ended(tmp_path: Path) -> None:
    keys = CommandKeys(signer_script(tmp_path, "time.sleep(1000)"), timeout_s=20)
    keys._timeout_s = 0.5
    begun = time.process_time()
    with pytest.raises(ExternalSignerError, match=r"got no answer in 0\.5 s"):
        keys.sign(TRANSACTION, KEY)
    assert time.process_time() - begun < 10


def test_signer_command_that_cannot_run_is_an_error() -> None:
    with pytest.raises(ExternalSignerError, match="cannot be run"):
        CommandKeys("/nowhere/signer --now")
    with pytest.raises(ExternalSignerError, match="got nothing"):
        CommandKeys("")


def test_no_secret_stands_in_representations_errors_or_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = [
        SEED.hex(), SEED.hex().upper(), StrKey.encode_ed25519_secret_seed(SEED), PASSPHRASE
    ]  # fmt: skip
    holder = SeedKeys({KEY: SEED})
    told = [repr(holder), repr(AccountSigner(holder)), str(vars(holder).keys())]
    monkeypatch.setenv("SWARMLEDGER_PASSPHRASE", PASSPHRASE)
    for text in (
        SEED.hex() + "0",
        StrKey.encode_ed25519_secret_seed(SEED)[:-1] + "A",
        encrypt_seed(SEED, b"another"),
        encrypt_seed(SEED, PASSPHRASE.encode())[:-1],
    ):
        path = private(tmp_path / "x.seed", text)
        try:
            read_seed(path)
        except SeedFileError:
            told.append(traceback.format_exc())
        else:
            raise AssertionError("want an error")
    with pytest.raises(SeedFileError) as caught:
        SeedKeys({bytes(32): SEED})
    told += [str(caught.value), caplog.text]
    assert not [secret for secret in secrets for text in told if secret in text]


def test_secret_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.seed"
    write_secret(path, "one")
    with pytest.raises(SeedFileError, match="File exists"):
        write_secret(path, "two")
    assert path.read_text() == "one\n"
    write_secret(path, "three", replaces=True)
    assert path.read_text() == "three\n"
    assert [found.name for found in path.parent.iterdir()] == ["x.seed"]
