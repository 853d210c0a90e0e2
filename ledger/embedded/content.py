"""Content of a demo: the user's file or folder, checked before anything starts, or a made one.

The made file is pseudo-random from a fixed seed, so that two demos move the same bytes.
"""

import os
from dataclasses import dataclass
from hashlib import shake_128
from pathlib import Path

from ledger.embedded.errors import DemoError

DEFAULT_SIZE_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A file or folder to deliver."""

    path: Path
    """Absolute path."""

    files: tuple[Path, ...]
    """Its files, relative to `path`'s parent, sorted."""

    size_bytes: int
    """Σ file sizes."""


def check_content(path: Path) -> Content:
    """Look at a file or folder that is to be delivered.

    Raises:
        DemoError: It is missing, empty, unreadable, or neither file nor folder.
    """
    absolute = Path(os.path.abspath(path))
    if not absolute.exists():
        raise DemoError(f"--content {path}: got nothing there, want a file or folder")
    if absolute.is_file():
        found = [absolute]
    elif absolute.is_dir():
        found = sorted(_files_below(absolute))
    else:
        raise DemoError(f"--content {path}: got a special file, want a file or folder")
    sizes = [_readable_size(file) for file in found]
    if not sum(sizes):
        what = "an empty file" if absolute.is_file() else "a folder without content"
        raise DemoError(f"--content {path}: got {what}, want at least one byte")
    return Content(
        path=absolute,
        files=tuple(file.relative_to(absolute.parent) for file in found),
        size_bytes=sum(sizes),
    )


def _files_below(folder: Path) -> list[Path]:
    """Return the files below a folder; a folder that cannot be listed is an error, not skipped."""

    def refuse(error: OSError) -> None:
        raise DemoError(f"--content {error.filename}: {error.strerror}") from None

    walk = os.walk(folder, onerror=refuse)
    return [Path(parent) / name for parent, _, names in walk for name in names]


def _readable_size(file: Path) -> int:
    try:
        with file.open("rb") as stream:
            return os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise DemoError(f"--content {file}: {error.strerror}") from None


def make_content(path: Path, size_bytes: int = DEFAULT_SIZE_BYTES) -> Content:
    """Write the made file and return it.

    Raises:
        DemoError: The disk refuses.
    """
    try:
        with path.open("wb") as stream:
            for at in range(0, size_bytes, _CHUNK_BYTES):
                size = min(_CHUNK_BYTES, size_bytes - at)
                stream.write(shake_128(b"swarmledger demo %d" % at).digest(size))
    except OSError as error:
        raise DemoError(f"{path}: {error.strerror}") from None
    return check_content(path)
