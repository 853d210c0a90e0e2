"""Book watch: what nobody planned, and balances that differ, stop payouts by name; nothing else."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from settlement_scene import Scene
from stellar_sdk import Asset, Claimant
from stellar_sdk.operation import CreateClaimableBalance, Operation

from ledger.audit.address import format_account
from ledger.audit.stellar_xdr import read_transaction
from ledger.books.draft import Draft
from ledger.books.folding import fold_transactions
from ledger.books.state import State, genesis_state
from ledger.evidence.instruction import Booking
from ledger.evidence.keys import public_key_of
from ledger.stellar.book_watch import watch_books
from ledger.stellar.facts import ingest_facts
from ledger.stellar.gateway import AccountView
from ledger.stellar.rotation import add_signature, assemble, read_cosigned
from ledger.stellar.settlement_command import main as settlement_command
from ledger.stellar.signing import SeedKeys
from ledger.stellar.transacting import Transacting, asset_payment
from ledger.store import halt_store
from ledger.store import settlement_store as store
from ledger.store.epoch_store import open_epochs, store_closing_state
from ledger.store.halt_store import Halt, HaltName
from ledger.store.shard_store import find_shard

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


def compute(scene: Scene, *, epoch: int = 0, **head: int) -> State:
    """Close the books of an epoch over the facts so far, as computing it does."""
    scene.devnet.close_ledgers(3)
    ingest(scene)
    with scene.sessions() as session:
        facts = store.load_facts(
            session, scene.broadcaster, after_sequence=0, through_sequence=1 << 40
        )
    draft = Draft.of(genesis_state(scene.gateway.network_id, scene.broadcaster, epoch))
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
        open_epochs(session, shard, first=0, last=2)
        store_closing_state(session, shard, epoch, state)
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


def offer_balance(scene: Scene, amount: str = "2.5") -> None:
    offer = CreateClaimableBalance(
        asset=Asset(scene.made.asset_code, format_account(scene.made.issuer)),
        amount=amount,
        claimants=[Claimant(format_account(scene.made.escrow))],
    )
    send(scene, [offer], scene.keys.broadcaster)


@pytest.fixture
def ask(
    scene: Scene,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Run `swarmledger settlement`."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("SWARMLEDGER_GATEWAY_URL", scene.devnet.url)
    monkeypatch.setenv("SWARMLEDGER_NETWORK_PASSPHRASE", scene.domain.passphrase)

    def call(*arguments: object) -> tuple[int, dict[str, Any]]:
        code = settlement_command([*map(str, arguments), "--json"])
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return code, document

    return call


def test_claimable_balance_is_claimed_by_command_and_booked(
    scene: Scene, ask: Callable[..., tuple[int, dict[str, Any]]], tmp_path: Path
) -> None:
    scene = widened(scene)
    offer_balance(scene)
    state = compute(scene)
    (known,) = state.claimable.values()
    assert (known.amount_stroops, known.is_known) == (25_000_000, True)
    _, told = ask("status")
    (waiting,) = told["money"]["claimable"]
    assert (waiting["stroops"], waiting["is_broadcasters"]) == (25_000_000, True)
    assert any("settlement claim" in step for step in told["next_steps"])
    before = scene.balance(scene.made.escrow)
    with scene.devnet.closing():
        code, told = ask("claim", "--keys-dir", tmp_path / "keys" / "operator")
    assert (code, told["claims"]) == (0, [waiting["balance_id"]])
    assert scene.balance(scene.made.escrow) == before + 25_000_000
    assert watch(scene) == {}
    assert proofs(scene)[scene.made.escrow] == before + 25_000_000


def test_claim_can_be_proposed_to_settlers(
    scene: Scene, ask: Callable[..., tuple[int, dict[str, Any]]], tmp_path: Path
) -> None:
    scene = widened(scene)
    compute(scene)
    assert ask("claim", "--out", tmp_path / "nothing.json") == (0, {"claims": []})
    assert not (tmp_path / "nothing.json").exists()
    offer_balance(scene)
    compute(scene, epoch=1)
    _, told = ask("claim", "--out", tmp_path / "claim.json")
    assert told["does"] == [
        f"{format_account(scene.made.escrow)}: claims 00000000{told['claims'][0]}"
    ]


def test_deposit_that_was_hidden_too_long_goes_back_and_books_and_chain_agree_again(
    scene: Scene, ask: Callable[..., tuple[int, dict[str, Any]]], tmp_path: Path
) -> None:
    """The epoch of its ledger is sealed without it, so no later one can book it."""
    scene = widened(scene)
    real = scene.balance(scene.made.escrow)
    state = compute(scene, escrow_stroops=real - 7, deposited_stroops=real - 7)
    assert set(watch(scene)) == {HaltName.BALANCE_SURPLUS}
    out = tmp_path / "back.json"
    to = ("--to", format_account(scene.made.broadcaster), "--out", out)
    for amount in (0, 8):
        arguments = ["give-back", *map(str, to), "--amount-stroops", str(amount)]
        assert settlement_command(arguments) == 1, "no more than the books never saw"
    code, told = ask("give-back", *to, "--amount-stroops", 7)
    assert (code, told["surplus_stroops"]) == (0, 7)
    (does,) = told["does"]
    assert does.startswith(f"{format_account(scene.made.escrow)}: pays 0.0000007 USD to")
    proposed = read_cosigned(out)
    for seed in (scene.keys.anchor, scene.keys.escrow):
        holder = SeedKeys({public_key_of(seed): seed})
        proposed = add_signature(proposed, holder, public_key_of(seed))
    signed = assemble(scene.gateway, proposed)
    scene.gateway.submit(signed.envelope)
    scene.devnet.close_ledgers(2)
    assert scene.balance(scene.made.escrow) == real - 7
    assert HaltName.UNKNOWN_TRANSACTION in watch(scene)
    fact = scene.gateway.transaction(signed.tx_hash)
    assert fact is not None
    draft = Draft.of(state)
    rulings = {signed.tx_hash: Booking.IGNORE}
    fold_transactions(draft, scene.domain.terms, [read_transaction(fact)], rulings)
    assert draft.head.escrow_stroops == scene.balance(scene.made.escrow)


def test_status_shows_escrow_halts_and_what_to_do(
    scene: Scene, ask: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    scene = widened(scene)
    code, told = ask("status")
    assert (code, told["money"]["epoch"], told["stops"]) == (0, None, [])
    real = scene.balance(scene.made.escrow)
    compute(scene, escrow_stroops=real + 3)
    watch(scene)
    code, told = ask("status")
    assert code == 3
    assert [stop["cause"] for stop in told["stops"]] == ["balance_deficit"]
    assert str(real) in told["stops"][0]["reason"]
    assert told["money"]["escrow_stroops"] == real + 3
    assert (told["money"]["level"], told["money"]["free_stroops"]) == ("covered", real)
    assert told["next_steps"] != []


class Overdrawn:
    """A source that tells less of escrow than the one that tells the facts."""

    name = "overdrawn"

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scene.gateway, name)

    def account(self, account: bytes, **more: Any) -> AccountView | None:
        view = self._scene.gateway.account(account, **more)
        if view is None or account != self._scene.made.escrow:
            return view
        return replace(view, balances={key: amount - 1 for key, amount in view.balances.items()})


@pytest.mark.parametrize(("sources", "halts"), [(1, set()), (2, {HaltName.BALANCE_DEFICIT})])
def test_balances_are_those_of_another_source_than_tells_the_facts(
    scene: Scene, sources: int, halts: set[HaltName]
) -> None:
    scene = widened(scene)
    compute(scene)
    for _ in range(3):
        scene.settle(scene.gateway, Overdrawn(scene), evidence_sources=sources)
        scene.devnet.close_ledgers(4)
    with scene.sessions() as session:
        assert {halt.name for halt in halt_store.load_halts(session, scene.broadcaster)} == halts
