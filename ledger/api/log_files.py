"""The public log over HTTP: static files of c2sp.org/tlog-tiles with their cache headers.

Any file server may serve the folder instead. Only paths of the format are looked up, so no request
reaches another file. Tiles never change; the checkpoint does.
"""

from pathlib import Path
from typing import Final

from fastapi.responses import FileResponse, Response

from ledger.api.answers import RefusedError
from ledger.audit.address import parse_account
from ledger.evidence.errors import MalformedError
from ledger.evidence.tile import parse_tile_path

IMMUTABLE: Final = "public, max-age=31536000, immutable"
CHECKPOINT: Final = "no-cache"
_TEXTS: Final = frozenset({"checkpoint", "log.vkey"})


def read_log_file(log_dir: Path, broadcaster: str, path: str) -> Response:
    """Return a file of a broadcaster's log.

    Raises:
        RefusedError: 404, there is no such file, or the path is none of a log's.
    """
    file = log_dir / broadcaster / path
    if not _is_log_path(broadcaster, path) or not file.is_file():
        raise RefusedError(
            404, "unknown_file", field="path", got=path, want="checkpoint, log.vkey or a tile"
        )
    if path in _TEXTS:
        return FileResponse(
            file, media_type="text/plain; charset=utf-8", headers={"Cache-Control": CHECKPOINT}
        )
    return FileResponse(
        file, media_type="application/octet-stream", headers={"Cache-Control": IMMUTABLE}
    )


def _is_log_path(broadcaster: str, path: str) -> bool:
    try:
        parse_account(broadcaster)
        if path not in _TEXTS:
            parse_tile_path(path)
    except MalformedError:
        return False
    return True
