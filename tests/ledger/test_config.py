"""Configuration: environment before file, and what cannot be is named."""

import pytest

from ledger.config import (
    PUBLIC_NETWORK,
    ConfigError,
    Settings,
    load_settings,
    need,
    require_sources,
)


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


ONE, TWO = "horizon:https://one.example", "horizon:https://one.example,rpc:https://two.example"


@pytest.mark.parametrize(("urls", "stated", "want"), [(ONE, 0, 1), (TWO, 0, 2), (TWO, 1, 1)])
def test_as_many_sources_as_are_named_must_agree_up_to_two(urls, stated, want):
    settings = Settings(gateway_url=urls, evidence_sources=stated, network_passphrase="a test")
    assert settings.sources_to_agree == want
    require_sources(settings)


@pytest.mark.parametrize(
    ("urls", "stated", "named"),
    [
        (ONE, 0, "EVIDENCE_SOURCES"),
        (TWO, 1, "EVIDENCE_SOURCES"),
        (f"{ONE},{ONE}", 2, "GATEWAY_URL"),
    ],
)
def test_the_public_network_is_not_settled_on_one_sources_word(urls, stated, named):
    """One that lies could tell a payment that never was."""
    settings = Settings(
        gateway_url=urls, evidence_sources=stated, network_passphrase=PUBLIC_NETWORK
    )
    with pytest.raises(ConfigError, match=f"SWARMLEDGER_{named}"):
        require_sources(settings)


def test_two_sources_are_enough_for_the_public_network():
    require_sources(Settings(gateway_url=TWO, network_passphrase=PUBLIC_NETWORK))
