"""Making and reading torrent files through libtorrent."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import libtorrent as lt

from engine_plugin.errors import ContentError
from engine_plugin.meter import PieceLayout

_CREATOR = "swarmledger"


class TorrentForm(StrEnum):
    """Which hashes a torrent holds, and so which clients can take part."""

    HYBRID = "hybrid"
    """Both; libtorrent-based clients. Transmission 3 and aria2 cannot take part."""
    V1 = "v1"
    """BEP 3: every client; a bad block voids its whole piece."""
    V2 = "v2"
    """BEP 52: current clients; a bad block is known by itself."""


_CREATE_FLAGS = {
    TorrentForm.HYBRID: 0,
    TorrentForm.V1: lt.create_torrent.v1_only,
    TorrentForm.V2: lt.create_torrent.v2_only,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TorrentFile:
    """What a torrent file says."""

    data: bytes = field(repr=False)
    """The torrent file itself."""
    name: str
    infohash_v1: bytes
    """20 bytes; b"" for a v2-only torrent."""
    infohash_v2: bytes
    """32 bytes; b"" for a v1-only torrent."""
    layout: PieceLayout
    files: tuple[tuple[str, int], ...]
    """Path (starting with the torrent's name, "/" between parts) and size of each real file."""
    web_seeds: tuple[str, ...]
    """URLs of BEP 19 web seeds."""
    is_private: bool

    @property
    def content_id(self) -> bytes:
        """The v2 info-hash, or the v1 info-hash padded with zeros; 32 bytes."""
        return self.infohash_v2 or self.infohash_v1.ljust(32, b"\0")

    @property
    def content_bytes(self) -> int:
        """Sum of the file sizes, without padding."""
        return self.layout.content_bytes


def build_torrent(
    root: Path,
    files: Sequence[tuple[str, int]],
    *,
    piece_bytes: int,
    web_seeds: Sequence[str],
    is_private: bool,
    form: TorrentForm = TorrentForm.HYBRID,
) -> bytes:
    """Hashes files into a torrent; the same files give the same bytes.

    Args:
        root: Folder that the paths are relative to.
        files: Path and size of each file, in order.
        piece_bytes: A power of two, 16 KiB or more.
        web_seeds: URLs of BEP 19 web seeds.
        is_private: Whether to forbid DHT and peer exchange (BEP 27).
        form: Which hashes it holds.

    Raises:
        ContentError: libtorrent refused the files, or could not read one.
    """
    try:
        entries = [lt.create_file_entry(path, size) for path, size in files]
        creator = lt.create_torrent(entries, piece_bytes, _CREATE_FLAGS[form])
        creator.set_creator(_CREATOR)
        creator.set_creation_date(0)
        creator.set_priv(is_private)
        for url in web_seeds:
            creator.add_url_seed(url)
        lt.set_piece_hashes(creator, str(root))
        return bytes(lt.bencode(creator.generate()))
    except (RuntimeError, ValueError) as error:
        raise ContentError(f"{root}: cannot be hashed: {error}") from error


def read_torrent(data: bytes) -> TorrentFile:
    """Reads a torrent file.

    Raises:
        ContentError: The bytes are no torrent with at least one byte of content.
    """
    try:
        params = lt.load_torrent_buffer(data)
    except (RuntimeError, ValueError) as error:
        raise ContentError(f"torrent: cannot be read: {error}") from error
    info, hashes = params.ti, params.info_hashes
    if info is None or info.layout().total_size() < 1:
        raise ContentError("torrent: got no content, want at least one byte")
    layout, files = _read_layout(info.layout(), has_v1=hashes.has_v1())
    return TorrentFile(
        data=data,
        name=info.name(),
        infohash_v1=hashes.v1.to_bytes() if hashes.has_v1() else b"",
        infohash_v2=hashes.v2.to_bytes() if hashes.has_v2() else b"",
        layout=layout,
        files=files,
        web_seeds=tuple(params.url_seeds),
        is_private=info.priv(),
    )


def _read_layout(storage: Any, *, has_v1: bool) -> tuple[PieceLayout, tuple[tuple[str, int], ...]]:
    pads: list[tuple[int, int]] = []
    files: list[tuple[str, int]] = []
    for index in range(storage.num_files()):
        start, size = storage.file_offset(index), storage.file_size(index)
        if storage.file_flags(index) & lt.file_storage.flag_pad_file:
            if size:
                pads.append((start, start + size))
        else:
            files.append((storage.file_path(index), size))
    # A v2-only torrent requests no byte beyond a file's end; a hybrid one pads blocks (v1 rules).
    layout = PieceLayout(
        total_bytes=storage.total_size(),
        piece_bytes=storage.piece_length(),
        pads=tuple(pads),
        padding_on_wire=has_v1,
    )
    return layout, tuple(files)


def list_places(data: bytes) -> list[tuple[int, str, int]]:
    """Returns place in the torrent (padding files counted), path and size of each real file.

    Raises:
        ContentError: The bytes are no torrent.
    """
    try:
        info = lt.load_torrent_buffer(data).ti
    except (RuntimeError, ValueError) as error:
        raise ContentError(f"torrent: cannot be read: {error}") from error
    if info is None:
        raise ContentError("torrent: got no content, want at least one byte")
    storage = info.layout()
    return [
        (place, storage.file_path(place), storage.file_size(place))
        for place in range(storage.num_files())
        if not storage.file_flags(place) & lt.file_storage.flag_pad_file
    ]


def decode_dictionary(data: bytes) -> dict[bytes, Any]:
    """Returns a bencoded dictionary as plain data.

    Raises:
        ContentError: The bytes are none.
    """
    try:
        decoded: Any = lt.bdecode(data)
    except (RuntimeError, ValueError) as error:
        raise ContentError(f"bencoding: {error}") from error
    if not isinstance(decoded, dict):
        raise ContentError("bencoding: got no dictionary")
    return decoded
