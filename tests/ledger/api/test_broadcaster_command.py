"""`swarmledger broadcaster`: entitlements by hand, in batches and over HTTP; revocation."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from served_app import serve_app
from simulated_operator import GENESIS_S, NETWORK, Operator, key, make_binding, seed

from ledger.api.broadcaster_command import main, read_token
from ledger.api.issuer import Caps, IssuedFile, Issuer, make_issuer_app
from ledger.config import ConfigError
from ledger.evidence.binding import BINDING, Binding, Role, is_valid_binding
from ledger.evidence.entitlement import ENTITLEMENT

CONTENT = "cd" * 32
TOKEN = "a token of some length"
NOW_S = GENESIS_S + 100


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run `entitle` in a folder with the broadcaster's files; exit code, output, error output."""
    (tmp_path / "terms").write_bytes(Operator().signed_terms.raw)
    write_seed(tmp_path / "issuing.seed", "issuing")
    files = ("--issuing-key", tmp_path / "issuing.seed", "--terms", tmp_path / "terms")

    def run_one(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        options = (*files, "--issued", tmp_path / "issued", "--now", NOW_S, *arguments)
        code = main(["entitle", *map(str, options)])
        out, err = capsys.readouterr()
        return code, out, err

    return run_one


def write_seed(path: Path, name: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(seed(name).hex())
    return path


def test_one_entitlement_is_a_record_in_a_file_and_json_for_programs(run, tmp_path):
    one = ("--session-key", key("ann").hex(), "--content", CONTENT)
    caps = ("--max-bytes", 5_000_000, "--max-media-ms", 60_000, "--max-rate-kbps", 4_000)
    code, out, _ = run(*one, *caps, "--country", "DE", "--out", tmp_path / "ann.entitlement")
    assert code == 0
    signed = ENTITLEMENT.parse((tmp_path / "ann.entitlement").read_bytes())
    assert ENTITLEMENT.is_signed_by(signed, key("issuing"))
    value = signed.value
    assert (value.max_bytes, value.max_media_ms, value.max_rate_kbps) == (5_000_000, 60_000, 4_000)
    assert (value.country, value.not_after_s) == ("DE", NOW_S + 86_400)
    described = json.loads(out)
    assert bytes.fromhex(described["entitlement"]) == signed.raw
    assert described["digest"] == signed.digest.hex()
    # The same order gets the same serial, and another request id another.
    code, again, _ = run(*one, *caps, "--country", "DE")
    assert (code, again) == (0, out)
    code, other, _ = run(*one, *caps, "--country", "DE", "--request-id", "second")
    assert json.loads(other)["serial"] != described["serial"]
    code, _, err = run(*one)
    assert code == 1
    assert "other caps" in err


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_batch_answers_in_order_and_the_same_again_after_it_was_broken_off(run, tmp_path, kind):
    names = [f"viewer {n}" for n in range(40)]
    rows = [
        {"session_key": key(name).hex(), "content_id": CONTENT, "max_bytes": 1_000 + n}
        for n, name in enumerate(names)
    ]
    file = tmp_path / f"orders.{kind}"
    if kind == "csv":
        lines = [",".join(rows[0])] + [",".join(map(str, row.values())) for row in rows]
    else:
        lines = [json.dumps(row) for row in rows]
    # The first run got only half of the file.
    file.write_text("\n".join(lines[:21]) + "\n")
    code, half, err = run("--batch", file)
    assert (code, err) == (0, "")
    file.write_text("\n".join(lines) + "\n")
    code, _, _ = run("--batch", file, "--out", tmp_path / "answers")
    assert code == 0
    text = (tmp_path / "answers").read_text()
    assert text.startswith(half)
    answers = [json.loads(line) for line in text.splitlines()]
    assert [answer["session_key"] for answer in answers] == [row["session_key"] for row in rows]
    assert [answer["max_bytes"] for answer in answers] == [row["max_bytes"] for row in rows]
    assert len({answer["serial"] for answer in answers}) == len(rows)
    assert (tmp_path / "issued").stat().st_size == len(rows) * ENTITLEMENT.size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no order"),
        ("session_key,content_id\n", "no order"),
        (f"session_key,content_id\nab,{CONTENT}\n", "line 2: session_key"),
        (f"session_key,content_id\n{'00' * 32},{CONTENT}\n", "line 2: session_key"),
        (f"session_key,colour\n{key('ann').hex()},red\n", "line 2: colour"),
        (f"session_key,content_id\n{key('ann').hex()},{CONTENT},7\n", "line 2"),
        (f"session_key,content_id,max_bytes\n{key('ann').hex()},{CONTENT},-1\n", "max_bytes"),
        ('{"session_key": \n', "after line 0"),
        (f'{{"session_key": "{key("ann").hex()}"}}\n', "line 1: content_id"),
    ],
)
def test_a_wrong_line_of_a_batch_is_named_and_nothing_is_issued(run, tmp_path, text, said):
    file = tmp_path / "orders"
    file.write_text(text)
    code, out, err = run("--batch", file)
    assert (code, out) == (1, "")
    assert said in err
    assert (tmp_path / "issued").read_bytes() == b""


def test_another_issuing_key_than_the_terms_is_refused(run, tmp_path):
    other = write_seed(tmp_path / "other.seed", "other")
    one = ("--session-key", key("ann").hex(), "--content", CONTENT)
    code, _, err = run(*one, "--issuing-key", other)
    assert code == 1
    assert "issuing-key" in err


@pytest.fixture
def back_end(tmp_path: Path) -> Iterator[httpx.Client]:
    issued = IssuedFile(tmp_path / "issued")
    issuer = Issuer(
        terms=Operator().signed_terms,
        issuing_seed=seed("issuing"),
        caps=Caps(max_bytes=1_000_000, valid_s=600),
        issued=issued,
        now_s=lambda: NOW_S,
        total_bytes=2_500_000,
    )
    with serve_app(make_issuer_app(issuer, token=TOKEN)) as client:
        yield client
    issued.close()


def post(client: httpx.Client, *orders: dict[str, Any], token: str = TOKEN) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    return client.post("/v1/issue", json={"orders": list(orders)}, headers=headers)


def order(name: str = "ann", **changes: Any) -> dict[str, Any]:
    return {"session_key": key(name).hex(), "content_id": CONTENT} | changes


def test_a_player_back_end_is_answered_the_same_twice_and_durably(back_end, tmp_path):
    first = post(back_end, order("ann", max_bytes=7), order("bob", valid_s=60))
    assert first.status_code == 200
    ann, bob = first.json()["entitlements"]
    assert (ann["max_bytes"], bob["not_after_s"]) == (7, NOW_S + 60)
    assert (tmp_path / "issued").stat().st_size == 2 * ENTITLEMENT.size
    assert post(back_end, order("bob", valid_s=60), order("ann", max_bytes=7)).json() == {
        "entitlements": [bob, ann]
    }
    assert (tmp_path / "issued").stat().st_size == 2 * ENTITLEMENT.size
    out = back_end.get("/v1/issued").json()
    assert (out["live"], out["uncapped"], out["max_bytes"]) == (2, 1, 7)


def test_a_repeated_order_with_other_caps_is_a_conflict_and_issues_nothing(back_end, tmp_path):
    post(back_end, order("ann", max_bytes=7))
    answer = post(back_end, order("bob"), order("ann", max_bytes=8))
    assert (answer.status_code, answer.json()["code"]) == (409, "order_differs")
    assert (tmp_path / "issued").stat().st_size == ENTITLEMENT.size


@pytest.mark.parametrize("token", ["another token", TOKEN + "x", TOKEN[:-1]])
def test_without_the_token_nothing_is_issued(back_end, tmp_path, token):
    answer = post(back_end, order(), token=token)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    bare = back_end.post("/v1/issue", json={"orders": [order()]})
    assert bare.status_code == 401
    assert (tmp_path / "issued").read_bytes() == b""


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"orders": []}', b'{"orders": [7]}', b"{" * 2000,
     b'{"orders": [{"session_key": 7, "content_id": ""}]}'],
)  # fmt: skip
def test_a_malformed_request_is_refused(back_end, body):
    answer = back_end.post("/v1/issue", content=body, headers={"authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


def test_a_viewer_that_used_its_entitlement_up_gets_the_next_until_the_total(back_end):
    binding = make_binding("ann", "ann account").raw

    def ask(after: str = "") -> httpx.Response:
        params = {"content_id": CONTENT} | ({"after": after} if after else {})
        return back_end.post("/v1/entitlements", params=params, content=binding)

    first = ENTITLEMENT.parse(ask().content)
    assert ask().content == first.raw
    second = ENTITLEMENT.parse(ask(first.digest.hex()).content)
    assert second.digest != first.digest
    # Asking for what comes after the first again is a repeated question, not a third entitlement.
    assert ask(first.digest.hex()).content == second.raw
    refused = ask(second.digest.hex())
    assert (refused.status_code, refused.json()["code"]) == (403, "cap_reached")


def test_a_token_file_that_others_can_read_or_that_is_short_is_refused(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="0600"):
        read_token(file)
    file.chmod(0o600)
    assert read_token(file) == TOKEN
    file.write_text("short")
    with pytest.raises(ConfigError, match="16"):
        read_token(file)


def revoke(tmp_path: Path, last_epoch: int, account: str = "broadcaster") -> int:
    known = BINDING.sign(
        Binding(
            network_id=NETWORK,
            account=key("broadcaster"),
            key=key("issuing"),
            role=Role.ISSUING,
            first_epoch=0,
            last_epoch=10_000,
            serial=1,
        ),
        seed("broadcaster"),
        seed("issuing"),
    )
    (tmp_path / "binding").write_bytes(known.raw)
    account_key = write_seed(tmp_path / "account.seed", account)
    issuing_key = write_seed(tmp_path / "issuing.seed", "issuing")
    return main(
        [
            *("revoke", "--account-key", str(account_key), "--issuing-key", str(issuing_key)),
            *("--binding", str(tmp_path / "binding"), "--last-epoch", str(last_epoch)),
            *("--out", str(tmp_path / "newer")),
        ]
    )


def test_revoking_makes_a_newer_binding_that_ends_with_the_epoch(tmp_path):
    assert revoke(tmp_path, 41) == 0
    signed = BINDING.parse((tmp_path / "newer").read_bytes())
    assert is_valid_binding(signed)
    assert signed.value.covers(Role.ISSUING, 41)
    assert not signed.value.covers(Role.ISSUING, 42)
    assert signed.value.serial > 1


def test_revoking_with_another_account_or_to_a_later_epoch_is_refused(tmp_path):
    assert revoke(tmp_path, 41, account="ann account") == 1
    (tmp_path / "account.seed").unlink()
    assert revoke(tmp_path, 10_000) == 1
    assert not (tmp_path / "newer").exists()
