"""Structured logs of the server's processes: one JSON object a line on standard error.

Never a seed, a signature's secret, or an IP address. Not here: what a command prints as data.
"""

import logging
import sys

import structlog


def configure_logs(*, process: str, level: int = logging.INFO) -> None:
    """Send structlog's and the libraries' events to standard error as JSON.

    Args:
        process: Name of the process, in every line.
        level: Least level that is written.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # A line for every request to the gateway and every scheduled task would drown the rest.
    for name in ("httpx", "celery", "kombu"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    structlog.contextvars.bind_contextvars(process=process)
