"""The broadcaster's node: each segment becomes an entry and a small torrent, served for a while.

The head of the chain is on the disk before an entry is published: a node that crashed goes on with
the next number and never signs two entries with one. Not here: where segments come from (`inputs`,
`hls_origin`), how entries are served (`index_server`).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from engine_plugin.config import ContentOptions
from engine_plugin.content import Content
from engine_plugin.engine import Engine
from engine_plugin.errors import ContentError, EngineError
from engine_plugin.key_files import write_private
from engine_plugin.live.gossip import IndexEntry
from engine_plugin.live.gossip_link import GossipLink
from engine_plugin.live.index_server import IndexService
from engine_plugin.live.segment_torrent import torrent_of
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import EvidenceError
from ledger.evidence.segment import (
    FLAG_DISCONTINUITY,
    SEGMENT,
    Segment,
    format_info,
    hash_pieces,
    segment_name,
)
from ledger.evidence.stream import Stream

Publish = Callable[[IndexEntry], None]
Emit = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where the chain ends."""

    number: int
    digest: bytes
    media_end_ms: int


class SegmentSigner:
    """Makes the entries of one stream, one after the other."""

    def __init__(self, stream: Stream, index_seed: bytes, head_path: Path) -> None:
        """Go on where the head file ends.

        Args:
            stream: The descriptor's.
            index_seed: Private seed of its index key; 32 bytes.
            head_path: File of the newest entry; made when there is none.

        Raises:
            ContentError: The head file is not one of this stream.
        """
        self._stream = stream
        self._seed = index_seed
        self._path = head_path
        self._head = self._load()
        self.was_interrupted = self._head is not None
        """Whether the next entry goes on after an interruption."""

    @property
    def next_number(self) -> int:
        """Number of the next entry."""
        return 0 if self._head is None else self._head.number + 1

    def sign(
        self, data: bytes, *, media_ms: int, is_discontinuous: bool, path: str, cut_at_ms: int
    ) -> IndexEntry:
        """Return the next entry; it is on the disk when this returns.

        Raises:
            ContentError: The segment is too large, or the head file cannot be written.
        """
        stream, head = self._stream, self._head
        hashes = hash_pieces(data, stream.piece_bytes)
        number = self.next_number
        name = segment_name(stream.stream_id, number)
        info = format_info(name, len(data), stream.piece_bytes, hashes)
        try:
            signed = SEGMENT.sign(
                Segment(
                    network_id=stream.network_id,
                    flags=FLAG_DISCONTINUITY if is_discontinuous or self.was_interrupted else 0,
                    stream_id=stream.stream_id,
                    number=number,
                    info_hash=sha256(info).digest(),
                    piece_bytes=stream.piece_bytes,
                    size_bytes=len(data),
                    media_start_ms=0 if head is None else head.media_end_ms,
                    media_ms=media_ms,
                    cut_at_ms=cut_at_ms,
                    path=path,
                    previous_digest=bytes(32) if head is None else head.digest,
                ),
                self._seed,
            )
        except EvidenceError as error:
            raise ContentError(f"segment {number}: {error}") from None
        self._store(signed)
        return IndexEntry(signed, hashes)

    def _store(self, signed: Signed[Segment]) -> None:
        try:
            write_private(self._path, signed.raw)
        except OSError as error:
            raise ContentError(f"{self._path}: {error.strerror}") from None
        self._head = _head_of(signed)
        self.was_interrupted = False

    def _load(self) -> Head | None:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ContentError(f"{self._path}: {error.strerror}") from None
        try:
            signed = SEGMENT.parse(raw)
            SEGMENT.require_signed_by(signed, self._stream.index_key)
        except EvidenceError as error:
            raise ContentError(f"{self._path}: {error}") from None
        if signed.value.stream_id != self._stream.stream_id:
            raise ContentError(f"{self._path}: got another stream's head")
        return _head_of(signed)


def _head_of(signed: Signed[Segment]) -> Head:
    entry = signed.value
    return Head(
        number=entry.number,
        digest=signed.digest,
        media_end_ms=entry.media_start_ms + entry.media_ms,
    )


class Broadcaster:
    """Serves the newest segments of a stream with an engine."""

    def __init__(
        self,
        *,
        engine: Engine,
        service: IndexService,
        gossip: GossipLink | None,
        signer: SegmentSigner,
        folder: Path,
        emit: Emit,
    ) -> None:
        """Bind a broadcaster.

        Args:
            engine: Running.
            service: Takes each entry.
            gossip: Takes each entry too, under terms.
            signer: Makes the entries.
            folder: Where segments lie while they are served.
            emit: Takes events.
        """
        self._engine = engine
        self._service = service
        self._gossip = gossip
        self._stream = service.descriptor.value
        self._signer = signer
        self._folder = folder
        self._emit = emit
        self._served: deque[tuple[int, Content]] = deque()
        self._removals: set[asyncio.Task[None]] = set()

    async def publish(
        self, data: bytes, *, media_ms: int, is_discontinuous: bool = False, path: str = ""
    ) -> IndexEntry:
        """Serve one more segment and tell everybody.

        Args:
            data: The segment's bytes.
            media_ms: Its media time, ≥ 1.
            is_discontinuous: Whether it does not follow the one before.
            path: Where a CDN has it; "" if nowhere.

        Raises:
            EngineError: It could not be signed, stored or served.
        """
        cut_at_ms = time.time_ns() // 1_000_000
        entry = await asyncio.to_thread(
            self._signer.sign,
            data,
            media_ms=media_ms,
            is_discontinuous=is_discontinuous,
            path=path,
            cut_at_ms=cut_at_ms,
        )
        segment = entry.segment
        try:
            (self._folder / segment.file_name).write_bytes(data)
        except OSError as error:
            raise ContentError(f"{self._folder}: {error.strerror}") from None
        # Served first: whoever reads the entry dials at once.
        content = await self._engine.add(
            torrent_of(entry),
            ContentOptions(
                save_path=self._folder,
                is_complete=True,
                uses_web_seeds=False,
                exchanges_peers=False,  # it would lead everybody to the source
                stream_id=segment.stream_id,
            ),
        )
        await self._service.publish(entry)
        if self._gossip is not None:
            self._gossip.tell(entry)
        self._served.append((segment.number, content))
        self._emit(
            "segment",
            number=segment.number,
            bytes=segment.size_bytes,
            media_ms=segment.media_ms,
            cut_at_ms=cut_at_ms,
            discontinuity=segment.is_discontinuous,
        )
        while len(self._served) > self._stream.window_segments:
            task = asyncio.create_task(self._remove(*self._served.popleft()))
            self._removals.add(task)
            task.add_done_callback(self._removals.discard)
        return entry

    async def _remove(self, number: int, content: Content) -> None:
        try:
            await self._engine.remove(content, deletes_files=True)
        except EngineError as error:
            self._emit("error", where="live", detail=str(error))
            # With the next segment it is tried again.
            self._served.appendleft((number, content))

    async def finish(self) -> None:
        """Wait for removals under way."""
        await asyncio.gather(*self._removals)
