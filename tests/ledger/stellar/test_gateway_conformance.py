"""Both adapters on one real devnet over HTTP: the same questions get the same answers."""

import base64
from collections.abc import Callable, Iterator
from hashlib import sha256

import pytest
from network_parties import Parties, raw
from settlement_scene import PASSPHRASE, DevnetProcess
from stellar_sdk import (
    AccountMerge,
    Asset,
    BumpSequence,
    ChangeTrust,
    Claimant,
    CreateAccount,
    CreateClaimableBalance,
    Keypair,
    ManageData,
    MuxedAccount,
    Payment,
    SetOptions,
    Signer,
    SignerKey,
    StrKey,
    TransactionBuilder,
)
from stellar_sdk.operation.set_options import AuthorizationFlag

from ledger.audit.stellar_xdr import read_transaction
from ledger.devnet.control import DevnetControl
from ledger.evidence.keys import network_id_of
from ledger.stellar import horizon, rpc
from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import (
    FILTERED,
    MEMO_REQUIRED,
    NATIVE,
    PERCENTILES,
    START,
    AccountState,
    DataState,
    EntryKey,
    SubmitStatus,
    TrustlineState,
)
from ledger.stellar.results import result_code_of
from ledger.stellar.sources import Source, open_source

pytestmark = pytest.mark.process

XLM = Asset.native()
KINDS = ("horizon", "rpc")
NOBODY = b"\x7e" * 32


def url_of(devnet: DevnetProcess, kind: str) -> str:
    return f"horizon:{devnet.url}/" if kind == "horizon" else f"rpc:{devnet.url}/rpc"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
def gateway(devnet: DevnetProcess, kind: str) -> Iterator[Source]:
    made = open_source(url_of(devnet, kind), PASSPHRASE)
    yield made
    made.close()


@pytest.fixture
def both(devnet: DevnetProcess) -> Iterator[list[Source]]:
    made = [open_source(url_of(devnet, kind), PASSPHRASE) for kind in KINDS]
    yield made
    for source in made:
        source.close()


@pytest.fixture
def parties(devnet: DevnetProcess) -> Parties:
    return Parties(devnet)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages so small that a handful of transactions fills several."""
    monkeypatch.setattr(horizon, "PAGE_LIMIT", 2)
    monkeypatch.setattr(rpc, "PAGE_LIMIT", 2)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def key_of(pair: Keypair) -> bytes:
    return pair.raw_public_key()


def every_fact(gateway: Source, account: bytes) -> list[object]:
    facts, place = [], START
    for _ in range(1_000):
        page = gateway.transactions_of(account, after=place)
        facts += page.facts
        if page.is_last:
            return facts
        assert page.through > place
        place = page.through
    raise AssertionError("pages: got no last one")


# Ledgers


def test_ledgers_have_their_close_times(gateway: Source, devnet: DevnetProcess) -> None:
    devnet.close_ledgers(2)
    latest = gateway.latest_ledger()
    assert gateway.ledger(latest.sequence) == latest
    before = gateway.ledger(latest.sequence - 1)
    assert before is not None
    assert 0 < before.close_time_s < latest.close_time_s
    assert gateway.ledger(latest.sequence - 1) == before
    assert gateway.network_id == network_id_of(PASSPHRASE)


def test_ledger_that_did_not_close_yet_is_none(gateway: Source) -> None:
    assert gateway.ledger(gateway.latest_ledger().sequence + 1) is None


def test_ledger_with_and_without_transactions_has_a_time(
    gateway: Source, parties: Parties, devnet: DevnetProcess
) -> None:
    (payer,) = parties.fund(1)
    parties.apply(parties.build(payer, BumpSequence(0)))
    busy = parties.latest()
    devnet.close_ledgers(3)
    times = [gateway.ledger(sequence) for sequence in range(busy, busy + 4)]
    assert all(ledger is not None for ledger in times)
    seconds = [ledger.close_time_s for ledger in times if ledger is not None]
    assert seconds == sorted(set(seconds))


# Accounts


def test_unknown_account_and_hash_are_none_and_not_errors(gateway: Source) -> None:
    assert gateway.account(NOBODY) is None
    assert gateway.transaction(NOBODY) is None
    page = gateway.transactions_of(NOBODY, after=START)
    assert (page.facts, page.is_last) == ((), True)
    assert page.as_of_sequence == gateway.latest_ledger().sequence


def test_account_has_balances_sequence_and_its_ledger(gateway: Source, parties: Parties) -> None:
    issuer, holder = parties.fund(2)
    asset = Asset("USD", issuer.public_key)
    parties.trust(asset, holder)
    parties.apply(parties.build(issuer, Payment(holder.public_key, asset, "12.5")))
    usd = ("USD", key_of(issuer))
    view = gateway.account(key_of(holder), assets=[usd, NATIVE])
    assert view is not None
    assert view.balances == {usd: 125_000_000, NATIVE: 10_000 * 10_000_000 - 100}
    assert view.sequence == parties.sequence(holder)
    assert view.sequence_ledger == parties.latest() - 1
    assert view.as_of_sequence == parties.latest()


def test_balance_rpc_was_not_asked_for_is_unknown_and_not_nothing(
    both: list[Source], parties: Parties
) -> None:
    issuer, holder = parties.fund(2)
    parties.trust(Asset("USD", issuer.public_key), holder)
    usd = ("USD", key_of(issuer))
    from_horizon, from_rpc = (source.account(key_of(holder)) for source in both)
    assert from_horizon is not None
    assert from_rpc is not None
    assert from_horizon.balances[usd] == 0
    with pytest.raises(ValueError, match="asked for"):
        from_rpc.balances.get(usd, 0)
    assert dict(from_rpc.balances) == {NATIVE: from_horizon.balances[NATIVE]}


# Transactions


def test_facts_are_the_bytes_that_were_sent_with_place_and_result(
    gateway: Source, parties: Parties
) -> None:
    payer, payee = parties.fund(2)
    envelope = parties.build(payer, Payment(payee.public_key, XLM, "3"))
    parties.apply(envelope)
    fact = gateway.transaction(envelope.hash())
    assert fact is not None
    closed = gateway.ledger(parties.latest())
    assert closed is not None
    assert (fact.envelope, fact.order) == (raw(envelope), (closed.sequence, 1))
    assert fact.close_time_s == closed.close_time_s
    assert read_transaction(fact).tx_hash == envelope.hash()
    for account in (payer, payee):
        assert gateway.transactions_of(key_of(account), after=START).facts[-1] == fact


def test_failed_transaction_is_told_with_its_code(gateway: Source, parties: Parties) -> None:
    issuer, payer = parties.fund(2)
    envelope = parties.build(
        payer, Payment(issuer.public_key, Asset("EUR", issuer.public_key), "1")
    )
    parties.apply(envelope)
    fact = gateway.transaction(envelope.hash())
    assert fact is not None
    assert result_code_of(fact.result) == "txFAILED"
    assert gateway.transactions_of(key_of(payer), after=START).facts[-1] == fact


def test_fee_bump_is_known_by_both_hashes(gateway: Source, parties: Parties) -> None:
    payer, sponsor = parties.fund(2)
    inner = parties.build(payer, Payment(sponsor.public_key, XLM, "1"))
    bump = parties.bump(sponsor, inner, 400)
    parties.apply(bump)
    facts = [gateway.transaction(tx_hash) for tx_hash in (inner.hash(), bump.hash())]
    assert facts[0] is not None
    assert facts[0] == facts[1]
    assert facts[0].envelope == raw(bump)
    for account in (payer, sponsor):
        assert gateway.transactions_of(key_of(account), after=START).facts[-1] == facts[0]


@pytest.mark.usefixtures("small_pages")
def test_pages_go_on_where_they_ended_until_nothing_is_left(
    gateway: Source, parties: Parties
) -> None:
    payer, payee, other = parties.fund(3)
    sent = []
    for stroops in range(1, 6):
        sent.append(parties.build(payer, Payment(payee.public_key, XLM, f"{stroops}")))
        parties.apply(sent[-1], parties.build(other, BumpSequence(0)))
    facts = every_fact(gateway, key_of(payee))
    assert [fact.envelope for fact in facts[1:]] == [raw(envelope) for envelope in sent]
    rest = gateway.transactions_of(key_of(payee), after=facts[3].order)
    assert rest.facts[0] == facts[4]


def test_reading_on_after_the_last_page_finds_what_came_since(
    gateway: Source, parties: Parties, devnet: DevnetProcess
) -> None:
    (payer,) = parties.fund(1)
    first = gateway.transactions_of(key_of(payer), after=START)
    assert (len(first.facts), first.is_last) == (1, True)
    devnet.close_ledgers(30)
    idle = gateway.transactions_of(key_of(payer), after=first.through)
    assert (idle.facts, idle.is_last) == ((), True)
    envelope = parties.build(payer, BumpSequence(0))
    parties.apply(envelope)
    page = gateway.transactions_of(key_of(payer), after=max(first.through, idle.through))
    assert [fact.envelope for fact in page.facts] == [raw(envelope)]


def test_both_sources_tell_the_same_history_of_everybody(
    both: list[Source], parties: Parties
) -> None:
    issuer, payer, payee, gone = parties.fund(4)
    asset = Asset("LONGCODE", issuer.public_key)
    born = Keypair.random()
    muxed = MuxedAccount(payee.public_key, 77)
    parties.trust(asset, payer, payee)
    claim = CreateClaimableBalance(asset, "2", [Claimant(payee.public_key)])
    for source, operation in (
        (issuer, Payment(payer.public_key, asset, "50")),
        (payer, Payment(muxed, asset, "7")),
        (payer, claim),
        (payer, CreateAccount(born.public_key, "30")),
        (gone, AccountMerge(payee.public_key)),
        (payer, Payment(gone.public_key, XLM, "1")),  # fails: it is gone
        (payer, ManageData("name", key_of(payee))),
    ):
        parties.apply(parties.build(source, operation))
    parties.apply(
        parties.bump(payee, parties.build(born, Payment(payee.public_key, XLM, "1")), 500)
    )
    bystander = parties.build(
        payer, Payment(payer.public_key, XLM, "1", source=payee.public_key), signers=[payer, payee]
    )
    parties.apply(bystander)
    lengths = []
    for pair in (issuer, payer, payee, gone, born):
        told = [every_fact(source, key_of(pair)) for source in both]
        assert told[0] == told[1]
        lengths.append(len(told[0]))
    assert lengths == [2, 9, 7, 3, 2]


# Slots


def test_slot_tells_the_transaction_that_consumed_it(gateway: Source, parties: Parties) -> None:
    payer, payee = parties.fund(2)
    since = parties.latest()
    number = parties.sequence(payer) + 1
    good = parties.build(payer, Payment(payee.public_key, XLM, "1"))
    parties.apply(good)
    bad = parties.build(payer, Payment(payee.public_key, XLM, "99999999"))
    parties.apply(bad)
    bump = parties.bump(payee, parties.build(payer, Payment(payee.public_key, XLM, "1")), 400)
    parties.apply(bump)
    for offset, envelope in enumerate((good, bad, bump)):
        view = gateway.transaction_of_slot(key_of(payer), number + offset, since=since)
        assert view.fact is not None
        assert view.fact.envelope == raw(envelope)
        assert view.as_of_sequence == parties.latest()


def test_slot_nobody_consumed_is_none_as_of_a_ledger(gateway: Source, parties: Parties) -> None:
    payer, payee = parties.fund(2)
    since, number = parties.latest(), parties.sequence(payer) + 1
    parties.apply(parties.build(payee, Payment(payer.public_key, XLM, "1")))
    view = gateway.transaction_of_slot(key_of(payer), number, since=since)
    assert (view.fact, view.as_of_sequence) == (None, parties.latest())


def test_slot_passed_over_by_a_jump_is_none(gateway: Source, parties: Parties) -> None:
    (payer,) = parties.fund(1)
    since, number = parties.latest(), parties.sequence(payer) + 1
    parties.apply(parties.build(payer, BumpSequence(number + 10)))
    skipped = gateway.transaction_of_slot(key_of(payer), number + 5, since=since)
    assert skipped.fact is None
    assert skipped.as_of_sequence >= parties.latest()


def test_transaction_before_the_slots_first_ledger_is_not_its(
    gateway: Source, parties: Parties
) -> None:
    (payer,) = parties.fund(1)
    number = parties.sequence(payer) + 1
    parties.apply(parties.build(payer, BumpSequence(0)))
    parties.apply(parties.build(payer, BumpSequence(0)))
    late = gateway.transaction_of_slot(key_of(payer), number, since=parties.latest())
    assert late.fact is None


@pytest.mark.usefixtures("small_pages")
def test_slot_too_far_back_is_an_error_and_no_absence(
    gateway: Source, parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(horizon, "SLOT_PAGES_MAX", 1)
    monkeypatch.setattr(rpc, "SLOT_PAGES_MAX", 1)
    (payer,) = parties.fund(1)
    since, number = parties.latest(), parties.sequence(payer) + 5
    for _ in range(9):
        parties.apply(parties.build(payer, BumpSequence(0)))
    parties.apply(parties.build(payer, BumpSequence(number + 20)))
    with pytest.raises(GatewayError, match="slot"):
        gateway.transaction_of_slot(key_of(payer), number, since=since)


# Entries


def entries_of(gateway: Source, *keys: EntryKey) -> dict[EntryKey, object]:
    return dict(gateway.entries(keys).entries)


def test_entries_tell_trustlines_data_and_what_is_absent(gateway: Source, parties: Parties) -> None:
    issuer, holder, stranger = parties.fund(3)
    asset = Asset("USD", issuer.public_key)
    parties.apply(parties.build(holder, ChangeTrust(asset, "100"), ManageData("k", b"\x00v")))
    parties.apply(
        parties.build(issuer, Payment(holder.public_key, asset, "30")),
        parties.build(holder, ManageData(MEMO_REQUIRED.decode(), b"1")),
    )
    usd = ("USD", key_of(issuer))
    line = EntryKey(account=key_of(holder), asset=usd)
    data = EntryKey(account=key_of(holder), name=b"k")
    memo = EntryKey(account=key_of(holder), name=MEMO_REQUIRED)
    absent = [
        EntryKey(account=key_of(stranger), asset=usd),
        EntryKey(account=key_of(stranger), name=b"k"),
        EntryKey(account=NOBODY),
        EntryKey(account=key_of(holder), asset=("USDT", key_of(issuer))),
    ]
    view = gateway.entries([line, data, memo, *absent])
    assert set(view.entries) == {line, data, memo}
    state = view.entries[line]
    assert isinstance(state, TrustlineState)
    assert (state.balance_stroops, state.limit_stroops) == (300_000_000, 1_000_000_000)
    assert state.room_stroops == 700_000_000
    assert (state.is_authorized, state.is_clawback_enabled) == (True, False)
    assert view.entries[data] == DataState(value=b"\x00v")
    assert view.entries[memo] == DataState(value=b"1")
    assert view.as_of_sequence == parties.latest()


def test_unauthorised_trustline_is_told(gateway: Source, parties: Parties) -> None:
    issuer, holder = parties.fund(2)
    flags = AuthorizationFlag.AUTHORIZATION_REQUIRED | AuthorizationFlag.AUTHORIZATION_REVOCABLE
    flags |= AuthorizationFlag.AUTHORIZATION_CLAWBACK_ENABLED
    parties.apply(parties.build(issuer, SetOptions(set_flags=flags)))
    parties.trust(Asset("USD", issuer.public_key), holder)
    line = EntryKey(account=key_of(holder), asset=("USD", key_of(issuer)))
    owner = EntryKey(account=key_of(issuer))
    found = entries_of(gateway, line, owner)
    state, issued = found[line], found[owner]
    assert isinstance(state, TrustlineState)
    assert (state.is_authorized, state.is_clawback_enabled) == (False, True)
    assert isinstance(issued, AccountState)
    assert issued.is_authorization_required
    assert issued.is_authorization_revocable
    assert issued.is_clawback_enabled


def test_account_entry_tells_signers_thresholds_and_reserves(
    both: list[Source], parties: Parties
) -> None:
    owner, second = parties.fund(2)
    digest = sha256(b"preimage").digest()
    parties.apply(
        parties.build(
            owner,
            SetOptions(signer=Signer(SignerKey.ed25519_public_key(second.public_key), 3)),
            SetOptions(signer=Signer(SignerKey.sha256_hash(StrKey.encode_sha256_hash(digest)), 2)),
            SetOptions(signer=Signer.pre_auth_tx(StrKey.encode_pre_auth_tx(digest), 1)),
            SetOptions(
                low_threshold=1, med_threshold=2, high_threshold=3, home_domain="pay.example"
            ),
        )
    )
    key = EntryKey(account=key_of(owner))
    states = [entries_of(source, key)[key] for source in both]
    assert states[0] == states[1]
    state = states[0]
    assert isinstance(state, AccountState)
    assert state.thresholds == (1, 2, 3)
    assert state.signers == {
        owner.public_key: 1,
        second.public_key: 3,
        StrKey.encode_sha256_hash(digest): 2,
        StrKey.encode_pre_auth_tx(digest): 1,
    }
    assert (state.units, state.home_domain) == (5, "pay.example")
    assert state.sequence == parties.sequence(owner)


@pytest.mark.usefixtures("small_pages")
def test_more_entries_than_one_question_takes_are_asked_in_several(
    gateway: Source, parties: Parties
) -> None:
    pairs = parties.fund(5)
    keys = [EntryKey(account=key_of(pair)) for pair in pairs]
    assert set(entries_of(gateway, *keys, *keys)) == set(keys)


# Fees


def test_fee_statistics_know_what_was_charged_and_what_a_ledger_takes(
    both: list[Source], parties: Parties
) -> None:
    payers = parties.fund(2)
    parties.apply(*(parties.build(payer, BumpSequence(0), fee=1_000) for payer in payers))
    told = [source.fee_statistics() for source in both]
    for statistics in told:
        assert statistics.as_of_sequence == parties.latest()
        assert (statistics.base_fee_stroops, statistics.operations_max) == (100, 1_000)
        assert statistics.base_reserve_stroops == 5_000_000
        assert set(statistics.charged_stroops) == set(PERCENTILES)
        assert statistics.charged_stroops[50] == 100


# Submission


def test_submission_is_pending_duplicate_then_try_again(gateway: Source, parties: Parties) -> None:
    payer, payee = parties.fund(2)
    envelope = raw(parties.build(payer, Payment(payee.public_key, XLM, "1")))
    assert gateway.submit(envelope).status == SubmitStatus.PENDING
    assert gateway.submit(envelope).status == SubmitStatus.DUPLICATE
    other = raw(parties.build(payer, Payment(payee.public_key, XLM, "2")))
    answer = gateway.submit(other)
    assert (answer.status, answer.code, answer.result) == (SubmitStatus.TRY_AGAIN, "", b"")
    parties.devnet.close_ledgers()
    assert gateway.submit(envelope).status == SubmitStatus.TRY_AGAIN


REFUSALS: dict[str, Callable[[Parties, Keypair, Keypair], bytes]] = {
    "txBAD_SEQ": lambda made, payer, _: raw(made.build(payer, BumpSequence(0), ahead=5)),
    "txBAD_AUTH": lambda made, payer, _: raw(made.build(payer, BumpSequence(0), signers=[])),
    "txBAD_AUTH_EXTRA": lambda made, payer, other: raw(
        made.build(payer, BumpSequence(0), signers=[payer, other])
    ),
    "txINSUFFICIENT_FEE": lambda made, payer, _: raw(made.build(payer, BumpSequence(0), fee=99)),
    "txFAILED": lambda made, payer, other: raw(
        made.build(payer, Payment(other.public_key, XLM, "0"))
    ),
    "txFEE_BUMP_INNER_FAILED": lambda made, payer, other: raw(
        made.bump(other, made.build(payer, BumpSequence(0), ahead=3), 400)
    ),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_refusal_names_its_code_and_carries_the_result(
    gateway: Source, parties: Parties, code: str
) -> None:
    payer, other = parties.fund(2)
    answer = gateway.submit(REFUSALS[code](parties, payer, other))
    assert (answer.status, answer.code) == (SubmitStatus.REJECTED, code)
    assert result_code_of(answer.result) == code


def test_envelope_the_sdk_would_encode_otherwise_is_sent_as_it_is(
    gateway: Source, parties: Parties
) -> None:
    payer, issuer = parties.fund(2)
    short = Asset("ABCDE", issuer.public_key)
    good = raw(parties.build(payer, Payment(issuer.public_key, short, "1")))
    # A short code in the form for long ones, which the SDK's assets cannot express.
    odd = good.replace(b"ABCDE" + bytes(7), b"AB" + bytes(10))
    again = TransactionBuilder.from_xdr(b64(odd), PASSPHRASE).to_xdr()
    assert b64(odd) != again
    answer = gateway.submit(odd)
    assert answer.status == SubmitStatus.REJECTED
    assert result_code_of(answer.result) in {"txFAILED", "txBAD_AUTH"}


def test_node_that_filters_is_told_from_one_that_gives_no_answer(
    gateway: Source, parties: Parties, devnet: DevnetProcess
) -> None:
    payer, payee = parties.fund(2)
    envelope = raw(parties.build(payer, Payment(payee.public_key, XLM, "1")))
    with DevnetControl(devnet.url) as control:
        control.filter(1)  # payments
        answer = gateway.submit(envelope)
        control.filter()
    assert (answer.status, answer.code) == (SubmitStatus.UNKNOWN, FILTERED)


def test_malformed_envelope_is_unknown(gateway: Source) -> None:
    assert gateway.submit(b"nonsense").status == SubmitStatus.UNKNOWN
