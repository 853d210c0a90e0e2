"""Broker settings: brokers that lose messages are refused with the reason."""

import pytest

from ledger.config import ConfigError, Settings
from worker.settings import (
    EXPIRY_LEAST_S,
    expiry_s,
    make_celery_settings,
    require_broker,
    work_expiry_s,
)


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


@pytest.mark.parametrize("schedule_s", [0.01, 0.3, 1, 5, 60])
def test_no_schedule_is_so_short_that_a_busy_worker_fetches_stale_messages_only(schedule_s):
    settings = Settings(database_url="postgresql://u@/d", schedule_s=schedule_s)
    (tick,) = (
        entry
        for entry in make_celery_settings(settings)["beat_schedule"].values()
        if entry["task"] == "swarmledger.tick"
    )
    assert tick["options"]["expires"] == expiry_s(settings)
    assert expiry_s(settings) >= max(EXPIRY_LEAST_S, 10 * schedule_s)
    # A queue as long as a tick lives publishes nothing more; what is in it must not be late.
    assert work_expiry_s(settings) >= 5 * expiry_s(settings)
