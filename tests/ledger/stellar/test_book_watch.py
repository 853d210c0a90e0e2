"""Book watch: what nobody planned, and balances that differ, stop payouts by name; nothing else."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from settlement_scene import Scene
from stellar_sdk import Asset, Claimant
from stellar_sdk.operation import ClaimClaimableBalance, CreateClaimableBalance, Operation

from ledger.audit.address import format_account
from ledger.audit.stellar_xdr import read_transaction
from ledger.books.draft import Draft
from ledger.books.folding import fold_transactions
from ledger.books.state import State, format_state, genesis_state, state_root
from ledger.stellar.book_watch import watch_books
from ledger.stellar.facts import ingest_facts
from ledger.stellar.transacting import Transacting, asset_payment
from ledger.store import halt_store
from ledger.store import settlement_store as store
from ledger.store.epoch_store import open_epochs
from ledger.store.halt_store import Halt, HaltName
from ledger.store.shard_store import find_shard
from ledger.store.tables import StateRow

pytestmark = [pytest.mark.postgres, pytest.mark.process]

LONG_EPOCH_S = 10**6
"""The facts of a test all lie in one epoch."""


def widened(scene: Scene) -> Scene:
    """The scene under terms whose epoch 1 lasts as long as the test."""
    now = scene.gateway.latest_ledger()
    terms = replace(
        scene.domain.terms,
        genesis_s=now.close_time_s + 1 - LONG_EPOCH_S,
        epoch_length_s=LONG_EPOCH_S,
    )
    return replace(scene, domain=replace(scene.domain, terms=terms))


def compute(scene: Scene, **head: int) -> State:
    """Close the books of epoch 0 over the facts so far, as computing it does."""
    scene.devnet.close_ledgers(3)
    ingest(scene)
    with scene.sessions() as session:
        facts = store.load_facts(
            session, scene.broadcaster, after_sequence=0, through_sequence=1 << 40
        )
    draft = Draft.of(genesis_state(scene.gateway.network_id, scene.broadcaster, 0))
    fold_transactions(draft, scene.domain.terms, [read_transaction(fact) for fact in facts])
    last = facts[-1]
    draft.head = replace(
        draft.head,
        last_ledger_sequence=last.ledger_sequence,
        last_ledger_close_s=last.close_time_s,
        **head,
    )
    state = draft.finish()
    with scene.sessions.begin() as session:
        shard = find_shard(session, scene.broadcaster)
        open_epochs(session, shard, first=0, last=1)
        session.add(
            StateRow(
                broadcaster_id=shard.id,
                epoch=0,
                closing=format_state(state),
                root=state_root(state),
            )
        )
    return state


def ingest(scene: Scene) -> None:
    ingest_facts(scene.sessions, scene.gateway, scene.domain.terms, margin_ledgers=1)


def watch(scene: Scene, surplus_max_stroops: int = 0) -> dict[HaltName, Halt]:
    """Look until what was asked about the balances is compared."""
    for _ in range(2):
        ingest(scene)
        halts = watch_books(
            scene.sessions,
            scene.gateway,
            scene.domain.terms,
            surplus_max_stroops=surplus_max_stroops,
        )
        scene.devnet.close_ledgers(4)
    ingest(scene)
    halts = watch_books(
        scene.sessions, scene.gateway, scene.domain.terms, surplus_max_stroops=surplus_max_stroops
    )
    return {halt.name: halt for halt in halts}


def proofs(scene: Scene) -> dict[bytes, int]:
    with scene.sessions() as session:
        found = halt_store.load_proofs(session, scene.broadcaster, 0)
    return {proof.account: proof.stroops for proof in found}


def send(scene: Scene, operations: Sequence[Operation], *seeds: bytes) -> bytes:
    with scene.devnet.closing():
        transacting = Transacting(scene.gateway, scene.domain.passphrase)
        return transacting.apply_all([(operations, seeds)])[0]


def asset_of(scene: Scene) -> tuple[str, bytes]:
    return scene.made.asset_code, scene.made.issuer


def test_equal_balances_are_proven_once_an_epoch(scene: Scene) -> None:
    scene = widened(scene)
    compute(scene)
    assert watch(scene) == {}
    held = scene.balance(scene.made.escrow)
    assert proofs(scene) == {scene.made.escrow: held, scene.made.payout: 0}
    assert watch(scene) == {}
    with scene.sessions() as session:
        assert halt_store.load_samples(session, scene.broadcaster) == ()


def test_nothing_is_looked_at_before_an_epoch_is_computed(scene: Scene) -> None:
    assert watch(scene) == {}
    assert proofs(scene) == {}


def test_deposit_while_the_balance_is_asked_for_is_no_difference(scene: Scene) -> None:
    scene = widened(scene)
    compute(scene)
    for amount in range(1, 4):
        pay = asset_payment(scene.made.broadcaster, scene.made.escrow, asset_of(scene), amount)
        send(scene, [pay], scene.keys.broadcaster)
        ingest(scene)
        assert watch_books(scene.sessions, scene.gateway, scene.domain.terms) == ()
    assert watch(scene) == {}
    assert scene.made.escrow in proofs(scene)


@pytest.mark.parametrize(
    ("change", "name"), [(-7, HaltName.BALANCE_SURPLUS), (7, HaltName.BALANCE_DEFICIT)]
)
def test_balance_that_is_not_the_books_stops_payouts(
    scene: Scene, change: int, name: HaltName
) -> None:
    """As when a source left a transaction out, or a contract moved what no fact tells of."""
    scene = widened(scene)
    real = scene.balance(scene.made.escrow)
    compute(scene, escrow_stroops=real + change)
    assert set(watch(scene)) == {name}
    leaf = scene.plan({scene.payees[0]: 5}, anchor=False)[0]
    report = scene.settle()
    assert report.is_halted
    assert scene.paid() == {}
    assert leaf.batch_number == 0


def test_tolerated_surplus_stops_nothing(scene: Scene) -> None:
    """A stranger's contract can bring a stroop; it must not be able to stop payouts with it."""
    scene = widened(scene)
    compute(scene, escrow_stroops=scene.balance(scene.made.escrow) - 7)
    assert set(watch(scene, surplus_max_stroops=6)) == {HaltName.BALANCE_SURPLUS}
    assert watch(scene, surplus_max_stroops=7) == {}


def test_tolerated_surplus_does_not_excuse_a_deficit(scene: Scene) -> None:
    scene = widened(scene)
    compute(scene, escrow_stroops=scene.balance(scene.made.escrow) + 1)
    assert set(watch(scene, surplus_max_stroops=10**9)) == {HaltName.BALANCE_DEFICIT}


@pytest.mark.parametrize("epoch_length_s", [LONG_EPOCH_S, 7])
def test_money_that_left_without_a_plan_stops_payouts_at_once(
    scene: Scene, epoch_length_s: int
) -> None:
    """However far the epochs are behind: with short ones its own is not the one in the making."""
    scene = widened(scene)
    compute(scene)
    assert watch(scene) == {}
    theft = asset_payment(scene.made.escrow, scene.made.issuer, asset_of(scene), 100)
    scene.devnet.close_ledgers(20)
    tx_hash = send(scene, [theft], scene.keys.issuer, scene.keys.escrow)
    genesis_s = scene.domain.terms.genesis_s
    if epoch_length_s != LONG_EPOCH_S:
        with scene.sessions() as session:
            (first, *_) = store.load_facts(
                session, scene.broadcaster, after_sequence=0, through_sequence=1 << 40
            )
        genesis_s = first.close_time_s
    terms = replace(scene.domain.terms, genesis_s=genesis_s, epoch_length_s=epoch_length_s)
    scene = replace(scene, domain=replace(scene.domain, terms=terms))
    halts = watch(scene)
    assert set(halts) == {HaltName.UNKNOWN_TRANSACTION}
    assert tx_hash.hex() in halts[HaltName.UNKNOWN_TRANSACTION].detail


def test_halt_is_closed_when_its_cause_is_gone(scene: Scene) -> None:
    scene = widened(scene)
    compute(scene, escrow_stroops=scene.balance(scene.made.escrow) - 9)
    assert set(watch(scene)) == {HaltName.BALANCE_SURPLUS}
    assert watch(scene, surplus_max_stroops=9) == {}
    with scene.sessions() as session:
        (halt,) = halt_store.load_halts(session, scene.broadcaster, past=True)
    assert halt.cleared_ledger is not None


def test_claimable_balance_is_booked_when_escrow_claims_it(scene: Scene) -> None:
    scene = widened(scene)
    offer = CreateClaimableBalance(
        asset=Asset(scene.made.asset_code, format_account(scene.made.issuer)),
        amount="2.5",
        claimants=[Claimant(format_account(scene.made.escrow))],
    )
    send(scene, [offer], scene.keys.broadcaster)
    state = compute(scene)
    (known,) = state.claimable.values()
    assert (known.amount_stroops, known.is_known) == (25_000_000, True)
    claim = ClaimClaimableBalance(
        "00000000" + next(iter(state.claimable)).hex(), source=format_account(scene.made.escrow)
    )
    send(scene, [claim], scene.keys.issuer, scene.keys.escrow)
    assert watch(scene) == {}
    assert proofs(scene)[scene.made.escrow] == scene.balance(scene.made.escrow)
