"""A log, a chain and spools of many payouts, made from nothing: what a rebuild is measured on.

Every payee sends one bundle an epoch with one receipt of a viewer that it shares with some others,
and is paid once an epoch; the chain holds every batch of the epochs before. Books, leaves and
checkpoints are the product's functions, signatures are real. Transactions are written down as the
network would record them.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from contracts.registry import load_standard
from ledger.audit.stellar_xdr import read_transaction
from ledger.audit.trust import Trust
from ledger.bench.synthetic_epoch import SyntheticEpoch, key_of, make_epoch, seed_of
from ledger.books.epoch import EpochInputs, bundle_order, compute_epoch, seal_epoch
from ledger.books.gathering import gather_checks
from ledger.books.judgement import BundleCheck, BundleCode, ReceiptCode
from ledger.books.state import State, genesis_state
from ledger.books.transactions import NetworkFact
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.bundle import BundleKind, make_bundle, parse_bundle, sign_bundle
from ledger.evidence.checkpoint import Checkpoint, body_hash, sign_checkpoint
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.leaf import PayoutLeaf, payout_hash
from ledger.evidence.merkle import RootBuilder
from ledger.evidence.note import format_note
from ledger.evidence.receipt import RECEIPT, Receipt
from ledger.evidence.tile import growth_files_of

PAYEES_A_VIEWER: Final = 100
PAYEES_A_SPOOL: Final = 100
LEDGERS: Final = 100
"""Network ledgers of an epoch."""

_GIB: Final = 1 << 30
_LAST_EPOCH: Final = 10_000
_FEE_STROOPS: Final = 100
_FIRST_ANCHOR: Final = 8
_SCHEMA: Final = """
CREATE TABLE bundle (epoch INTEGER, kind INTEGER, number INTEGER, digest BLOB, raw BLOB,
                     state TEXT, promise BLOB);
CREATE TABLE receipt (epoch INTEGER, lane_digest BLOB, sequence INTEGER, bundled_sequence INTEGER);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeLog:
    """What was made."""

    mirror: Path
    spools: Path
    terms: bytes
    binding: bytes
    trust: Trust
    facts: tuple[NetworkFact, ...]
    closing: State
    leaves: int
    payouts: int
    """Payments to payees that the log plans."""


@dataclass(kw_only=True)
class LogMaker:
    """Makes epochs one after the other."""

    payees: int
    folder: Path
    """Mirror and spools go here."""

    epoch: SyntheticEpoch = field(default_factory=make_epoch)
    leaves: list[bytes] = field(default_factory=list)
    facts: list[NetworkFact] = field(default_factory=list)
    notes: dict[int, bytes] = field(default_factory=dict)
    spooled: defaultdict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    payouts: int = 0

    def make(self, epochs: int) -> MadeLog:
        """Make so many epochs and write everything."""
        terms = self.epoch.terms.value
        state = genesis_state(terms.network_id, terms.broadcaster_account, 0)
        self.facts += self.epoch.facts
        self._bindings = [self._bind(number) for number in range(self.payees)]
        viewers = range(-(-self.payees // PAYEES_A_VIEWER))
        self._entitlements = [self._entitle(f"viewer {number}") for number in viewers]
        log = RootBuilder()
        for number in range(epochs):
            state = self._close(number, state, log)
        self._write_mirror()
        self._write_spools()
        return MadeLog(
            mirror=self.folder / "mirror",
            spools=self.folder / "spools",
            terms=self.epoch.terms.raw,
            binding=self.epoch.issuing_binding,
            trust=self.epoch.trust,
            facts=tuple(sorted(self.facts, key=lambda fact: fact.order)),
            closing=state,
            leaves=len(self.leaves),
            payouts=self.payouts,
        )

    def _close(self, number: int, opening: State, log: RootBuilder) -> State:
        terms = self.epoch.terms.value
        checks = [self._check(payee, number) for payee in range(self.payees)]
        after, last = opening.head.last_ledger_sequence, LEDGERS * (number + 1)
        facts = tuple(
            sorted(
                (fact for fact in self.facts if after < fact.ledger_sequence <= last),
                key=lambda fact: fact.order,
            )
        )
        inputs = EpochInputs(
            terms=self.epoch.terms,
            opening=opening,
            rule=load_standard("traffic"),
            activations=(self.epoch.activation,) if number == 0 else (),
            checks=gather_checks(sorted(checks, key=bundle_order)),
            counted_before={},
            facts=facts,
            transactions=tuple(read_transaction(fact) for fact in facts),
            last_ledger_sequence=last,
            last_ledger_close_s=terms.epoch_end_s(number) - 1,
            salt_key=sha256(f"salt of {number}".encode()).digest(),
            instructions=(),
            dao_key=self.epoch.activation.value.dao_key,
        )
        seal = seal_epoch(inputs)
        result = compute_epoch(inputs, seal)
        for leaf in (*seal.leaves, *result.leaves):
            log.append(leaf)
            self.leaves.append(leaf)
        head = Checkpoint(origin=terms.log_origin, tree_size=log.size, root_hash=log.root())
        self.notes[log.size] = format_note(sign_checkpoint(head, self.epoch.log_seed))
        self._apply(number + 1, head, result.payouts)
        return result.closing

    def _apply(self, number: int, head: Checkpoint, payouts: Sequence[PayoutLeaf]) -> None:
        """Let the network record anchor and batches early in the next epoch."""
        close_s = self.epoch.terms.value.epoch_start_s(number) + 7
        anchor = [_words(0, 5) + _words(*[0] * 9)]
        placed = [(key_of("anchor"), _FIRST_ANCHOR + number, body_hash(head), anchor, 5)]
        for leaf in payouts:
            operations = [_payment(leaf, place) for place in range(len(leaf.payments))]
            slot = (leaf.channel_account, leaf.channel_sequence)
            placed.append((*slot, payout_hash(leaf), operations, 1))
            if leaf.source_account == key_of("payout"):
                self.payouts += len(leaf.payments)
        for order, (account, sequence, memo, operations, kind) in enumerate(placed, start=1):
            envelope, result = _transaction(account, sequence, memo, operations, kind)
            self.facts.append(
                NetworkFact(
                    network_id=self.epoch.terms.value.network_id,
                    ledger_sequence=LEDGERS * number + 7,
                    close_time_s=close_s,
                    apply_order=order,
                    envelope=envelope,
                    result=result,
                )
            )

    def _check(self, payee: int, number: int) -> BundleCheck:
        """Return a payee's bundle with the verdict that a worker gives; keep it for a spool."""
        terms = self.epoch.terms.value
        viewer = payee // PAYEES_A_VIEWER
        entitlement = self._entitlements[viewer]
        seed = seed_of(f"payee {payee}")
        receipt = Receipt(
            network_id=terms.network_id,
            flags=0,
            entitlement_digest=entitlement.digest,
            payee_key=self._bindings[payee].value.key,
            epoch=number,
            nonce=0,
            sequence=1,
            bytes_total=_GIB * (1 + payee % 3),
            media_ms_total=0,
            credit_root=bytes(32),
        )
        bundle = make_bundle(
            network_id=terms.network_id,
            submitter_key=self._bindings[payee].value.key,
            broadcaster_account=terms.broadcaster_account,
            epoch=number,
            kind=BundleKind.PAYEE,
            number=0,
            bindings=[self._bindings[payee]],
            entitlements=[entitlement],
            receipts=[RECEIPT.sign(receipt, seed_of(f"viewer {viewer}"))],
            heartbeats=[],
        )
        signed = parse_bundle(sign_bundle(bundle, seed).raw)
        self.spooled[payee // PAYEES_A_SPOOL].append(signed.raw)
        return BundleCheck(
            raw=signed.raw,
            bundle=signed,
            code=BundleCode.ACCEPTED,
            receipt_codes=(ReceiptCode.COUNTED,),
            payee_account=self._bindings[payee].value.account,
        )

    def _bind(self, payee: int) -> Signed[Binding]:
        account, seed = seed_of(f"payee {payee} account"), seed_of(f"payee {payee}")
        binding = Binding(
            network_id=self.epoch.terms.value.network_id,
            account=key_of(f"payee {payee} account"),
            key=key_of(f"payee {payee}"),
            role=Role.SESSION,
            first_epoch=0,
            last_epoch=_LAST_EPOCH,
            serial=1,
        )
        return BINDING.sign(binding, account, seed)

    def _entitle(self, viewer: str) -> Signed[Entitlement]:
        terms = self.epoch.terms
        entitlement = Entitlement(
            network_id=terms.value.network_id,
            broadcaster_account=terms.value.broadcaster_account,
            issuing_key=terms.value.issuing_key,
            terms_digest=terms.digest,
            content_id=sha256(b"synthetic content").digest(),
            session_key=key_of(viewer),
            payer_account=terms.value.broadcaster_account,
            serial=sha256(viewer.encode()).digest()[:16],
            assignment_seed=bytes(32),
            not_before_s=0,
            not_after_s=1 << 40,
            max_bytes=0,
            max_media_ms=0,
            max_rate_kbps=0,
            assignment_policy=0,
            country="",
        )
        return ENTITLEMENT.sign(entitlement, seed_of("issuing"))

    def _write_mirror(self) -> None:
        mirror = self.folder / "mirror"
        kept = mirror / "kept"
        kept.mkdir(parents=True)
        for path, content in growth_files_of(self.leaves, 0):
            file = mirror / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        for size, note in self.notes.items():
            (kept / f"{size}.checkpoint").write_bytes(note)
        (mirror / "checkpoint").write_bytes(self.notes[len(self.leaves)])

    def _write_spools(self) -> None:
        for number, raws in self.spooled.items():
            folder = self.folder / "spools" / str(number)
            folder.mkdir(parents=True)
            with closing(sqlite3.connect(folder / "spool.sqlite")) as connection, connection:
                connection.execute("PRAGMA synchronous = OFF")
                connection.executescript(_SCHEMA)
                connection.executemany(
                    "INSERT INTO bundle VALUES (?, ?, ?, ?, ?, 'sent', NULL)", _rows(raws)
                )


def _rows(raws: Sequence[bytes]) -> Iterator[tuple[int, int, int, bytes, bytes]]:
    for raw in raws:
        bundle = parse_bundle(raw)
        value = bundle.value
        yield value.epoch, int(value.kind), value.number, bundle.digest, raw


def _payment(leaf: PayoutLeaf, place: int) -> bytes:
    """Return one Operation, of the batch's source account."""
    payment = leaf.payments[place]
    asset = _words(1) + leaf.asset_code.encode().ljust(4, b"\0") + _words(0) + leaf.asset_issuer
    source = _words(1, 0) + leaf.source_account
    amount = payment.amount_stroops.to_bytes(8, "big")
    return source + _words(1, 0) + payment.account + asset + amount


def _transaction(
    account: bytes, sequence: int, memo: bytes, operations: Sequence[bytes], kind: int
) -> tuple[bytes, bytes]:
    """Return TransactionEnvelope and TransactionResult XDR of one that succeeded."""
    envelope = [_words(2, 0), account, _words(_FEE_STROOPS * len(operations))]
    envelope += [sequence.to_bytes(8, "big"), _words(0, 3), memo]
    envelope += [_words(len(operations)), *operations, _words(0, 0)]
    result = [(_FEE_STROOPS * len(operations)).to_bytes(8, "big"), _words(0, len(operations))]
    result += [_words(0, kind, 0)] * len(operations)
    return b"".join(envelope), b"".join([*result, _words(0)])


def _words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)
