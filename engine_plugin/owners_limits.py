"""Keeps a running engine within its owner's limits: rates, monthly volume, schedule, disk.

Counts once a second, tells the session what changed, and says aloud when serving stops or goes on.
Content is granted disk space before it is fetched. When counting fails, the last rates stay: the
picture goes on.

Not here: what the limits mean (`limits`), where the count lives (`upload_volume`).
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine_plugin.limits import AllowedRates, allow_rates, grant_disk, month_of
from engine_plugin.owner_settings import OwnerSettings
from engine_plugin.torrents import TorrentFile
from engine_plugin.upload_volume import FetchedContent, UploadVolume

INTERVAL_S = 1.0


class OwnersLimits:
    """The owner's limits over one run."""

    def __init__(
        self,
        settings: OwnerSettings,
        volume: UploadVolume,
        *,
        apply: Callable[[AllowedRates], None],
        emit: Callable[..., None],
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """Bind the limits of a run; nothing is applied before the first `tick`.

        Args:
            settings: The owner's.
            volume: The durable count.
            apply: Tells the session; called when something changed.
            emit: Takes the event `limits`.
            wall_s: Unix seconds.
        """
        self._settings = settings
        self._volume = volume
        self._apply = apply
        self._emit = emit
        self._wall_s = wall_s
        self._next_s = 0.0
        self._rates: AllowedRates | None = None
        self._active: dict[bytes, FetchedContent] = {}

    @property
    def rates(self) -> AllowedRates | None:
        """What was applied last; None before the first tick."""
        return self._rates

    def tick(self, now_s: float) -> None:
        """Count, and apply what holds now; once a second at most.

        Args:
            now_s: Monotonic seconds.

        Raises:
            JournalError: Counting failed; the last rates stay.
        """
        if now_s < self._next_s:
            return
        self._next_s = now_s + INTERVAL_S
        local = self._settings.local_time(self._wall_s())
        month = month_of(local)
        uploaded = self._volume.count(month)
        rates = allow_rates(self._settings, local, uploaded_bytes=uploaded)
        before, self._rates = self._rates, rates
        if rates == before:
            return
        self._apply(rates)
        stop = None if before is None else before.stop_reason
        if rates.stop_reason is not stop:
            self._emit("limits", **self._describe(rates, month, uploaded))

    def finish(self, _now_s: float) -> None:
        """Count what was served since the last tick; the session has ended.

        Raises:
            JournalError: Counting failed; the next start counts it.
        """
        self._volume.count(month_of(self._settings.local_time(self._wall_s())))

    def admit(self, torrent: TorrentFile, save_path: Path, stream_id: bytes | None = None) -> None:
        """Grant disk space to content before it is fetched.

        Args:
            torrent: What is fetched.
            save_path: Folder that will hold the torrent's name.
            stream_id: The stream it is a segment of, and will soon be deleted with.

        Raises:
            QuotaError: It does not fit into the quota, or the disk.
            JournalError: The grant could not be made durable.
        """
        content = FetchedContent(
            content_id=torrent.content_id,
            path=(save_path / torrent.name).absolute(),
            content_bytes=torrent.content_bytes,
        )
        present = sum(_size(save_path / name) for name, _ in torrent.files)
        # Files that were here before the engine came are the owner's and fill no quota.
        grant_disk(
            self._settings,
            torrent.name,
            wanted_bytes=torrent.content_bytes,
            held_bytes=sum(
                other.content_bytes
                for other in self._held()
                if other.content_id != content.content_id
            ),
            free_bytes=_free_bytes(save_path) + present,
        )
        if self._settings.disk_quota_bytes or stream_id is None:
            self._volume.remember_fetched(content)
        self._active[content.content_id] = content

    def release(self, content_id: bytes) -> None:
        """Take note that content is not being fetched any more; files that stay still count."""
        self._active.pop(content_id, None)

    def _held(self) -> list[FetchedContent]:
        held = []
        for content in self._volume.list_fetched():
            if content.content_id in self._active or content.path.exists():
                held.append(content)
            else:
                self._volume.forget_fetched(content.content_id)
        return held

    def _describe(self, rates: AllowedRates, month: str, uploaded: int) -> dict[str, Any]:
        return {
            "serving": rates.stop_reason is None,
            "reason": None if rates.stop_reason is None else str(rates.stop_reason),
            "month": month,
            "month_uploaded_bytes": uploaded,
            "monthly_upload_bytes": self._settings.monthly_upload_bytes,
        }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _free_bytes(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
