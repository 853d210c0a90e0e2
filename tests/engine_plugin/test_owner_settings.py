"""The owner's settings are read strictly, written whole, and overridden in the stated order."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.byte_amounts import (
    AmountError,
    format_byte_count,
    parse_byte_count,
    parse_byte_rate,
)
from engine_plugin.errors import EngineError
from engine_plugin.owner_settings import (
    FILE_NAME,
    OwnerSettings,
    change_settings,
    format_settings,
    load_settings,
    make_settings,
    read_settings,
    write_settings,
)

ADDRESS = "GDRXE2BQUC3AZNPVFSCEZ76NJ3WWL25FYFK6RGZGIEKWE4SOOHSUJUJ6"

settings_values = st.builds(
    OwnerSettings,
    accepts_ip_visible=st.booleans(),
    discovers=st.booleans(),
    tells_totals=st.booleans(),
    upload_bytes_per_s=st.integers(0, 2**63 - 1),
    download_bytes_per_s=st.integers(0, 2**63 - 1),
    monthly_upload_bytes=st.integers(0, 2**63 - 1),
    disk_quota_bytes=st.integers(0, 2**63 - 1),
    schedule=st.sampled_from(["", "Mon-Fri 22:00-07:00; Sat,Sun 00:00-24:00"]),
    time_zone=st.sampled_from(["", "UTC", "Europe/Berlin"]),
    payout_account=st.sampled_from(["", ADDRESS]),
)


@given(settings_values)
def test_written_settings_read_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, settings: OwnerSettings
) -> None:
    folder = tmp_path_factory.mktemp("state")
    path = write_settings(folder, settings)
    assert read_settings(path) == settings
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_settings(folder, environ={}) == settings


def test_folder_without_a_file_has_the_defaults_and_no_consent(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, environ={})
    assert settings == OwnerSettings()
    assert not settings.accepts_ip_visible


def test_options_win_over_environment_over_file(tmp_path: Path) -> None:
    write_settings(tmp_path, make_settings({"upload_bytes_per_s": 1, "disk_quota_bytes": 1}))
    environ = {
        "SWARMLEDGER_ENGINE_UPLOAD_BYTES_PER_S": "2 MB/s",
        "SWARMLEDGER_ENGINE_DISK_QUOTA_BYTES": "3 GiB",
        "SWARMLEDGER_ENGINE_DISCOVERS": "yes",
        "HOME": "/",
    }
    options = {"upload_bytes_per_s": 5, "schedule": None}
    settings = load_settings(tmp_path, environ=environ, options=options)
    assert settings == make_settings(
        {"upload_bytes_per_s": 5, "disk_quota_bytes": 3 << 30, "discovers": True}
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("upload_rate = 1", "upload_rate: got an unknown field"),
        ("upload_bytes_per_s = -1", "upload_bytes_per_s: got -1, want"),
        ("upload_bytes_per_s = true", "upload_bytes_per_s: got True, want"),
        ("upload_bytes_per_s = 1.5", "upload_bytes_per_s: got 1.5, want"),
        ('upload_bytes_per_s = "fast"', "upload_bytes_per_s: got 'fast', want"),
        ("disk_quota_bytes = 9223372036854775808", "disk_quota_bytes: got"),
        ("discovers = 1", "discovers: got 1, want true or false"),
        ("schedule = 7", "schedule: got 7, want a text"),
        ('schedule = "always"', "schedule: got 'always', want DAYS"),
        ('time_zone = "Atlantis/Capital"', "time_zone: got 'Atlantis/Capital', want"),
        ('time_zone = "../../etc/passwd"', "time_zone: got"),
        ('payout_account = "G"', "payout_account: got 'G', want"),
        ("upload_bytes_per_s = ", "got no TOML"),
        ("\xff", "engine.toml"),
    ],
)
def test_wrong_file_is_refused_by_file_and_field(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content.encode("latin-1"))
    with pytest.raises(EngineError, match=FILE_NAME) as caught:
        load_settings(tmp_path, environ={})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("SPEED", "1"), ("DISCOVERS", "maybe"), ("MONTHLY_UPLOAD_BYTES", "lots")],
)
def test_wrong_environment_is_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(EngineError, match=r"got .* want"):
        load_settings(tmp_path, environ={f"SWARMLEDGER_ENGINE_{name}": value})


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    old = make_settings({"upload_bytes_per_s": 7})
    path = write_settings(tmp_path, old)
    # A draft of the same name is what a write meets that cannot be made.
    (tmp_path / f".{FILE_NAME}.{os.getpid()}").mkdir()
    with pytest.raises(EngineError, match=FILE_NAME):
        write_settings(tmp_path, OwnerSettings())
    assert read_settings(path) == old


def test_change_keeps_what_is_not_named_and_checks_what_is() -> None:
    settings = make_settings({"schedule": "08:00-09:00", "discovers": True})
    changed = change_settings(settings, {"upload_bytes_per_s": 5, "schedule": None})
    assert (changed.schedule, changed.discovers, changed.upload_bytes_per_s) == (
        "08:00-09:00", True, 5,
    )  # fmt: skip
    with pytest.raises(EngineError, match="upload_bytes_per_s"):
        change_settings(settings, {"upload_bytes_per_s": -5})


def test_file_explains_every_field() -> None:
    lines = format_settings(OwnerSettings()).splitlines()
    for number, line in enumerate(lines):
        if " = " in line and not line.startswith("#"):
            assert lines[number - 1].startswith("# ")


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("1500", 1500), ("10 MB", 10**7), ("500GiB", 500 << 30), (" 2 kB ", 2000),
     ("1 TiB", 1 << 40), ("7 B", 7)],
)  # fmt: skip
def test_amounts_are_read_with_their_unit(text: str, count: int) -> None:
    assert parse_byte_count(text, "amount") == count


@pytest.mark.parametrize(
    ("text", "rate"),
    [("0", 0), ("2 MB/s", 2 * 10**6), ("20 Mbit/s", 2_500_000), ("8bit/s", 1), ("1KiB", 1024)],
)
def test_rates_are_read_with_their_unit(text: str, rate: int) -> None:
    assert parse_byte_rate(text, "rate") == rate


@pytest.mark.parametrize(
    "text", ["", "-1", "1.5 MB", "MB", "10 mb", "10 M", "10 Mbit", "10 MB/s", "1e9", "٣", "9" * 30]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(AmountError, match="quota: got"):
        parse_byte_count(text, "quota")


@given(st.integers(0, 2**63 - 1))
def test_printed_amount_reads_back(count: int) -> None:
    assert parse_byte_count(format_byte_count(count), "amount") == count
