"""Gathering on a real devnet and database: enough true signatures pay once, others nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from served_app import serve_app
from settlement_scene import PASSPHRASE, DevnetProcess, Scene, make_scene, setting_up
from sqlalchemy import select, text
from stellar_sdk import xdr

from ledger.api.app import add_error_answers
from ledger.api.settler_routes import add_settlers
from ledger.audit.address import format_account
from ledger.evidence.keys import public_key_of, sign
from ledger.stellar.burn_rules import build_burn
from ledger.stellar.cosigning import (
    KEY_HEADER,
    SIGNATURE_HEADER,
    Reason,
    audit_request_message,
    format_cosignature,
    format_refusal,
    sign_refusal,
)
from ledger.stellar.deciding import give_up
from ledger.stellar.envelopes import unsigned_transaction
from ledger.stellar.gathering import TreasurySigner
from ledger.stellar.signing import KeySignature, SeedKeys
from ledger.stellar.treasury import Treasury, treasury_of
from ledger.stellar.treasury_setup import set_up_signers
from ledger.store import settler_store
from ledger.store.engine import make_session_factory, open_engine
from ledger.store.migrate import METADATA

pytestmark = [pytest.mark.postgres, pytest.mark.process]

SEEDS = [sha256(f"settler {number}".encode()).digest() for number in range(3)]
KEYS = [public_key_of(seed) for seed in SEEDS]
STRANGER = sha256(b"a stranger").digest()


@dataclass
class Gathering:
    """A settlement whose escrow and payout accounts three settlers sign for, two at once."""

    scene: Scene
    treasury: Treasury
    client: httpx.Client

    def wanted(self) -> list[dict[str, Any]]:
        found = self.client.get("/v1/settlement/wanted").json()
        assert found["threshold"] == 2
        assert found["settlers"] == [format_account(key) for key in sorted(KEYS)]
        wanted: list[dict[str, Any]] = found["wanted"]
        return wanted

    def post(self, tx_hash: bytes, seed: bytes, signature: bytes | None = None) -> tuple[int, str]:
        made = KeySignature(key=public_key_of(seed), signature=signature or sign(seed, tx_hash))
        answer = self.client.post(
            "/v1/settlement/signatures", content=format_cosignature(tx_hash, made)
        )
        return answer.status_code, answer.json()["code"] if answer.content else ""

    def until_wanted(self) -> bytes:
        for _ in range(20):
            self.scene.tick()
            if wanted := self.wanted():
                return bytes.fromhex(wanted[0]["tx_hash"])
        raise AssertionError(f"wanted: got none, want one of {self.scene.states()}")

    def signatures_sent(self, number: int) -> int:
        """How many signatures the newest envelope of a batch has."""
        statement = text("SELECT envelope FROM attempts WHERE purpose = 'batch' AND number = :n")
        with self.scene.sessions() as session:
            envelope = session.scalars(statement, {"n": number}).all()[-1]
        return len(xdr.TransactionEnvelope.from_xdr_bytes(envelope).v1.signatures)


@pytest.fixture
def gathering(devnet: DevnetProcess, database_url: str, tmp_path: Path) -> Iterator[Gathering]:
    engine = open_engine(database_url)
    scene = make_scene(devnet, make_session_factory(engine), tmp_path)
    terms, keys = scene.domain.terms, scene.keys
    treasury = treasury_of(terms, KEYS, 2)
    with setting_up(devnet) as setter:
        set_up_signers(
            setter, PASSPHRASE, treasury,
            payer_seed=keys.issuer, account_seeds=keys.operator_seeds,
        )  # fmt: skip
    own = SeedKeys({public_key_of(seed): seed for seed in (keys.anchor, *keys.channels)})
    signer = TreasurySigner(scene.sessions, scene.gateway, terms, own)
    scene.domain = replace(scene.domain, signer=signer)
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "epoch-3.audit").write_bytes(b"what only settlers see")
    app = FastAPI()
    add_error_answers(app)
    add_settlers(app, scene.sessions, tmp_path / "audit")
    with serve_app(app) as client:
        yield Gathering(scene, treasury, client)
    scene.gateway.close()
    engine.dispose()


def test_batches_are_paid_once_two_of_three_have_signed(gathering: Gathering) -> None:
    scene = gathering.scene
    payees = scene.payees
    scene.plan({payees[0]: 41, payees[1]: 42})
    for number in range(2):
        tx_hash = gathering.until_wanted()
        assert scene.states()[number] == "planned"
        assert gathering.post(tx_hash, SEEDS[number]) == (204, "")
        # One is too few, however often it is sent.
        assert gathering.post(tx_hash, SEEDS[number]) == (204, "")
        scene.tick(2)
        assert scene.states()[number] == "planned"
        # More than enough is as good as enough.
        for seed in SEEDS:
            assert gathering.post(tx_hash, seed) == (204, "")
        assert len(gathering.wanted()[0]["signed_by"]) == 3
        scene.tick(3)
        assert scene.states()[number] == "paid"
        assert gathering.signatures_sent(number) == 2
    assert scene.paid() == {payees[0]: 41, payees[1]: 42}
    assert gathering.wanted() == []
    # No key of anybody's stands in the database.
    secrets = [*SEEDS, *scene.keys.operator_seeds, scene.keys.broadcaster]
    stored = everything_stored(scene)
    assert KEYS[0].hex() in stored
    assert not [secret for secret in secrets if secret.hex() in stored]


def everything_stored(scene: Scene) -> str:
    """Every value of every table, bytes as hexadecimal digits."""
    assert len(METADATA.sorted_tables) > 20
    with scene.sessions() as session:
        values = [
            value
            for table in METADATA.sorted_tables
            for row in session.execute(select(table))
            for value in row
        ]
    return "\n".join(v.hex() if isinstance(v, bytes) else str(v) for v in values)


def test_forged_strange_and_repeated_signatures_change_nothing(gathering: Gathering) -> None:
    scene = gathering.scene
    scene.plan({scene.payees[0]: 43})
    tx_hash = gathering.until_wanted()
    other = sha256(b"another transaction").digest()
    assert gathering.post(tx_hash, SEEDS[0], sign(SEEDS[0], other)) == (403, "bad_signature")
    assert gathering.post(tx_hash, SEEDS[0], sign(SEEDS[1], tx_hash)) == (403, "bad_signature")
    assert gathering.post(tx_hash, STRANGER) == (403, "not_a_settler")
    assert gathering.post(other, SEEDS[0]) == (404, "not_wanted")
    assert gathering.client.post("/v1/settlement/signatures", content=b"x").status_code == 400
    # Rows that somebody wrote into the database are checked again before they are used.
    with scene.sessions.begin() as session:
        settler_store.insert_signature(session, tx_hash, KEYS[0], sign(SEEDS[0], other))
        settler_store.insert_signature(session, tx_hash, KEYS[1], bytes(64))
        settler_store.insert_signature(
            session, tx_hash, public_key_of(STRANGER), sign(STRANGER, tx_hash)
        )
    scene.tick(3)
    assert scene.states()[0] == "planned"
    assert gathering.post(tx_hash, SEEDS[2]) == (204, "")
    scene.tick(3)
    assert scene.states()[0] == "planned"
    assert gathering.post(tx_hash, SEEDS[1]) == (204, "")
    scene.tick(3)
    assert scene.states()[0] == "paid"


def test_later_attempt_takes_the_earlier_ones_place(gathering: Gathering) -> None:
    scene = gathering.scene
    scene.plan({scene.payees[0]: 44})
    first = gathering.until_wanted()
    assert gathering.post(first, SEEDS[0]) == (204, "")
    scene.devnet.close_ledgers(40)
    second = gathering.until_wanted()
    assert second != first
    assert gathering.wanted()[0]["signed_by"] == []
    assert gathering.post(first, SEEDS[1]) == (404, "not_wanted")
    nobody_is_asked_while_accounts_have_different_signers(gathering)
    for seed in SEEDS[1:]:
        assert gathering.post(second, seed) == (204, "")
    scene.tick(3)
    assert scene.states()[0] == "paid"


def nobody_is_asked_while_accounts_have_different_signers(gathering: Gathering) -> None:
    scene = gathering.scene
    # The payout account is another one than was handed over.
    other = replace(scene.domain.terms, payout_account=scene.made.broadcaster)
    strange = TreasurySigner(scene.sessions, scene.gateway, other, SeedKeys({}))
    strange.refresh()
    with scene.sessions() as session:
        assert settler_store.load_settlers(session, scene.broadcaster) is None
    assert gathering.client.get("/v1/settlement/wanted").json()["settlers"] == []
    assert gathering.post(bytes(32), SEEDS[0]) == (403, "not_a_settler")
    scene.tick()
    assert len(gathering.wanted()) == 1


def test_refusals_and_audit_files_are_for_settlers(gathering: Gathering) -> None:
    scene = gathering.scene
    scene.plan({scene.payees[0]: 45})
    tx_hash = gathering.until_wanted()
    network_id = scene.domain.terms.network_id
    for seed, status in ((SEEDS[0], 204), (STRANGER, 403)):
        key = public_key_of(seed)
        refusal = sign_refusal(
            SeedKeys({key: seed}),
            key,
            network_id,
            tx_hash,
            Reason.HASH_DIFFERS,
            "not\nmine",
        )
        for changed, want in ((refusal, status), (replace(refusal, detail="other"), 403)):
            answer = gathering.client.post(
                "/v1/settlement/refusals", content=format_refusal(changed)
            )
            assert answer.status_code == want
    assert gathering.wanted()[0]["refused"] == [
        {
            "settler": format_account(KEYS[0]),
            "reason": "hash_differs",
            "detail": "not?mine",
        }
    ]
    gathering.post(tx_hash, SEEDS[0])
    assert gathering.wanted()[0]["refused"] == []

    terms = scene.domain.terms

    def ask(seed: bytes, signed_epoch: int, epoch: int) -> int:
        message = audit_request_message(terms.network_id, terms.broadcaster_account, signed_epoch)
        headers = {
            KEY_HEADER: public_key_of(seed).hex(), SIGNATURE_HEADER: sign(seed, message).hex()
        }  # fmt: skip
        answer = gathering.client.get(f"/v1/audit/{epoch}", headers=headers)
        assert (answer.status_code == 200) == (answer.content == b"what only settlers see")
        return answer.status_code

    assert ask(SEEDS[0], 3, 3) == 200
    assert ask(SEEDS[0], 4, 3) == 403
    assert ask(SEEDS[0], 4, 4) == 404
    assert ask(STRANGER, 3, 3) == 403


def test_payments_go_on_while_the_anchors_key_is_lost(gathering: Gathering) -> None:
    scene = gathering.scene
    scene.plan({scene.payees[0]: 46})
    tx_hash = gathering.until_wanted()
    channels = {public_key_of(seed): seed for seed in scene.keys.channels}
    signer = TreasurySigner(scene.sessions, scene.gateway, scene.domain.terms, SeedKeys(channels))
    scene.domain = replace(scene.domain, signer=signer)
    scene.plan({scene.payees[1]: 47})
    for number in range(2):
        for seed in SEEDS[:2]:
            assert gathering.post(tx_hash, seed) == (204, "")
        scene.tick(4)
        assert scene.states()[number] == "paid"
        tx_hash = gathering.until_wanted() if number == 0 else b""
    # The next epoch is neither anchored nor paid.
    assert scene.paid() == {scene.payees[0]: 46}
    assert scene.open_anchors() == 1
    assert gathering.wanted() == []


def test_cancelled_slot_is_used_up_by_settlers_while_the_channels_key_is_lost(
    gathering: Gathering,
) -> None:
    scene = gathering.scene
    domain = replace(
        scene.domain,
        signer=TreasurySigner(
            scene.sessions, scene.gateway, scene.domain.terms,
            SeedKeys({public_key_of(scene.keys.anchor): scene.keys.anchor}),
        ),
    )  # fmt: skip
    scene.domain = domain
    (funding, _payment) = scene.plan({scene.payees[0]: 51})
    gathering.until_wanted()
    give_up(scene.sessions, domain, scene.batches()[0], reason="cancelled")
    scene.tick()
    # The payment is asked for no more, only the no-op.
    (wanted,) = gathering.wanted()
    assert (wanted["purpose"], wanted["batch_number"]) == ("burn", funding.batch_number)
    unsigned = build_burn(funding, wanted["attempt"], domain.terms, PASSPHRASE, isolates=False)
    assert wanted["tx_hash"] == unsigned_transaction(unsigned).tx_hash.hex()
    tx_hash = bytes.fromhex(wanted["tx_hash"])
    assert gathering.post(tx_hash, SEEDS[2]) == (204, "")
    scene.tick(2)
    assert scene.states()[0] == "burning"
    assert gathering.post(tx_hash, SEEDS[0]) == (204, "")
    scene.tick(4)
    assert scene.states()[0] == "burned"
    assert [one["purpose"] for one in gathering.wanted()] == []
