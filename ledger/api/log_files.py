"""The public log over HTTP: static files of c2sp.org/tlog-tiles, and proofs made of them.

Any file server may serve the folder instead. Only paths of the format are looked up, so no request
reaches another file. A full tile never changes and may be kept for ever; a partial one may give way
to the full one, so it is kept for minutes; the checkpoint is asked for anew each time. Every answer
has an entity tag of its content, the same from every server, and a request that names it gets 304.
"""

import hashlib
from pathlib import Path
from typing import Final

from fastapi.responses import Response

from ledger.api.answers import RefusedError
from ledger.audit.address import parse_account
from ledger.evidence.checkpoint import Checkpoint, parse_checkpoint
from ledger.evidence.errors import EvidenceError, MalformedError
from ledger.evidence.instruction_list import is_instruction_list_path
from ledger.evidence.merkle import check_consistency, check_inclusion
from ledger.evidence.note import Note, parse_note
from ledger.evidence.tile import parse_tile_path
from ledger.evidence.tile_proofs import TileReader
from ledger.evidence.tlog_proof import TlogProof

IMMUTABLE: Final = "public, max-age=31536000, immutable"
PARTIAL: Final = "public, max-age=300"
CHECKPOINT: Final = "no-cache"
TEXT: Final = "text/plain; charset=utf-8"
OCTETS: Final = "application/octet-stream"

_TEXTS: Final = frozenset({"checkpoint", "log.vkey"})


def read_log_file(
    log_dir: Path, broadcaster: str, path: str, if_none_match: str | None = None
) -> Response:
    """Return a file of a broadcaster's log.

    Args:
        log_dir: Folder of all logs.
        broadcaster: Account address.
        path: Path in the log.
        if_none_match: The request's header: tags of what the asker has.

    Raises:
        RefusedError: 404, there is no such file, or the path is none of a log's.
    """
    cache = _cache_of(broadcaster, path)
    content = None if cache is None else _read(log_dir / broadcaster, path)
    if cache is None or content is None:
        raise RefusedError(
            404,
            "unknown_file",
            field="path",
            got=path,
            want="checkpoint, log.vkey, a tile or instructions",
        )
    media_type = TEXT if path in _TEXTS else OCTETS
    return answer_bytes(content, media_type, cache=cache, if_none_match=if_none_match)


def answer_bytes(
    content: bytes, media_type: str, *, cache: str, if_none_match: str | None = None
) -> Response:
    """Return content with its entity tag, or 304 to whoever has it."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"Cache-Control": cache, "ETag": tag}
    if if_none_match is not None and _names_tag(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    # The header is given whole, so that nothing adds a charset to what is no text.
    return Response(content, headers={**headers, "Content-Type": media_type})


def prove_leaf(log_dir: Path, broadcaster: str, index: int) -> TlogProof:
    """Return the proof of a leaf under the published checkpoint.

    Raises:
        RefusedError: 404, the log has no such leaf; 503, its files are being written.
    """
    folder = log_dir / broadcaster
    note, checkpoint = _read_head(folder, broadcaster)
    if not 0 <= index < checkpoint.tree_size:
        raise RefusedError(
            404, "unknown_leaf", field="index", got=index, want=f"0..{checkpoint.tree_size - 1}"
        )
    try:
        reader = TileReader(checkpoint.tree_size, lambda path: _read(folder, path))
        (leaf_hash,) = reader.leaf_hashes(index, index + 1)
        hashes = reader.prove_inclusion(index)
        check_inclusion(leaf_hash, index, checkpoint.tree_size, hashes, checkpoint.root_hash)
    except EvidenceError as error:
        raise _unwritten(error) from error
    return TlogProof(leaf_index=index, hashes=tuple(hashes), note=note)


def prove_growth(log_dir: Path, broadcaster: str, old_size: int, new_size: int) -> list[bytes]:
    """Return the consistency proof between two sizes of the published log (RFC 6962 §2.1.2).

    Raises:
        RefusedError: 404, the log has not so many leaves; 503, its files are being written.
    """
    folder = log_dir / broadcaster
    _, checkpoint = _read_head(folder, broadcaster)
    if not 0 <= old_size <= new_size <= checkpoint.tree_size:
        raise RefusedError(
            404,
            "unknown_size",
            field="old_size, new_size",
            got=f"{old_size}, {new_size}",
            want=f"rising to at most {checkpoint.tree_size}",
        )
    try:
        reader = TileReader(checkpoint.tree_size, lambda path: _read(folder, path))
        proof = reader.prove_consistency(old_size, new_size)
        old_root, new_root = reader.root(old_size), reader.root(new_size)
        check_consistency(old_size, old_root, new_size, new_root, proof)
        if reader.root() != checkpoint.root_hash:
            raise _unwritten("tiles of another log")
    except EvidenceError as error:
        raise _unwritten(error) from error
    return proof


def _read_head(folder: Path, broadcaster: str) -> tuple[Note, Checkpoint]:
    content = _read(folder, "checkpoint") if _cache_of(broadcaster, "checkpoint") else None
    if content is None:
        raise RefusedError(
            404, "unknown_log", field="broadcaster", got=broadcaster, want="a published log"
        )
    note = parse_note(content)
    return note, parse_checkpoint(note.text)


def _unwritten(error: object) -> RefusedError:
    return RefusedError(
        503, "log_unwritten", field="log", got=error, want="files of the checkpoint"
    )


def _read(folder: Path, path: str) -> bytes | None:
    file = folder / path
    try:
        return file.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _names_tag(header: str, tag: str) -> bool:
    """RFC 9110 §13.1.2: weak comparison with a list of tags, or any with `*`."""
    named = [one.strip().removeprefix("W/") for one in header.split(",")]
    return tag in named or named == ["*"]


def _cache_of(broadcaster: str, path: str) -> str | None:
    """Return how long a path of a log may be kept; None: it is none."""
    try:
        parse_account(broadcaster)
        if path in _TEXTS:
            return CHECKPOINT
        if is_instruction_list_path(path):
            return IMMUTABLE
        return PARTIAL if parse_tile_path(path).is_partial else IMMUTABLE
    except MalformedError:
        return None
