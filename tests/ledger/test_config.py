"""Configuration: environment before file, and what cannot be is named."""

import pytest

from ledger.config import ConfigError, load_settings, need


def test_a_configuration_file_is_read_and_the_environment_wins(tmp_path, monkeypatch):
    file = tmp_path / "swarmledger.toml"
    file.write_text('database_url = "postgresql:///from_file"\nlease_s = 7\n')
    monkeypatch.setenv("SWARMLEDGER_CONFIG", str(file))
    monkeypatch.setenv("DATABASE_URL", "postgresql:///from_environment")
    settings = load_settings()
    assert (settings.database_url, settings.lease_s) == ("postgresql:///from_environment", 7)


@pytest.mark.parametrize("line", ["unknown_key = 1", "lease_s = -1", "lease_s = ["])
def test_a_configuration_that_cannot_be_is_refused(tmp_path, monkeypatch, line):
    file = tmp_path / "swarmledger.toml"
    file.write_text(line + "\n")
    monkeypatch.setenv("SWARMLEDGER_CONFIG", str(file))
    with pytest.raises(ConfigError):
        load_settings()


def test_a_missing_key_is_named_as_the_variable_it_is_read_from():
    with pytest.raises(ConfigError, match="SWARMLEDGER_LOG_KEY_FILE: got nothing"):
        need("log_key_file", None)


def test_a_missing_file_is_named(monkeypatch):
    monkeypatch.setenv("SWARMLEDGER_CONFIG", "/nowhere.toml")
    with pytest.raises(ConfigError, match=r"/nowhere\.toml"):
        load_settings()
