"""An epoch's public facts as one JSON document, made of its leaves and its checkpoint alone.

Whoever has the log, the operator or a mirror, makes the same bytes: names sorted, no space, ASCII,
one newline at the end; integers are integers, hashes and keys lower-case hexadecimal. Nothing in it
changes later: what anchors the checkpoint on the chain comes after it and stands elsewhere.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.audit.address import format_account
from ledger.audit.errors import DisprovenError
from ledger.evidence.checkpoint import body_hash, parse_checkpoint
from ledger.evidence.encoding import RecordCode
from ledger.evidence.errors import EvidenceError
from ledger.evidence.leaf import (
    ACTIVATION,
    BUNDLE_LEAF,
    CORRECTION_LEAF,
    RESULT_LEAF,
    SEAL_LEAF,
    PayoutLeaf,
    code_of_leaf,
    parse_payout_leaf,
)
from ledger.evidence.note import parse_note
from ledger.evidence.tile_proofs import TileReader
from ledger.publiclog.sealed_range import epoch_of_leaf, first_leaf_of

EPOCH_FORMAT: Final = "swarmledger-epoch/1"
_RESULT_NUMBERS: Final = (
    "lane_count",
    "bytes_p2p_credited",
    "bytes_cdn_credited",
    "bytes_uncredited",
    "charged_stroops",
    "fee_stroops",
    "sum_tree_bytes",
    "sum_tree_stroops",
    "payout_count",
)
_RESULT_HASHES: Final = ("rules_digest", "lane_root", "sum_tree_hash", "closing_state_root")
_SEAL_NUMBERS: Final = ("last_ledger_sequence", "last_ledger_close_s", "fact_count")
_SEAL_HASHES: Final = (
    "terms_digest",
    "rules_digest",
    "opening_state_root",
    "facts_root",
    "salt_key_commitment",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochLeaves:
    """What an epoch appended to the log."""

    first_index: int
    """Index of its first leaf."""

    leaves: tuple[bytes, ...]
    """All of them, from activations to payouts."""


def read_epoch_leaves(reader: TileReader, epoch: int) -> EpochLeaves | None:
    """Return an epoch's leaves from a log's files; None if it is not computed there.

    Raises:
        EvidenceError: A file is missing or malformed.
    """
    first, end = first_leaf_of(reader, epoch), first_leaf_of(reader, epoch + 1)
    leaves = tuple(reader.leaf(index) for index in range(first, end))
    is_computed = any(code_of_leaf(leaf) == RecordCode.LEAF_RESULT for leaf in leaves)
    return EpochLeaves(first_index=first, leaves=leaves) if is_computed else None


def format_epoch_document(found: EpochLeaves, *, broadcaster: bytes, note: bytes) -> bytes:
    """Return the document of an epoch.

    Args:
        found: Its leaves.
        broadcaster: Whose log; account key, 32 bytes.
        note: The signed checkpoint after its result, verbatim.

    Raises:
        DisprovenError: The leaves are not those of one computed epoch, or do not end where the
            checkpoint does.
    """
    try:
        document = _document_of(found, broadcaster, note)
    except EvidenceError as error:
        raise DisprovenError(f"epoch document: {error}") from error
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode("ascii") + b"\n"


def _document_of(found: EpochLeaves, broadcaster: bytes, note: bytes) -> dict[str, Any]:
    by_kind: dict[RecordCode, list[bytes]] = {}
    for leaf in found.leaves:
        by_kind.setdefault(code_of_leaf(leaf), []).append(leaf)
    seals, results = (
        by_kind.get(code, []) for code in (RecordCode.LEAF_SEAL, RecordCode.LEAF_RESULT)
    )
    checkpoint = parse_checkpoint(parse_note(note).text)
    end = found.first_index + len(found.leaves)
    epochs = {epoch_of_leaf(leaf) for leaf in found.leaves}
    if (len(seals), len(results), len(epochs), end) != (1, 1, 1, checkpoint.tree_size):
        raise DisprovenError(
            f"epoch document: got leaves of epochs {sorted(epochs)} up to {end}, want one computed "
            f"epoch's, up to {checkpoint.tree_size}"
        )
    seal, result = SEAL_LEAF.parse_body(seals[0]), RESULT_LEAF.parse_body(results[0])
    return {
        "format": EPOCH_FORMAT,
        "broadcaster": format_account(broadcaster),
        "epoch": result.epoch,
        "log": {
            "origin": checkpoint.origin,
            "opening_size": found.first_index,
            "sealed_size": found.first_index + found.leaves.index(seals[0]) + 1,
            "tree_size": checkpoint.tree_size,
            "root": checkpoint.root_hash.hex(),
            "anchor_memo_hash": body_hash(checkpoint).hex(),
            "checkpoint": note.decode(),
        },
        "activations": [
            {"rules_digest": one.rules_digest.hex(), "dao_key": one.dao_key.hex()}
            for one in (
                ACTIVATION.parse(leaf).value for leaf in by_kind.get(RecordCode.LEAF_ACTIVATION, [])
            )
        ],
        "bundles": _bundles_of(by_kind.get(RecordCode.LEAF_BUNDLE, [])),
        "corrections": _corrections_of(by_kind.get(RecordCode.LEAF_CORRECTION, [])),
        "seal": _fields_of(seal, _SEAL_NUMBERS, _SEAL_HASHES),
        "result": _fields_of(result, _RESULT_NUMBERS, _RESULT_HASHES),
        "payouts": [
            _payout_of(parse_payout_leaf(leaf)) for leaf in by_kind.get(RecordCode.LEAF_PAYOUT, [])
        ],
    }


def _bundles_of(leaves: Sequence[bytes]) -> dict[str, Any]:
    bundles = [BUNDLE_LEAF.parse_body(leaf) for leaf in leaves]
    codes = Counter(bundle.code for bundle in bundles)
    return {
        "count": len(bundles),
        "codes": {str(code): codes[code] for code in sorted(codes)},
        "receipts_counted": sum(bundle.receipts_counted for bundle in bundles),
        "receipts_refused": sum(bundle.receipts_refused for bundle in bundles),
        "bytes_counted": sum(bundle.bytes_counted for bundle in bundles),
    }


def _corrections_of(leaves: Sequence[bytes]) -> dict[str, Any]:
    corrections = [CORRECTION_LEAF.parse_body(leaf) for leaf in leaves]
    return {
        "count": len(corrections),
        "bytes_before": sum(one.bytes_before for one in corrections),
        "bytes_after": sum(one.bytes_after for one in corrections),
    }


def _fields_of(leaf: object, numbers: Sequence[str], hashes: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(leaf, name) for name in numbers}
    values.update({name: getattr(leaf, name).hex() for name in hashes})
    return values


def _payout_of(payout: PayoutLeaf) -> dict[str, Any]:
    return {
        "batch_number": payout.batch_number,
        "kind": payout.kind,
        "source_account": format_account(payout.source_account),
        "channel_account": format_account(payout.channel_account),
        "channel_sequence": payout.channel_sequence,
        "asset": f"{payout.asset_code}:{format_account(payout.asset_issuer)}",
        "payments": [
            {"account": format_account(one.account), "amount_stroops": one.amount_stroops}
            for one in payout.payments
        ],
    }
