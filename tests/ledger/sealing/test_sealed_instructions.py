"""Instructions from the database into the seal and its audit file, and rulings that end a halt."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import (
    ASSET,
    NETWORK,
    address,
    key,
    make_entitlement,
    make_payee_bundle,
    make_receipt,
    seed,
)
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from ledger.audit.file import build_audit_file, parse_audit_file
from ledger.audit.verify import Verdict, verify_audit_file
from ledger.books.errors import UnknownTransactionError
from ledger.books.instructing import InstructionCode
from ledger.evidence.encoding import Signed
from ledger.evidence.instruction import (
    REFUND,
    RULING,
    Booking,
    Instruction,
    PayeeInstruction,
    PayeeWish,
    Refund,
    Ruling,
    parse_instruction,
    sign_payee_instruction,
)
from ledger.store.epoch_store import EpochState, find_epoch, load_closing_state
from ledger.store.instruction_store import (
    claim_instructions,
    find_instruction,
    keep_instruction,
    restore_instructions,
)

pytestmark = pytest.mark.postgres


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        yield made


def pay_to(name: str, to: str, serial: int = 1) -> Signed[Instruction]:
    value = PayeeInstruction(
        network_id=NETWORK,
        broadcaster_account=key("broadcaster"),
        account=key(name),
        kind=PayeeWish.PAY_TO,
        serial=serial,
        pay_to=key(to),
    )
    return sign_payee_instruction(value, seed(name), seed(to))


def refund(serial: int = 1) -> Signed[Instruction]:
    value = Refund(
        network_id=NETWORK,
        broadcaster_account=key("broadcaster"),
        serial=serial,
        amount_stroops=1_000,
    )
    return parse_instruction(REFUND.sign(value, seed("broadcaster")).raw)


def ruling(tx_hash: bytes, booking: Booking = Booking.IGNORE) -> Signed[Instruction]:
    value = Ruling(
        network_id=NETWORK,
        broadcaster_account=key("broadcaster"),
        dao_key=key("dao"),
        serial=1,
        tx_hash=tx_hash,
        booking=booking,
    )
    return parse_instruction(RULING.sign(value, seed("dao")).raw)


def keep(scene: ShardScene, *instructions: Signed[Instruction]) -> list[bool]:
    with scene.sessions.begin() as session:
        return [keep_instruction(session, scene.shard, signed) for signed in instructions]


def code_of(scene: ShardScene, signed: Signed[Instruction]) -> tuple[int | None, int | None]:
    with scene.sessions.begin() as session:
        stored = find_instruction(session, scene.shard, signed.digest)
    assert stored is not None
    return stored.sealed_epoch, stored.code


def run_epoch(scene: ShardScene, epoch: int) -> bytes:
    """Traffic of one payee, then everything up to the audit file."""
    scene.reach_epoch(epoch)
    ann = make_entitlement(scene.operator, "ann")
    receipt = make_receipt(ann, "ann", "seeder", epoch, 50_000_017)
    scene.upload(make_payee_bundle("seeder", epoch, [ann], [receipt]))
    scene.judge_all()
    scene.end_epoch(epoch)
    scene.advance()
    return settle_epoch(scene, epoch)


def settle_epoch(scene: ShardScene, epoch: int) -> bytes:
    scene.anchor(epoch, scene.terms.epoch_end_s(epoch) + 7)
    scene.advance()
    return (scene.audit_dir / f"epoch-{epoch}.audit").read_bytes()


def test_instructions_are_sealed_given_codes_and_proven(scene: ShardScene) -> None:
    scene.deposit(10**9, scene.terms.genesis_s + 2)
    run_epoch(scene, 0)
    moved, stranger = pay_to("seeder account", "seeder 2"), pay_to("mallory", "seeder 2")
    unknown = ruling(bytes([7]) * 32)
    assert keep(scene, moved, stranger, refund(), unknown) == [True] * 4
    assert keep(scene, moved) == [False]
    data = run_epoch(scene, 1)
    report = verify_audit_file(data, scene.operator.trust)
    assert report.verdict == Verdict.PROVEN, report.failed_step
    assert len(parse_audit_file(data).contents.instructions) == 4
    assert code_of(scene, moved) == (1, InstructionCode.APPLIED)
    assert code_of(scene, stranger) == (1, InstructionCode.UNKNOWN_ACCOUNT)
    assert code_of(scene, unknown) == (1, InstructionCode.UNKNOWN_TRANSACTION)
    with scene.sessions.begin() as session:
        closing = load_closing_state(session, scene.shard, 1)
    assert closing is not None
    assert closing.standing[key("seeder account")].pay_to == key("seeder 2")
    assert closing.refund is not None
    later = run_epoch(scene, 2)
    assert parse_audit_file(later).contents.instructions == ()


def test_an_instruction_that_is_left_out_of_a_file_is_noticed(scene: ShardScene) -> None:
    keep(scene, refund())
    data = run_epoch(scene, 0)
    contents = parse_audit_file(data).contents
    report = verify_audit_file(
        build_audit_file(replace(contents, instructions=()), seed("log")), scene.operator.trust
    )
    assert report.verdict == Verdict.DISPROVEN
    assert report.failed_step is not None
    assert report.failed_step.name == "lanes and seal"


def test_a_transaction_nobody_planned_holds_the_seal_until_the_dao_rules(scene: ShardScene) -> None:
    scene.deposit(10**9, scene.terms.genesis_s + 2)
    theft = scene.operator.builder("escrow", 77)
    theft.append_payment_op(address("mallory"), ASSET, "0.0001")
    scene.operator.fact(theft, "escrow")
    (fact,) = scene.store_pending(scene.terms.genesis_s + 5)
    with pytest.raises(UnknownTransactionError):
        run_epoch(scene, 0)
    with scene.sessions.begin() as session:
        epoch = find_epoch(session, scene.shard, 0)
    assert epoch is not None
    assert epoch.state == EpochState.SEALING
    ruled = ruling(fact.tx_hash, Booking.LOSS)
    keep(scene, ruled)
    scene.advance()
    data = settle_epoch(scene, 0)
    assert verify_audit_file(data, scene.operator.trust).verdict == Verdict.PROVEN
    assert code_of(scene, ruled) == (0, InstructionCode.APPLIED)


CHANGES = [
    "UPDATE instructions SET raw = 'x'",
    "UPDATE instructions SET sealed_epoch = 1",
    "UPDATE instructions SET sealed_epoch = NULL",
    "UPDATE instructions SET code = 3",
    "DELETE FROM instructions",
    "TRUNCATE instructions",
]


def test_what_was_sealed_never_changes_in_the_database(scene: ShardScene) -> None:
    keep(scene, refund())
    run_epoch(scene, 0)
    for change in CHANGES:
        with (
            pytest.raises(IntegrityError, match="append-only"),
            scene.sessions.begin() as session,
        ):
            session.execute(text(change))


def test_restoring_from_a_file_gives_the_rows_again(scene: ShardScene) -> None:
    scene.reach_epoch(0)
    scene.advance()
    with scene.sessions.begin() as session:
        assert keep_instruction(session, scene.shard, refund(2))
        restore_instructions(session, scene.shard, 0, [refund()])
        restore_instructions(session, scene.shard, 0, [refund()])
        assert claim_instructions(session, scene.shard, 1) == 1
    assert code_of(scene, refund()) == (0, None)
