"""The worker's Celery settings, made from the product's configuration.

Messages carry ids only, as JSON; results are off; a message is acknowledged after its task, and
handed to another worker when its worker dies. The database's rows, not the messages, say what is to
be done. Brokers that lose messages are refused with the reason.
"""

from typing import Any, Final
from urllib.parse import urlsplit

from ledger.config import EMBEDDED_BROKER, ConfigError, Settings, need
from ledger.store.engine import libpq_conninfo

BUNDLES_QUEUE: Final = "bundles"
"""One message a batch of bundles to judge: many, each up to a second."""

EPOCHS_QUEUE: Final = "epochs"
"""Sweeps, epochs and settlement: few; a queue of their own, so that no backlog delays a seal."""

EXPIRE_EVERY_S: Final = 60.0
"""Seconds between two looks at what nothing needs any more."""

EXPIRY_SCHEDULES: Final = 10
"""Schedules after which a tick is pointless: others have come."""

EXPIRY_LEAST_S: Final = 10.0
"""Least seconds that a tick lives: longer than a loaded machine needs to fetch it."""

WORK_EXPIRY_TICKS: Final = 6
"""How many times as long as a tick lives what it publishes."""

POLLING_S: Final = 0.25
"""Seconds between two looks at empty queues in the database."""

GC_OBJECTS: Final = 50_000
"""New objects after which the garbage collector looks for cycles among them."""

ALLOWED: Final = frozenset({"amqp", "amqps", "pgmq", "redis", "rediss"})
REFUSED: Final = {
    "sqla": "its transport never hands a dead worker's messages to another one",
    "filesystem": "its transport loses messages and reads half-written ones",
    "memory": "its messages do not leave the process",
}


def require_broker(broker_url: str) -> str:
    """Return the scheme of a broker URL.

    Raises:
        ConfigError: Messages would be lost there, or the transport is unknown.
    """
    scheme = urlsplit(broker_url).scheme
    family = scheme.split("+")[0]
    if family in REFUSED:
        raise ConfigError(f"BROKER_URL: got {scheme}://, want another broker: {REFUSED[family]}")
    if scheme not in ALLOWED:
        raise ConfigError(f"BROKER_URL: got {scheme or 'no scheme'}, want one of {sorted(ALLOWED)}")
    return scheme


def make_celery_settings(settings: Settings) -> dict[str, Any]:
    """Return Celery's settings.

    Raises:
        ConfigError: The broker is refused, or a key is missing.
    """
    scheme = require_broker(settings.broker_url)
    return {
        "broker_url": settings.broker_url,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": _transport_options(settings, scheme),
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "worker_hijack_root_logger": False,
        "task_default_queue": EPOCHS_QUEUE,
        "task_routes": {"swarmledger.check_bundles": {"queue": BUNDLES_QUEUE}},
        "enable_utc": True,
        "beat_schedule": {
            "tick": {
                "task": "swarmledger.tick",
                "schedule": settings.schedule_s,
                "options": {"expires": expiry_s(settings)},
            },
            "expire": {
                "task": "swarmledger.expire",
                "schedule": EXPIRE_EVERY_S,
                "options": {"expires": EXPIRE_EVERY_S},
            },
        },
        "beat_max_loop_interval": settings.schedule_s,
    }


def expiry_s(settings: Settings) -> float:
    """Return after how many seconds a tick is pointless: others have come."""
    return max(EXPIRY_SCHEDULES * settings.schedule_s, EXPIRY_LEAST_S)


def work_expiry_s(settings: Settings) -> float:
    """Return after how many seconds what a tick has published is pointless.

    Much longer than a tick lives. A queue that is longer than a tick's life drops ticks, so nothing
    more is published and it shortens; what was published before still finds its worker. With one
    life for both, a worker that is behind may fetch nothing but what is stale.
    """
    return WORK_EXPIRY_TICKS * expiry_s(settings)


def _transport_options(settings: Settings, scheme: str) -> dict[str, Any]:
    if scheme == "pgmq":
        options: dict[str, Any] = {
            "init_extension": False,
            "visibility_timeout": settings.visibility_timeout_s,
            # No long poll: it would block on one empty queue while the other one fills.
            "wait_time_seconds": 0,
            "polling_interval": POLLING_S,
        }
        if settings.broker_url == EMBEDDED_BROKER:
            options["conn_string"] = libpq_conninfo(need("database_url", settings.database_url))
        return options
    if scheme in {"redis", "rediss"}:
        # Without the throttle a dead worker's messages come back after a hundred seconds.
        return {
            "visibility_timeout": settings.visibility_timeout_s,
            "unacked_restore_throttle": 1,
        }
    return {}
