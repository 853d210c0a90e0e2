"""Settlers among themselves: M of them pay what the log has planned, without the operator.

Each settler proves audit files from a folder (its own archive, or another party's), looks which
planned slots are still open on the chain, signs the next attempt at each, and puts the signature
into a shared folder. Whoever finds enough of them assembles the envelope and sends it; several may,
since one slot takes one transaction. What waits gets a higher bid, signed the same way. A slot is
used up if the DAO ordered it, or if many attempts came to nothing and other batches wait behind it.
Nothing in the shared folder is believed: signatures are verified, and what is not one is passed
over. New epochs need the operator's log key, so only what stands in the proven log is paid, and
what a used-up slot owed waits for another operator.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stellar_sdk import TransactionEnvelope

from ledger.evidence.errors import EvidenceError
from ledger.evidence.keys import verify
from ledger.evidence.leaf import PAYOUT_FUNDING, PayoutLeaf
from ledger.evidence.terms import Terms
from ledger.stellar.burn_rules import build_burn, is_stuck, isolates_alone
from ledger.stellar.cosigning import (
    COSIGNATURE_SIZE,
    Purpose,
    Reason,
    Wanted,
    format_cosignature,
    parse_cosignature,
)
from ledger.stellar.envelopes import (
    SignedEnvelope,
    attach_signatures,
    build_payout,
    next_attempt,
    own_demands,
    payout_demands,
    unsigned_transaction,
)
from ledger.stellar.errors import SettlerError
from ledger.stellar.fee_bumps import attach_bump_signatures
from ledger.stellar.gateway import NetworkLedger, SubmitAnswer
from ledger.stellar.settler import FetchAudit, Finding, RefusedError, Settler
from ledger.stellar.settler_bumps import SettlerBumps
from ledger.stellar.settler_chain import OwnChain, Slot
from ledger.stellar.settler_records import write_whole
from ledger.stellar.signing import Demand, KeySignature, Threshold
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """A batch whose turn it is."""

    leaf: PayoutLeaf
    terms: Terms
    """What its attempts' bounds come from."""

    holds_up: bool
    """Whether other open slots of its channel wait for this one."""


class TogetherRounds:
    """Rounds of one settler with the others."""

    def __init__(
        self,
        settler: Settler,
        chain: OwnChain,
        exchange: ExchangeFolder,
        passphrase: str,
        bumps: SettlerBumps,
    ) -> None:
        """Take parts.

        Args:
            settler: Who signs.
            chain: Its own sources.
            exchange: Shared with the others.
            passphrase: Of the network.
            bumps: Raises bids.
        """
        self._settler = settler
        self._chain = chain
        self._exchange = exchange
        self._passphrase = passphrase
        self._bumps = bumps
        self._sent_sequence: dict[bytes, int] = {}
        self._answers: dict[Slot, SubmitAnswer] = {}
        """What was said of the last envelope that was sent for a slot."""

    def run(self) -> Together:
        """Do one round.

        Raises:
            GatewayError: The settler's sources give no usable answer; try again.
            OSError: The shared folder cannot be written.
        """
        self._settler.look()
        latest = self._chain.newest()[1]
        dues, count = self._due()
        refused: dict[int, Finding] = {}
        needed: dict[bytes, int] = {}
        signed = sent = 0
        for due in dues:
            try:
                wanted = self._wanted(due, latest)
                if wanted.purpose == Purpose.BATCH:
                    self._require_cover(due.leaf, needed)
                self._exchange.put(wanted.tx_hash, self._settler.sign(wanted))
                signed += 1
                sent += self._send(due, wanted, latest, refused)
            except RefusedError as error:
                refused[due.leaf.batch_number] = error.finding
        return Together(
            verified_through=self._settler.next_epoch - 1,
            open_batches=count,
            signed=signed,
            sent=sent,
            refused=refused,
            halt=self._settler.halt,
        )

    def _due(self) -> tuple[list[_Due], int]:
        """Return the batches whose turn it is, and how many are open.

        The first open slot of each channel; payments once no funding of an earlier number is open.
        """
        sequences: dict[bytes, int | None] = {}
        heads: list[tuple[PayoutLeaf, Terms]] = []
        waiting: dict[bytes, int] = {}
        is_funding_open = False
        for leaf, terms in sorted(self._settler.payouts, key=lambda one: one[0].batch_number):
            channel = leaf.channel_account
            if channel not in sequences:
                sequences[channel] = self._chain.sequence_of(channel)
            sequence = sequences[channel]
            if sequence is None or sequence >= leaf.channel_sequence:
                continue
            is_funding = leaf.kind == PAYOUT_FUNDING
            if channel not in waiting and (is_funding or not is_funding_open):
                heads.append((leaf, terms))
            waiting[channel] = waiting.get(channel, 0) + 1
            is_funding_open |= is_funding
        due = [
            _Due(leaf=leaf, terms=terms, holds_up=waiting[leaf.channel_account] > 1)
            for leaf, terms in heads
        ]
        return due, sum(waiting.values())

    def _wanted(self, due: _Due, latest: NetworkLedger) -> Wanted:
        leaf = due.leaf
        attempt = next_attempt(
            leaf, due.terms, latest, least=0, margin_ledgers=ROOM_LEDGERS, margin_s=ROOM_S
        )
        purpose = Purpose.BURN if self._is_given_up(due) else Purpose.BATCH
        unsigned = self._build(due, purpose, attempt)
        return Wanted(
            epoch=leaf.epoch,
            batch_number=leaf.batch_number,
            attempt=attempt,
            tx_hash=unsigned_transaction(unsigned).tx_hash,
            purpose=purpose,
        )

    def _is_given_up(self, due: _Due) -> bool:
        """Tell whether a batch's slot is to be used up: from plan, chain and orders alone."""
        if self._settler.is_cancelled(due.leaf):
            return True
        since = self._settler.payable_since(due.leaf) if due.holds_up else None
        closed = self._chain.newest()[0]
        return since is not None and is_stuck(
            due.leaf, due.terms, payable_since=since, closed=closed
        )

    def _build(self, due: _Due, purpose: Purpose, attempt: int) -> TransactionEnvelope:
        leaf, terms = due.leaf, due.terms
        if purpose == Purpose.BATCH:
            return build_payout(leaf, attempt, terms, self._passphrase)
        isolates = isolates_alone(leaf)
        return build_burn(leaf, attempt, terms, self._passphrase, isolates=isolates)

    def _require_cover(self, leaf: PayoutLeaf, needed: dict[bytes, int]) -> None:
        """Raise if the paying account holds too little beside what this round pays before."""
        account, asset = leaf.source_account, (leaf.asset_code, leaf.asset_issuer)
        holds = self._chain.least_balance(account, asset)
        needed[account] = needed.get(account, 0) + leaf.total_stroops
        if holds < needed[account]:
            raise RefusedError(
                Reason.NOT_COVERED,
                f"account {account.hex()}: holds {holds} stroops, want {needed[account]}",
            )

    def _send(
        self, due: _Due, wanted: Wanted, latest: NetworkLedger, refused: dict[int, Finding]
    ) -> bool:
        """Assemble and send what has enough signatures, under the highest bid that has them too."""
        leaf = due.leaf
        is_burn = wanted.purpose == Purpose.BURN
        demands = own_demands(leaf.channel_account) if is_burn else payout_demands(leaf)
        chosen = self._chosen(wanted.tx_hash, demands)
        if chosen is None:
            return False
        envelope = attach_signatures(self._build(due, wanted.purpose, wanted.attempt), chosen)
        tx_hash, raw = envelope.tx_hash, envelope.envelope
        slot = (leaf.channel_account, leaf.channel_sequence)
        # A no-op bids the most that is allowed anyway.
        answer = self._answers.get(slot)
        bids = () if is_burn else self._bumps.due(leaf, due.terms, answer, latest)
        for bid_stroops in bids:
            try:
                bump = self._bump(due, envelope, bid_stroops)
            except RefusedError as error:
                refused[leaf.batch_number] = error.finding
                break
            tx_hash, raw = bump or (tx_hash, raw)
        return self._submit(slot, tx_hash, raw, latest)

    def _bump(
        self, due: _Due, inner: SignedEnvelope, bid_stroops: int
    ) -> tuple[bytes, bytes] | None:
        """Sign a fee bump and share that; returns its hash and bytes if enough have signed."""
        unsigned, signature = self._bumps.sign(due.leaf, due.terms, inner, bid_stroops)
        self._exchange.put(unsigned.tx_hash, signature)
        demand = Demand(account=due.terms.fee_account, threshold=Threshold.LOW)
        chosen = self._chosen(unsigned.tx_hash, (demand,))
        if chosen is None:
            return None
        return unsigned.tx_hash, attach_bump_signatures(unsigned, chosen)

    def _chosen(self, tx_hash: bytes, demands: Sequence[Demand]) -> list[KeySignature] | None:
        """Return exactly the signatures that a transaction needs; None if they are too few."""
        signatures = self._exchange.signatures(tx_hash)
        signers = read_signers(self._chain.first, {demand.account for demand in demands})
        chosen = choose_keys(signers, demands, signatures)
        return None if chosen is None else [signatures[key] for key in chosen]

    def _submit(self, slot: Slot, tx_hash: bytes, raw: bytes, latest: NetworkLedger) -> bool:
        """Send, at most once a ledger; tells whether it did."""
        if self._sent_sequence.get(tx_hash, 0) >= latest.sequence:
            return False
        answer = self._chain.first.submit(raw)
        self._sent_sequence[tx_hash] = latest.sequence
        self._answers[slot] = answer
        _log.info("settler: sent %s: %s %s", tx_hash.hex(), answer.status, answer.code)
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
