"""Who writes to the database cannot spend: what is not in the anchored log is never signed."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import pytest
from settlement_scene import Scene
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.audit.stellar_xdr import read_transaction
from ledger.evidence.checkpoint import Checkpoint, body_hash, sign_checkpoint
from ledger.evidence.keys import public_key_of
from ledger.evidence.leaf import Payment, PayoutLeaf, format_payout_leaf
from ledger.evidence.merkle import RootBuilder
from ledger.evidence.note import format_note
from ledger.evidence.terms import sign_terms
from ledger.store import settlement_store as store

pytestmark = [pytest.mark.postgres, pytest.mark.process]

THIEF_SEED = sha256(b"thief").digest()
Tamper = Callable[[Scene, Session, list[PayoutLeaf]], None]


def raised(leaf: PayoutLeaf) -> PayoutLeaf:
    payment = leaf.payments[0]
    return replace(leaf, payments=(replace(payment, amount_stroops=payment.amount_stroops + 1),))


def raise_amount(_: Scene, session: Session, leaves: list[PayoutLeaf]) -> None:
    set_leaf(session, raised(leaves[0]))


def change_destination(scene: Scene, session: Session, leaves: list[PayoutLeaf]) -> None:
    mine = Payment(account=scene.payees[2], amount_stroops=leaves[0].total_stroops)
    set_leaf(session, replace(leaves[0], payments=(mine,)))


def insert_batch(scene: Scene, session: Session, leaves: list[PayoutLeaf]) -> None:
    """A batch of its own that goes before the planned ones."""
    forged = replace(leaves[0], batch_number=len(leaves), channel_sequence=2**40)
    session.execute(text("UPDATE batches SET state = 'failed'"))
    store.plan_batches(session, scene.broadcaster, [forged])


def change_log_too(_: Scene, session: Session, leaves: list[PayoutLeaf]) -> None:
    forged = raised(leaves[0])
    set_leaf(session, forged)
    replace_first_leaf(session, forged)


def sign_own_checkpoint(scene: Scene, session: Session, leaves: list[PayoutLeaf]) -> None:
    """Batch, log, checkpoint and the hash to anchor agree, but the log's key did not sign."""
    forge_checkpoint(scene, session, leaves)


def sign_own_terms(scene: Scene, session: Session, leaves: list[PayoutLeaf]) -> None:
    """The same, and stored terms name the thief's key as the log's."""
    forge_checkpoint(scene, session, leaves)
    terms = replace(
        scene.domain.terms,
        log_key=public_key_of(THIEF_SEED),
        issuing_key=public_key_of(THIEF_SEED),
    )
    raw = sign_terms(terms, THIEF_SEED).raw
    session.execute(text("UPDATE terms SET raw = :raw"), {"raw": raw})


def insert_checkpoint(_: Scene, session: Session, leaves: list[PayoutLeaf]) -> None:
    """One between the real ones: leaves below it would not be looked at."""
    log = RootBuilder()
    log.append(format_payout_leaf(leaves[0]))
    session.execute(
        text(
            "INSERT INTO checkpoints SELECT broadcaster_id, 9, 1, root, body_hash, note, :frontier"
            " FROM checkpoints"
        ),
        {"frontier": log.export_state()},
    )


def set_leaf(session: Session, leaf: PayoutLeaf) -> None:
    row = {"leaf": format_payout_leaf(leaf), "number": leaf.batch_number}
    session.execute(text("UPDATE batches SET leaf = :leaf WHERE number = :number"), row)


def replace_first_leaf(session: Session, leaf: PayoutLeaf) -> None:
    row = {"data": format_payout_leaf(leaf)}
    session.execute(text("UPDATE leaves SET data = :data WHERE leaf_index = 0"), row)


def forge_checkpoint(scene: Scene, session: Session, leaves: list[PayoutLeaf]) -> None:
    forged = [raised(leaves[0]), *leaves[1:]]
    set_leaf(session, forged[0])
    replace_first_leaf(session, forged[0])
    log = RootBuilder()
    for leaf in forged:
        log.append(format_payout_leaf(leaf))
    head = Checkpoint(
        origin=scene.domain.terms.log_origin, tree_size=log.size, root_hash=log.root()
    )
    row = {
        "root": log.root(),
        "hash": body_hash(head),
        "note": format_note(sign_checkpoint(head, THIEF_SEED)),
        "frontier": log.export_state(),
    }
    session.execute(
        text(
            "UPDATE checkpoints SET root = :root, body_hash = :hash, note = :note,"
            " frontier = :frontier"
        ),
        row,
    )
    session.execute(text("UPDATE anchors SET body_hash = :hash"), row)


def tamper_with(scene: Scene, tamper: Tamper, leaves: list[PayoutLeaf]) -> None:
    """Change rows as a superuser can: no trigger, no foreign key in the way."""
    with scene.sessions.begin() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        tamper(scene, session, leaves)


def require_nothing_signed(scene: Scene) -> None:
    with scene.sessions() as session:
        count = session.scalar(text("SELECT count(*) FROM attempts WHERE purpose = 'batch'"))
    assert count == 0
    assert scene.paid() == {}
    assert scene.balance(scene.made.escrow) == 10**12


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (raise_amount, "payout leaf that is not in the log"),
        (change_destination, "payout leaf that is not in the log"),
        (insert_batch, "payout leaf that is not in the log"),
        (change_log_too, "leaves of epoch 0: got 2 with root"),
        (sign_own_checkpoint, "signatures: got only unknown keys"),
        (sign_own_terms, "got issuing key"),
        (insert_checkpoint, "payout leaf that is not in the log"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_changed_rows_halt_the_domain_and_nothing_is_signed(
    scene: Scene, tamper: Tamper, reason: str
) -> None:
    leaves = scene.plan({scene.payees[0]: 101, scene.payees[1]: 103})
    tamper_with(scene, tamper, leaves)
    assert scene.settle_all().is_halted
    (halted,) = [batch for batch in scene.batches() if batch.state == "halted"]
    assert reason in halted.reason
    scene.tick(3)
    require_nothing_signed(scene)


def pretend_anchored(scene: Scene, tx_hash: bytes) -> None:
    row = {
        "of": scene.broadcaster,
        "hash": scene.body_hash(scene.next_epoch - 1),
        "epoch": scene.next_epoch - 1,
        "tx": tx_hash,
    }
    with scene.sessions.begin() as session:
        session.execute(
            text("INSERT INTO anchors VALUES (:of, :epoch, :hash, 'paid', 0, :tx)"), row
        )


def test_anchor_row_that_names_another_transaction_halts_the_domain(scene: Scene) -> None:
    scene.plan({scene.payees[0]: 101}, anchor=False)
    (fact,) = scene.gateway.transactions_of(scene.made.anchor, after=(0, 0)).facts[-1:]
    pretend_anchored(scene, read_transaction(fact).tx_hash)
    assert scene.settle_all().is_halted
    assert "the hash of its checkpoint" in scene.batches()[0].reason
    require_nothing_signed(scene)


def test_anchor_that_the_network_does_not_know_is_waited_for_and_nothing_is_signed(
    scene: Scene,
) -> None:
    scene.plan({scene.payees[0]: 101}, anchor=False)
    pretend_anchored(scene, bytes(32))
    report = scene.tick(3)
    assert not report.is_halted
    assert "want it in a ledger" in report.problem
    require_nothing_signed(scene)


def test_second_epoch_is_proven_from_the_frontier_of_the_first(scene: Scene) -> None:
    scene.plan({scene.payees[0]: 2}, {scene.payees[1]: 3})
    scene.plan({scene.payees[0]: 5})
    assert not scene.settle_all().is_halted
    assert scene.paid() == {scene.payees[0]: 7, scene.payees[1]: 3}
