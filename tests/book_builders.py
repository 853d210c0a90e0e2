"""Builders of the books for tests: states, transactions, epochs, journals, statements."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from builders import (
    EPOCH,
    EPOCH_LENGTH_S,
    GENESIS_S,
    NATIVE,
    NETWORK_ID,
    TRAFFIC,
    digest_of,
    entitlement,
    funding_leaf,
    key_of,
    payout_leaf,
    signed_terms,
)

from ledger.books.epoch import EpochInputs, Result, Seal, bundle_order, compute_epoch, seal_epoch
from ledger.books.journal import Account, Book, EntryKind, JournalEntry, transfer
from ledger.books.judgement import BundleCheck, LaneCount, check_bundle
from ledger.books.standing import RefundRequest, SeenAccount, Standing
from ledger.books.state import (
    CapUse,
    ClaimableDeposit,
    CorrectedLane,
    Cumulative,
    Head,
    OpenBatch,
    PayeeBalance,
    State,
    SuspenseDeposit,
    XlmTotals,
    genesis_state,
)
from ledger.books.statements import StatementLine, salt_of_line
from ledger.books.transactions import AppliedTransaction, Movement, NetworkFact
from ledger.evidence.bundle import Bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.instruction import Readiness
from ledger.evidence.leaf import (
    PAYOUT_FUNDING,
    PAYOUT_PAYMENTS,
    PayoutLeaf,
    payout_hash,
)
from ledger.evidence.terms import Terms


def genesis(first_epoch: int = 0) -> State:
    return genesis_state(NETWORK_ID, key_of("broadcaster"), first_epoch)


def movement(source: str, destination: str, amount_stroops: int, **changes: Any) -> Movement:
    """A payment of the priced asset between two named accounts."""
    values: dict[str, Any] = {
        "operation_index": 0,
        "asset_code": "XAB",
        "asset_issuer": key_of("issuer"),
        "source": key_of(source),
        "destination": key_of(destination),
        "amount_stroops": amount_stroops,
        "creates_account": False,
        "is_exact": True,
    }
    return Movement(**values | changes)


def native_movement(source: str, destination: str, amount: int, **changes: Any) -> Movement:
    code, issuer = NATIVE
    return movement(source, destination, amount, asset_code=code, asset_issuer=issuer, **changes)


def applied(source: str, *movements: Movement, **changes: Any) -> AppliedTransaction:
    """A transaction of a named account that applied in network ledger 100."""
    values: dict[str, Any] = {
        "ledger_sequence": 100,
        "close_time_s": GENESIS_S,
        "apply_order": 1,
        "source_account": key_of(source),
        "sequence": 1,
        "is_sequence_consumed": True,
        "fee_account": key_of(source),
        "fee_charged_stroops": 100,
        "memo_hash": bytes(32),
        "succeeded": True,
        "movements": movements,
        "failed_destinations": (),
    }
    values |= changes
    place = f"{values['ledger_sequence']}:{values['apply_order']}"
    values.setdefault("tx_hash", digest_of(f"transaction {place}"))
    return AppliedTransaction(**values)


def channel_creations(first_ledger: int = 2) -> list[AppliedTransaction]:
    """The operator funds both channel accounts."""
    return [
        applied(
            "operator",
            native_movement("operator", name, 100_000_000, creates_account=True),
            ledger_sequence=first_ledger + place,
        )
        for place, name in enumerate(("channel 0", "channel 1"))
    ]


def deposit(amount_stroops: int, ledger_sequence: int = 50) -> AppliedTransaction:
    return applied(
        "broadcaster",
        movement("broadcaster", "escrow", amount_stroops),
        ledger_sequence=ledger_sequence,
    )


def decision(
    leaf: PayoutLeaf,
    ledger_sequence: int,
    *,
    succeeded: bool = True,
    failed_destinations: tuple[bytes, ...] = (),
) -> AppliedTransaction:
    """The transaction that decides a batch: applied as planned, or failed in its ledger."""
    moves = tuple(
        Movement(
            operation_index=index,
            asset_code=leaf.asset_code,
            asset_issuer=leaf.asset_issuer,
            source=leaf.source_account,
            destination=payment.account,
            amount_stroops=payment.amount_stroops,
            creates_account=False,
            is_exact=True,
        )
        for index, payment in enumerate(leaf.payments)
    )
    return replace(
        applied("operator", ledger_sequence=ledger_sequence),
        source_account=leaf.channel_account,
        sequence=leaf.channel_sequence,
        fee_account=leaf.channel_account,
        succeeded=succeeded,
        movements=moves if succeeded else (),
        failed_destinations=failed_destinations,
    )


def fact_of(transaction: AppliedTransaction) -> NetworkFact:
    """A fact in the transaction's place; its XDR is not looked at by the books."""
    return NetworkFact(
        network_id=NETWORK_ID,
        ledger_sequence=transaction.ledger_sequence,
        close_time_s=transaction.close_time_s,
        apply_order=transaction.apply_order,
        envelope=transaction.tx_hash,
        result=b"",
    )


def checks_of(
    bundles: Sequence[Signed[Bundle]], with_terms: Signed[Terms], sealing_epoch: int
) -> tuple[BundleCheck, ...]:
    checks = [check_bundle(bundle.raw, with_terms, sealing_epoch) for bundle in bundles]
    return tuple(sorted(checks, key=bundle_order))


def epoch_inputs(
    opening: State,
    bundles: Sequence[Signed[Bundle]] = (),
    transactions: Sequence[AppliedTransaction] = (),
    *,
    with_terms: Signed[Terms] | None = None,
    counted_before: dict[bytes, LaneCount] | None = None,
    **changes: Any,
) -> EpochInputs:
    """Inputs of the epoch that a state opens."""
    in_force = with_terms or signed_terms()
    epoch = opening.head.next_epoch
    values: dict[str, Any] = {
        "terms": in_force,
        "opening": opening,
        "rule": TRAFFIC,
        "activations": (),
        "checks": checks_of(bundles, in_force, epoch),
        "counted_before": counted_before or {},
        "facts": tuple(fact_of(transaction) for transaction in transactions),
        "transactions": tuple(transactions),
        "last_ledger_sequence": 1000 * (epoch + 1),
        "last_ledger_close_s": in_force.value.epoch_end_s(epoch) - 1,
        "salt_key": digest_of(f"salt key {epoch}"),
        "instructions": (),
        "dao_key": key_of("dao"),
    }
    return EpochInputs(**values | changes)


def run_epoch(inputs: EpochInputs) -> tuple[Seal, Result]:
    seal = seal_epoch(inputs)
    return seal, compute_epoch(inputs, seal)


def open_batches(channel_0: bytes, channel_1: bytes) -> dict[int, OpenBatch]:
    """A funding batch, and payments of which one goes elsewhere."""
    return {
        2: OpenBatch(
            kind=PAYOUT_FUNDING,
            channel_account=channel_0,
            channel_sequence=(1200 << 32) + 1,
            leaf_hash=payout_hash(funding_leaf()),
            payments=funding_leaf().payments,
        ),
        3: OpenBatch(
            kind=PAYOUT_PAYMENTS,
            channel_account=channel_1,
            channel_sequence=(1201 << 32) + 1,
            leaf_hash=payout_hash(payout_leaf()),
            payments=payout_leaf().payments,
            payees=tuple(
                payment.account if place else key_of("payee paid elsewhere")
                for place, payment in enumerate(payout_leaf().payments)
            ),
        ),
    }


def instructed_rows() -> dict[str, Any]:
    """What instructions left behind, and an amount in its challenge window."""
    return {
        "maturing": {(key_of("viewer account"), GENESIS_S + 86_400): 5_000},
        "standing": {
            key_of("seeder account"): Standing(
                pay_to=key_of("seeder second account"),
                pay_to_serial=1,
                cash_out_serial=3,
                cash_out_open=True,
            )
        },
        "seen_accounts": {
            key_of("viewer account"): SeenAccount(
                seen_ledger=1200, readiness=Readiness.NO_TRUSTLINE, entry_ledger=0, room_stroops=0
            )
        },
        "refund": RefundRequest(
            serial=2,
            left_stroops=10_000,
            planned_stroops=0,
            due_s=GENESIS_S + 90_000,
            first_epoch=EPOCH + 4,
        ),
    }


def full_state(**changes: Any) -> State:
    """A state with at least one row of every kind."""
    channel_0, channel_1 = sorted((key_of("channel 0"), key_of("channel 1")))
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "broadcaster_account": key_of("broadcaster"),
        "head": Head(
            next_epoch=EPOCH + 1,
            last_ledger_sequence=1233,
            last_ledger_close_s=GENESIS_S + (EPOCH + 1) * EPOCH_LENGTH_S - 1,
            next_batch_number=4,
            deposited_stroops=1_000_000_000,
            charged_stroops=27_939_677,
            fees_stroops=2_793_967,
            suspense_stroops=5,
            escrow_stroops=1_000_000_005,
        ),
        "cap_use": {
            entitlement().digest: CapUse(credited_bytes=16_384, media_ms=4000, last_epoch=240)
        },
        "void_from": {digest_of("void entitlement"): EPOCH + 1},
        "cumulative": {
            (key_of("broadcaster"), key_of("seeder account"), 0, 1): Cumulative(
                bytes_total=300_000_000_000, charge_stroops=27_939_677, fee_stroops=2_793_967
            )
        },
        "payees": {
            key_of("seeder account"): PayeeBalance(accrued_stroops=25_145_710),
            key_of("viewer account"): PayeeBalance(
                accrued_stroops=8, paid_stroops=7, pays_alone=True
            ),
        },
        "batches": open_batches(channel_0, channel_1),
        "channels": {channel_0: (1200 << 32) + 2, channel_1: (1201 << 32) + 2},
        "corrected_lanes": {
            digest_of("lane"): CorrectedLane(epoch=EPOCH - 1, sequence=9, bytes_total=65_536)
        },
        "xlm": {channel_0: XlmTotals(received_stroops=100_000_000, spent_stroops=300)},
        "suspense": {
            (digest_of("stray deposit"), 0): SuspenseDeposit(
                sender=key_of("stranger"), amount_stroops=700, close_s=GENESIS_S + 60
            )
        },
        **instructed_rows(),
        "claimable": {
            digest_of("claimable balance"): ClaimableDeposit(
                sender=key_of("exchange"), amount_stroops=30_000, is_known=True
            )
        },
    }
    return State(**values | changes)


def fact(**changes: Any) -> NetworkFact:
    """A deposit of 100 tokens as stellar-core would have recorded it, signature left out."""
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "ledger_sequence": 1200,
        "close_time_s": GENESIS_S + EPOCH * EPOCH_LENGTH_S,
        "apply_order": 1,
        "envelope": _deposit_envelope(1_000_000_000),
        "result": bytes.fromhex("0000000000000064 00000000 00000001 00000000 00000001 00000000")
        + bytes(4),
    }
    return NetworkFact(**values | changes)


def _deposit_envelope(amount_stroops: int) -> bytes:
    """TransactionEnvelope XDR of one payment from the broadcaster to escrow, without signatures."""

    def uint(number: int) -> bytes:
        return number.to_bytes(4, "big")

    head = uint(2) + uint(0) + key_of("broadcaster") + uint(100) + (1).to_bytes(8, "big")
    asset = uint(1) + b"XAB\0" + uint(0) + key_of("issuer")
    payment = uint(0) + uint(1) + uint(0) + key_of("escrow") + asset
    # No time bounds, no memo, one operation; no extension, no signatures.
    return (
        head
        + uint(0)
        + uint(0)
        + uint(1)
        + payment
        + amount_stroops.to_bytes(8, "big")
        + uint(0)
        + uint(0)
    )


def journal() -> list[JournalEntry]:
    """A deposit, and an epoch's accrual with its fee."""
    zeros = bytes(32)
    unspent = (Account.UNSPENT, key_of("broadcaster"))
    payee = (Account.PAYEE, key_of("seeder account"))
    return [
        JournalEntry(
            epoch=EPOCH,
            kind=EntryKind.DEPOSIT,
            time_s=GENESIS_S + EPOCH * EPOCH_LENGTH_S,
            reference=digest_of("transaction 1200:1"),
            postings=transfer((Account.ESCROW, zeros), unspent, Book.PRICED, 1_000_000_000),
        ),
        JournalEntry(
            epoch=EPOCH,
            kind=EntryKind.ACCRUAL,
            time_s=GENESIS_S + (EPOCH + 1) * EPOCH_LENGTH_S,
            reference=digest_of("sum tree"),
            postings=transfer(unspent, payee, Book.PRICED, 25_145_710)
            + transfer(unspent, (Account.FEES, zeros), Book.PRICED, 2_793_967),
        ),
    ]


def statement_lines() -> list[StatementLine]:
    """Lines of a seeder, and of a CDN that is billed elsewhere."""
    salt_key = digest_of(f"salt key {EPOCH}")
    lines = [
        StatementLine(
            subject=key_of("seeder account"),
            salt=salt_of_line(salt_key, key_of("seeder account")),
            bytes_p2p=300_000_000_000,
            bytes_cdn=0,
            charge_stroops=27_939_677,
            fee_stroops=2_793_967,
            opening_stroops=100,
            paid_stroops=100,
            closing_stroops=25_145_710,
        ),
        StatementLine(
            subject=key_of("cdn"),
            salt=salt_of_line(salt_key, key_of("cdn")),
            bytes_p2p=0,
            bytes_cdn=5_000_000,
            charge_stroops=0,
            fee_stroops=0,
            opening_stroops=0,
            paid_stroops=0,
            closing_stroops=0,
        ),
    ]
    return sorted(lines, key=lambda line: line.subject)
