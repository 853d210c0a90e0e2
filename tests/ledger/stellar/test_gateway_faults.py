"""Both adapters meet what can go wrong: every fault of the devnet, and sources that are hostile."""

from collections.abc import Callable, Iterator

import pytest
from network_parties import Parties, raw
from settlement_scene import PASSPHRASE, DevnetProcess
from stellar_sdk import Asset, BumpSequence, Keypair, Payment, SetOptions
from stellar_sdk.operation.set_options import AuthorizationFlag

from ledger.devnet.control import DevnetControl
from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import (
    NATIVE,
    START,
    EntryKey,
    Gateway,
    SubmitStatus,
    TrustlineState,
)
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.rpc import RpcGateway
from ledger.stellar.sources import Source, open_source

pytestmark = pytest.mark.process

XLM = Asset.native()
KINDS = ("horizon", "rpc")
SUBMITTING = {"horizon": "/transactions_async", "rpc": "/rpc/sendTransaction"}
NOBODY = b"\x7e" * 32


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
def gateway(devnet: DevnetProcess, kind: str) -> Iterator[Source]:
    url = devnet.url if kind == "horizon" else f"{devnet.url}/rpc"
    made = open_source(f"{kind}:{url}", PASSPHRASE)
    made.require_network()
    yield made
    made.close()


@pytest.fixture
def parties(devnet: DevnetProcess) -> Parties:
    return Parties(devnet)


@pytest.fixture
def control(devnet: DevnetProcess) -> Iterator[DevnetControl]:
    with DevnetControl(devnet.url) as made:
        yield made


def key_of(pair: Keypair) -> bytes:
    return pair.raw_public_key()


READS: dict[str, Callable[[Gateway], object]] = {
    "latest_ledger": lambda gateway: gateway.latest_ledger(),
    "ledger": lambda gateway: gateway.ledger(2),
    "transactions_of": lambda gateway: gateway.transactions_of(NOBODY, after=(1, 1)),
    "transaction": lambda gateway: gateway.transaction(NOBODY),
    "transaction_of_slot": lambda gateway: gateway.transaction_of_slot(NOBODY, 5, since=2),
    "account": lambda gateway: gateway.account(NOBODY),
    "entries": lambda gateway: gateway.entries([EntryKey(account=NOBODY)]),
    "fee_statistics": lambda gateway: gateway.fee_statistics(),
}


# The devnet's faults


@pytest.mark.parametrize("fault", ["drop_answer", "garble_answer", "http_500"])
def test_spoiled_answer_is_an_error_and_the_next_one_is_not(
    gateway: Source, control: DevnetControl, fault: str
) -> None:
    for read in READS.values():
        control.arm(fault)
        with pytest.raises(GatewayError):
            read(gateway)
        read(gateway)


@pytest.mark.parametrize(
    "fault",
    [
        "drop_answer",
        "garble_answer",
        "http_500",
        "http_503",
        "http_504",
        "reset_after_accept",
    ],
)
def test_spoiled_submission_is_unknown_whether_it_was_taken_or_not(
    gateway: Source, parties: Parties, control: DevnetControl, kind: str, fault: str
) -> None:
    (payer,) = parties.fund(1)
    envelope = parties.build(payer, BumpSequence(0))
    control.arm(fault, path=SUBMITTING[kind])
    assert gateway.submit(raw(envelope)).status == SubmitStatus.UNKNOWN
    control.close_ledgers()
    was_taken = fault in {"http_504", "reset_after_accept"}
    assert (gateway.transaction(envelope.hash()) is not None) == was_taken


def test_submission_that_arrives_twice_is_a_duplicate_and_applied_once(
    gateway: Source, parties: Parties, control: DevnetControl, kind: str
) -> None:
    payer, payee = parties.fund(2)
    envelope = parties.build(payer, Payment(payee.public_key, XLM, "5"))
    control.arm("duplicate", path=SUBMITTING[kind])
    assert gateway.submit(raw(envelope)).status == SubmitStatus.DUPLICATE
    control.close_ledgers(2)
    view = gateway.account(key_of(payee))
    assert view is not None
    assert view.balances[NATIVE] == 10_005 * 10_000_000


def test_late_answer_is_an_error_once_the_time_is_up(
    devnet: DevnetProcess, control: DevnetControl, kind: str
) -> None:
    made: Source
    if kind == "horizon":
        made = HorizonGateway(devnet.url, PASSPHRASE, timeout_s=0.3)
    else:
        made = RpcGateway(f"{devnet.url}/rpc", PASSPHRASE, timeout_s=0.3)
    made.require_network()
    control.arm("delay", seconds=1.5)
    with pytest.raises(GatewayError, match="Timeout"):
        made.latest_ledger()
    control.arm("delay", seconds=1.5)
    assert made.submit(b"x").status == SubmitStatus.UNKNOWN
    made.close()


def test_repeated_answer_says_as_of_which_ledger_it_was_true(
    gateway: Source, parties: Parties, control: DevnetControl
) -> None:
    (payer,) = parties.fund(1)
    before = gateway.latest_ledger()
    parties.apply(parties.build(payer, BumpSequence(0)))
    control.arm("repeat_answer")
    assert gateway.latest_ledger() == before
    assert gateway.latest_ledger().sequence == before.sequence + 1


def test_stale_replica_gives_old_accounts_with_old_ledgers(
    gateway: Source, parties: Parties, control: DevnetControl
) -> None:
    payer, payee = parties.fund(2)
    control.close_ledgers(2)
    old = gateway.account(key_of(payer))
    envelope = parties.build(payer, Payment(payee.public_key, XLM, "1"))
    parties.apply(envelope)
    assert old is not None
    control.arm("stale_replica", count=0, ledgers=1)
    assert gateway.latest_ledger().sequence == old.as_of_sequence
    assert gateway.account(key_of(payer)) == old
    assert gateway.transaction(envelope.hash()) is None
    page = gateway.transactions_of(key_of(payer), after=START)
    assert (len(page.facts), page.as_of_sequence) == (1, old.as_of_sequence)
    slot = gateway.transaction_of_slot(key_of(payer), old.sequence + 1, since=old.as_of_sequence)
    assert (slot.fact, slot.as_of_sequence) == (None, old.as_of_sequence)
    assert gateway.entries([EntryKey(account=key_of(payer))]).as_of_sequence == old.as_of_sequence
    assert gateway.fee_statistics().as_of_sequence == old.as_of_sequence
    control.clear()
    fresh = gateway.account(key_of(payer))
    assert fresh is not None
    assert (fresh.sequence, fresh.as_of_sequence) == (old.sequence + 1, old.as_of_sequence + 1)


def test_404_window_hides_the_transaction_and_not_the_spent_number(
    gateway: Source, parties: Parties, control: DevnetControl
) -> None:
    (payer,) = parties.fund(1)
    envelope = parties.build(payer, BumpSequence(0))
    parties.apply(envelope)
    control.arm("hide_transactions", count=0, ledgers=3)
    assert gateway.transaction(envelope.hash()) is None
    view = gateway.account(key_of(payer))
    assert view is not None
    assert view.sequence == envelope.transaction.sequence
    control.clear()
    assert gateway.transaction(envelope.hash()) is not None


def test_lost_queue_forgets_a_pending_submission(
    gateway: Source, parties: Parties, control: DevnetControl
) -> None:
    (payer,) = parties.fund(1)
    envelope = parties.build(payer, BumpSequence(0))
    assert gateway.submit(raw(envelope)).status == SubmitStatus.PENDING
    control.lose_queue()
    control.close_ledgers()
    assert gateway.transaction(envelope.hash()) is None
    assert gateway.submit(raw(envelope)).status == SubmitStatus.PENDING


def test_time_jump_is_seen_in_the_close_time(gateway: Source, control: DevnetControl) -> None:
    before = gateway.latest_ledger()
    control.arm("time_jump", seconds=3_600)
    control.close_ledgers()
    after = gateway.latest_ledger()
    assert after.close_time_s >= before.close_time_s + 3_600


def test_frozen_keys_are_told_by_rpc_and_refused_in_payments(
    gateway: Source, parties: Parties, control: DevnetControl, kind: str
) -> None:
    issuer, holder, other = parties.fund(3)
    parties.trust(Asset("USD", issuer.public_key), holder)
    asset = f"USD:{issuer.public_key}"
    line = EntryKey(account=key_of(holder), asset=("USD", key_of(issuer)))
    owner, stranger = EntryKey(account=key_of(other)), EntryKey(account=key_of(holder))
    control.freeze(holder.public_key, asset)
    control.freeze(other.public_key)
    control.close_ledgers()
    view = gateway.entries([line, owner, stranger])
    assert set(view.entries) == {line, owner, stranger}
    assert view.frozen == (frozenset({line, owner}) if kind == "rpc" else None)
    pay = parties.build(issuer, Payment(holder.public_key, Asset("USD", issuer.public_key), "1"))
    answer = gateway.submit(raw(pay))
    assert (answer.status, answer.code) == (SubmitStatus.REJECTED, "txFROZEN_KEY_ACCESSED")
    control.unfreeze(holder.public_key, asset)
    control.unfreeze(other.public_key)
    control.close_ledgers()
    assert gateway.submit(raw(pay)).status == SubmitStatus.PENDING
    control.close_ledgers()


def test_revocation_and_clawback_of_the_issuer_are_seen(
    gateway: Source, parties: Parties, control: DevnetControl
) -> None:
    issuer, holder = parties.fund(2)
    flags = AuthorizationFlag.AUTHORIZATION_REVOCABLE
    flags |= AuthorizationFlag.AUTHORIZATION_CLAWBACK_ENABLED
    parties.apply(parties.build(issuer, SetOptions(set_flags=flags)))
    usd = Asset("USD", issuer.public_key)
    asset = f"USD:{issuer.public_key}"
    parties.trust(usd, holder)
    parties.apply(parties.build(issuer, Payment(holder.public_key, usd, "9")))
    line = EntryKey(account=key_of(holder), asset=("USD", key_of(issuer)))

    def state() -> TrustlineState:
        found = gateway.entries([line]).entries[line]
        assert isinstance(found, TrustlineState)
        return found

    control.clawback(issuer.secret, holder.public_key, asset, 40_000_000)
    control.close_ledgers()
    assert (state().balance_stroops, state().is_authorized) == (50_000_000, True)
    control.revoke(issuer.secret, holder.public_key, asset)
    control.close_ledgers()
    assert not state().is_authorized
    control.authorize(issuer.secret, holder.public_key, asset)
    control.close_ledgers()
    assert state().is_authorized
    told = gateway.transactions_of(key_of(holder), after=START)
    assert len(told.facts) == 6
