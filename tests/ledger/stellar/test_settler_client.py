"""A settler and an operator that answers anything: bounded, and an error of one kind."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from answering_server import Answering, Reply, answering_server
from simulated_operator import Operator, key, seed

from ledger.audit.address import format_account
from ledger.evidence.keys import verify
from ledger.stellar import settler_client
from ledger.stellar.cosigning import audit_request_message
from ledger.stellar.errors import SettlerError
from ledger.stellar.settler_client import WANTED_MAX, OperatorClient
from ledger.stellar.signing import KeySignature, SeedKeys

pytestmark = pytest.mark.process
TRUST = Operator().trust
NAME = "settler a"
ROW = {"epoch": 1, "batch_number": 2, "attempt": 3, "tx_hash": "ab" * 32, "more": []}


@contextmanager
def client_of(answer: Answering, *, timeout_s: float = 15) -> Iterator[OperatorClient]:
    holder = SeedKeys({key(NAME): seed(NAME)})
    with answering_server(answer) as url:
        client = OperatorClient(url, TRUST, key(NAME), holder, timeout_s=timeout_s)
        yield client
        client.close()


def test_wanted_is_read_and_other_fields_left_alone() -> None:
    asked: list[str] = []

    def answer(path: str, _body: bytes) -> Reply:
        asked.append(path)
        return Reply(body=json.dumps({"wanted": [ROW], "more": 1}).encode())

    with client_of(answer) as client:
        (wanted,) = client.wanted()
    assert (wanted.epoch, wanted.batch_number, wanted.attempt) == (1, 2, 3)
    broadcaster = format_account(TRUST.broadcaster_account)
    assert asked == [f"/v1/settlement/wanted?broadcaster={broadcaster}"]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=503),
        Reply(status=302, headers={"Location": "http://127.0.0.1:1/"}),
        Reply(body=b"nonsense"),
        Reply(body=b"[]"),
        Reply(body=b"{}"),
        Reply(body=b"[" * 100_000),
        Reply(body=b'{"wanted": [{}]}'),
        Reply(body=json.dumps({"wanted": [ROW] * (WANTED_MAX + 1)}).encode()),
        Reply(body=json.dumps({"wanted": [ROW]}).encode(), is_cut=True),
    ],
)
def test_answer_that_is_no_list_is_an_error(reply: Reply) -> None:
    with client_of(lambda _path, _body: reply) as client, pytest.raises(SettlerError):
        client.wanted()


def test_operator_that_speaks_slowly_is_given_up() -> None:
    slow = Reply(body=json.dumps({"wanted": []}).encode(), drip_s=0.05)
    with client_of(lambda _path, _body: slow, timeout_s=0.3) as client:
        begun = time.process_time()
        with pytest.raises(SettlerError):
            client.wanted()
        assert time.process_time() - begun < 5


def test_operator_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    holder = SeedKeys({key(NAME): seed(NAME)})
    client = OperatorClient("http://127.0.0.1:9", TRUST, key(NAME), holder)
    with pytest.raises(SettlerError):
        client.wanted()
    with pytest.raises(SettlerError):
        client.fetch_audit(0, tmp_path / "x")
    with pytest.raises(SettlerError):
        client.post_signature(bytes(32), KeySignature(key=bytes(32), signature=bytes(64)))
    client.close()


def test_what_is_wanted_no_more_need_not_be_answered() -> None:
    signed = KeySignature(key=bytes(32), signature=bytes(64))
    for status, is_taken in ((204, True), (404, True), (403, False), (200, False)):
        with client_of(lambda _path, _body, code=status: Reply(status=code)) as client:
            if is_taken:
                client.post_signature(bytes(32), signed)
            else:
                with pytest.raises(SettlerError, match=f"got HTTP {status}"):
                    client.post_signature(bytes(32), signed)


def test_audit_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "epoch-7.audit"
    with client_of(lambda _path, _body: Reply(status=404)) as client:
        assert not client.fetch_audit(7, path)
    for reply in (Reply(status=403), Reply(body=b"x" * 1_000, is_cut=True)):
        with (
            client_of(lambda _path, _body, one=reply: one) as client,
            pytest.raises(SettlerError),
        ):
            client.fetch_audit(7, path)
    monkeypatch.setattr(settler_client._bounded, "__defaults__", (999, 60.0))
    with (
        client_of(lambda _path, _body: Reply(body=b"x" * 1_000)) as client,
        pytest.raises(SettlerError, match="want at most 999"),
    ):
        client.fetch_audit(7, path)
    assert list(tmp_path.iterdir()) == []
    with client_of(lambda _path, _body: Reply(body=b"x" * 999)) as client:
        assert client.fetch_audit(7, path)
    assert path.read_bytes() == b"x" * 999


def test_asking_for_an_audit_file_is_signed() -> None:
    message = audit_request_message(TRUST.network_id, TRUST.broadcaster_account, 7)
    signed = SeedKeys({key(NAME): seed(NAME)}).sign_message(message, key(NAME))
    assert verify(key(NAME), message, signed)
    assert message != audit_request_message(TRUST.network_id, TRUST.broadcaster_account, 8)
