"""A damaged spool: what still verifies is taken over, the rest is set aside for people.

The damaged file is renamed, never changed. Receipts and entitlements are found in its raw bytes by
their domain tag and taken if their signatures hold, so it does not matter which page was lost, or
whether SQLite still reads the file. Bundles with their promises are taken from the rows that can be
read. Receipts whose bundle is lost stand unbundled again: the next bundle holds them, and sending
a receipt twice is harmless.

Not here: the spool itself (`spool`), the meter's journal (without it a session key cannot go on).
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from engine_plugin.damage import AsideError, choose_aside, find_damage, move_database
from engine_plugin.spool import BundleState, Spool, SpooledBundle, SpoolError
from ledger.evidence.bundle import BundleKind, is_signed_by_submitter, parse_bundle
from ledger.evidence.encoding import RecordType, Signed, format_tag
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.errors import EvidenceError
from ledger.evidence.receipt import RECEIPT, Receipt

_NETWORK_ID_SIZE = 32
_TAG_FIXED_SIZE = 6

_RECORDS: dict[str, tuple[str, Callable[[bytes], Signed[Any]]]] = {
    "entitlement": ("SELECT digest, raw FROM entitlement", ENTITLEMENT.parse),
    "receipt": ("SELECT digest, raw FROM receipt", RECEIPT.parse),
    "bundle": ("SELECT digest, raw FROM bundle", parse_bundle),
}
"""How to find and read the records of a table."""

RecordT = TypeVar("RecordT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvage:
    """What was saved of a damaged spool."""

    aside: Path
    """Where the damaged file is now."""
    reason: str
    """What SQLite said of it."""
    receipts: int
    entitlements: int
    bundles: int


def open_spool(path: Path) -> tuple[Spool, Salvage | None]:
    """Open a spool; when its file is damaged, begin a new one with what still verifies.

    Returns:
        The spool, and what was saved if it had to be.

    Raises:
        SpoolError: Neither the old file nor a new one can be used (disk full, permissions).
    """
    try:
        reason = find_damage(path, _find_false_row)
        if reason is None:
            return Spool(path), None
        aside = choose_aside(path)
        move_database(path, aside)
    except AsideError as error:
        raise SpoolError(str(error)) from error
    spool = Spool(path)
    try:
        return spool, _take_over(spool, aside, reason)
    except BaseException:
        spool.close()
        raise


def describe_salvage(salvage: Salvage) -> dict[str, Any]:
    """Return a salvage's fields for an event."""
    return {
        "what": "spool",
        "reason": salvage.reason,
        "aside": str(salvage.aside),
        "receipts": salvage.receipts,
        "entitlements": salvage.entitlements,
        "bundles": salvage.bundles,
    }


def _find_false_row(connection: sqlite3.Connection) -> str | None:
    """Return which record is not the one that was stored; SQLite has no checksums."""
    known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    for table, (query, parse) in _RECORDS.items():
        if table not in known:
            continue
        for digest, raw in connection.execute(query):
            try:
                if parse(raw).digest == digest:
                    continue
            except (EvidenceError, TypeError):
                pass
            return f"{table}: a record is not what was stored"
    return None


def _take_over(spool: Spool, aside: Path, reason: str) -> Salvage:
    content = b"".join(
        part.read_bytes()
        for suffix in ("", "-wal")
        if (part := aside.with_name(aside.name + suffix)).exists()
    )
    entitlements = _take_entitlements(spool, content)
    receipts = _take_receipts(spool, content, entitlements)
    return Salvage(
        aside=aside,
        reason=reason,
        receipts=receipts,
        entitlements=len(entitlements),
        bundles=_take_bundles(spool, aside),
    )


def _take_entitlements(spool: Spool, content: bytes) -> dict[bytes, Entitlement]:
    taken: dict[bytes, Entitlement] = {}
    for signed in _carve(ENTITLEMENT, content):
        if signed.digest not in taken and ENTITLEMENT.is_signed_by(
            signed, signed.value.issuing_key
        ):
            spool.add_entitlement(signed)
            taken[signed.digest] = signed.value
    return taken


def _take_receipts(spool: Spool, content: bytes, entitlements: dict[bytes, Entitlement]) -> int:
    """Take the newest of every lane, and pairs of one sequence that contradict each other."""
    newest: dict[bytes, Signed[Receipt]] = {}
    for signed in _carve(RECEIPT, content):
        receipt = signed.value
        entitlement = entitlements.get(receipt.entitlement_digest)
        if entitlement is None or not RECEIPT.is_signed_by(signed, entitlement.session_key):
            continue
        known = newest.setdefault(receipt.lane_digest, signed)
        if known.value.sequence == receipt.sequence and known.digest != signed.digest:
            spool.put_equivocation(known, signed)
        elif known.value.sequence < receipt.sequence:
            newest[receipt.lane_digest] = signed
    for signed in newest.values():
        spool.put_receipt(
            signed,
            kind=BundleKind.VIEWER if signed.value.is_cdn else BundleKind.PAYEE,
            session_key=entitlements[signed.value.entitlement_digest].session_key,
        )
    return len(newest)


def _take_bundles(spool: Spool, aside: Path) -> int:
    count = 0
    for row in _read_bundle_rows(aside):
        bundle = _read_bundle(row)
        if bundle is not None:
            receipts = parse_bundle(bundle.raw).value.receipts
            spool.put_bundle(bundle, _standing_receipts(spool, receipts))
            count += 1
    return count


def _read_bundle(row: tuple[Any, ...]) -> SpooledBundle | None:
    """Return the bundle of a row, None when it is not what was stored."""
    epoch, kind, number, digest, raw, state, promise, code, detail = row
    try:
        signed = parse_bundle(raw)
        bundle = signed.value
        stated = (bundle.epoch, bundle.kind, bundle.number, signed.digest)
        if stated != (epoch, kind, number, digest):
            return None
        if not is_signed_by_submitter(signed) or not isinstance(promise, bytes | None):
            return None
        return SpooledBundle(
            epoch=bundle.epoch,
            kind=BundleKind(kind),
            number=bundle.number,
            digest=signed.digest,
            raw=raw,
            receipt_count=len(bundle.receipts),
            bytes_total=sum(receipt.value.bytes_total for receipt in bundle.receipts),
            state=BundleState(state),
            promise=promise,
            code=str(code),
            detail=str(detail),
        )
    except (EvidenceError, ValueError, TypeError):
        return None


def _standing_receipts(spool: Spool, receipts: Sequence[Signed[Receipt]]) -> list[Signed[Receipt]]:
    """Return a bundle's receipts, those that were not carved taken over from it."""
    for signed in receipts:
        entitlement = spool.find_entitlement(signed.value.entitlement_digest)
        if entitlement is not None:
            kind = BundleKind.VIEWER if signed.value.is_cdn else BundleKind.PAYEE
            spool.put_receipt(signed, kind=kind, session_key=entitlement.value.session_key)
    return list(receipts)


def _read_bundle_rows(aside: Path) -> Iterator[tuple[Any, ...]]:
    """Yield the rows that can be read, up to the first damage."""
    try:
        uri = f"file:{quote(str(aside.resolve()))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            yield from connection.execute(
                "SELECT epoch, kind, number, digest, raw, state, promise, code, detail"
                " FROM bundle ORDER BY rowid"
            )
    except (sqlite3.Error, UnicodeDecodeError):
        return


def _carve(kind: RecordType[RecordT], content: bytes) -> Iterator[Signed[RecordT]]:
    """Yield every well-formed record of a kind in raw bytes; signatures are not checked."""
    # Magic, version and type; flags and network, which follow, differ from record to record.
    tag = format_tag(kind.code, bytes(_NETWORK_ID_SIZE))[:_TAG_FIXED_SIZE]
    head_size = kind.size - kind.body_size
    at = content.find(tag)
    while at >= 0:
        begins = at - head_size
        if begins >= 0:
            with suppress(EvidenceError):
                yield kind.parse(content[begins : begins + kind.size])
        at = content.find(tag, at + 1)
