"""Rows that somebody changed by hand stop the epoch: the log's key signs for none of them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import key, make_entitlement, make_payee_bundle, make_receipt, seed
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.books.state import format_state, parse_state, state_root
from ledger.evidence.leaf import code_of_leaf
from ledger.evidence.merkle import leaf_hash, root_hash
from ledger.evidence.terms import sign_terms
from ledger.sealing.transitions import close_to_bundles, compute, seal
from ledger.store.epoch_store import EpochState, find_epoch, list_checkpoints
from ledger.store.errors import UnprovenError

pytestmark = pytest.mark.postgres

Tamper = Callable[[ShardScene, Session], None]


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    """Epoch 0 is computed; epoch 1 has a late and a new receipt, and may be sealed."""
    with make_shard_scene(database_url, tmp_path) as made:
        made.deposit(50_000_000_000, made.terms.epoch_start_s(0) + 2)
        made.reach_epoch(0)
        upload(made, 0, receipt(made, 0, 15_485_863))
        made.end_epoch(0)
        made.advance()
        made.reach_epoch(1)
        upload(made, 1, receipt(made, 1, 104_729))
        upload(made, 0, receipt(made, 0, 15_490_001, sequence=2), number=1)
        upload(made, 1, forged_receipt(made), number=1)
        made.end_epoch(1)
        yield made


def receipt(scene: ShardScene, epoch: int, total: int, sequence: int = 1):
    entitlement = make_entitlement(scene.operator, "ann")
    return make_receipt(entitlement, "ann", "seeder", epoch, total, sequence=sequence)


def forged_receipt(scene: ShardScene):
    """A receipt over many bytes that the viewer never signed."""
    entitlement = make_entitlement(scene.operator, "ann")
    return make_receipt(entitlement, "seeder", "seeder", 1, 2**40, sequence=2, nonce=7)


def upload(scene: ShardScene, epoch: int, signed, number: int = 0) -> None:
    ann = make_entitlement(scene.operator, "ann")
    scene.upload(make_payee_bundle("seeder", epoch, [ann], [signed], number))
    scene.judge_all()


def change(scene: ShardScene, tamper: Tamper) -> None:
    """Change rows as a superuser can: no trigger, no foreign key in the way."""
    with scene.sessions.begin() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        tamper(scene, session)


def raise_balance(_: ShardScene, session: Session) -> None:
    state = parse_state(session.scalar(text("SELECT closing FROM states")))
    account = key("seeder account")
    balance = state.payees[account]
    more = replace(balance, accrued_stroops=balance.accrued_stroops + 1)
    changed = replace(state, payees={**state.payees, account: more})
    row = {"closing": format_state(changed), "root": state_root(changed)}
    session.execute(text("UPDATE states SET closing = :closing, root = :root"), row)


def change_result_leaf_too(scene: ShardScene, session: Session) -> None:
    raise_balance(scene, session)
    want = session.scalar(text("SELECT root FROM states"))
    index, data = next(
        (index, data)
        for index, data in enumerate(scene.leaves())
        if code_of_leaf(data).name == "LEAF_RESULT"
    )
    # The closing state's root is the result leaf's last field.
    forged = data[:-32] + want
    row = {"index": index, "data": forged, "hash": leaf_hash(forged)}
    session.execute(
        text("UPDATE leaves SET data = :data, leaf_hash = :hash WHERE leaf_index = :index"), row
    )


def lower_lane(_: ShardScene, session: Session) -> None:
    session.execute(text("UPDATE lanes SET bytes_total = 1"))


def change_note(_: ShardScene, session: Session) -> None:
    session.execute(text("UPDATE checkpoints SET note = overlay(note placing 'x' from 1)"))


def delete_checkpoint(_: ShardScene, session: Session) -> None:
    session.execute(text("DELETE FROM checkpoints"))


def accept_forged_receipt(_: ShardScene, session: Session) -> None:
    changed = session.execute(
        text(
            r"UPDATE bundles SET code = 0, receipt_codes = '\x0000'"
            r" WHERE receipt_codes <> '\x0000'"
        )
    )
    assert changed.rowcount == 1


def take_payout(_: ShardScene, session: Session) -> None:
    session.execute(text("UPDATE bundles SET payee_account = :thief"), {"thief": key("x")})


def forget_mark(scene: ShardScene, session: Session) -> None:
    """The verdict may be changed only together with a mark that nobody can make."""
    accept_forged_receipt(scene, session)
    session.execute(text("UPDATE bundles SET vouch = NULL"))


def raise_price(scene: ShardScene, session: Session) -> None:
    terms = replace(scene.terms, price_stroops=scene.terms.price_stroops + 1)
    session.execute(text("UPDATE terms SET raw = :raw"), {"raw": sign_terms(terms, seed("x")).raw})


def take_issuing_key(scene: ShardScene, session: Session) -> None:
    terms = replace(scene.terms, price_stroops=1, issuing_key=key("x"))
    session.execute(text("UPDATE terms SET raw = :raw"), {"raw": sign_terms(terms, seed("x")).raw})


def name_other_rule(scene: ShardScene, session: Session) -> None:
    """Signed by the broadcaster, but not the rule that is active."""
    raw = sign_terms(replace(scene.terms, rules_digest=key("x")), seed("issuing")).raw
    session.execute(text("UPDATE terms SET raw = :raw"), {"raw": raw})


CHANGES = [
    (raise_balance, "closing state of epoch 0"),
    (change_result_leaf_too, "leaves of epoch 0"),
    (lower_lane, "lanes of epoch 0"),
    (change_note, "checkpoint of epoch 0"),
    (delete_checkpoint, "got no checkpoint"),
    (raise_price, "not valid under their issuing key"),
    (take_issuing_key, "got issuing key"),
    (name_other_rule, "rule of epoch 1"),
    (accept_forged_receipt, "no worker vouches for"),
    (take_payout, "no worker vouches for"),
    (forget_mark, "no worker vouches for"),
]


def state_of(scene: ShardScene) -> EpochState:
    with scene.sessions.begin() as session:
        return find_epoch(session, scene.shard, 1).state


def require_nothing_more_signed(scene: ShardScene) -> None:
    with scene.sessions.begin() as session:
        assert [one.epoch for one in list_checkpoints(session, scene.shard)] == [0]


TABLES = ["states", "leaves", "lanes", "checkpoints", "terms", "bundles"]


def keep_rows(_: ShardScene, session: Session) -> None:
    for table in TABLES:
        session.execute(text(f"CREATE TABLE kept_{table} AS TABLE {table}"))


def restore_rows(_: ShardScene, session: Session) -> None:
    for table in TABLES:
        session.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - names from above
        session.execute(text(f"INSERT INTO {table} TABLE kept_{table}"))


BEFORE_A_SEAL = {delete_checkpoint: "want one of the database"}
"""What is noticed earlier, by the guard over the published log."""


def test_changed_row_stops_the_seal(scene: ShardScene) -> None:
    change(scene, keep_rows)
    for tamper, later_reason in CHANGES:
        reason = BEFORE_A_SEAL.get(tamper, later_reason)
        change(scene, tamper)
        with pytest.raises(UnprovenError, match=reason):
            scene.advance()
        assert state_of(scene) == EpochState.SEALING, tamper.__name__
        change(scene, restore_rows)
    require_nothing_more_signed(scene)
    scene.advance()
    assert state_of(scene) == EpochState.COMPUTED


def test_row_changed_between_seal_and_computation_stops_the_computation(scene: ShardScene) -> None:
    assert close_to_bundles(scene.sessions, scene.shard, 1)
    assert seal(scene.sessions, scene.shard, 1, seed("log"))
    change(scene, keep_rows)
    for tamper, reason in CHANGES:
        change(scene, tamper)
        with pytest.raises(UnprovenError, match=reason):
            compute(scene.sessions, scene.shard, 1, seed("log"))
        change(scene, restore_rows)
    require_nothing_more_signed(scene)
    assert compute(scene.sessions, scene.shard, 1, seed("log"))


def test_verdict_without_a_mark_is_found_again(scene: ShardScene) -> None:
    """As after a change of the log's key, or in a database from before the marks."""
    with scene.sessions.begin() as session:
        session.execute(text("UPDATE bundles SET vouch = NULL WHERE sealing_epoch = 1"))
    scene.advance()
    assert state_of(scene) == EpochState.COMPUTED


def test_hash_of_a_sealed_leaf_is_computed_and_not_read(scene: ShardScene) -> None:
    """A row's leaf hash may be changed at will: the checkpoint is over the leaves."""
    assert close_to_bundles(scene.sessions, scene.shard, 1)
    assert seal(scene.sessions, scene.shard, 1, seed("log"))
    with scene.sessions.begin() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("UPDATE leaves SET leaf_hash = decode(repeat('01', 32), 'hex')"))
    assert compute(scene.sessions, scene.shard, 1, seed("log"))
    with scene.sessions.begin() as session:
        (_, checkpoint) = list_checkpoints(session, scene.shard)
    assert checkpoint.root == root_hash(scene.leaves())


def test_changed_frontier_stops_the_epoch_after_the_next(scene: ShardScene) -> None:
    scene.advance()
    scene.end_epoch(2)
    with scene.sessions.begin() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(
            text(
                "UPDATE checkpoints SET"
                " frontier = set_byte(frontier, 8, 255 - get_byte(frontier, 8)) WHERE epoch = 0"
            )
        )
    with pytest.raises(UnprovenError, match="leaves of epoch 1"):
        scene.advance()


def test_seed_of_another_log_key_signs_nothing(scene: ShardScene) -> None:
    assert close_to_bundles(scene.sessions, scene.shard, 1)
    assert seal(scene.sessions, scene.shard, 1, seed("log"))
    with pytest.raises(UnprovenError, match="log key"):
        compute(scene.sessions, scene.shard, 1, seed("x"))
    require_nothing_more_signed(scene)
