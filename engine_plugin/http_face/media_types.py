"""Content types by a file's name.

Pure; the machine's own tables are not asked, so that the answer is the same everywhere.
"""

from collections.abc import Sequence

DEFAULT_TYPE = "application/octet-stream"

_TYPES = {
    "3gp": "video/3gpp",
    "aac": "audio/aac",
    "avi": "video/x-msvideo",
    "flac": "audio/flac",
    "flv": "video/x-flv",
    "m2ts": "video/mp2t",
    "m4a": "audio/mp4",
    "m4v": "video/mp4",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "mpg": "video/mpeg",
    "mts": "video/mp2t",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "ogv": "video/ogg",
    "opus": "audio/ogg",
    "srt": "application/x-subrip",
    "ts": "video/mp2t",
    "vtt": "text/vtt; charset=utf-8",
    "wav": "audio/wav",
    "webm": "video/webm",
    "wmv": "video/x-ms-wmv",
}


def type_of(name: str) -> str:
    """Return the content type that a file's name stands for."""
    return _TYPES.get(name.rpartition(".")[2].lower(), DEFAULT_TYPE)


def is_media(name: str) -> bool:
    """Say whether a file's name is that of sound or pictures."""
    return type_of(name).startswith(("audio/", "video/"))


def choose_file(files: Sequence[tuple[str, int]]) -> int:
    """Return which file a player means when it names none: the largest media file, or the largest.

    Args:
        files: Path and size of each; at least one.
    """
    return max(range(len(files)), key=lambda at: (is_media(files[at][0]), files[at][1], -at))
