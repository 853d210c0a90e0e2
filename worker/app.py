"""The Celery application: settings from the environment, tasks from `worker.tasks`.

Loaded by `swarmledger worker`; the only entry to Celery.
"""

import sys
from typing import Any

import structlog
from celery import Celery, signals

from ledger.config import load_settings
from ledger.logs import configure_logs
from worker.settings import make_celery_settings

app = Celery("swarmledger", include=["worker.tasks"])
app.conf.update(make_celery_settings(load_settings()))


@signals.setup_logging.connect
def _configure_logs(**_: Any) -> None:
    # Being connected also keeps Celery from configuring logs itself.
    configure_logs(process="beat" if "beat" in sys.argv else "worker")


@signals.worker_ready.connect
def _report_ready(**_: Any) -> None:
    structlog.get_logger(__name__).info("worker_ready")
