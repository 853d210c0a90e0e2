"""Audit file: everything one epoch was computed from and came to, in one file.

Signature, header, digest table, then the sections in order without gaps: every byte is significant
and covered by a digest, the table by the operator's signature. No compression container. Parsing
checks form and digests; what the sections say is `ledger.audit.verify`'s.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from hashlib import sha256
from typing import Any

from ledger.audit.source import ByteSource, MemorySource, find_items
from ledger.evidence.bundle import BUNDLE_SIZE_MAX
from ledger.evidence.encoding import (
    TAG_SIZE,
    Layout,
    Reader,
    RecordCode,
    format_counted,
    format_tag,
    parse_tag,
)
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.keys import SIGNATURE_SIZE, sign, verify

SECTION_BYTES_MAX = 1 << 34
ITEMS_MAX = 50_000_000
PROOF_HASHES_MAX = 64


class Section(IntEnum):
    """Sections in their order; every file has every one, some may be empty."""

    TRUST_DIGEST = 1
    TERMS = 2
    ISSUING_BINDING = 3
    RULE = 4
    ACTIVATION = 5
    PREVIOUS_CHECKPOINT = 6
    FRONTIER = 7
    PREVIOUS_RESULT = 8
    LEAVES = 9
    CHECKPOINT = 10
    BUNDLES = 11
    CODES = 12
    COUNTS = 13
    SALT_KEY = 14
    OPENING_STATE = 15
    FACTS = 16
    JOURNAL = 17
    STATEMENTS = 18
    CLOSING_STATE = 19
    ANCHOR = 20
    INSTRUCTIONS = 21


_HEAD = Layout("audit", [("broadcaster_account", "bytes32"), ("epoch", "u32")])
_ENTRY = Layout("audit.section", [("section", "u16"), ("size", "u64"), ("digest", "bytes32")])
AUDIT_LAYOUTS = (_HEAD, _ENTRY)
"""Header after the tag, and one entry of the digest table, for the format document's test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogProof:
    """A leaf's place in the log and its inclusion proof."""

    leaf_index: int
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenLeaf:
    """A leaf of an earlier epoch with its inclusion proof."""

    leaf: bytes
    proof: LogProof


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleCodes:
    """Codes the operator gave to one bundle and its receipts."""

    bundle_code: int
    receipt_codes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditContents:
    """What the sections hold, as bytes and simple values."""

    network_id: bytes
    """32 bytes."""

    broadcaster_account: bytes
    """32 bytes."""

    epoch: int
    """The epoch the file is about."""

    trust_digest: bytes
    """Digest of the trust the operator publishes; 32 bytes."""

    terms: bytes
    """Signed terms in force."""

    issuing_binding: bytes
    """Signed binding of the issuing key to the broadcaster's account."""

    rule: bytes
    """Source of the contract in force."""

    activation: ProvenLeaf
    """Activation leaf of that contract, proven in this epoch's tree."""

    previous_checkpoint: bytes
    """Signed note of the epoch before; empty for the log's first epoch."""

    frontier: bytes
    """State of the root builder over the log before this epoch's first leaf."""

    previous_result: ProvenLeaf | None
    """Result leaf of the epoch before, proven in this epoch's tree; None for the first epoch."""

    leaves: tuple[bytes, ...]
    """All leaves this epoch appended, in order."""

    checkpoint: bytes
    """Signed note over the tree after these leaves."""

    bundles: Sequence[bytes]
    """Raw bundles in the seal's order; of a large file each is read when it is looked at."""

    codes: tuple[BundleCodes, ...]
    """Their codes, in the same order."""

    counts: tuple[bytes, ...]
    """Evidence of what corrected lanes counted for before (`ledger.audit.counts`)."""

    salt_key: bytes
    """The epoch's salt key; 32 bytes."""

    opening_state: bytes
    """Canonical bytes of the opening state."""

    facts: tuple[bytes, ...]
    """Canonical bytes of the epoch's network facts, in chain order."""

    journal: bytes
    """Canonical bytes of the journal."""

    statements: bytes
    """Canonical bytes of the statement lines."""

    closing_state: bytes
    """Canonical bytes of the closing state."""

    anchor: bytes
    """Canonical bytes of the fact that anchored the checkpoint."""

    instructions: tuple[bytes, ...]
    """Signed instructions that the epoch sealed, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFile:
    """A parsed audit file: contents and what the operator signed."""

    contents: AuditContents
    signature: bytes
    """64 bytes, by the log key."""

    signed_bytes: bytes
    """Header and digest table."""

    def is_signed_by(self, log_key: bytes) -> bool:
        """Tell whether a log key signed this file."""
        return verify(log_key, self.signed_bytes, self.signature)


def build_audit_file(contents: AuditContents, log_seed: bytes) -> bytes:
    """Return the bytes of an audit file signed by the log key.

    Raises:
        MalformedRecordError: A value does not fit its field.
    """
    return b"".join(generate_audit_file(contents, log_seed))


def generate_audit_file(contents: AuditContents, log_seed: bytes) -> Iterator[bytes]:
    """Yield the bytes of an audit file in pieces of at most a few bundles' size.

    The bundles are looked at twice: their digest stands before them.

    Raises:
        MalformedRecordError: A value does not fit its field.
    """
    small: dict[Section, bytes] = {
        section: _format_section(section, contents)
        for section in Section
        if section != Section.BUNDLES
    }
    entries: list[_TableEntry] = []
    for section in Section:
        size, digest = 0, sha256()
        for piece in _pieces(section, small, contents):
            size += len(piece)
            digest.update(piece)
        entries.append(_TableEntry(section, size, digest.digest()))
    table = b"".join(_ENTRY.pack(entry) for entry in entries)
    header = format_tag(RecordCode.AUDIT_FILE, contents.network_id) + _HEAD.pack(contents)
    signed_bytes = header + len(Section).to_bytes(2, "little") + table
    yield sign(log_seed, signed_bytes) + signed_bytes
    for section in Section:
        yield from _pieces(section, small, contents)


def _pieces(
    section: Section, small: Mapping[Section, bytes], contents: AuditContents
) -> Iterator[bytes]:
    if section != Section.BUNDLES:
        yield small[section]
        return
    yield len(contents.bundles).to_bytes(4, "little")
    for raw in contents.bundles:
        yield format_counted(raw)


@dataclass(frozen=True, slots=True)
class _TableEntry:
    section: int
    size: int
    digest: bytes


def parse_audit_file(data: bytes) -> AuditFile:
    """Parse an audit file that is in memory: form, digest table and every section's digest.

    Raises:
        MalformedRecordError: Anything that would not print back identically.
    """
    return read_audit_file(MemorySource(data))


def read_audit_file(source: ByteSource) -> AuditFile:
    """Read an audit file: form, digest table and every section's digest.

    Of the bundles, which are nearly all of a large file, only the places stay in memory.

    Raises:
        MalformedRecordError: Anything that would not print back identically.
    """
    head_size = SIGNATURE_SIZE + TAG_SIZE + _HEAD.size + 2 + _ENTRY.size * len(Section)
    data = source.read(0, min(head_size, source.size))
    reader = Reader("audit", data)
    signature = reader.take(SIGNATURE_SIZE, "signature")
    _, network_id = parse_tag(RecordCode.AUDIT_FILE, data[SIGNATURE_SIZE : 2 * SIGNATURE_SIZE])
    reader.take(TAG_SIZE, "tag")
    head = _HEAD.unpack(reader.take(_HEAD.size, "header"))
    count = reader.integer(2, "section count")
    if count != len(Section):
        raise MalformedRecordError("audit.section count", got=count, want=f"{len(Section)}")
    entries = [_ENTRY.unpack(reader.take(_ENTRY.size, "table")) for _ in Section]
    offset = head_size
    sections: dict[Section, bytes] = {}
    bundles: Sequence[bytes] = ()
    for section, entry in zip(Section, entries, strict=True):
        size = _section_size(section, entry, source.size - offset)
        if section == Section.BUNDLES:
            bundles, digest = find_items(
                source,
                offset,
                size,
                what="audit.BUNDLES",
                count_max=ITEMS_MAX,
                item_max=BUNDLE_SIZE_MAX,
            )
        else:
            sections[section] = source.read(offset, size)
            digest = sha256(sections[section]).digest()
        if digest != entry["digest"]:
            raise MalformedRecordError(
                f"audit.{section.name}.digest", got=digest.hex(), want=entry["digest"].hex()
            )
        offset += size
    if offset != source.size:
        over = source.size - offset
        raise MalformedRecordError("audit", got=f"{over} bytes too many", want="none")
    contents = _parse_sections(
        network_id, head["broadcaster_account"], head["epoch"], sections, bundles
    )
    return AuditFile(contents=contents, signature=signature, signed_bytes=data[SIGNATURE_SIZE:])


def _section_size(section: Section, entry: dict[str, Any], left: int) -> int:
    """Return the size that a table entry states, if it is the section's and the file holds it."""
    where = f"audit.{section.name}"
    size: int = entry["size"]
    if entry["section"] != section or size > SECTION_BYTES_MAX:
        raise MalformedRecordError(f"{where}.entry", got=entry["section"], want=f"{section}")
    if size > left:
        raise MalformedRecordError(where, got=f"{left} bytes left", want=f"{size} bytes")
    return size


_LISTS = {
    Section.LEAVES: "leaves",
    Section.COUNTS: "counts",
    Section.FACTS: "facts",
    Section.INSTRUCTIONS: "instructions",
}
_PLAIN = {
    Section.TRUST_DIGEST: "trust_digest",
    Section.TERMS: "terms",
    Section.ISSUING_BINDING: "issuing_binding",
    Section.RULE: "rule",
    Section.PREVIOUS_CHECKPOINT: "previous_checkpoint",
    Section.FRONTIER: "frontier",
    Section.CHECKPOINT: "checkpoint",
    Section.SALT_KEY: "salt_key",
    Section.OPENING_STATE: "opening_state",
    Section.JOURNAL: "journal",
    Section.STATEMENTS: "statements",
    Section.CLOSING_STATE: "closing_state",
    Section.ANCHOR: "anchor",
}


def _format_section(section: Section, contents: AuditContents) -> bytes:
    if section in _PLAIN:
        return bytes(getattr(contents, _PLAIN[section]))
    if section in _LISTS:
        return _format_list(getattr(contents, _LISTS[section]))
    if section == Section.CODES:
        return _format_codes(contents.codes)
    if section == Section.ACTIVATION:
        return format_proven_leaf(contents.activation)
    if contents.previous_result is None:
        return b""
    return format_proven_leaf(contents.previous_result)


def _parse_sections(
    network_id: bytes,
    broadcaster: bytes,
    epoch: int,
    sections: dict[Section, bytes],
    bundles: Sequence[bytes],
) -> AuditContents:
    plain: dict[str, Any] = {field: sections[section] for section, field in _PLAIN.items()}
    for field in ("trust_digest", "salt_key"):
        if len(plain[field]) != 32:
            raise MalformedRecordError(f"audit.{field}", got=plain[field], want="32 bytes")
    lists: dict[str, Any] = {
        field: _parse_list(section, sections[section]) for section, field in _LISTS.items()
    }
    previous = sections[Section.PREVIOUS_RESULT]
    return AuditContents(
        network_id=network_id,
        broadcaster_account=broadcaster,
        epoch=epoch,
        activation=parse_proven_leaf(sections[Section.ACTIVATION]),
        previous_result=parse_proven_leaf(previous) if previous else None,
        bundles=bundles,
        codes=_parse_codes(sections[Section.CODES]),
        **plain,
        **lists,
    )


def _format_list(items: Sequence[bytes]) -> bytes:
    return len(items).to_bytes(4, "little") + b"".join(format_counted(item) for item in items)


def _parse_list(section: Section, data: bytes) -> tuple[bytes, ...]:
    reader = Reader(f"audit.{section.name}", data)
    count = reader.integer(4, "count", limit=ITEMS_MAX)
    items = tuple(reader.counted("item", limit=len(data)) for _ in range(count))
    reader.finish()
    return items


def format_log_proof(proof: LogProof) -> bytes:
    """Return a proof's bytes: u64 leaf index, u8 count, 32 bytes per hash."""
    return (
        proof.leaf_index.to_bytes(8, "little")
        + len(proof.hashes).to_bytes(1, "little")
        + b"".join(proof.hashes)
    )


def read_log_proof(reader: Reader) -> LogProof:
    """Take a proof off a reader.

    Raises:
        MalformedRecordError: Too short, or more than 64 hashes.
    """
    leaf_index = reader.integer(8, "leaf index")
    count = reader.integer(1, "hash count", limit=PROOF_HASHES_MAX)
    return LogProof(
        leaf_index=leaf_index, hashes=tuple(reader.take(32, "hash") for _ in range(count))
    )


def format_proven_leaf(proven: ProvenLeaf) -> bytes:
    """Return a proven leaf's bytes: u32 length, leaf, proof."""
    return format_counted(proven.leaf) + format_log_proof(proven.proof)


def parse_proven_leaf(data: bytes) -> ProvenLeaf:
    """Return a proven leaf.

    Raises:
        MalformedRecordError: Anything that would not print back identically.
    """
    reader = Reader("audit.proven leaf", data)
    leaf = reader.counted("leaf", limit=65_535)
    proof = read_log_proof(reader)
    reader.finish()
    return ProvenLeaf(leaf=leaf, proof=proof)


def _format_codes(codes: Sequence[BundleCodes]) -> bytes:
    parts = [len(codes).to_bytes(4, "little")]
    for entry in codes:
        count = len(entry.receipt_codes)
        numbers = (entry.bundle_code, *entry.receipt_codes)
        parts.append(struct.pack(f"<I{count + 1}H", count, *numbers))
    return b"".join(parts)


def _parse_codes(data: bytes) -> tuple[BundleCodes, ...]:
    reader = Reader("audit.CODES", data)
    entries: list[BundleCodes] = []
    for _ in range(reader.integer(4, "count", limit=ITEMS_MAX)):
        count = reader.integer(4, "receipt count", limit=len(data))
        bundle_code = reader.integer(2, "bundle code")
        codes = struct.unpack(f"<{count}H", reader.take(2 * count, "receipt codes"))
        entries.append(BundleCodes(bundle_code=bundle_code, receipt_codes=codes))
    reader.finish()
    return tuple(entries)


_SECTIONED = {*_PLAIN.values(), *_LISTS.values()}
_SECTIONED |= {"bundles", "codes", "activation", "previous_result"}
if {field.name for field in fields(AuditContents)} != _SECTIONED | {
    "network_id",
    "broadcaster_account",
    "epoch",
}:
    raise AssertionError("audit file: contents and sections differ")
