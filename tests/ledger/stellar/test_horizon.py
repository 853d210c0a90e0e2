"""The Horizon gateway on a real devnet: what it reads, and what it makes of bad answers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from answering_server import Reply, answering_server
from settlement_scene import PASSPHRASE, DevnetProcess, Scene

from ledger.audit.address import format_account
from ledger.evidence.keys import network_id_of
from ledger.stellar.envelopes import (
    Bounds,
    attach_signatures,
    build_anchor,
    own_demands,
    unsigned_transaction,
)
from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import NATIVE, START, SubmitStatus
from ledger.stellar.horizon import HorizonGateway, result_code_of

pytestmark = pytest.mark.process


@pytest.fixture
def gateway(devnet: DevnetProcess) -> Iterator[HorizonGateway]:
    made = HorizonGateway(devnet.url + "/", PASSPHRASE)
    yield made
    made.close()


def anchor_envelope(scene: Scene, *, sequence: int, signers: int = 1) -> bytes:
    now = scene.gateway.latest_ledger()
    anchor = scene.made.anchor
    unsigned = build_anchor(
        b"\x05" * 32,
        anchor,
        sequence=sequence,
        bounds=Bounds(max_ledger_sequence=now.sequence + 20, max_time_s=now.close_time_s + 60),
        fee_bid_stroops=100,
        passphrase=PASSPHRASE,
    )
    transaction = unsigned_transaction(unsigned)
    signatures = scene.domain.signer.sign(transaction, own_demands(anchor)) * signers
    return attach_signatures(unsigned, signatures).envelope


def test_ledgers_are_read_with_their_close_times(
    devnet: DevnetProcess, gateway: HorizonGateway
) -> None:
    devnet.close_ledgers(2)
    latest = gateway.latest_ledger()
    assert gateway.ledger(latest.sequence) == latest
    before = gateway.ledger(latest.sequence - 1)
    assert before is not None
    assert before.close_time_s < latest.close_time_s
    assert gateway.ledger(latest.sequence + 1) is None
    assert gateway.network_id == network_id_of(PASSPHRASE)


def test_unknown_account_and_hash_are_none_and_not_errors(gateway: HorizonGateway) -> None:
    nobody = b"\x7e" * 32  # other files of the session use the same devnet
    assert gateway.account(nobody) is None
    assert gateway.transaction(nobody) is None
    page = gateway.transactions_of(nobody, after=START)
    assert (page.facts, page.is_last) == ((), True)
    assert page.as_of_sequence == gateway.latest_ledger().sequence


@pytest.mark.postgres
def test_account_is_read_with_balances_and_sequence(scene: Scene) -> None:
    view = scene.gateway.account(scene.made.escrow)
    assert view is not None
    assert view.balances[(scene.made.asset_code, scene.made.issuer)] == 10**12
    assert view.balances[NATIVE] == 20 * 10_000_000
    assert view.sequence & 0xFFFFFFFF == 0


@pytest.mark.postgres
def test_transactions_of_an_account_come_in_order_after_a_place(scene: Scene) -> None:
    page = scene.gateway.transactions_of(scene.made.escrow, after=START)
    orders = [fact.order for fact in page.facts]
    assert orders == sorted(orders)
    assert len(orders) == 3
    rest = scene.gateway.transactions_of(scene.made.escrow, after=orders[0])
    assert [fact.order for fact in rest.facts] == orders[1:]


@pytest.mark.postgres
def test_submission_is_pending_then_duplicate_then_known_by_hash(scene: Scene) -> None:
    view = scene.gateway.account(scene.made.anchor)
    assert view is not None
    envelope = anchor_envelope(scene, sequence=view.sequence + 1)
    assert scene.gateway.submit(envelope).status == SubmitStatus.PENDING
    assert scene.gateway.submit(envelope).status == SubmitStatus.DUPLICATE
    other = anchor_envelope(scene, sequence=view.sequence + 2)
    assert scene.gateway.submit(other).status == SubmitStatus.TRY_AGAIN
    scene.devnet.close_ledgers()
    page = scene.gateway.transactions_of(scene.made.anchor, after=START)
    assert page.facts[-1].envelope == envelope


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("ahead", "signers", "code"), [(5, 1, "txBAD_SEQ"), (1, 2, "txBAD_AUTH_EXTRA")]
)
def test_refused_submission_names_its_code(
    scene: Scene, ahead: int, signers: int, code: str
) -> None:
    view = scene.gateway.account(scene.made.anchor)
    assert view is not None
    envelope = anchor_envelope(scene, sequence=view.sequence + ahead, signers=signers)
    answer = scene.gateway.submit(envelope)
    assert (answer.status, answer.code) == (SubmitStatus.REJECTED, code)
    assert result_code_of(answer.result) == code


@pytest.mark.postgres
@pytest.mark.parametrize("kind", ["reset_after_accept", "http_504", "http_503", "drop_answer"])
def test_broken_submission_is_unknown_and_does_not_raise(scene: Scene, kind: str) -> None:
    view = scene.gateway.account(scene.made.anchor)
    assert view is not None
    envelope = anchor_envelope(scene, sequence=view.sequence + 1)
    scene.devnet.arm(kind, path="/transactions_async")
    assert scene.gateway.submit(envelope).status == SubmitStatus.UNKNOWN


def test_malformed_envelope_is_unknown(gateway: HorizonGateway) -> None:
    assert gateway.submit(b"nonsense").status == SubmitStatus.UNKNOWN


def test_unreachable_source_is_an_error_for_reads_and_unknown_for_submissions() -> None:
    gateway = HorizonGateway("http://127.0.0.1:1", PASSPHRASE)
    with pytest.raises(GatewayError):
        gateway.latest_ledger()
    assert gateway.submit(b"x").status == SubmitStatus.UNKNOWN
    gateway.close()


LEDGER = {"sequence": 9, "closed_at": "2027-01-01T00:00:00Z"}


def json_reply(value: object, status: int = 200, **headers: str) -> Reply:
    return Reply(json.dumps(value).encode(), status=status, headers=headers)


@contextmanager
def answering(replies: list[Reply]) -> Iterator[HorizonGateway]:
    """A gateway whose source names its network and gives the first reply to everything else."""
    root = json_reply({"network_passphrase": PASSPHRASE})
    with answering_server(lambda path, _: root if path == "/" else replies[0]) as url:
        made = HorizonGateway(url, PASSPHRASE)
        yield made
        made.close()


@pytest.mark.parametrize(
    "reply",
    [
        json_reply(LEDGER, 500),
        json_reply(LEDGER, 429),
        Reply(b"<html>"),
        json_reply([LEDGER]),
        json_reply(LEDGER | {"sequence": "-9"}),
        json_reply(LEDGER | {"closed_at": "2027-01-01T00:00:00"}),
        json_reply(LEDGER | {"closed_at": 5}),
        json_reply({}),
        Reply(json.dumps(LEDGER).encode(), is_cut=True),
    ],
)
def test_answer_that_cannot_be_read_is_an_error(reply: Reply) -> None:
    with answering([reply]) as gateway, pytest.raises(GatewayError):
        gateway.ledger(9)


def test_header_names_the_ledger_an_answer_is_as_of() -> None:
    name = format_account(b"\x01" * 32)
    account = {"account_id": name, "sequence": "77", "balances": []}
    newest = {"_embedded": {"records": [LEDGER | {"sequence": 60}]}}
    replies = [json_reply(account | newest, **{"Latest-Ledger": "55"})]
    with answering(replies) as gateway:
        view = gateway.account(b"\x01" * 32)
        assert view is not None
        assert (view.sequence, view.as_of_sequence) == (77, 55)
        replies[0] = json_reply(account | newest)
        view = gateway.account(b"\x01" * 32)
        assert view is not None
        assert view.as_of_sequence == 60
