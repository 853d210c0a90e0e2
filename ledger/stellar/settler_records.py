"""A settler's folder: what it has verified, what it waits for a person to look at, and files.

    audit/epoch-N.audit      as the operator gave it
    verified/epoch-N.json    what came of verifying it; the settler goes on after the newest one
    unexplained.json         transactions of ours that no plan explains: nothing is signed
    accepted.json            of these, what a person has looked at and accepted
    orders/HASH.cancel       orders to use a batch's slot up, by the DAO or the operator
    bumps.json               fee bumps signed without the operator, while their slots are open

Each file is whole or not there, so the settler can be killed at any moment; deleting the folder
costs verifying from the first epoch on. Not here: verifying (`settler_epochs`) and signing.
"""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from ledger.evidence.checkpoint import Checkpoint
from ledger.evidence.errors import EvidenceError
from ledger.evidence.leaf import PayoutLeaf, format_payout_leaf, parse_payout_leaf
from ledger.evidence.terms import Terms, parse_terms
from ledger.stellar.errors import SettlerError

FORMAT: Final = "swarmledger-settler/1"

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEpoch:
    """What a settler knows of an epoch whose audit file it has proven."""

    epoch: int
    checkpoint: Checkpoint
    """The log's head after it."""

    body_hash: bytes
    """Memo of its anchor."""

    anchor_tx: bytes
    """Hash of the transaction that anchored it."""

    last_ledger_sequence: int
    """Network ledger through which it has all transactions of ours."""

    signed_terms: bytes
    """Terms in force."""

    payouts: tuple[PayoutLeaf, ...]
    """Batches that it plans."""

    @property
    def terms(self) -> Terms:
        """Terms in force."""
        return parse_terms(self.signed_terms).value


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBump:
    """What a settler has signed to raise a bid."""

    slot: tuple[bytes, int]
    """Channel account and sequence number of what is inside."""

    fee_stroops: int
    """Offered in all."""


class SettlerFolder:
    """The files of one settler."""

    def __init__(self, folder: Path) -> None:
        """Make the folders that are missing.

        Raises:
            OSError: They cannot be made.
        """
        self._folder = folder
        for part in (self.audit, self._verified, self.orders):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def audit(self) -> Path:
        """Where audit files stand."""
        return self._folder / "audit"

    @property
    def orders(self) -> Path:
        """Where orders to cancel batches stand."""
        return self._folder / "orders"

    @property
    def _verified(self) -> Path:
        return self._folder / "verified"

    def load_epochs(self, first_epoch: int) -> list[VerifiedEpoch]:
        """Return the verified epochs from the first one on, as far as none is missing.

        Raises:
            SettlerError: A file is not ours; delete it to have the epoch verified again.
        """
        found: list[VerifiedEpoch] = []
        while (path := self._verified / f"epoch-{first_epoch + len(found)}.json").exists():
            found.append(_read(path, _parse_epoch))
        return found

    def save_epoch(self, epoch: VerifiedEpoch) -> None:
        """Keep what came of an epoch, once and for all."""
        document = {
            "format": FORMAT,
            "epoch": epoch.epoch,
            "origin": epoch.checkpoint.origin,
            "tree_size": epoch.checkpoint.tree_size,
            "root_hash": epoch.checkpoint.root_hash.hex(),
            "body_hash": epoch.body_hash.hex(),
            "anchor_tx": epoch.anchor_tx.hex(),
            "last_ledger_sequence": epoch.last_ledger_sequence,
            "terms": epoch.signed_terms.hex(),
            "payouts": [format_payout_leaf(leaf).hex() for leaf in epoch.payouts],
        }
        _write(self._verified / f"epoch-{epoch.epoch}.json", document)

    def load_unexplained(self) -> dict[bytes, str]:
        """Return hash → where it stands, of transactions that nobody has accepted.

        Raises:
            SettlerError: A file is not ours.
        """
        accepted = self.load_accepted()
        found = self._load_hashes("unexplained.json")
        return {tx_hash: text for tx_hash, text in found.items() if tx_hash not in accepted}

    def add_unexplained(self, transactions: dict[bytes, str]) -> None:
        """Keep transactions until a person accepts them."""
        found = self._load_hashes("unexplained.json")
        if transactions.keys() - found.keys():
            self._save_hashes("unexplained.json", found | transactions)

    def load_accepted(self) -> frozenset[bytes]:
        """Return the hashes of transactions that a person has accepted.

        Raises:
            SettlerError: The file is not ours.
        """
        return frozenset(self._load_hashes("accepted.json"))

    def accept(self, tx_hash: bytes, note: str) -> None:
        """Keep a person's word that a transaction is known."""
        self._save_hashes("accepted.json", self._load_hashes("accepted.json") | {tx_hash: note})

    def load_bumps(self) -> tuple[SignedBump, ...]:
        """Return the fee bumps that were signed.

        Raises:
            SettlerError: The file is not ours.
        """
        path = self._folder / "bumps.json"
        return _read(path, _parse_bumps) if path.exists() else ()

    def save_bumps(self, bumps: Iterable[SignedBump]) -> None:
        """Keep these fee bumps and forget others."""
        rows = [
            {
                "channel": bump.slot[0].hex(),
                "sequence": bump.slot[1],
                "fee_stroops": bump.fee_stroops,
            }
            for bump in bumps
        ]
        _write(self._folder / "bumps.json", {"format": FORMAT, "bumps": rows})

    def _load_hashes(self, name: str) -> dict[bytes, str]:
        path = self._folder / name
        return _read(path, _parse_hashes) if path.exists() else {}

    def _save_hashes(self, name: str, hashes: dict[bytes, str]) -> None:
        transactions = {tx_hash.hex(): text for tx_hash, text in sorted(hashes.items())}
        _write(self._folder / name, {"format": FORMAT, "transactions": transactions})


def _parse_epoch(document: dict[str, Any]) -> VerifiedEpoch:
    return VerifiedEpoch(
        epoch=int(document["epoch"]),
        checkpoint=Checkpoint(
            origin=document["origin"],
            tree_size=int(document["tree_size"]),
            root_hash=bytes.fromhex(document["root_hash"]),
        ),
        body_hash=bytes.fromhex(document["body_hash"]),
        anchor_tx=bytes.fromhex(document["anchor_tx"]),
        last_ledger_sequence=int(document["last_ledger_sequence"]),
        signed_terms=bytes.fromhex(document["terms"]),
        payouts=tuple(parse_payout_leaf(bytes.fromhex(leaf)) for leaf in document["payouts"]),
    )


def _parse_bumps(document: dict[str, Any]) -> tuple[SignedBump, ...]:
    return tuple(
        SignedBump(
            slot=(bytes.fromhex(row["channel"]), int(row["sequence"])),
            fee_stroops=int(row["fee_stroops"]),
        )
        for row in document["bumps"]
    )


def _parse_hashes(document: dict[str, Any]) -> dict[bytes, str]:
    return {bytes.fromhex(key): str(text) for key, text in document["transactions"].items()}


def _read(path: Path, parse: Callable[[dict[str, Any]], ValueT]) -> ValueT:
    try:
        document = json.loads(path.read_bytes())
        found = document["format"]
        value = parse(document) if found == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EvidenceError) as error:
        raise SettlerError(f"{path}: {type(error).__name__}: {error}") from error
    if value is None:
        raise SettlerError(f"{path}: format: got {found!r}, want {FORMAT}")
    return value


def _write(path: Path, document: dict[str, Any]) -> None:
    write_whole(path, [json.dumps(document, indent=1).encode() + b"\n"])


def write_whole(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file of which a reader sees the old content or all of the new one, on the disk.

    Raises:
        OSError: It is not written; what was there is there.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    finally:
        draft.unlink(missing_ok=True)
