"""Settlers on a real devnet: two of three sign what they recompute, and nothing else."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_operator import ASSET, address, key, keypair, seed
from stellar_sdk import Asset, TransactionBuilder
from treasury_scene import PASSPHRASE, ChainOperator, TreasuryScene, treasury_scene

from ledger.audit.address import format_account
from ledger.audit.stellar_xdr import read_transaction
from ledger.books.transactions import NetworkFact
from ledger.evidence.leaf import PayoutLeaf
from ledger.stellar.cosigning import Reason, Refusal, Wanted
from ledger.stellar.envelopes import (
    attach_signatures,
    build_payout,
    payout_demands,
    unsigned_transaction,
)
from ledger.stellar.errors import SettlerError
from ledger.stellar.gateway import AccountView, AssetKey, TransactionPage
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.settler import RefusedError, Settler
from ledger.stellar.settler_bumps import SettlerBumps
from ledger.stellar.settler_chain import OwnChain
from ledger.stellar.settler_client import OperatorClient
from ledger.stellar.settler_process import SettlerRounds
from ledger.stellar.settler_records import SettlerFolder
from ledger.stellar.settler_together import ExchangeFolder, TogetherRounds, fetch_from
from ledger.stellar.signing import KeySignature, SeedKeys
from ledger.stellar.treasury import read_signers

pytestmark = pytest.mark.process
A, B, C = "settler a", "settler b", "settler c"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TreasuryScene]:
    """A scene whose first epoch has plans; tests may use its chain up, not spoil it."""
    with treasury_scene(tmp_path_factory.mktemp("treasury")) as made:
        made.operator.close([made.operator.owe()])
        yield made


@pytest.fixture
def scene(shared: TreasuryScene, tmp_path: Path) -> TreasuryScene:
    """The shared scene with settlers' folders of its own."""
    return replace(shared, folder=tmp_path, settlers={})


def refusal_of(settler: Settler, wanted: Wanted) -> Reason:
    settler.look()
    with pytest.raises(RefusedError) as refused:
        settler.sign(wanted)
    return refused.value.finding.reason


def plan(scene: TreasuryScene, bytes_total: int = 999_983) -> tuple[PayoutLeaf, ...]:
    """Close an epoch that owes something; its batches."""
    operator = scene.operator
    operator.close([operator.owe(bytes_total)])
    return operator.plans[operator.epoch - 1]


def test_two_of_three_settlers_pay_what_they_recompute(scene: TreasuryScene) -> None:
    funding, payment = scene.operator.plans[0]
    before = scene.balance("seeder account")
    assert not scene.pay(funding, A)
    assert scene.pay(funding, A, B)
    # One is dead, and the batch is paid once however often and by whomever it is signed.
    assert scene.pay(payment, B, C)
    assert refusal_of(scene.settler(A), scene.wanted(payment)) == Reason.SLOT_TAKEN
    assert scene.balance("seeder account") == before + payment.total_stroops


def test_exactly_the_threshold_signs_though_all_have(scene: TreasuryScene) -> None:
    funding, _payment = plan(scene)
    signed = scene.gather(funding, A, B, C)
    assert len(signed) == 3
    envelope = scene.assemble(funding, signed)
    assert envelope is not None
    used = [one for one in signed.values() if one.signature in envelope.envelope]
    assert [one.key for one in used] == sorted(signed)[:2] or len(used) == 2
    # With the third one, or the channel's own key, the network refuses it.
    for extra in (signed.values(), [*used, own_signature(scene, funding)]):
        unsigned = build_payout(funding, scene.attempt(funding), scene.operator.terms, PASSPHRASE)
        too_many = attach_signatures(unsigned, sorted(extra, key=lambda one: one.key))
        answer = scene.gateway.submit(too_many.envelope)
        assert (answer.status, answer.code) == ("rejected", "txBAD_AUTH_EXTRA"), answer
    assert scene.gateway.submit(envelope.envelope).status == "pending"
    scene.devnet.close_ledgers()


def own_signature(scene: TreasuryScene, leaf: PayoutLeaf) -> KeySignature:
    """The channel's own key, which is not needed when settlers sign."""
    name = next(n for n in ("channel 0", "channel 1") if key(n) == leaf.channel_account)
    unsigned = build_payout(leaf, scene.attempt(leaf), scene.operator.terms, PASSPHRASE)
    holder = SeedKeys({key(name): seed(name)})
    transaction = unsigned_transaction(unsigned)
    return KeySignature(key=key(name), signature=holder.sign(transaction, key(name)))


@pytest.mark.parametrize("change", ["amount", "payee", "slot", "source"])
def test_changed_leaf_is_refused_by_all(scene: TreasuryScene, change: str) -> None:
    leaf = scene.operator.plans[0][1]
    payment = leaf.payments[0]
    greedy = {
        "amount": {"payments": (replace(payment, amount_stroops=payment.amount_stroops + 1),)},
        "payee": {"payments": (replace(payment, account=key("viewer 0")),)},
        "slot": {"channel_sequence": leaf.channel_sequence + 1},
        "source": {"source_account": key("escrow")},
    }[change]
    wanted = scene.wanted(replace(leaf, **greedy))  # type: ignore[arg-type]
    for name in (A, B, C):
        assert refusal_of(scene.settler(name), wanted) == Reason.HASH_DIFFERS


def test_what_no_epoch_plans_is_refused(scene: TreasuryScene) -> None:
    leaf = scene.operator.plans[0][0]
    settler = scene.settler(A)
    ahead = replace(scene.wanted(leaf), epoch=scene.operator.epoch)
    assert refusal_of(settler, ahead) == Reason.EPOCH_UNVERIFIED
    unplanned = replace(scene.wanted(leaf), batch_number=10_000)
    assert refusal_of(settler, unplanned) == Reason.LEAF_UNKNOWN


def test_attempts_outside_their_time_are_refused(scene: TreasuryScene) -> None:
    _funding, payment = plan(scene, 1_999_983)
    settler = scene.settler(A)
    scene.devnet.close_ledgers(45)
    assert refusal_of(settler, scene.wanted(payment, 0)) == Reason.BOUNDS_OVER
    now = scene.attempt(payment)
    assert refusal_of(settler, scene.wanted(payment, now + 9)) == Reason.BOUNDS_FAR
    settler.sign(scene.wanted(payment, now))


def test_changed_audit_file_is_refused_and_a_better_one_taken(scene: TreasuryScene) -> None:
    good = scene.operator.audit_files[0]
    at = len(good) // 2
    scene.operator.audit_files[0] = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    settler = scene.settler(A)
    wanted = scene.wanted(scene.operator.plans[0][0])
    try:
        assert refusal_of(settler, wanted) == Reason.AUDIT_DISPROVEN
    finally:
        scene.operator.audit_files[0] = good
    settler.look()
    assert settler.halt is None
    assert settler.next_epoch > 0


def test_settler_goes_on_from_its_folder_after_a_restart(scene: TreasuryScene) -> None:
    _funding, payment = plan(scene, 2_999_983)
    settler = scene.settler(A)
    settler.look()
    verified = settler.next_epoch
    for path in (scene.folder / "settler-a" / "audit").iterdir():
        path.unlink()
    genuine, scene.operator.audit_files = scene.operator.audit_files, {}
    try:
        again = scene.settler(A)
        again.look()
        assert again.next_epoch == verified
        again.sign(scene.wanted(payment))
    finally:
        scene.operator.audit_files = genuine


def test_record_that_is_not_whole_is_not_taken(scene: TreasuryScene) -> None:
    scene.settler(A).look()
    path = scene.folder / "settler-a" / "verified" / "epoch-0.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(SettlerError, match=r"epoch-0\.json"):
        scene.settler(A)


class ForgetfulOperator(OperatorClient):
    """An operator that wants one thing signed, and may forget what it was given."""

    def __init__(self, wanted: Wanted) -> None:
        self.asked = wanted
        self.signatures: list[bytes] = []
        self.refusals: list[str] = []

    def wanted(self) -> tuple[Wanted, ...]:
        return (self.asked,)

    def post_signature(self, tx_hash: bytes, signed: KeySignature) -> None:
        assert tx_hash == self.asked.tx_hash
        self.signatures.append(signed.key)
        self.asked = replace(self.asked, signed_by=frozenset({format_account(signed.key)}))

    def post_refusal(self, refusal: Refusal) -> None:
        self.refusals.append(refusal.reason)


def test_answers_are_posted_once_and_again_when_they_were_forgotten(scene: TreasuryScene) -> None:
    _funding, payment = plan(scene, 4_999_983)
    settler = scene.settler(A)
    operator = ForgetfulOperator(scene.wanted(payment))
    rounds = SettlerRounds(settler, operator, scene.operator.trust.network_id)
    assert [rounds.run().signed for _ in range(3)] == [(operator.asked.tx_hash,)] * 3
    assert operator.signatures == [settler.key]
    operator.asked = replace(operator.asked, signed_by=frozenset())
    rounds.run()
    assert operator.signatures == [settler.key] * 2
    operator.asked = replace(operator.asked, tx_hash=bytes(32))
    made = [rounds.run() for _ in range(3)]
    assert operator.refusals == ["hash_differs"]
    assert all(one.refused[bytes(32)].reason == Reason.HASH_DIFFERS for one in made)


class HidingGateway(HorizonGateway):
    """A source that hides what the payout account did."""

    def transactions_of(self, account: bytes, *, after: tuple[int, int]) -> TransactionPage:
        page = super().transactions_of(account, after=after)
        return replace(page, facts=()) if account == key("escrow") else page

    def transaction(self, tx_hash: bytes) -> NetworkFact | None:
        del tx_hash
        return None


def test_sources_that_tell_different_histories_are_not_believed(scene: TreasuryScene) -> None:
    liar = HidingGateway(scene.devnet.url, PASSPHRASE)
    wanted = scene.wanted(scene.operator.plans[0][1])
    assert refusal_of(scene.settler(A, scene.gateway, liar), wanted) == Reason.SOURCES_SILENT
    # Believed alone it would pass for a chain without the deposit, and the file for a lie.
    assert refusal_of(scene.settler(B, liar), wanted) == Reason.FACTS_DIFFER
    liar.close()


class RicherGateway(HorizonGateway):
    """A source that still shows a stroop that has been paid since."""

    def account(self, account: bytes, *, assets: Sequence[AssetKey] = ()) -> AccountView | None:
        view = super().account(account, assets=assets)
        assert view is not None
        return replace(view, balances={of: held + 1 for of, held in view.balances.items()})


def test_balance_that_covers_is_the_least_that_any_source_tells(scene: TreasuryScene) -> None:
    escrow, asset = key("escrow"), (ASSET.code, key("issuer"))
    richer = RicherGateway(scene.devnet.url, PASSPHRASE)
    held = OwnChain([scene.gateway]).least_balance(escrow, asset)
    assert held > 0
    assert OwnChain([richer, scene.gateway]).least_balance(escrow, asset) == held
    assert OwnChain([richer]).least_balance(escrow, asset) == held + 1
    richer.close()


def test_settlers_pay_what_is_planned_without_the_operator(scene: TreasuryScene) -> None:
    plan(scene, 3_999_983)
    archive = scene.folder / "archive"
    archive.mkdir()
    for epoch, content in scene.operator.audit_files.items():
        (archive / f"epoch-{epoch}.audit").write_bytes(content)
    exchange = ExchangeFolder(scene.folder / "exchange")
    before = scene.balance("seeder account")
    owed = sum(
        leaf.total_stroops
        for leaves in scene.operator.plans.values()
        for leaf in leaves
        if leaf.source_account == key("payout") and is_open(scene, leaf)
    )
    assert owed
    rounds = []
    for name in (A, C):
        settler = Settler(
            trust=scene.operator.trust,
            key=key(name),
            holder=SeedKeys({key(name): seed(name)}),
            chain=OwnChain([scene.gateway], margin_ledgers=1),
            folder=SettlerFolder(scene.folder / name),
            fetch_audit=fetch_from(archive),
        )
        chain = OwnChain([scene.gateway], margin_ledgers=1)
        bumps = SettlerBumps(settler, chain, SettlerFolder(scene.folder / name), PASSPHRASE)
        rounds.append(TogetherRounds(settler, chain, exchange, PASSPHRASE, bumps))
    alone = rounds[0].run()
    assert (alone.signed > 0, alone.sent) == (True, 0)
    for folder in (scene.folder / "exchange").iterdir():
        (folder / "nonsense.signature").write_bytes(b"nonsense")
        (folder / f"{key(B).hex()}.signature").write_bytes(
            bytes.fromhex(folder.name) + key(B) + bytes(64)
        )
    for _ in range(30):
        made = [one.run() for one in rounds]
        scene.devnet.close_ledgers()
        if not any(one.open_batches for one in made):
            break
    assert scene.balance("seeder account") == before + owed
    assert all(one.run().open_batches == 0 for one in rounds)


def is_open(scene: TreasuryScene, leaf: PayoutLeaf) -> bool:
    view = scene.gateway.account(leaf.channel_account)
    assert view is not None
    return view.sequence < leaf.channel_sequence


@pytest.fixture(scope="module")
def doomed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TreasuryScene]:
    """A scene whose chain and log tests may spoil."""
    with treasury_scene(tmp_path_factory.mktemp("doomed")) as made:
        made.operator.close([made.operator.owe()])
        yield made


def fork_of(operator: ChainOperator) -> ChainOperator:
    """An operator who goes on from the same state in another way."""
    fork = copy.copy(operator)
    fork.leaves, fork.begun = list(operator.leaves), dict(operator.begun)
    fork.audit_files, fork.plans = dict(operator.audit_files), dict(operator.plans)
    fork.entries_by_epoch = dict(operator.entries_by_epoch)
    fork.result_index_by_epoch = dict(operator.result_index_by_epoch)
    return fork


ANCHOR_DONE = bytes.fromhex("0000000000000064000000000000000100000000000000050000000000000000")
PAYMENT_DONE = bytes.fromhex("0000000000000064000000000000000100000000000000010000000000000000")


def invented_deposit(operator: ChainOperator, sequence: int) -> NetworkFact:
    """A deposit that no ledger has, in a closed one's clothes."""
    builder = operator.builder("broadcaster", 0)
    builder.append_payment_op(address("escrow"), ASSET, "1000000")
    envelope = builder.build()
    envelope.sign(keypair("broadcaster"))
    ledger = operator.gateway.ledger(sequence)
    assert ledger is not None
    return NetworkFact(
        network_id=operator.gateway.network_id,
        ledger_sequence=sequence,
        close_time_s=ledger.close_time_s,
        apply_order=9,
        envelope=envelope.to_xdr_object().to_xdr_bytes(),
        result=PAYMENT_DONE,
    )


class Inventor(ChainOperator):
    """Its files are proven in themselves, and tell of a deposit that no ledger has."""

    def facts_between(self, after: int, through: int) -> list[NetworkFact]:
        return [*super().facts_between(after, through), invented_deposit(self, through)]


def test_fact_that_no_ledger_has_is_refused(doomed: TreasuryScene, tmp_path: Path) -> None:
    scene = replace(doomed, folder=tmp_path, settlers={})
    inventor = fork_of(doomed.operator)
    inventor.__class__ = Inventor
    number = inventor.epoch
    inventor.close([inventor.owe()])
    scene.operator = inventor
    wanted = scene.wanted(inventor.plans[number][0])
    for name in (A, B, C):
        assert refusal_of(scene.settler(name), wanted) == Reason.FACTS_DIFFER


class Hider(ChainOperator):
    """Its files leave the last transaction of each epoch out."""

    def facts_between(self, after: int, through: int) -> list[NetworkFact]:
        return super().facts_between(after, through)[:-1]


def test_transaction_that_a_file_leaves_out_is_missed(
    doomed: TreasuryScene, tmp_path: Path
) -> None:
    scene = replace(doomed, folder=tmp_path, settlers={})
    hider = fork_of(doomed.operator)
    hider.__class__ = Hider
    number = hider.epoch
    deposit = hider.builder("broadcaster", 0).append_payment_op(address("escrow"), ASSET, "7")
    hider.fact(deposit, "broadcaster")
    hider.close([hider.owe()])
    scene.operator = hider
    wanted = scene.wanted(hider.plans[number][0])
    assert refusal_of(scene.settler(A), wanted) == Reason.FACTS_DIFFER


class Silent(ChainOperator):
    """Its anchors are signed and never sent."""

    def fact(self, builder: TransactionBuilder, *signers: str, code: int = 0) -> NetworkFact:
        del code
        envelope = builder.build()
        for signer in signers:
            envelope.sign(keypair(signer))
        latest = self.gateway.latest_ledger()
        return NetworkFact(
            network_id=self.gateway.network_id,
            ledger_sequence=latest.sequence,
            close_time_s=latest.close_time_s,
            apply_order=1,
            envelope=envelope.to_xdr_object().to_xdr_bytes(),
            result=ANCHOR_DONE,
        )


def test_anchor_that_no_ledger_has_is_waited_for(doomed: TreasuryScene, tmp_path: Path) -> None:
    scene = replace(doomed, folder=tmp_path, settlers={})
    silent = fork_of(doomed.operator)
    silent.__class__ = Silent
    number = silent.epoch
    silent.close([silent.owe()])
    scene.operator = silent
    settler = scene.settler(A)
    wanted = scene.wanted(silent.plans[number][0])
    assert refusal_of(settler, wanted) == Reason.ANCHOR_MISSING
    assert settler.next_epoch == number


def test_key_that_signs_for_nothing_refuses(scene: TreasuryScene) -> None:
    _funding, payment = plan(scene, 5_999_983)
    assert refusal_of(scene.settler("settler d"), scene.wanted(payment)) == Reason.SIGNERS_DIFFER


def test_log_that_does_not_go_on_where_it_ended_is_refused(
    doomed: TreasuryScene, tmp_path: Path
) -> None:
    scene = replace(doomed, folder=tmp_path, settlers={})
    fork = fork_of(doomed.operator)
    number = fork.epoch
    fork.close([fork.owe(777)])
    scene.operator.close([scene.operator.owe()])
    settler = scene.settler(A)
    settler.look()
    assert settler.next_epoch == number + 1
    # The fork's anchor is nobody's plan: for a while it is waited for, then it is known.
    scene.operator.close([scene.operator.owe()])
    for again in (settler, scene.settler(A)):
        again.look()
        assert again.halt is not None
        assert again.halt.reason == Reason.UNKNOWN_TRANSACTION
        assert "a person must look" in again.halt.detail
    settler = scene.settler(A)
    folder = SettlerFolder(tmp_path / "settler-a")
    for tx_hash in folder.load_unexplained():
        folder.accept(tx_hash, "the other operator's")
    settler.look()
    assert settler.halt is None
    fork.close([fork.owe()])
    fork.close([fork.owe()])
    scene.operator = fork
    wanted = scene.wanted(fork.plans[number + 2][0])
    assert refusal_of(settler, wanted) == Reason.LOG_FORKED
    kept = {path.name for path in (tmp_path / "settler-a" / "audit").iterdir()}
    assert f"epoch-{number + 2}.refused" in kept


def test_stolen_keys_below_the_threshold_pay_nothing_and_are_noticed(tmp_path: Path) -> None:
    """The thief has the operator's keys and database, the API, and one settler's key."""
    with treasury_scene(tmp_path) as scene:
        operator = scene.operator
        operator.close([operator.owe()])
        funding, payment = operator.plans[0]
        assert scene.pay(funding, A, B)
        held = scene.balance("payout")
        # A stranger's gift moves nobody.
        operator.fact(operator.builder("broadcaster", 0).append_payment_op(
            address("channel 0"), Asset.native(), "1"), "broadcaster")  # fmt: skip
        loot = replace(payment, payments=(replace(payment.payments[0], account=key("seeder")),))
        unsigned = build_payout(loot, scene.attempt(payment), operator.terms, PASSPHRASE)
        transaction = unsigned_transaction(unsigned)
        stolen = SeedKeys({key(name): seed(name) for name in (C, *operator_key_names(scene))})
        signed = [KeySignature(key=one, signature=stolen.sign(transaction, one))
                  for one in sorted(stolen.keys) if one in signers_of(scene, loot)]  # fmt: skip
        answer = scene.gateway.submit(attach_signatures(unsigned, signed).envelope)
        assert answer.status == "rejected", answer
        for name in (A, B):
            wanted = replace(scene.wanted(payment), tx_hash=transaction.tx_hash)
            assert refusal_of(scene.settler(name), wanted) == Reason.HASH_DIFFERS
        # What the operator's keys can do alone is seen in the same ledger.
        name = next(n for n in ("channel 0", "channel 1") if key(n) == payment.channel_account)
        strange = operator.fact(
            operator.builder(name, 0).add_hash_memo(b"\1" * 32).append_set_options_op(), name
        )
        for other in (A, B):
            again = scene.settler(other)
            assert refusal_of(again, scene.wanted(payment)) == Reason.UNKNOWN_TRANSACTION
            assert again.halt is not None
        assert scene.balance("payout") == held
        assert scene.balance("seeder account") == 0
        accept(scene, A, strange)
        settler = scene.settler(A)
        settler.look()
        assert settler.halt is None


def accept(scene: TreasuryScene, name: str, fact: NetworkFact) -> None:
    folder = SettlerFolder(scene.folder / name.replace(" ", "-"))
    folder.accept(read_transaction(fact).tx_hash, "looked at")


def operator_key_names(scene: TreasuryScene) -> Sequence[str]:
    del scene
    return ("channel 0", "channel 1", "anchor", "escrow", "payout")


def signers_of(scene: TreasuryScene, leaf: PayoutLeaf) -> set[bytes]:
    found = read_signers(scene.gateway, [demand.account for demand in payout_demands(leaf)])
    return {one for signers in found.values() for one in signers.weights}
