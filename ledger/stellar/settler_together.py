"""Settlers among themselves: M of them pay what the log has planned, without the operator.

Each settler proves audit files from a folder (its own archive, or another party's), looks which
planned slots are still open on the chain, signs the next attempt at each, and puts the signature
into a shared folder. Whoever finds enough of them assembles the envelope and sends it; several may,
since one slot takes one transaction. Nothing in the shared folder is believed: signatures are
verified, and what is not one is passed over. New epochs need the operator's log key, so only what
stands in the proven log is paid.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.evidence.errors import EvidenceError
from ledger.evidence.keys import verify
from ledger.evidence.leaf import PAYOUT_FUNDING, PayoutLeaf
from ledger.evidence.terms import Terms
from ledger.stellar.cosigning import (
    COSIGNATURE_SIZE,
    Wanted,
    format_cosignature,
    parse_cosignature,
)
from ledger.stellar.envelopes import (
    attach_signatures,
    build_payout,
    next_attempt,
    payout_demands,
    unsigned_transaction,
)
from ledger.stellar.errors import SettlerError
from ledger.stellar.gateway import NetworkLedger
from ledger.stellar.settler import FetchAudit, Finding, RefusedError, Settler
from ledger.stellar.settler_chain import OwnChain
from ledger.stellar.settler_records import write_whole
from ledger.stellar.signing import KeySignature
from ledger.stellar.treasury import choose_keys, read_signers

ROOM_LEDGERS: Final = 6
"""Least ledgers that an attempt must have left, so that others can still sign it."""

ROOM_S: Final = 30
_FILES_MAX: Final = 64
_PIECE: Final = 1 << 20

_log = logging.getLogger(__name__)


class ExchangeFolder:
    """Signatures that settlers share: one folder a transaction, one file a key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, tx_hash: bytes, signed: KeySignature) -> None:
        """Share a signature; sharing it again changes nothing.

        Raises:
            OSError: The folder cannot be written.
        """
        folder = self._folder / tx_hash.hex()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{signed.key.hex()}.signature"
        content = format_cosignature(tx_hash, signed)
        if not path.exists() or path.read_bytes() != content:
            write_whole(path, [content])

    def signatures(self, tx_hash: bytes) -> dict[bytes, KeySignature]:
        """Return the valid signatures of a transaction by key; other files are passed over."""
        found: dict[bytes, KeySignature] = {}
        folder = self._folder / tx_hash.hex()
        for path in sorted(folder.glob("*.signature"))[:_FILES_MAX]:
            try:
                with path.open("rb") as file:
                    of_hash, signed = parse_cosignature(file.read(COSIGNATURE_SIZE + 1))
            except (OSError, EvidenceError):
                continue
            if of_hash == tx_hash and verify(signed.key, tx_hash, signed.signature):
                found[signed.key] = signed
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What one round without the operator came to."""

    verified_through: int
    """Newest verified epoch."""

    open_batches: int
    """Planned batches whose slot is open on the chain."""

    signed: int
    """Of these, how many this settler stands for now."""

    sent: int
    """How many envelopes it sent."""

    refused: Mapping[int, Finding]
    """Batch number → why it does not sign."""

    halt: Finding | None
    """Why everything is refused."""


class TogetherRounds:
    """Rounds of one settler with the others."""

    def __init__(
        self, settler: Settler, chain: OwnChain, exchange: ExchangeFolder, passphrase: str
    ) -> None:
        self._settler = settler
        self._chain = chain
        self._exchange = exchange
        self._passphrase = passphrase
        self._sent_sequence: dict[bytes, int] = {}

    def run(self) -> Together:
        """Do one round.

        Raises:
            GatewayError: The settler's sources give no usable answer; try again.
            OSError: The shared folder cannot be written.
        """
        self._settler.look()
        latest = self._chain.newest()[1]
        due, count = self._due()
        refused: dict[int, Finding] = {}
        signed = sent = 0
        for leaf, terms in due:
            wanted = self._wanted(leaf, terms, latest)
            try:
                self._exchange.put(wanted.tx_hash, self._settler.sign(wanted))
            except RefusedError as error:
                refused[leaf.batch_number] = error.finding
                continue
            signed += 1
            sent += self._send(leaf, terms, wanted, latest)
        return Together(
            verified_through=self._settler.next_epoch - 1,
            open_batches=count,
            signed=signed,
            sent=sent,
            refused=refused,
            halt=self._settler.halt,
        )

    def _due(self) -> tuple[list[tuple[PayoutLeaf, Terms]], int]:
        """Return the batches whose turn it is, and how many are open.

        The first open slot of each channel; payments once no funding of an earlier number is open.
        """
        sequences: dict[bytes, int | None] = {}
        due: list[tuple[PayoutLeaf, Terms]] = []
        busy: set[bytes] = set()
        is_funding_open = False
        count = 0
        for leaf, terms in sorted(self._settler.payouts, key=lambda one: one[0].batch_number):
            channel = leaf.channel_account
            if channel not in sequences:
                sequences[channel] = self._chain.sequence_of(channel)
            sequence = sequences[channel]
            if sequence is None or sequence >= leaf.channel_sequence:
                continue
            count += 1
            is_funding = leaf.kind == PAYOUT_FUNDING
            if channel not in busy and (is_funding or not is_funding_open):
                due.append((leaf, terms))
            busy.add(channel)
            is_funding_open |= is_funding
        return due, count

    def _wanted(self, leaf: PayoutLeaf, terms: Terms, latest: NetworkLedger) -> Wanted:
        attempt = next_attempt(
            leaf, terms, latest, least=0, margin_ledgers=ROOM_LEDGERS, margin_s=ROOM_S
        )
        unsigned = build_payout(leaf, attempt, terms, self._passphrase)
        return Wanted(
            epoch=leaf.epoch,
            batch_number=leaf.batch_number,
            attempt=attempt,
            tx_hash=unsigned_transaction(unsigned).tx_hash,
        )

    def _send(self, leaf: PayoutLeaf, terms: Terms, wanted: Wanted, latest: NetworkLedger) -> bool:
        """Assemble and send, at most once a ledger; tells whether it did."""
        signatures = self._exchange.signatures(wanted.tx_hash)
        demands = payout_demands(leaf)
        signers = read_signers(self._chain.first, {demand.account for demand in demands})
        chosen = choose_keys(signers, demands, signatures)
        if chosen is None or self._sent_sequence.get(wanted.tx_hash, 0) >= latest.sequence:
            return False
        unsigned = build_payout(leaf, wanted.attempt, terms, self._passphrase)
        envelope = attach_signatures(unsigned, [signatures[key] for key in chosen])
        answer = self._chain.first.submit(envelope.envelope)
        self._sent_sequence[wanted.tx_hash] = latest.sequence
        _log.info("settler: sent batch %d: %s", leaf.batch_number, answer.status)
        return True


def fetch_from(folder: Path) -> FetchAudit:
    """Return how audit files are taken from a folder of files `epoch-N.audit`."""

    def fetch(epoch: int, path: Path) -> bool:
        source = folder / f"epoch-{epoch}.audit"
        if not source.is_file():
            return False
        try:
            with source.open("rb") as file:
                write_whole(path, iter(lambda: file.read(_PIECE), b""))
        except OSError as error:
            raise SettlerError(f"{source}: {error.strerror}") from error
        return True

    return fetch
