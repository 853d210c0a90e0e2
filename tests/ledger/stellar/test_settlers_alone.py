"""Settlers without the operator: they raise bids and use slots up, by rules that all share."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_operator import address, key, seed
from treasury_scene import CHANNELS, PASSPHRASE, TreasuryScene, treasury_scene

from ledger.devnet.control import DevnetControl
from ledger.evidence.keys import generate_seed, public_key_of, sign
from ledger.evidence.leaf import PayoutLeaf, burn_hash, payout_hash
from ledger.evidence.terms import Terms
from ledger.stellar.burn_rules import STUCK_ATTEMPTS, build_burn
from ledger.stellar.burning import sign_burn
from ledger.stellar.cancel_orders import SUFFIX, sign_order
from ledger.stellar.command import all_transactions_of
from ledger.stellar.cosigning import Purpose, Reason, Wanted
from ledger.stellar.envelopes import SignedEnvelope, unsigned_transaction
from ledger.stellar.fee_bumps import attach_bump_signatures, build_bump
from ledger.stellar.gateway import Gateway
from ledger.stellar.settler import RefusedError, Settler
from ledger.stellar.settler_bumps import SettlerBumps, fee_charged, rungs_of
from ledger.stellar.settler_chain import OwnChain, fee_payer
from ledger.stellar.settler_records import SettlerFolder
from ledger.stellar.settler_together import ExchangeFolder, Together, TogetherRounds
from ledger.stellar.signing import AccountSigner, KeySignature, SeedKeys
from ledger.stellar.sources import open_source

pytestmark = pytest.mark.process
A, B, C = "settler a", "settler b", "settler c"
DAO = SeedKeys({key("dao"): seed("dao")})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TreasuryScene]:
    """A scene with a fee account that settlers sign for."""
    with treasury_scene(tmp_path_factory.mktemp("alone"), with_fee=True) as made:
        yield made


@pytest.fixture
def scene(shared: TreasuryScene, tmp_path: Path) -> Iterator[TreasuryScene]:
    """The shared scene with two epochs' plans of its own; what a test leaves open is burned."""
    made = replace(shared, folder=tmp_path, settlers={})
    for bytes_total in (999_983, 1_999_983):
        made.operator.close([made.operator.owe(bytes_total)])
    yield made
    made.devnet.clear_faults()
    left = [leaf for leaf in all_planned(made) if not is_used(made, leaf)]
    if left:
        settlers = [rounds_of(made, name) for name in (A, C)]
        for leaf in left:
            cancel(made, leaf)
        go_on(made, settlers, lambda: all(is_used(made, leaf) for leaf in left))
    made.operator.close()


def all_planned(scene: TreasuryScene) -> list[PayoutLeaf]:
    return [leaf for leaves in scene.operator.plans.values() for leaf in leaves]


def plans_of(scene: TreasuryScene) -> tuple[tuple[PayoutLeaf, ...], tuple[PayoutLeaf, ...]]:
    """The two newest epochs' funding batches and payments."""
    newest = scene.operator.epoch - 1
    return scene.operator.plans[newest - 1], scene.operator.plans[newest]


def cancel(scene: TreasuryScene, leaf: PayoutLeaf) -> None:
    """Put the DAO's order into the folder that settlers share."""
    order = sign_order(DAO, key("dao"), scene.operator.trust, leaf)
    (scene.folder / "exchange" / f"{payout_hash(leaf).hex()}{SUFFIX}").write_bytes(order)


def rounds_of(scene: TreasuryScene, name: str, gateway: Gateway | None = None) -> TogetherRounds:
    exchange = scene.folder / "exchange"
    exchange.mkdir(exist_ok=True)
    chain = OwnChain([gateway or scene.gateway], margin_ledgers=1)
    folder = SettlerFolder(scene.folder / name.replace(" ", "-"))
    settler = Settler(
        trust=scene.operator.trust,
        key=key(name),
        holder=SeedKeys({key(name): seed(name)}),
        chain=chain,
        folder=folder,
        fetch_audit=scene.fetch,
        orders=[exchange],
    )
    bumps = SettlerBumps(settler, chain, folder, PASSPHRASE)
    return TogetherRounds(settler, chain, ExchangeFolder(exchange), PASSPHRASE, bumps)


def go_on(
    scene: TreasuryScene,
    settlers: list[TogetherRounds],
    until: Callable[[], bool],
    *,
    ledgers: int = 1,
    rounds: int = 40,
) -> list[Together]:
    """Rounds of settlers, ledgers in between, until something holds."""
    for _ in range(rounds):
        made = [one.run() for one in settlers]
        scene.devnet.close_ledgers(ledgers)
        if until():
            return made
    raise AssertionError(f"settlers: got {made}, want an end")


def pay_up_to(scene: TreasuryScene, leaf: PayoutLeaf) -> None:
    """Have two settlers pay what is open until a batch's slot is used."""
    settlers = [rounds_of(scene, name) for name in (B, C)]
    go_on(scene, settlers, lambda: is_used(scene, leaf))


def is_used(scene: TreasuryScene, leaf: PayoutLeaf) -> bool:
    view = scene.gateway.account(leaf.channel_account)
    assert view is not None
    return view.sequence >= leaf.channel_sequence


def memos(scene: TreasuryScene, leaf: PayoutLeaf) -> set[bytes]:
    """Hashes that transactions of the leaf's channel bear."""
    facts = all_transactions_of(scene.gateway, leaf.channel_account)
    known = [payout_hash(leaf), *(burn_hash(payout_hash(leaf), isolates=i) for i in (False, True))]
    return {memo for memo in known if any(memo in fact.envelope for fact in facts)}


def test_bids_are_raised_by_settlers_until_what_waits_is_paid(scene: TreasuryScene) -> None:
    funding = plans_of(scene)[0][0]
    scene.devnet.arm("surge", count=0, fee=2_000)
    settlers = [rounds_of(scene, name) for name in (A, C)]
    go_on(scene, settlers, lambda: is_used(scene, funding))
    scene.devnet.clear_faults()
    bumped = [
        fact
        for fact in all_transactions_of(scene.gateway, funding.channel_account)
        if fee_payer(fact.envelope) == key("fee")
    ]
    # The rung below what others bid was tried first, the terms' greatest never.
    assert [payout_hash(funding) in fact.envelope for fact in bumped] == [True]
    assert 2 * 1_000 < fee_charged(bumped[0].result) <= 2 * 10_000
    assert rungs_of(100, scene.operator.terms) == (1_000, 10_000, 50_000)
    assert all(not one.run().refused for one in settlers)


def test_settler_raises_no_bid_beyond_the_days_cap(scene: TreasuryScene) -> None:
    (funding, payment), _ = plans_of(scene)
    terms = scene.operator.terms
    folder = SettlerFolder(scene.folder / "settler-a")

    def bumps(name: str, day_max_stroops: int) -> SettlerBumps:
        settler, chain = scene.settler(name), OwnChain([scene.gateway])
        return SettlerBumps(
            settler, chain, folder, PASSPHRASE, day_max_stroops=spent + day_max_stroops
        )

    inner = scene.assemble(funding, scene.gather(funding, A, B))
    assert inner is not None
    spent = sum(
        fee_charged(fact.result)
        for fact in all_transactions_of(scene.gateway, key("fee"))
        if fee_payer(fact.envelope) == key("fee")
    )
    assert refused_bump(bumps(A, 1_999), funding, terms, inner, 1_000) == Reason.FEES_SPENT
    assert refused_bump(bumps(A, 2_000), funding, terms, inner, 1_000) is None
    # One slot takes one transaction: the dearer bid counts, not both; and signing again is free.
    assert refused_bump(bumps(A, 20_000), funding, terms, inner, 10_000) is None
    assert refused_bump(bumps(A, 20_000), funding, terms, inner, 1_000) is None
    # Another slot's counts beside it, also for a settler that was killed in between.
    assert refused_bump(bumps(A, 21_999), payment, terms, inner, 1_000) == Reason.FEES_SPENT
    assert refused_bump(bumps(A, 22_000), payment, terms, inner, 1_000) is None
    # What the chain was paid counts from then on, whoever signed for it.
    assert scene.gateway.submit(bumped(scene, inner, 10_000)).status == "pending"
    scene.devnet.close_ledgers(2)
    assert is_used(scene, funding)
    charged = 2 * 100
    folder.save_bumps([])
    assert refused_bump(bumps(A, charged + 1_999), payment, terms, inner, 1_000) == (
        Reason.FEES_SPENT
    )
    assert refused_bump(bumps(A, charged + 2_000), payment, terms, inner, 1_000) is None
    assert refused_bump(bumps(A, 10**9), payment, terms, inner, 3_000) == Reason.HASH_DIFFERS
    assert refused_bump(bumps("settler d", 10**9), payment, terms, inner, 1_000) == (
        Reason.SIGNERS_DIFFER
    )


def refused_bump(
    bumps: SettlerBumps, leaf: PayoutLeaf, terms: Terms, inner: SignedEnvelope, bid_stroops: int
) -> Reason | None:
    try:
        bumps.sign(leaf, terms, inner, bid_stroops)
    except RefusedError as refused:
        return refused.finding.reason
    return None


def bumped(scene: TreasuryScene, inner: SignedEnvelope, bid_stroops: int) -> bytes:
    """A fee bump that two settlers sign."""
    unsigned = build_bump(inner.envelope, key("fee"), 2 * bid_stroops, PASSPHRASE)
    signed = [
        KeySignature(key=key(name), signature=sign(seed(name), unsigned.tx_hash))
        for name in sorted((A, B), key=key)
    ]
    return attach_bump_signatures(unsigned, signed)


def test_slot_that_nothing_gets_into_is_used_up_and_the_next_one_paid(
    scene: TreasuryScene,
) -> None:
    (one_funding, first), (other_funding, second) = plans_of(scene)
    assert first.channel_account == second.channel_account
    before = scene.balance("seeder account")
    settlers = [rounds_of(scene, name) for name in (A, B)]
    line = f"EURT:{address('issuer')}"
    with DevnetControl(scene.devnet.url) as control:
        control.freeze(address("seeder account"), line)
        go_on(scene, settlers, lambda: is_used(scene, other_funding))
        begun = scene.attempt(first)
        # Not while another attempt may still do.
        while scene.attempt(first) < begun + STUCK_ATTEMPTS - 1:
            made = [one.run() for one in settlers]
            scene.devnet.close_ledgers(10)
            assert all(one.signed for one in made)
        assert is_used(scene, one_funding)
        assert not is_used(scene, first)
        go_on(scene, settlers, lambda: is_used(scene, first), ledgers=10)
        control.unfreeze(address("seeder account"), line)
    assert memos(scene, first) == {burn_hash(payout_hash(first), isolates=True)}
    go_on(scene, settlers, lambda: is_used(scene, second))
    assert memos(scene, second) == {payout_hash(second)}
    assert scene.balance("seeder account") == before + second.total_stroops


def burn_wanted(scene: TreasuryScene, leaf: PayoutLeaf, *, isolates: bool = False) -> Wanted:
    attempt = scene.attempt(leaf)
    unsigned = build_burn(leaf, attempt, scene.operator.terms, PASSPHRASE, isolates=isolates)
    return Wanted(
        epoch=leaf.epoch,
        batch_number=leaf.batch_number,
        attempt=attempt,
        tx_hash=unsigned_transaction(unsigned).tx_hash,
        purpose=Purpose.BURN,
    )


def reason_of(settler: Settler, wanted: Wanted) -> Reason | None:
    settler.look()
    try:
        settler.sign(wanted)
    except RefusedError as refused:
        return refused.finding.reason
    return None


def test_settler_burns_what_is_over_by_its_own_ledgers_and_nothing_else(
    scene: TreasuryScene,
) -> None:
    funding, payment = plans_of(scene)[0]
    settler = scene.settler(A)
    window = scene.operator.terms.attempt_window_ledgers
    # The payment's turn has not come while its funding is open, however long that takes.
    scene.devnet.close_ledgers(3 * window)
    assert reason_of(settler, burn_wanted(scene, payment)) == Reason.BURN_EARLY
    pay_up_to(scene, funding)
    assert reason_of(settler, burn_wanted(scene, payment)) == Reason.BURN_EARLY
    scene.devnet.close_ledgers(2 * window)
    operators = AccountSigner(SeedKeys({key(name): seed(name) for name in CHANNELS}))
    terms = scene.operator.terms
    for isolates in (False, True):
        wanted = burn_wanted(scene, payment, isolates=isolates)
        # Byte for byte what the operator's own key would sign.
        signed = sign_burn(payment, wanted.attempt, terms, PASSPHRASE, operators, isolates=isolates)
        assert signed.tx_hash == wanted.tx_hash
        assert reason_of(settler, wanted) is None
        assert reason_of(scene.settler("settler d"), wanted) == Reason.SIGNERS_DIFFER
    disguised = replace(scene.wanted(payment), purpose=Purpose.BURN)
    assert reason_of(settler, disguised) == Reason.HASH_DIFFERS
    pay_up_to(scene, payment)
    assert reason_of(settler, burn_wanted(scene, payment)) == Reason.SLOT_TAKEN


def test_ordered_cancel_burns_at_once_and_a_strangers_order_does_nothing(
    scene: TreasuryScene,
) -> None:
    scene.operator.close([scene.operator.owe(99_999_983)])
    (first, _), (funding, payment) = plans_of(scene)
    settlers = [rounds_of(scene, name) for name in (A, C)]
    settler = scene.settler(A)
    orders = SettlerFolder(scene.folder / "settler-a").orders
    path = orders / f"{payout_hash(funding).hex()}{SUFFIX}"
    trust = scene.operator.trust
    thief = generate_seed()
    strange = SeedKeys({public_key_of(thief): thief})
    other = sign_order(DAO, key("dao"), trust, first)
    order = sign_order(DAO, key("dao"), trust, funding)
    by_stranger = sign_order(strange, public_key_of(thief), trust, funding)
    for bad in (by_stranger, other, order[:64] + by_stranger[64:], order[:-1], b""):
        path.write_bytes(bad)
        assert reason_of(settler, burn_wanted(scene, funding)) == Reason.BURN_EARLY
    path.write_bytes(order)
    assert reason_of(settler, burn_wanted(scene, funding)) is None
    # In the folder that settlers share it makes them burn by themselves.
    cancel(scene, funding)
    go_on(scene, settlers, lambda: is_used(scene, funding))
    assert memos(scene, funding) == {burn_hash(payout_hash(funding))}
    # Its payment would fail for want of money, and is not sent.
    reasons: list[Reason] = []

    def is_refused() -> bool:
        refused = settlers[0].run().refused.get(payment.batch_number)
        reasons.extend([] if refused is None else [refused.reason])
        return bool(reasons)

    go_on(scene, settlers, is_refused)
    assert reasons == [Reason.NOT_COVERED]
    assert not is_used(scene, payment)


def test_settler_on_stellar_rpc_signs_what_one_on_horizon_signs(scene: TreasuryScene) -> None:
    rpc = open_source(f"rpc:{scene.devnet.url}/rpc", PASSPHRASE)
    before = scene.balance("seeder account")
    settlers = [rounds_of(scene, A, rpc), rounds_of(scene, C)]
    left = [leaf for leaf in all_planned(scene) if not is_used(scene, leaf)]
    made = go_on(scene, settlers, lambda: all(is_used(scene, leaf) for leaf in left))
    assert {(one.verified_through, one.halt) for one in made} == {(scene.operator.epoch - 1, None)}
    assert scene.balance("seeder account") > before
    on_rpc = scene.settler(A, rpc)
    assert reason_of(on_rpc, scene.wanted(left[-1])) == Reason.SLOT_TAKEN
    # What it waits for before a burn it reads there as well.
    scene.operator.close([scene.operator.owe()])
    funding = plans_of(scene)[1][0]
    assert reason_of(on_rpc, burn_wanted(scene, funding)) == Reason.BURN_EARLY
    scene.devnet.close_ledgers(2 * scene.operator.terms.attempt_window_ledgers)
    assert reason_of(on_rpc, burn_wanted(scene, funding)) is None
    rpc.close()
