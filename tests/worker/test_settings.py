"""Broker settings: brokers that lose messages are refused with the reason."""

import pytest

from ledger.config import ConfigError, Settings, load_settings
from worker.settings import make_celery_settings, require_broker


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqla+postgresql+psycopg://localhost/x", "never hands a dead worker's messages"),
        ("sqla+sqlite:///x", "never hands a dead worker's messages"),
        ("filesystem://", "loses messages"),
        ("memory://", "do not leave the process"),
        ("kafka://localhost", "want one of"),
        ("", "want one of"),
    ],
)
def test_a_broker_that_loses_messages_is_refused_with_the_reason(url, reason):
    with pytest.raises(ConfigError, match=reason):
        require_broker(url)


@pytest.mark.parametrize(
    "url", ["pgmq://", "amqp://localhost//", "redis://localhost", "rediss://x"]
)
def test_the_same_code_runs_on_every_broker_that_keeps_messages(url):
    settings = make_celery_settings(Settings(database_url="postgresql://u@/d", broker_url=url))
    assert settings["task_acks_late"]
    assert settings["task_reject_on_worker_lost"]
    assert settings["accept_content"] == ["json"]


def test_the_embedded_broker_uses_the_database_itself():
    url = "postgresql+psycopg://postgres@/ledger?host=/tmp/x&port=5432"
    options = make_celery_settings(Settings(database_url=url))["broker_transport_options"]
    assert options["conn_string"] == "postgresql://postgres@/ledger?host=%2Ftmp%2Fx&port=5432"


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
