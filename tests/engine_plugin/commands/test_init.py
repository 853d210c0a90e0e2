"""`engine init` as its owner runs it: on a terminal, in a script, twice, and with wrong input."""

import re
import stat
from pathlib import Path

import pytest
from engine_commands import Terminal, engine

from engine_plugin.owner_settings import load_settings
from engine_plugin.recovery_phrase import derive_account_seed

PHRASE = "illness spike retreat truth genius clock brain pass fit cave bargain toe"
ADDRESS = "GDRXE2BQUC3AZNPVFSCEZ76NJ3WWL25FYFK6RGZGIEKWE4SOOHSUJUJ6"


def read_shown_phrase(text: str) -> list[str]:
    return [word for _, word in re.findall(r"(\d+) ([a-z]+)", text.partition("earnings:")[2])]


def ask_back(terminal: Terminal, words: list[str], *, rightly: bool = True) -> None:
    for _ in range(3):
        place = int(terminal.wait_for(r"Word (\d+): ")[1])
        terminal.type(words[place - 1] if rightly else "wrong")


@pytest.mark.process
def test_phrase_is_shown_once_asked_back_and_gives_the_account(tmp_path: Path) -> None:
    state = tmp_path / "state"
    terminal = Terminal("init", "--state", state, "--words", 12)
    terminal.wait_for(r"12 [a-z]+ *\r\n")
    words = read_shown_phrase(terminal.text)
    assert len(words) == 12
    assert not (state / "account.seed").exists()
    ask_back(terminal, words)
    terminal.wait_for("Do you accept that")
    terminal.type("y")
    assert terminal.end() == 0
    seed = bytes.fromhex((state / "account.seed").read_text().strip())
    assert seed == derive_account_seed(" ".join(words))
    assert load_settings(state, environ={}).accepts_ip_visible
    for path in state.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert words[0].encode() + b" " + words[1].encode() not in path.read_bytes()


@pytest.mark.process
def test_phrase_that_is_not_repeated_makes_no_key(tmp_path: Path) -> None:
    terminal = Terminal("init", "--state", tmp_path / "state")
    terminal.wait_for(r"24 [a-z]+ *\r\n")
    for _ in range(3):
        ask_back(terminal, [], rightly=False)
    assert terminal.end() == 2
    assert not (tmp_path / "state" / "account.seed").exists()
    assert not (tmp_path / "state" / "engine.toml").exists()


@pytest.mark.process
def test_consent_that_is_not_given_is_not_assumed(tmp_path: Path) -> None:
    phrase = tmp_path / "phrase"
    terminal = Terminal("init", "--state", tmp_path / "state", "--phrase-out", phrase)
    terminal.wait_for("Do you accept that")
    terminal.type("")
    assert terminal.end() == 0
    assert not load_settings(tmp_path / "state", environ={}).accepts_ip_visible


def test_script_gets_keys_settings_and_a_phrase_file(tmp_path: Path) -> None:
    state, phrase = tmp_path / "state", tmp_path / "phrase"
    run = engine(
        "init", "--state", state, "--phrase-out", phrase, "--accept-ip-visible", "--json",
        "--upload-limit", "20 Mbit/s", "--monthly-upload", "500 GB", "--disk-quota", "100 GiB",
        "--schedule", "Mon-Fri 22:00-07:00", "--time-zone", "Europe/Berlin",
    )  # fmt: skip
    answer = run.answer
    assert stat.S_IMODE(phrase.stat().st_mode) == 0o600
    seed = derive_account_seed(phrase.read_text().strip())
    assert (state / "account.seed").read_text().strip() == seed.hex()
    assert answer["settings"] == {
        "accepts_ip_visible": True,
        "discovers": False,
        "tells_totals": True,
        "upload_bytes_per_s": 2_500_000,
        "download_bytes_per_s": 0,
        "monthly_upload_bytes": 500 * 10**9,
        "disk_quota_bytes": 100 << 30,
        "schedule": "Mon-Fri 22:00-07:00",
        "time_zone": "Europe/Berlin",
        "account_key": "",
        "payout_account": "",
    }
    assert phrase.read_text().split()[0] not in run.err

    again = engine(
        "init", "--state", state, "--json", "--payout-account", ADDRESS, "--schedule", ""
    ).answer
    assert again["account"] == answer["account"]
    assert again["session_key"] == answer["session_key"]
    assert again["settings"] == {
        **answer["settings"], "payout_account": ADDRESS, "schedule": "",
    }  # fmt: skip


def test_phrase_restores_its_account_and_never_replaces_another(tmp_path: Path) -> None:
    restored = engine(
        "init", "--state", tmp_path / "a", "--from-phrase", "--json", stdin=PHRASE
    ).answer
    assert restored["address"] == ADDRESS
    again = engine("init", "--state", tmp_path / "a", "--from-phrase", "--json", stdin=PHRASE)
    assert again.answer["address"] == ADDRESS

    other = tmp_path / "b"
    assert engine("init", "--state", other, "--phrase-out", tmp_path / "p").code == 0
    before = (other / "account.seed").read_bytes()
    refused = engine("init", "--state", other, "--from-phrase", stdin=PHRASE)
    assert refused.code == 1
    assert "keys are never overwritten" in refused.err
    assert (other / "account.seed").read_bytes() == before

    file = tmp_path / "phrase"
    file.write_text(f"{PHRASE}\n")
    second = engine(
        "init", "--state", tmp_path / "c", "--phrase-in", file, "--json", "--account-index", 1
    )
    assert second.answer["address"].startswith("GBAW5XGWORWVFE2X")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "phrase: got no terminal to show it on"),
        (["--json"], "phrase: want --phrase-out"),
        (["--from-phrase"], "phrase: got 2 words"),
        (["--phrase-in", "absent"], "phrase-in: absent: No such file"),
        (["--phrase-out", "/nowhere/phrase"], "phrase-out: /nowhere/phrase"),
        (["--phrase-out", "p", "--words", "13"], "words: got 13"),
        (["--phrase-out", "p", "--schedule", "always"], "schedule: got 'always'"),
        (["--phrase-out", "p", "--time-zone", "Mars"], "time_zone: got 'Mars'"),
        (["--phrase-out", "p", "--upload-limit", "fast"], "upload_bytes_per_s: got 'fast'"),
        (["--phrase-out", "p", "--disk-quota", "-1"], "disk_quota_bytes: got '-1'"),
        (["--phrase-out", "p", "--payout-account", "GABC"], "payout_account: got 'GABC'"),
        (["--phrase-out", "p", "--account-index", "-1"], "--account-index"),
    ],
)
def test_wrong_input_is_told_and_makes_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = engine("init", "--state", "state", *arguments, stdin="not aphrase", TERM="dumb")
    assert run.code == 2, run.err
    assert message in run.err
    assert not (tmp_path / "state" / "account.seed").exists()


def test_broken_settings_file_is_told_by_every_command_that_reads_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "engine.toml").write_text("upload_rate = 5\n")
    content = tmp_path / "film"
    content.write_bytes(b"x")
    for command in (
        ["init", "--phrase-out", tmp_path / "p"],
        ["seed", content, "--listen", "127.0.0.1:0"],
    ):
        run = engine(*command, "--state", state)
        assert run.code == 2
        assert "engine.toml: upload_rate: got an unknown field" in run.err


def test_keys_shows_public_keys_and_the_payout_account_set_later(tmp_path: Path) -> None:
    state = tmp_path / "state"
    made = engine("init", "--state", state, "--phrase-out", tmp_path / "p", "--json").answer
    shown = engine("keys", "--state", state).answer
    assert shown == {name: made[name] for name in ("session_key", "account", "address")}
    assert engine("keys", "set-payout", ADDRESS, "--state", state).code == 0
    assert engine("keys", "--state", state).answer["payout_account"] == ADDRESS
    wrong = engine("keys", "set-payout", ADDRESS[:-1], "--state", state)
    assert wrong.code == 2
    assert "payout_account: got" in wrong.err
    absent = engine("keys", "--state", tmp_path / "absent")
    assert absent.code == 1
    assert "No such file" in absent.err


def test_account_that_the_owner_has_already_earns_instead_of_the_phrases(tmp_path: Path) -> None:
    state, own = tmp_path / "state", tmp_path / "own.seed"
    own.write_text("SBGWSG6BTNCKCOB3DIFBGCVMUPQFYPA2G4O34RMTB343OYPXU5DJDVMN\n")
    init = ("init", "--state", state, "--phrase-out", tmp_path / "p", "--account-key", own)
    open_to_others = engine(*init)
    assert open_to_others.code == 1
    assert "want mode 0600" in open_to_others.err
    own.chmod(0o600)
    assert engine(*init).code == 0
    assert engine("keys", "--state", state).answer["address"] == ADDRESS
