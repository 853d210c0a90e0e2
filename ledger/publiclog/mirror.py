"""Mirroring a log: everything is proven before anything takes its place.

A run fetches the checkpoint, then the new entry bundles; computes every hash tile from them and
compares it with the one that the source serves; checks the order of the leaves, the signed root,
the epoch's key and that the old tree is the new one's beginning. What is proven then replaces
nothing but the checkpoint. A run that was stopped is gone on with from the bundles it has; if what
comes of them does not hold, they are fetched anew before anything is said against the source.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.audit.errors import DisprovenError, UndecidableError
from ledger.evidence.encoding import RecordCode
from ledger.evidence.errors import EvidenceError
from ledger.evidence.instruction_list import instruction_list_path
from ledger.evidence.leaf import SealLeaf, code_of_leaf
from ledger.evidence.tile import parse_tile_path, root_of_tiles
from ledger.evidence.tile_proofs import TileReader
from ledger.publiclog.folder import CHECKPOINT, MirrorFolder
from ledger.publiclog.growth import grown_files
from ledger.publiclog.heads import epoch_of_head, require_consistent
from ledger.publiclog.leaf_order import LeafOrder
from ledger.publiclog.log_keys import LogKeys, SignedHead
from ledger.publiclog.sealed_instructions import require_instructions, seal_with_instructions
from ledger.publiclog.source import LogSource

BYTES_MAX: Final = 64 << 30
"""Most bytes that one run fetches, unless it is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """What a run did."""

    old_size: int
    new_size: int
    epoch: int | None
    """Last epoch in the log."""

    files_written: int
    bytes_fetched: int


@dataclass(slots=True)
class _Meter:
    """The source, with its answers counted."""

    source: LogSource
    bytes_max: int
    bytes_fetched: int = 0

    def read(self, path: str) -> bytes | None:
        content = self.source.read(path)
        self.bytes_fetched += len(content or b"")
        if self.bytes_fetched > self.bytes_max:
            raise UndecidableError(
                f"{self.source.name}: got over {self.bytes_max} bytes in one run; "
                "the next run goes on, or allow more"
            )
        return content


def mirror_log(
    source: LogSource, path: Path, keys: LogKeys, *, bytes_max: int = BYTES_MAX
) -> Mirrored:
    """Bring a mirror up to the source's checkpoint.

    Args:
        source: The log.
        path: The mirror's folder; made if it is missing.
        keys: Whose signature counts.
        bytes_max: Most bytes to fetch.

    Raises:
        ForkError: The source's checkpoint contradicts the mirror's; the mirror is as it was.
        DisprovenError: The source's files are not what its checkpoint says; likewise.
        UndecidableError: The source cannot be read, or shows an older log; likewise.
        OSError: The folder cannot be written.
    """
    folder = MirrorFolder(path)
    with folder.locked():
        meter = _Meter(source, bytes_max)
        note = meter.read(CHECKPOINT)
        if note is None:
            raise UndecidableError(f"{source.name}: got no checkpoint, want a signed one")
        head = keys.read_head(note)
        kept = folder.head(keys)
        old_size = 0 if kept is None else kept.checkpoint.tree_size
        if kept is not None and head.checkpoint.tree_size <= old_size:
            return _stay(folder, kept, head, meter)
        if kept is not None:
            _require_whole(folder, kept)
        paths, epoch = _fetch(folder, meter, keys, kept, head)
        folder.adopt(paths, head)
    return Mirrored(
        old_size=old_size,
        new_size=head.checkpoint.tree_size,
        epoch=epoch,
        files_written=len(paths),
        bytes_fetched=meter.bytes_fetched,
    )


def _fetch(
    folder: MirrorFolder,
    meter: _Meter,
    keys: LogKeys,
    kept: SignedHead | None,
    head: SignedHead,
    *,
    may_reuse: bool = True,
) -> tuple[list[str], int | None]:
    """Fetch and prove the new files; return their paths and the log's last epoch."""
    run = _Run(folder, meter, keys, kept, head, may_reuse)
    try:
        run.require_no_fork()
        return run.fetch()
    except DisprovenError:
        folder.discard()
        if not run.has_reused:
            raise
    # A power cut may have damaged what the stopped run left: that says nothing about the source.
    return _fetch(folder, meter, keys, kept, head, may_reuse=False)


def _stay(folder: MirrorFolder, kept: SignedHead, head: SignedHead, meter: _Meter) -> Mirrored:
    """The source's log is not larger than the mirror: it must be the mirror's beginning."""
    require_consistent(kept, head, folder.source.read)
    old_size, size = kept.checkpoint.tree_size, head.checkpoint.tree_size
    if size < old_size:
        raise UndecidableError(
            f"{meter.source.name}: got an older checkpoint of {size} leaves, "
            f"want {old_size} or more"
        )
    return Mirrored(
        old_size=old_size,
        new_size=old_size,
        epoch=epoch_of_head(kept, folder.source.read),
        files_written=0,
        bytes_fetched=meter.bytes_fetched,
    )


def _require_whole(folder: MirrorFolder, kept: SignedHead) -> None:
    """The right edge of the mirror must be what its checkpoint says: it is built on."""
    try:
        root = root_of_tiles(kept.checkpoint.tree_size, folder.source.read)
    except EvidenceError as error:
        raise UndecidableError(f"{folder.path}: the mirror is damaged: {error}") from error
    if root != kept.checkpoint.root_hash:
        raise UndecidableError(f"{folder.path}: the mirror is damaged; begin a new one")


@dataclass(slots=True)
class _Run:
    """One growth of a mirror."""

    folder: MirrorFolder
    meter: _Meter
    keys: LogKeys
    kept: SignedHead | None
    head: SignedHead
    may_reuse: bool
    """Whether bundles that a stopped run left are taken."""

    has_reused: bool = False

    def require_no_fork(self) -> None:
        """Look for two histories first: signatures prove more than a finding among leaves."""
        if self.kept is None:
            return
        try:
            require_consistent(self.kept, self.head, self.meter.read)
        except UndecidableError:
            # The source's tiles lead elsewhere; what its leaves say is found out next.
            return

    def fetch(self) -> tuple[list[str], int | None]:
        """Fetch, compute and prove the new files; return their paths and the log's last epoch."""
        old_size = 0 if self.kept is None else self.kept.checkpoint.tree_size
        new_size = self.head.checkpoint.tree_size
        order = self._order_at(old_size)

        seals: list[SealLeaf] = []

        def take_leaves(leaves: Sequence[bytes]) -> None:
            for leaf in leaves:
                order.take(leaf)
                seals.extend(seal_with_instructions(leaf))

        paths: list[str] = []
        others: list[str] = []
        try:
            for place, text, content in grown_files(
                old_size=old_size,
                new_size=new_size,
                read_old=self.folder.source.read,
                read_new=self._read_bundle,
                take_leaves=take_leaves,
            ):
                self.folder.stage(text, content)
                paths.append(text)
                if place.level is not None and not self._is_served(text, content):
                    others.append(text)
        except EvidenceError as error:
            raise DisprovenError(f"{self.meter.source.name}: {error}") from error
        self._require_signed_root(new_size)
        if others:
            raise DisprovenError(
                f"{self.meter.source.name}: {others[0]} and {len(others) - 1} more: "
                "got other hashes, want those of the leaves"
            )
        if not order.is_whole:
            raise DisprovenError(f"leaf {new_size}: got a checkpoint inside an epoch, want its end")
        if order.epoch is not None:
            self.keys.require_key_of(self.head, order.epoch)
        return paths + self._fetch_instructions(seals), order.epoch

    def _fetch_instructions(self, seals: Sequence[SealLeaf]) -> list[str]:
        """Fetch what the seals count; return the paths."""
        paths: list[str] = []
        for seal in seals:
            path = instruction_list_path(seal.epoch)
            content = self.meter.read(path)
            require_instructions(content, seal)
            self.folder.stage(path, content or b"")
            paths.append(path)
        return paths

    def _order_at(self, size: int) -> LeafOrder:
        """The order of leaves, gone on with after the mirror's last epoch."""
        if not size:
            return LeafOrder(trust=self.keys.trust)
        reader = TileReader(size, self.folder.source.read)
        tail: list[bytes] = []
        for index in reversed(range(size)):
            leaf = reader.leaf(index)
            tail.append(leaf)
            if code_of_leaf(leaf) == RecordCode.LEAF_RESULT:
                break
        return LeafOrder.after(reversed(tail), size, self.keys.trust)

    def _read_bundle(self, path: str) -> bytes | None:
        place = parse_tile_path(path)
        if self.may_reuse and not place.is_partial and place.level is None:
            # Full bundles never change, so those of a stopped run are still good, or not adopted.
            known = self.folder.incoming.read(path)
            if known is not None:
                self.has_reused = True
                return known
        content = self.meter.read(path)
        if content is not None and not place.is_partial:
            self.folder.stage(path, content)
        return content

    def _is_served(self, text: str, content: bytes) -> bool:
        """Whether the source serves this tile; a partial one may have given way to a full one."""
        served = self.meter.read(text)
        if served is None and ".p/" in text:
            served = self.meter.read(text.partition(".p/")[0])
            return served is not None and served[: len(content)] == content
        return served == content

    def _require_signed_root(self, size: int) -> None:
        incoming, old = self.folder.incoming, self.folder.source

        def read_grown(path: str) -> bytes | None:
            content = incoming.read(path)
            return old.read(path) if content is None else content

        root = root_of_tiles(size, read_grown)
        if root != self.head.checkpoint.root_hash:
            raise DisprovenError(
                f"{self.meter.source.name}: got leaves with root {root.hex()}, "
                f"want the signed {self.head.checkpoint.root_hash.hex()}"
            )
