"""The issuer: entitlements for bound session keys, the same again after a restart."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from served_app import serve_app
from simulated_operator import GENESIS_S, NETWORK, Operator, key, make_binding, seed

from ledger.api.issuer import Caps, IssuedFile, Issuer, make_issuer_app
from ledger.api.issuer_pace import Pace
from ledger.api.limits import IntakeLimits
from ledger.api.signed_clock import ClockUnknownError
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.entitlement import ENTITLEMENT

CONTENT = "ab" * 32
URL = f"/v1/entitlements?content_id={CONTENT}"


class IssuerScene:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.terms = Operator().signed_terms
        self.now_s = GENESIS_S + 100
        self.open()

    def open(self) -> None:
        """Start, or start again after a stop."""
        self.issued = IssuedFile(self.path)
        issuer = Issuer(
            terms=self.terms,
            issuing_seed=seed("issuing"),
            caps=Caps(max_bytes=1_000_003, valid_s=600),
            issued=self.issued,
            now_s=self.read_clock,
        )
        self.serving = serve_app(make_issuer_app(issuer))
        self.client = self.serving.__enter__()

    def read_clock(self) -> int:
        if self.now_s is None:
            raise ClockUnknownError("collector's clock: got no answer")
        return self.now_s

    def close(self) -> None:
        self.serving.__exit__(None, None, None)
        self.issued.close()

    def restart(self) -> None:
        self.close()
        self.open()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[IssuerScene]:
    made = IssuerScene(tmp_path / "issued")
    yield made
    made.close()


def binding(**changes: object) -> bytes:
    values: dict[str, object] = {
        "network_id": NETWORK,
        "account": key("ann account"),
        "key": key("ann"),
        "role": Role.SESSION,
        "first_epoch": 0,
        "last_epoch": 10_000,
        "serial": 1,
    }
    return BINDING.sign(Binding(**values | changes), seed("ann account"), seed("ann")).raw


def test_a_bound_session_key_gets_a_signed_capped_entitlement(scene):
    answer = scene.client.post(URL, content=binding())
    assert answer.status_code == 200
    signed = ENTITLEMENT.parse(answer.content)
    value = signed.value
    assert ENTITLEMENT.is_signed_by(signed, key("issuing"))
    assert (value.session_key, value.payer_account) == (key("ann"), key("broadcaster"))
    assert (value.content_id.hex(), value.max_bytes) == (CONTENT, 1_000_003)
    assert value.terms_digest == scene.terms.digest
    assert value.not_before_s <= scene.now_s <= value.not_after_s == scene.now_s + 600


def test_asking_again_and_a_restart_give_the_same_and_another_content_another(scene):
    first = scene.client.post(URL, content=binding()).content
    assert scene.client.post(URL, content=binding(serial=2)).content == first
    scene.restart()
    assert scene.client.post(URL, content=binding()).content == first
    other = scene.client.post(URL.replace("ab", "cd"), content=binding()).content
    assert ENTITLEMENT.parse(other).value.serial != ENTITLEMENT.parse(first).value.serial


def test_a_record_half_written_before_a_crash_is_dropped(scene):
    first = scene.client.post(URL, content=binding()).content
    with scene.path.open("ab") as file:
        file.write(first[:100])
    scene.restart()
    assert scene.client.post(URL, content=binding()).content == first
    other = scene.client.post(URL.replace("ab", "cd"), content=binding()).content
    scene.restart()
    assert scene.client.post(URL.replace("ab", "cd"), content=binding()).content == other
    assert scene.path.read_bytes() == first + other


def test_one_that_runs_out_is_replaced(scene):
    first = scene.client.post(URL, content=binding()).content
    scene.now_s += 479
    assert scene.client.post(URL, content=binding()).content == first
    scene.now_s += 2
    assert scene.client.post(URL, content=binding()).content != first


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"", 400, "malformed"),
        (binding()[:-1], 400, "malformed"),
        (binding() + b"\0", 413, "too_large"),
        (bytes(64) + binding()[64:], 403, "bad_signature"),
        (binding()[:64] + bytes(64) + binding()[128:], 403, "bad_signature"),
        (binding(network_id=bytes(32)), 400, "wrong_network"),
        (binding(role=Role.ISSUING), 403, "binding_not_valid"),
        (binding(first_epoch=7), 403, "binding_not_valid"),
        (binding(last_epoch=5), 403, "binding_not_valid"),
    ],
)
def test_a_bad_binding_is_refused_with_its_code(scene, raw, status, code):
    answer = scene.client.post(URL, content=raw)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert scene.path.read_bytes() == b""


@pytest.mark.parametrize("content_id", ["", "ab", "zz" * 32])
def test_a_content_id_that_is_none_is_refused(scene, content_id):
    raw = make_binding("ann", "ann account").raw
    answer = scene.client.post(f"/v1/entitlements?content_id={content_id}", content=raw)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter")


def test_without_ledger_time_nothing_is_issued_and_asking_again_helps(scene):
    scene.now_s = None
    answer = scene.client.post(URL, content=binding())
    assert (answer.status_code, answer.json()["code"]) == (503, "clock_unknown")
    assert answer.headers["Retry-After"]
    assert scene.path.read_bytes() == b""
    scene.now_s = GENESIS_S
    assert scene.client.post(URL, content=binding()).status_code == 200


class Still:
    """A clock on the wall that stands still until it is moved."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_who_asks_too_often_waits_and_is_told_how_long(tmp_path: Path) -> None:
    """A stolen binding, or a broken player, must not fill the issuer's disk."""
    clock = Still()
    limits = IntakeLimits(address_per_s=2, address_burst=3, sender_per_s=1, sender_burst=2)
    issued = IssuedFile(tmp_path / "issued")
    issuer = Issuer(
        terms=Operator().signed_terms,
        issuing_seed=seed("issuing"),
        caps=Caps(max_bytes=1, valid_s=600),
        issued=issued,
        now_s=lambda: GENESIS_S + 100,
    )
    pace = Pace(limits, monotonic=clock)
    with serve_app(make_issuer_app(issuer, token="secret", pace=pace)) as client:
        one = binding()
        assert [client.post(URL, content=one).status_code for _ in range(3)] == [200, 200, 429]
        refused = client.post("/v1/issue", json={}, headers={"authorization": "Bearer secret"})
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert int(refused.headers["retry-after"]) >= 1
        clock.now_s = 100
        back = [
            client.post("/v1/issue", json={}, headers={"authorization": "Bearer secret"})
            for _ in range(3)
        ]
        assert [answer.status_code for answer in back] == [400, 400, 429]
        assert client.get("/healthz").status_code == 200
    issued.close()
