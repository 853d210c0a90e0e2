"""Instructions over HTTP: only what holds is kept, once, and its fate can be looked up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from served_app import serve_app
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import (
    NETWORK,
    address,
    key,
    make_entitlement,
    make_payee_bundle,
    make_receipt,
    seed,
)

from ledger.api.app import make_app
from ledger.api.instructions import WAITING_OF_SUBJECT_MAX
from ledger.books.instructing import InstructionCode
from ledger.evidence.instruction import (
    INSTRUCTION_SIZE_MAX,
    READINESS,
    REFUND,
    RULING,
    Booking,
    PayeeInstruction,
    PayeeWish,
    Readiness,
    ReadinessNote,
    Refund,
    Ruling,
    parse_instruction,
    sign_payee_instruction,
)

pytestmark = pytest.mark.postgres
OURS: dict[str, Any] = {"network_id": NETWORK, "broadcaster_account": key("broadcaster")}


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.deposit(10_000_000_000, made.terms.epoch_start_s(0) + 2)
        made.reach_epoch(0)
        ann = make_entitlement(made.operator, "ann")
        receipt = make_receipt(ann, "ann", "seeder", 0, 50_000_017)
        made.upload(make_payee_bundle("seeder", 0, [ann], [receipt]))
        made.judge_all()
        made.end_epoch(0)
        made.advance()
        yield made


@pytest.fixture
def client(scene: ShardScene) -> Iterator[httpx.Client]:
    with serve_app(make_app(scene.api_parts())) as made:
        yield made


def cash_out(serial: int = 1, name: str = "seeder account", **changes: Any) -> bytes:
    values = {
        **OURS,
        "account": key(name),
        "kind": PayeeWish.CASH_OUT,
        "serial": serial,
        "pay_to": bytes(32),
    }
    return sign_payee_instruction(PayeeInstruction(**values | changes), seed(name)).raw


def refund(signer: str = "broadcaster", **changes: Any) -> bytes:
    value = Refund(**{**OURS, "serial": 1, "amount_stroops": 5} | changes)
    return REFUND.sign(value, seed(signer)).raw


def refused(client: httpx.Client, raw: bytes) -> tuple[int, str]:
    answer = client.post("/v1/instructions", content=raw)
    return answer.status_code, answer.json()["code"]


def test_what_was_kept_can_be_looked_up_until_it_has_its_code(
    scene: ShardScene, client: httpx.Client
) -> None:
    raw = cash_out()
    digest = parse_instruction(raw).digest.hex()
    first = client.post("/v1/instructions", content=raw)
    assert first.status_code == 200
    assert first.json() == {
        "id": first.json()["id"],
        "digest": digest,
        "kind": "payee_instruction",
        "subject": key("seeder account").hex(),
        "state": "waiting",
        "sealed_epoch": None,
        "code": None,
        "code_name": None,
    }
    assert client.post("/v1/instructions", content=raw).json() == first.json()
    scene.end_epoch(1)
    scene.advance()
    fate = client.get(f"/v1/instructions/{digest}").json()
    assert (fate["state"], fate["sealed_epoch"], fate["code"]) == ("applied", 1, 0)
    assert client.post("/v1/instructions", content=raw).json() == fate
    stale = client.post("/v1/instructions", content=cash_out(serial=0)).json()
    scene.end_epoch(2)
    scene.advance()
    about = {"subject": key("seeder account").hex(), "broadcaster": address("broadcaster")}
    rows = client.get("/v1/instructions", params=about).json()["instructions"]
    assert [row["state"] for row in rows] == ["applied", "without_effect"]
    assert (rows[1]["digest"], rows[1]["code"]) == (stale["digest"], InstructionCode.STALE)
    after = client.get("/v1/instructions", params={**about, "after": rows[0]["id"]}).json()
    assert after["instructions"] == rows[1:]


def test_what_does_not_hold_is_not_kept(client: httpx.Client) -> None:
    good = cash_out()
    note = ReadinessNote(
        **OURS,
        log_key=key("mallory"),
        account=key("seeder account"),
        seen_ledger=9,
        readiness=Readiness.READY,
        entry_ledger=1,
        room_stroops=0,
    )
    ruling = Ruling(
        **OURS,
        dao_key=key("mallory"),
        serial=1,
        tx_hash=bytes(32),
        booking=Booking.IGNORE,
    )
    own = PayeeInstruction(
        **OURS,
        account=key("seeder account"),
        kind=PayeeWish.PAY_TO,
        serial=1,
        pay_to=key("escrow"),
    )
    escrow = sign_payee_instruction(own, seed("seeder account"), seed("escrow")).raw
    for raw, want in (
        (b"", (400, "malformed")),
        (good[:-1], (400, "malformed")),
        (good + bytes(INSTRUCTION_SIZE_MAX), (413, "too_large")),
        (bytes([good[0] ^ 1]) + good[1:], (400, "bad_signature")),
        (refund("mallory"), (400, "bad_signature")),
        (cash_out(network_id=bytes(32)), (400, "wrong_network")),
        (cash_out(broadcaster_account=key("mallory")), (404, "unknown_broadcaster")),
        (cash_out(name="mallory"), (422, "unknown_account")),
        (READINESS.sign(note, seed("mallory")).raw, (403, "wrong_signer")),
        (RULING.sign(ruling, seed("mallory")).raw, (403, "wrong_signer")),
        (escrow, (422, "forbidden_address")),
    ):
        assert refused(client, raw) == want
    missing = client.get(f"/v1/instructions/{'00' * 32}")
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_instruction")
    about = client.get("/v1/instructions", params={"subject": key("seeder account").hex()})
    assert about.json()["instructions"] == []


def test_few_wait_for_one_account_until_the_next_seal(
    scene: ShardScene, client: httpx.Client
) -> None:
    for serial in range(1, WAITING_OF_SUBJECT_MAX + 1):
        answer = client.post("/v1/instructions", content=cash_out(serial))
        assert answer.status_code == 200
    late = cash_out(99)
    assert refused(client, late) == (429, "too_many_instructions")
    assert client.post("/v1/instructions", content=cash_out(1)).status_code == 200
    assert client.post("/v1/instructions", content=refund()).status_code == 200
    scene.end_epoch(1)
    scene.advance()
    assert client.post("/v1/instructions", content=late).status_code == 200
