"""Lines of a log file out of a stream of bytes: gzip or plain, damaged or whole, in bounded memory.

A line that is too long is passed over and reported; what is left of a gzip stream after damage is
lost, which is reported as one more line. A last line without a line end may be cut anywhere, so it
is marked. Nothing here raises because of what the bytes are. Source: RFC 1952 (gzip members).
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

LINE_BYTES_MAX: Final = 64 << 10
"""Longest line that is read, without its end."""

_PIECE_BYTES_MAX: Final = 256 << 10
"""Most bytes that one step of decompression may make: a small file cannot fill the memory."""

_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31


class Line(NamedTuple):
    """One line of a file, or what stands for lines that could not be read."""

    number: int
    """From 1."""

    data: bytes
    """Without its end (LF or CR LF); empty when `fault` says why."""

    fault: str
    """Why there are no data; empty if there are."""

    is_terminated: bool
    """False for a last line without a line end."""


class ContentDigest:
    """SHA-256 over a file's uncompressed content: recompression makes no other file of it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, piece: bytes) -> None:
        """Take the next piece."""
        self._hash.update(piece)

    def digest(self) -> bytes:
        """Return the digest of everything taken so far; 32 bytes."""
        return self._hash.digest()


class GzipDamageError(Exception):
    """A gzip stream ends early or does not decompress; raised and caught in this module."""


def read_lines(
    chunks: Iterable[bytes],
    *,
    line_bytes_max: int = LINE_BYTES_MAX,
    content: ContentDigest | None = None,
) -> Iterator[Line]:
    """Yield the lines of a file.

    Args:
        chunks: The file's bytes, cut anywhere.
        line_bytes_max: Longest line to read.
        content: Takes the uncompressed content as it passes.
    """
    number = 0
    rest = bytearray()
    is_too_long = False
    fault = ""
    pieces = _plain_pieces(chunks)
    while True:
        try:
            piece = next(pieces, None)
        except GzipDamageError as error:
            piece, fault = None, str(error)
        if piece is None:
            break
        if content is not None:
            content.update(piece)
        *whole, tail = piece.split(b"\n")
        for part in whole:
            number += 1
            if is_too_long or len(rest) + len(part) > line_bytes_max + 1:
                yield Line(number, b"", f"line longer than {line_bytes_max} bytes", True)
            else:
                data = bytes(rest) + part if rest else part
                yield Line(number, data.removesuffix(b"\r"), "", True)
            rest.clear()
            is_too_long = False
        if not is_too_long:
            rest += tail
            if len(rest) > line_bytes_max + 1:
                is_too_long = True
                rest.clear()
    if is_too_long:
        number += 1
        yield Line(number, b"", f"line longer than {line_bytes_max} bytes", False)
    elif rest and not fault:
        number += 1
        yield Line(number, bytes(rest).removesuffix(b"\r"), "", False)
    if fault:
        # What was cut off and what stood behind it cannot be told apart: one line stands for both.
        yield Line(number + 1, b"", fault, False)


def _plain_pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress if the first two bytes say gzip; pass on unchanged otherwise."""
    iterator = iter(chunks)
    head = b""
    for chunk in iterator:
        head += chunk
        if len(head) >= len(_GZIP_MAGIC):
            break
    if head.startswith(_GZIP_MAGIC):
        yield from _gunzip(head, iterator)
        return
    yield from _in_pieces(head)
    for chunk in iterator:
        yield from _in_pieces(chunk)


def _in_pieces(chunk: bytes) -> Iterator[bytes]:
    for begin in range(0, len(chunk), _PIECE_BYTES_MAX):
        yield chunk[begin : begin + _PIECE_BYTES_MAX]


def _gunzip(head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the content of all members of a gzip stream, in bounded pieces."""
    member = zlib.decompressobj(_GZIP_WINDOW)
    pending = head
    while True:
        while pending:
            if member.eof:
                member = zlib.decompressobj(_GZIP_WINDOW)
            try:
                piece = member.decompress(pending, _PIECE_BYTES_MAX)
            except zlib.error as error:
                raise GzipDamageError(f"gzip damaged: {error}") from None
            if piece:
                yield piece
            if member.eof:
                # Zeros behind a member are padding of the medium it was stored on.
                pending = member.unused_data.lstrip(b"\0")
            elif not piece and member.unconsumed_tail == pending:
                raise GzipDamageError("gzip damaged: no progress")
            else:
                pending = member.unconsumed_tail
        chunk = next(chunks, None)
        if chunk is None:
            break
        pending = chunk.lstrip(b"\0") if member.eof else chunk
    if not member.eof:
        raise GzipDamageError("gzip ends before its end")
