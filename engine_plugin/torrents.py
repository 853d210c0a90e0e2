"""Making a torrent from a person's file or folder.

Deterministic: the same names and bytes give the same torrent. Every fault of the content is said
in words before libtorrent sees it. What a torrent file is made of is the door's business.

Spec: BEP 52 with BEP 3 (hybrid), BEP 47 (padding), BEP 19 (web seeds), BEP 27 (private).
"""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from engine_plugin.errors import ContentError
from engine_plugin.libtorrent_door import (
    TorrentFile,
    TorrentForm,
    build_torrent,
    read_torrent,
)

_LEAST_PIECE_BYTES = 64 * 1024
_MOST_PIECE_BYTES = 16 * 1024 * 1024
_MOST_PIECES = 1024
_MOST_FILES = 100_000

__all__ = ["TorrentFile", "TorrentForm", "choose_piece_bytes", "make_torrent", "read_torrent"]


def make_torrent(
    path: Path,
    *,
    piece_bytes: int | None = None,
    web_seeds: Sequence[str] = (),
    is_private: bool = False,
    form: TorrentForm = TorrentForm.HYBRID,
) -> TorrentFile:
    """Makes a torrent of a file or of everything below a folder.

    Args:
        path: The file or folder; its name becomes the torrent's name.
        piece_bytes: A power of two from 16 KiB; None chooses by size.
        web_seeds: http or https URLs. A URL of a folder ends in "/": for a folder it is the
            place where the folder itself lies; for a file it may also be the file's own URL.
        is_private: Whether to forbid DHT and peer exchange.
        form: Which hashes it holds.

    Raises:
        ContentError: There is nothing to share, or a part of it cannot be read or named.
    """
    root = path.resolve()
    try:
        files = list(_list_files(root))
    except OSError as error:
        raise ContentError(f"{error.filename or path}: {error.strerror or error}") from error
    size = sum(length for _, length in files)
    if not size:
        raise ContentError(f"{path}: got no bytes to share, want at least one")
    for url in web_seeds:
        _check_web_seed(url, is_folder=root.is_dir())
    piece_bytes = choose_piece_bytes(size) if piece_bytes is None else piece_bytes
    if piece_bytes < 16384 or piece_bytes & (piece_bytes - 1):
        raise ContentError(f"piece_bytes: got {piece_bytes}, want a power of two from 16384")
    data = build_torrent(
        root.parent,
        files,
        piece_bytes=piece_bytes,
        web_seeds=web_seeds,
        is_private=is_private,
        form=form,
    )
    torrent = read_torrent(data)
    # libtorrent replaces what some file system might refuse; such content could not be seeded.
    if renamed := set(files) - set(torrent.files):
        raise ContentError(f"{min(renamed)[0]}: got a name that BitTorrent clients change")
    return torrent


def choose_piece_bytes(content_bytes: int) -> int:
    """Returns the smallest power of two from 64 KiB to 16 MiB that gives at most 1,024 pieces."""
    piece_bytes = _LEAST_PIECE_BYTES
    while piece_bytes < _MOST_PIECE_BYTES and piece_bytes * _MOST_PIECES < content_bytes:
        piece_bytes *= 2
    return piece_bytes


def _list_files(root: Path) -> Iterator[tuple[str, int]]:
    if root.is_dir():
        if not root.name:
            raise ContentError(f"{root}: got the root of the file system, want a folder")
        paths = sorted(_walk(root), key=lambda path: path.parts)
    else:
        paths = [root]
    if len(paths) > _MOST_FILES:
        raise ContentError(f"{root}: got {len(paths)} files, want at most {_MOST_FILES}")
    for path in paths:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ContentError(f"{path}: got a special file, want regular files only")
        # Opening is the only honest test of being readable.
        os.close(os.open(path, os.O_RDONLY))
        name = path.relative_to(root.parent).as_posix()
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ContentError(f"{name!r}: got a name that is not UTF-8") from error
        yield name, facts.st_size


def _walk(folder: Path) -> Iterator[Path]:
    """Yields the files below a folder; a link to a file counts as a file, one to a folder not."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(path)
            elif entry.is_dir():
                raise ContentError(f"{path}: got a link to a folder, want files and real folders")
            else:
                yield path


def _check_web_seed(url: str, *, is_folder: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ContentError(f"web seed: got {url!r}, want an http or https URL")
    if is_folder and not url.endswith("/"):
        raise ContentError(f'web seed: got {url!r}, want "/" at its end for a folder')
