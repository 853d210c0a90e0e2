"""A mirror's folder: the log's files as the operator serves them, and every checkpoint seen.

    checkpoint              the newest signed checkpoint, verbatim
    tile/…                  tiles and entry bundles (c2sp.org/tlog-tiles)
    kept/<size>.checkpoint  every checkpoint that the mirror grew to; never replaced
    .incoming/              what a run has fetched and not proven yet

Files take their places only after all of a run's files are proven, the checkpoint last, so that any
reader of the folder sees a whole log, and a run that was killed is gone on with. One that is killed
at its very end has kept a checkpoint that is not the folder's yet; the next run goes on from there.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.audit.errors import UndecidableError
from ledger.publiclog.log_keys import LogKeys, SignedHead
from ledger.publiclog.source import FolderSource
from ledger.sealing.files import sync_folders, write_file

CHECKPOINT: Final = "checkpoint"
_KEPT_SUFFIX: Final = ".checkpoint"
_SYNC_EVERY: Final = 4_096


@dataclass(frozen=True, slots=True)
class MirrorFolder:
    """The folder of one log's mirror."""

    path: Path

    @property
    def source(self) -> FolderSource:
        """Its proven files."""
        return FolderSource(self.path)

    @property
    def incoming(self) -> FolderSource:
        """What was fetched and is not proven."""
        return FolderSource(self.path / ".incoming")

    def head(self, keys: LogKeys) -> SignedHead | None:
        """Return the checkpoint that the mirror has grown to, None in a new folder.

        Raises:
            UndecidableError: It is there and cannot be believed.
        """
        note = self.source.read(CHECKPOINT)
        return None if note is None else keys.read_head(note)

    def kept(self, keys: LogKeys) -> list[SignedHead]:
        """Return every checkpoint that was kept, by rising size.

        Raises:
            UndecidableError: One of them cannot be believed.
        """
        folder = self.path / "kept"
        if not folder.is_dir():
            return []
        heads = [
            keys.read_head(path.read_bytes())
            for path in sorted(folder.iterdir())
            if path.name.endswith(_KEPT_SUFFIX)
        ]
        return sorted(heads, key=lambda head: head.checkpoint.tree_size)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who writes here.

        Raises:
            UndecidableError: Another run is at it, or the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UndecidableError(f"{self.path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise UndecidableError(f"{self.path}: another run writes here") from None
        finally:
            os.close(descriptor)

    def stage(self, path: str, content: bytes) -> None:
        """Keep a file that is not proven yet; a power cut may damage it.

        Raises:
            OSError: It cannot be written.
        """
        file = self.incoming.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.part")
        draft.write_bytes(content)
        draft.replace(file)

    def adopt(self, paths: Iterable[str], head: SignedHead) -> None:
        """Let proven files take their places, and the checkpoint after them.

        Raises:
            OSError: One cannot; the next run does it again.
        """
        folders: set[Path] = set()
        for path in paths:
            source, target = self.incoming.folder / path, self.path / path
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open("rb") as file:
                    os.fsync(file.fileno())
                source.replace(target)
                folders.add(target.parent)
            if len(folders) >= _SYNC_EVERY:
                sync_folders(folders)
                folders.clear()
        sync_folders({*folders, self.path})
        size = head.checkpoint.tree_size
        write_file(self.path / "kept" / f"{size}{_KEPT_SUFFIX}", head.note)
        sync_folders([self.path / "kept"])
        write_file(self.path / CHECKPOINT, head.note)
        sync_folders([self.path])
        self.discard()

    def discard(self) -> None:
        """Forget what was fetched and not proven."""
        shutil.rmtree(self.incoming.folder, ignore_errors=True)
