"""qBittorrent's records: BT_backup, with a .torrent and a .fastresume for each torrent.

Written by qBittorrent 4.1 and later unless it was told to keep them in SQLite. A .fastresume is
libtorrent's resume file with fields of qBittorrent's own ("qBt-…"). Read only.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from engine_plugin.adoption.found_content import (
    FoundContent,
    judge_content,
    names_by_place,
    read_record,
    text_of,
)
from engine_plugin.errors import ContentError
from engine_plugin.libtorrent_door import decode_dictionary

CLIENT = "qBittorrent"
USUAL_FOLDERS = (
    "~/.local/share/qBittorrent/BT_backup",
    "~/.local/share/data/qBittorrent/BT_backup",
    "~/.var/app/org.qbittorrent.qBittorrent/data/qBittorrent/BT_backup",
    "~/Library/Application Support/qBittorrent/BT_backup",
)
_HAS_PIECE = 1


def find_contents(folder: Path, *, moved: Mapping[str, str]) -> Iterator[FoundContent]:
    """Yield every torrent that qBittorrent keeps.

    Args:
        folder: BT_backup, or a profile folder above it.
        moved: Folders that lie elsewhere here than qBittorrent says.

    Raises:
        ContentError: There are no such records.
    """
    records = _find_records(folder)
    for path in sorted(records.glob("*.fastresume")):
        try:
            yield _read(path, moved)
        except ContentError as error:
            yield FoundContent(client=CLIENT, name=path.name, obstacle=str(error))


def _find_records(folder: Path) -> Path:
    for inner in ("", "BT_backup", "data/BT_backup", "qBittorrent/data/BT_backup"):
        records = folder / inner
        if records.is_dir() and any(records.glob("*.fastresume")):
            return records
    if (folder / "torrents.db").exists():
        raise ContentError(f"{folder}: got records in SQLite, want BT_backup with .fastresume")
    raise ContentError(f"{folder}: got no .fastresume, want qBittorrent's BT_backup")


def _read(path: Path, moved: Mapping[str, str]) -> FoundContent:
    resume = decode_dictionary(read_record(path))
    pieces = resume.get(b"pieces")
    has_all = isinstance(pieces, bytes) and bool(pieces) and all(n & _HAS_PIECE for n in pieces)
    return judge_content(
        client=CLIENT,
        data=read_record(path.with_suffix(".torrent")),
        # libtorrent's own field is where the files lie now; the other one where they shall lie.
        save_path=text_of(resume.get(b"save_path")) or text_of(resume.get(b"qBt-savePath")),
        renamed_files=names_by_place(resume.get(b"mapped_files")),
        is_complete=has_all or resume.get(b"seed_mode") == 1,
        moved=moved,
    )
