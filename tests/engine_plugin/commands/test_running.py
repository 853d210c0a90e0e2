"""`engine seed`, `view`, `status` and `unit` as a person runs them, rightly and wrongly."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest
from engine_commands import Terminal, engine

from engine_plugin.config import ConfigError
from engine_plugin.systemd_unit import format_user_unit, quote_argument
from engine_plugin.torrents import make_torrent

ROOT = Path(__file__).parents[3]
LISTEN = ("--listen", "127.0.0.1:0")

Start = Callable[..., Any]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "origin" / "film"
    path.parent.mkdir()
    path.write_bytes(os.urandom(3_000_000))
    return path


def magnet_of(torrent: bytes) -> str:
    return str(lt.make_magnet_uri(lt.load_torrent_buffer(torrent)))


@pytest.mark.swarm
@pytest.mark.process
def test_several_contents_are_seeded_by_one_engine(
    tmp_path: Path, film: Path, start_engine: Start
) -> None:
    series = film.parent / "series"
    series.mkdir()
    (series / "e1").write_bytes(os.urandom(100_000))
    torrents = [make_torrent(film), make_torrent(series)]
    files = [tmp_path / "film.torrent", tmp_path / "series.torrent"]
    for file, torrent in zip(files, torrents, strict=True):
        file.write_bytes(torrent.data)
    # One by its torrent file, one by its folder.
    seeder = start_engine(
        "seed", files[0], series, "--save", film.parent, "--state", tmp_path / "s", *LISTEN
    )
    ready = seeder.wait_for("ready")
    assert {one["name"] for one in ready["contents"]} == {"film", "series"}
    for file, torrent in zip(files, torrents, strict=True):
        viewer = start_engine(
            "view", file, "--save", tmp_path / "saved", "--state", tmp_path / f"v-{file.stem}",
            "--peer", ready["listen"], "--no-entitlement", *LISTEN, log=file.stem,
        )  # fmt: skip
        viewer.wait_for("complete")
        assert viewer.stop()["bytes"]["p2p_unattested"] == torrent.content_bytes
    assert (tmp_path / "saved" / "film").read_bytes() == film.read_bytes()


@pytest.mark.swarm
@pytest.mark.process
def test_magnet_link_is_viewed_and_then_seeded_from_what_was_saved(
    tmp_path: Path, film: Path, start_engine: Start
) -> None:
    link = magnet_of(make_torrent(film).data)
    seeder = start_engine("seed", film, "--state", tmp_path / "s", *LISTEN)
    at = seeder.wait_for("ready")["listen"]
    viewer = start_engine(
        "view", link, "--save", tmp_path / "saved", "--state", tmp_path / "v", "--peer", at,
        "--no-entitlement", *LISTEN, log="viewer",
    )  # fmt: skip
    viewer.wait_for("complete")
    viewer.stop()
    second = start_engine(
        "seed", link, "--save", tmp_path / "saved", "--state", tmp_path / "s2", "--peer", at,
        *LISTEN, log="second",
    )  # fmt: skip
    second_at = second.wait_for("ready")["listen"]
    second.wait_for("complete")
    seeder.stop()
    torrent = tmp_path / "film.torrent"
    torrent.write_bytes(make_torrent(film).data)
    last = start_engine(
        "view", torrent, "--save", tmp_path / "again", "--state", tmp_path / "v2", "--peer",
        second_at, "--no-entitlement", *LISTEN, log="last",
    )  # fmt: skip
    last.wait_for("complete")
    assert last.stop()["bytes"]["p2p_unattested"] == 3_000_000
    assert (tmp_path / "again" / "film").read_bytes() == film.read_bytes()


@pytest.mark.swarm
@pytest.mark.process
def test_stop_while_a_magnets_metadata_is_awaited_is_clean(
    tmp_path: Path, start_engine: Start
) -> None:
    link = f"magnet:?xt=urn:btih:{'1' * 40}"
    viewer = start_engine(
        "view", link, "--save", tmp_path / "saved", "--state", tmp_path / "v", "--peer",
        "127.0.0.1:1", "--no-entitlement", *LISTEN,
    )  # fmt: skip
    viewer.wait_for("ready")
    viewer.stop()


@pytest.mark.swarm
@pytest.mark.process
def test_outside_of_its_schedule_an_engine_serves_nothing_and_fetches_all_the_same(
    tmp_path: Path, film: Path, start_engine: Start
) -> None:
    torrent = tmp_path / "film.torrent"
    torrent.write_bytes(make_torrent(film).data)
    closed = tmp_path / "closed"
    # A minute of the week that cannot be now and a day away from it.
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[(_weekday_now() + 3) % 7]
    init = ("--schedule", f"{day} 12:00-12:01", "--time-zone", "UTC")
    assert engine("init", "--state", closed, "--phrase-out", tmp_path / "p", *init).code == 0
    open_seeder = start_engine("seed", film, "--state", tmp_path / "open", *LISTEN)
    open_at = open_seeder.wait_for("ready")["listen"]
    # Outside of its hours it may fetch, and then holds the film.
    saved = tmp_path / "saved"
    fetching = start_engine(
        "view", torrent, "--save", saved, "--state", closed, "--peer", open_at,
        "--no-entitlement", *LISTEN, log="fetching",
    )  # fmt: skip
    limits = fetching.wait_for("limits")
    assert (limits["serving"], limits["reason"]) == (False, "schedule")
    fetching.wait_for("complete")
    fetching_at = fetching.wait_for("ready")["listen"]
    open_seeder.stop()
    viewer = start_engine(
        "view", torrent, "--save", tmp_path / "none", "--state", tmp_path / "v", "--peer",
        fetching_at, "--no-entitlement", *LISTEN, log="viewer",
    )  # fmt: skip
    viewer.wait_for("peer")
    # Some seconds of being connected: a peer that is served gets all of it in one.
    told = len(viewer.of("progress")) + 4
    while len(viewer.of("progress")) < told:
        time.sleep(0.1)
    assert viewer.stop()["bytes"]["p2p_unattested"] == 0
    assert fetching.stop()["uploaded_bytes"] == 0


@pytest.mark.swarm
@pytest.mark.process
def test_months_volume_is_kept_across_kill_9(
    tmp_path: Path, film: Path, start_engine: Start
) -> None:
    """What is handed out in a month ends near the volume, however often the engine is killed."""
    torrent = tmp_path / "film.torrent"
    torrent.write_bytes(make_torrent(film).data)
    state = tmp_path / "s"
    volume = 1_500_000
    init = ("--monthly-upload", str(volume), "--phrase-out", tmp_path / "p")
    assert engine("init", "--state", state, *init).code == 0
    port = _free_port()
    viewer = start_engine(
        "view", torrent, "--save", tmp_path / "saved", "--state", tmp_path / "v", "--peer",
        f"127.0.0.1:{port}", "--no-entitlement", *LISTEN, log="viewer",
    )  # fmt: skip
    viewer.wait_for("ready")
    for round_number in range(2):
        seeder = start_engine(
            "seed", film, "--state", state, "--listen", f"127.0.0.1:{port}",
            log=f"seeder-{round_number}",
        )  # fmt: skip
        seeder.wait_for(
            "progress", uploaded_bytes=lambda count, n=round_number: count > 200_000 * (n + 1)
        )
        seeder.kill()
    seeder = start_engine(
        "seed", film, "--state", state, "--listen", f"127.0.0.1:{port}", log="end"
    )
    told = seeder.wait_for("limits", serving=False)
    assert told["reason"] == "monthly_volume"
    end = seeder.stop()
    got = viewer.stop()["bytes"]["p2p_unattested"]
    # What a connection buffers may pass the volume: three blocks at so slow a rate.
    assert end["uploaded_bytes"] <= volume + (128 << 10)
    assert got < 3_000_000
    report = engine("status", "--state", state, "--json").answer
    assert sum(report["months"].values()) == end["uploaded_bytes"]


@pytest.mark.swarm
@pytest.mark.process
def test_second_engine_in_one_folder_and_taken_port_are_refused(
    tmp_path: Path, film: Path, start_engine: Start
) -> None:
    state = tmp_path / "s"
    first = start_engine("seed", film, "--state", state, *LISTEN)
    at = first.wait_for("ready")["listen"]
    second = engine("seed", film, "--state", state, *LISTEN)
    assert second.code == 1
    assert f"{state}: another engine runs with this state directory" in second.err
    busy = engine("init", "--state", state, "--phrase-out", tmp_path / "p")
    assert busy.code == 1
    assert "another engine runs" in busy.err
    taken = engine("seed", film, "--state", tmp_path / "other", "--listen", at)
    assert taken.code == 1
    assert "cannot be bound" in taken.err
    # Looking does not disturb.
    assert engine("status", "--state", state).code == 0
    first.stop()


def test_discovery_without_consent_is_refused_before_anything_starts(
    tmp_path: Path, film: Path
) -> None:
    state = tmp_path / "s"
    called = engine("seed", film, "--state", state, *LISTEN, "--discover")
    assert called.code == 1
    assert "no consent that peers see this machine's IP address" in called.err
    assert not state.exists()
    called = engine("seed", film, "--state", state, *LISTEN, SWARMLEDGER_ENGINE_DISCOVERS="yes")
    assert called.code == 1


def test_content_beyond_the_quota_is_refused(tmp_path: Path, film: Path) -> None:
    torrent = tmp_path / "film.torrent"
    torrent.write_bytes(make_torrent(film).data)
    state = tmp_path / "s"
    init = ("--disk-quota", "2 MB", "--phrase-out", tmp_path / "p")
    assert engine("init", "--state", state, *init).code == 0
    called = engine(
        "view", torrent, "--save", tmp_path / "saved", "--state", state, "--no-entitlement", *LISTEN
    )
    assert called.code == 1
    assert "disk_quota_bytes: got 3000000 bytes for film beside 0 held, want at most" in called.err
    assert list((tmp_path / "saved").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["seed", "absent"], 1, "absent: No such file"),
        (["seed", "absent.torrent"], 1, "absent.torrent: No such file"),
        (["seed", "bad.torrent"], 1, "torrent: cannot be read"),
        (["seed", "empty"], 1, "empty: got no bytes to share"),
        (["seed", "good.torrent"], 1, "film: No such file"),
        (["seed", "magnet:?xt=urn:btih:zz", "--save", "."], 1, "magnet: cannot be read"),
        (["seed", "magnet:?xt=urn:btih:" + "1" * 40], 2, "want --save"),
        (["seed", "magnet:?xt=urn:btih:" + "1" * 40, "--save", "."], 1, "got no peer to ask"),
        (["seed", "a", "b", "--torrent", "good.torrent"], 2, "want one content"),
        (["seed", "a", "--peer", "nowhere"], 2, "--peer: got 'nowhere'"),
        (["seed", "a", "--upload-limit", "fast"], 2, "--upload-limit: got 'fast'"),
        (["seed", "a", "--terms", "bad.torrent"], 2, "bad.torrent"),
        (["seed", "a", "--account-key", "bad.torrent"], 1, "bad.torrent"),
        (["view", "good.torrent", "--save", "s"], 2, "--no-entitlement"),
        (["view", "bad.torrent", "--save", "s", "--no-entitlement"], 1, "cannot be read"),
        (["view", "good.torrent", "--save", "bad.torrent", "--no-entitlement"], 1, "File exists"),
    ],
)
def test_wrong_input_is_told_in_one_line(
    tmp_path: Path,
    film: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.torrent").write_bytes(b"d4:infodee")
    (tmp_path / "bad.torrent").chmod(0o644)
    (tmp_path / "good.torrent").write_bytes(make_torrent(film).data)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"x")
    called = engine(*arguments, *LISTEN, "--state", "state")
    assert called.code == code, called.err
    assert message in called.err


def test_wrong_address_to_listen_on_is_told(tmp_path: Path, film: Path) -> None:
    for listen in ("7000", "127.0.0.1", "127.0.0.1:99999", "localhost:0", "[::1:0"):
        called = engine("seed", film, "--listen", listen, "--state", tmp_path / "s")
        assert called.code == 2
        assert f"--listen: got '{listen}', want IP:PORT" in called.err


def test_status_of_a_folder_without_an_engine_is_told(tmp_path: Path) -> None:
    called = engine("status", "--state", tmp_path)
    assert called.code == 1
    assert "meter.sqlite" in called.err


@pytest.mark.swarm
@pytest.mark.process
def test_status_shows_who_took_what_is_owed_and_what_credit_is_left(
    tmp_path: Path, film: Path, start_engine: Start, make_operator: Callable[..., Any]
) -> None:
    operator = make_operator()
    terms = tmp_path / "terms"
    terms.write_bytes(operator.terms.raw)
    torrent = tmp_path / "film.torrent"
    seeder = start_engine(
        "seed", film, "--torrent-out", torrent, "--state", tmp_path / "s", "--terms", terms, *LISTEN
    )
    at = seeder.wait_for("ready")["listen"]
    viewer = start_engine(
        "view", torrent, "--save", tmp_path / "saved", "--state", tmp_path / "v", "--terms", terms,
        "--entitlement-url", f"{operator.url}/v1/entitlements", "--peer", at, *LISTEN, log="viewer",
    )  # fmt: skip
    key = viewer.wait_for("ready")["session_key"]
    viewer.wait_for("complete")
    viewer.stop()
    seeder.stop()
    report = engine("status", "--state", tmp_path / "s", "--json").answer
    (row,) = [row for row in report["accounts"] if row["key"] == key]
    assert row["sent_bytes"] >= row["receipted_bytes"] == 3_000_000
    # One stroop a MiB.
    assert row["owed_stroops"] == report["owed_stroops"] == 3_000_000 // (1 << 20)
    assert report["asset"] == "TEST"
    assert row["credit_left_bytes"] == (4 << 20) - (row["sent_bytes"] - 3_000_000)
    assert row["refusals"] == []
    received = engine("status", "--state", tmp_path / "v", "--json").answer
    assert [one["attested_bytes"] for one in received["accounts"]] == [3_000_000]
    shown = engine("status", "--state", tmp_path / "s", COLUMNS="200")
    assert "0.0000002 TEST" in shown.out
    assert key[:12] in shown.out
    spool = engine("spool", "--state", tmp_path / "s", "--json").answer
    assert spool["sent"] + spool["archived"] >= 1


@pytest.mark.swarm
@pytest.mark.process
def test_status_is_shown_live_until_interrupted(
    tmp_path: Path, film: Path, start_engine: Start
) -> None:
    torrent = tmp_path / "film.torrent"
    seeder = start_engine(
        "seed", film, "--torrent-out", torrent, "--state", tmp_path / "s", *LISTEN
    )
    at = seeder.wait_for("ready")["listen"]
    terminal = Terminal("status", "--watch", "--state", tmp_path / "s")
    terminal.wait_for("uploaded +0")
    viewer = start_engine(
        "view", torrent, "--save", tmp_path / "saved", "--state", tmp_path / "v", "--peer", at,
        "--no-entitlement", *LISTEN, log="viewer",
    )  # fmt: skip
    viewer.wait_for("complete")
    terminal.wait_for("uploaded +3,0[0-9]{2},[0-9]{3}")
    terminal.type("\x03")
    assert terminal.end() == 0


def test_unit_for_a_user_runs_the_command_and_may_write_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "my film").write_bytes(b"x")
    unit = format_user_unit(
        program=Path("/usr/bin/swarmledger"),
        arguments=["seed", str(tmp_path / "my film"), "--listen", "0.0.0.0:1", "--state", "st"],
        writable=[],
    )
    assert f'ExecStart=/usr/bin/swarmledger engine seed "{tmp_path}/my film"' in unit
    assert f"--state {Path('st').absolute()}\n" in unit
    assert f"ReadWritePaths=-{Path('st').absolute()}\n" in unit
    with pytest.raises(ConfigError, match="no --state"):
        format_user_unit(program=Path("/p"), arguments=["seed", "x"], writable=[])
    assert quote_argument('a "b" 50% $HOME \\') == '"a \\"b\\" 50%% $$HOME \\\\"'
    with pytest.raises(ConfigError, match="printable"):
        quote_argument("a\nExecStartPost=/bin/false")


def test_unit_command_prints_one_and_refuses_others(tmp_path: Path) -> None:
    printed = engine(
        "unit", "--program", "/opt/swarmledger", "--", "seed", "film", "--state", tmp_path
    )
    assert printed.code == 0, printed.err
    assert f"ExecStart=/opt/swarmledger engine seed film --state {tmp_path}" in printed.out
    refused = engine("unit", "--program", "/opt/swarmledger", "--", "rm", "-rf")
    assert refused.code == 2
    assert "want seed, view or adopt" in refused.err


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_units_are_understood_by_systemd(tmp_path: Path) -> None:
    shipped = ROOT / "packaging" / "systemd" / "swarmledger-engine.service"
    own = tmp_path / "own-engine.service"
    own.write_text(
        format_user_unit(
            program=Path("/bin/true"), arguments=["seed", "--state", "/s"], writable=[]
        )
    )
    for unit, scope in ((shipped, "--system"), (own, "--user")):
        run = subprocess.run(
            ["systemd-analyze", scope, "verify", "--man=no", str(unit)],
            capture_output=True,
            text=True,
            check=False,
        )
        complaints = [line for line in run.stderr.splitlines() if unit.name in line]
        assert complaints == []


def test_shipped_unit_starts_a_command_that_exists_as_no_privileged_user() -> None:
    text = (ROOT / "packaging" / "systemd" / "swarmledger-engine.service").read_text()
    settings = dict(re.findall(r"(?m)^([A-Za-z]+)=(.*)$", text))
    assert settings["DynamicUser"] == "yes"
    assert settings["ProtectSystem"] == "strict"
    assert settings["StateDirectory"] == "swarmledger-engine"
    assert settings["CapabilityBoundingSet"] == ""
    assert (
        "swarmledger engine $ENGINE_ARGUMENTS --state ${STATE_DIRECTORY}" in settings["ExecStart"]
    )
    assert settings["RestartPreventExitStatus"] == "2"


def _weekday_now() -> int:
    return datetime.now(UTC).weekday()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
