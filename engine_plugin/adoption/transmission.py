"""Transmission's records: torrents/ and resume/ in its configuration folder, one pair a torrent.

Read as Transmission 2.9 to 4 write them: a bencoded dictionary whose `progress` says "all" for a
complete torrent, with the renamed paths of every file if any was renamed. Read only.
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

CLIENT = "Transmission"
USUAL_FOLDERS = (
    "~/.config/transmission",
    "~/.config/transmission-daemon",
    "~/.var/app/com.transmissionbt.Transmission/config/transmission",
    "/var/lib/transmission-daemon/.config/transmission-daemon",
    "/var/lib/transmission/.config/transmission-daemon",
)
_COMPLETE = b"all"


def find_contents(folder: Path, *, moved: Mapping[str, str]) -> Iterator[FoundContent]:
    """Yield every torrent that Transmission keeps.

    Args:
        folder: Its configuration folder.
        moved: Folders that lie elsewhere here than Transmission says.

    Raises:
        ContentError: There are no such records.
    """
    torrents, resumes = folder / "torrents", folder / "resume"
    if not (torrents.is_dir() and resumes.is_dir()):
        raise ContentError(f"{folder}: got no torrents and resume folder, want Transmission's")
    for path in sorted(torrents.glob("*.torrent")):
        try:
            yield _read(path, resumes / f"{path.stem}.resume", moved)
        except ContentError as error:
            yield FoundContent(client=CLIENT, name=path.name, obstacle=str(error))


def _read(path: Path, resume_path: Path, moved: Mapping[str, str]) -> FoundContent:
    resume = decode_dictionary(read_record(resume_path))
    progress = resume.get(b"progress")
    return judge_content(
        client=CLIENT,
        data=read_record(path),
        save_path=text_of(resume.get(b"destination")),
        renamed_files=names_by_place(resume.get(b"files")),
        is_complete=isinstance(progress, dict) and progress.get(b"blocks") == _COMPLETE,
        moved=moved,
    )
