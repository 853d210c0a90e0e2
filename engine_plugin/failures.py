"""Failures that nobody waits for: logged and told once, and again after a while only."""

import time

import structlog

from engine_plugin.events import Emit
from engine_plugin.libtorrent_door import NoticeKind
from engine_plugin.url_text import hide_queries

FAULTS = frozenset(
    {
        NoticeKind.LISTEN_FAILED,
        NoticeKind.BANNED,
        NoticeKind.WEB_SEED_FAILED,
        NoticeKind.FILE_FAILED,
        NoticeKind.TORRENT_FAILED,
        NoticeKind.HASH_FAILED,
        NoticeKind.ALERTS_DROPPED,
        NoticeKind.PORT_MAPPING_FAILED,
    }
)
"""Notices of a session that tell of a fault."""

REPEAT_S = 10.0
"""How long the same failure is not told again."""

_log = structlog.get_logger(__name__)


class FailureTeller:
    """Remembers the last failure of each part."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._last: dict[str, tuple[str, float]] = {}

    def tell(self, where: str, detail: str) -> None:
        """Tell of a failure, unless the same one was told just now."""
        detail = hide_queries(detail)
        now_s = time.monotonic()
        last, told_s = self._last.get(where, ("", 0.0))
        if detail == last and now_s - told_s < REPEAT_S:
            return
        self._last[where] = detail, now_s
        _log.warning("accounting_failed", where=where, detail=detail)
        self._emit("error", where=where, detail=detail)
