"""What one record of another client says, and whether its content can be served as it lies.

A record is believed about places and names only. Complete is what the client calls complete *and*
has every file at its full size; bytes are checked when they are served (or all at once, if asked).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from engine_plugin.errors import ContentError
from engine_plugin.libtorrent_door import (
    TorrentFile,
    decode_dictionary,
    list_places,
    read_torrent,
)

RECORD_SIZE_MAX = 64 << 20
RECORDS_MAX = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundContent:
    """One torrent of another client."""

    client: str
    """Whose it is."""
    name: str
    """The torrent's name, or the record's file when the torrent cannot be read."""
    torrent: TorrentFile | None = None
    """None when it cannot be read."""
    save_path: Path | None = None
    renamed_files: Mapping[int, str] = field(default_factory=dict)
    """Paths below `save_path` by a file's place in the torrent."""
    obstacle: str = ""
    """Why it cannot be served; "": it can."""
    needs_check: bool = False
    """Whether its files must be hashed before others can verify what is served."""


def judge_content(
    *,
    client: str,
    data: bytes,
    save_path: str,
    renamed_files: Mapping[int, str],
    is_complete: bool,
    moved: Mapping[str, str],
) -> FoundContent:
    """Return what a record describes, with the first obstacle to serving it.

    Args:
        client: Whose record it is.
        data: The torrent file.
        save_path: Folder of the content as the client names it.
        renamed_files: Paths below it by place in the torrent.
        is_complete: Whether the client holds it complete.
        moved: Folders that lie elsewhere here than the client says: from, to.

    Raises:
        ContentError: The torrent cannot be read.
    """
    torrent = read_torrent(data)
    folder = Path(_move(save_path, moved))
    obstacle = ""
    if not save_path:
        obstacle = "its folder is not recorded"
    elif not folder.is_absolute():
        obstacle = f"its folder is recorded as {save_path!r}, want an absolute path"
    elif not is_complete:
        obstacle = "the client has not completed it"
    else:
        obstacle = _find_obstacle(data, folder, renamed_files)
    return FoundContent(
        client=client,
        name=torrent.name,
        torrent=torrent,
        save_path=folder,
        renamed_files=renamed_files,
        obstacle=obstacle,
        needs_check=bool(torrent.infohash_v2) and not decode_dictionary(data).get(b"piece layers"),
    )


def read_record(path: Path) -> bytes:
    """Return a client's file.

    Raises:
        ContentError: It cannot be read, or is far too large for a record.
    """
    try:
        with path.open("rb") as file:
            data = file.read(RECORD_SIZE_MAX + 1)
    except OSError as error:
        raise ContentError(f"{path}: {error.strerror}") from None
    if len(data) > RECORD_SIZE_MAX:
        raise ContentError(f"{path}: got more than {RECORD_SIZE_MAX} bytes")
    return data


def text_of(value: object) -> str:
    """Return a bencoded text; "" when it is none."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def names_by_place(value: object) -> dict[int, str]:
    """Return the renamed paths of a record: a list by place, empty where nothing was renamed."""
    if not isinstance(value, list):
        return {}
    return {place: text_of(name) for place, name in enumerate(value) if text_of(name)}


def _move(save_path: str, moved: Mapping[str, str]) -> str:
    for old, new in moved.items():
        rest = save_path.removeprefix(old.rstrip("/"))
        if rest != save_path and rest[:1] in {"", "/"}:
            return new.rstrip("/") + rest
    return save_path


def _find_obstacle(data: bytes, folder: Path, renamed_files: Mapping[int, str]) -> str:
    for place, path, size in list_places(data):
        name = renamed_files.get(place, path)
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            return f"{name!r} lies outside of its folder"
        try:
            got = (folder / name).stat().st_size
        except OSError as error:
            return f"{folder / name}: {error.strerror}"
        if got != size:
            return f"{folder / name}: got {got} bytes, want {size}"
    return ""
