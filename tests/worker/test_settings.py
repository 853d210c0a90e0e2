"""Broker settings: brokers that lose messages are refused with the reason."""

import pytest

from ledger.config import ConfigError, Settings
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
    # Key=value pairs: the queue client's own URI parser drops the folder of a Unix socket.
    assert options["conn_string"] == "user=postgres dbname=ledger host=/tmp/x port=5432"
