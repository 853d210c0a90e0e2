"""`swarmledger broadcaster init` and `terms`: what is signed, shown and refused in one line."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import builders
import pytest
from stellar_sdk import MuxedAccount, StrKey
from stellar_sdk.sep.stellar_uri import PayStellarUri

from ledger.api.broadcaster_command import main
from ledger.audit.address import format_account, format_muxed
from ledger.books.deposits import deposit_id
from ledger.evidence.binding import BINDING, Role, is_valid_binding
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.keys import network_id_of, public_key_of
from ledger.evidence.terms import parse_terms, require_valid_terms
from ledger.store.shard_store import parse_registration

PASSPHRASE = "swarmledger setup tests ; 2026"
Run = Callable[..., tuple[int, str, str]]


def address(name: str) -> str:
    return format_account(builders.key_of(name))


def init_arguments(folder: Path) -> dict[str, str]:
    return {
        "--passphrase": PASSPHRASE,
        "--escrow": address("escrow"),
        "--payout": address("payout"),
        "--anchor": address("anchor"),
        "--channel": address("channel 0"),
        "--asset": f"USD:{address('issuer')}",
        "--price": "0.01",
        "--per": "GB",
        "--fee-ppm": "50000",
        "--log-key": builders.key_of("log").hex(),
        "--log-origin": "log.example/one",
        "--collector": "https://collector.example",
        "--genesis": "1800000000",
        "--budget": "1000",
        "--daily-cap": "100",
        "--low-balance": "25.5",
        "--deposit": "12.5",
    }


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(str(stop.code))
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def init(run: Run, folder: Path, **changes: str | None) -> tuple[int, str, str]:
    values = init_arguments(folder) | {
        f"--{name.replace('_', '-')}": value for name, value in changes.items()
    }
    pairs = [part for name, value in values.items() if value is not None for part in (name, value)]
    return run("init", folder, *pairs, "--no-qr")


def made(run: Run, folder: Path, **changes: str | None) -> dict[str, Any]:
    code, out, error = init(run, folder, **changes)
    assert (code, error) == (0, "")
    document: dict[str, Any] = json.loads(out)
    return document


def made_with(run: Run, folder: Path, *more: str) -> tuple[int, str, str]:
    pairs = [part for pair in init_arguments(folder).items() for part in pair]
    return run("init", folder, *pairs, *more, "--no-qr")


# --- init -----------------------------------------------------------------------------------------


def test_any_field_of_first_terms_can_be_set(run: Run, tmp_path: Path) -> None:
    code, _, error = made_with(run, tmp_path / "a", "--set", "challenge_window_s=3600")
    assert (code, error) == (0, "")
    terms = parse_terms((tmp_path / "a" / "broadcaster.terms").read_bytes()).value
    assert terms.challenge_window_s == 3_600
    for text in ("challenge_window_s=soon", "genesis_s=1", "nothing=1", "challenge_window_s"):
        code, _, error = made_with(run, tmp_path / "b", "--set", text)
        assert code == 2
        assert error.count("\n") == 1
        assert not (tmp_path / "b").exists()


def test_first_terms_and_binding_register_a_broadcaster(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    made(run, folder)
    signed = parse_terms((folder / "broadcaster.terms").read_bytes())
    require_valid_terms(signed)
    terms = signed.value
    assert terms.network_id == network_id_of(PASSPHRASE)
    assert (terms.price_stroops, terms.price_quantity_bytes) == (100_000, 10**9)
    binding = BINDING.parse((folder / "issuing.binding").read_bytes())
    assert is_valid_binding(binding)
    assert (binding.value.role, binding.value.key) == (Role.ISSUING, terms.issuing_key)
    seed = bytes.fromhex((folder / "broadcaster.seed").read_text())
    assert public_key_of(seed) == terms.broadcaster_account == binding.value.account
    dao = builders.activation(
        network_id=terms.network_id,
        broadcaster_account=terms.broadcaster_account,
        rules_digest=terms.rules_digest,
    )
    registration = parse_registration(terms=signed.raw, binding=binding.raw, activation=dao.raw)
    assert registration.terms.value == terms


def test_what_is_secret_is_private_and_never_printed(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    code, out, error = init(run, folder)
    assert code == 0
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("broadcaster.seed", "issuing.seed"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
        assert (folder / name).read_text().strip() not in out + error


def test_given_account_key_is_used_and_not_copied(run: Run, tmp_path: Path) -> None:
    key = tmp_path / "account.seed"
    key.touch(mode=0o600)
    key.write_text(builders.seed_of("broadcaster").hex())
    folder = tmp_path / "one"
    assert made(run, folder, account_key=str(key))["account"] == address("broadcaster")
    assert not (folder / "broadcaster.seed").exists()


def test_deposit_link_is_what_wallets_read(run: Run, tmp_path: Path) -> None:
    document = made(run, tmp_path / "one")
    deposit = document["deposit"]
    number = deposit_id(StrKey.decode_ed25519_public_key(document["account"]))
    wallet = PayStellarUri.from_uri(deposit["link"])
    assert (wallet.destination, wallet.amount) == (address("escrow"), "12.5000000")

    assert (wallet.asset_code, wallet.asset_issuer) == ("USD", address("issuer"))
    assert (wallet.memo_type, str(wallet.memo)) == ("MEMO_ID", str(number))
    assert deposit["memo_id"] == str(number)
    assert wallet.network_passphrase == PASSPHRASE
    muxed = MuxedAccount.from_account(deposit["muxed"])
    assert (muxed.account_id, muxed.account_muxed_id) == (address("escrow"), number)
    query = parse_qs(urlsplit(deposit["link_muxed"]).query)
    assert query["destination"] == [deposit["muxed"]]
    assert "memo" not in query


def test_qr_codes_are_written_and_drawn(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    pairs = [part for pair in init_arguments(folder).items() for part in pair]
    code, out, drawn = run("init", folder, *pairs)
    assert code == 0
    assert json.loads(out)["deposit"]["png"] == str(folder / "deposit.png")
    assert (folder / "deposit.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert b"<svg" in (folder / "deposit.svg").read_bytes()
    assert len(drawn.splitlines()) > 20


def test_stellar_toml_names_accounts_currency_and_network(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    account = made(run, folder, organisation='Films & "Friends"', web_auth="https://a.example/auth")
    document = tomllib.loads((folder / "stellar.toml").read_text("utf-8"))
    assert document["NETWORK_PASSPHRASE"] == PASSPHRASE
    assert document["ACCOUNTS"] == [account["account"], address("escrow"), address("payout")]
    assert document["WEB_AUTH_ENDPOINT"] == "https://a.example/auth"
    assert document["DOCUMENTATION"] == {"ORG_NAME": 'Films & "Friends"'}
    (currency,) = document["CURRENCIES"]
    assert (currency["code"], currency["issuer"]) == ("USD", address("issuer"))


def test_xlm_is_an_asset_without_an_issuer(run: Run, tmp_path: Path) -> None:
    document = made(run, tmp_path / "one", asset="XLM")
    assert document["asset"] == "XLM"
    assert "asset_code" not in document["deposit"]["link"]


def test_settings_are_in_stroops(run: Run, tmp_path: Path) -> None:
    made(run, tmp_path / "one")
    settings = json.loads((tmp_path / "one" / "broadcaster.json").read_text())
    names = ("budget_stroops", "daily_stroops", "low_balance_stroops")
    assert [settings[name] for name in names] == [10**10, 10**9, 255_000_000]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("escrow", "GABC"),
        ("channel", "x"),
        ("channel", None),
        ("asset", "USD"),
        ("asset", "US D:" + "G" * 56),
        ("price", "1,5"),
        ("price", "0.00000001"),
        ("price", "."),
        ("price", "99999999999999999999"),
        ("per", "GBit"),
        ("per", "0"),
        ("fee_ppm", "1000001"),
        ("fee_ppm", "-1"),
        ("fee_ppm", "much"),
        ("rules", "no-such-rules"),
        ("log_key", "ab"),
        ("log_origin", "x" * 65),
        ("collector", "y" * 129),
        ("genesis", "soon"),
        ("epoch_seconds", "0"),
        ("payout_threshold", "0"),
        ("budget", "-1"),
        ("low_balance", "1e3"),
        ("account_key", "/nonexistent"),
        ("signing_key", "M"),
        ("escrow", None),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    run: Run, tmp_path: Path, name: str, value: str | None
) -> None:
    folder = tmp_path / "one"
    code, out, error = init(run, folder, **{name: value})
    assert (code, out) == (2, "")
    assert len(error.splitlines()) == 1
    assert error.startswith("swarmledger broadcaster")
    assert not folder.exists()


def test_folder_that_is_there_is_left_alone(run: Run, tmp_path: Path) -> None:
    code, _, error = init(run, tmp_path)
    assert (code, len(error.splitlines())) == (2, 1)
    assert list(tmp_path.iterdir()) == []


def test_muxed_address_is_the_sdks() -> None:
    for number in (0, 1, (1 << 64) - 1):
        text = format_muxed(builders.key_of("escrow"), number)
        assert text == MuxedAccount(address("escrow"), number).account_muxed
    for key, number in ((bytes(31), 0), (bytes(32), 1 << 64), (bytes(32), -1)):
        with pytest.raises(MalformedRecordError):
            format_muxed(key, number)


# --- terms ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Path:
    made(run, tmp_path / "one")
    return tmp_path / "one"


def sign_next(run: Run, folder: Path, *arguments: object, epoch: int = 7) -> tuple[int, str, str]:
    return run(
        "terms", folder / "broadcaster.terms", "--first-epoch", epoch,
        "--issuing-key", folder / "issuing.seed", "--out", folder / "next.terms", *arguments,
    )  # fmt: skip


def test_new_price_is_a_new_price_version(run: Run, folder: Path) -> None:
    code, out, _ = sign_next(run, folder, "--price", "0.02", "--per", "GiB")
    assert code == 0
    signed = parse_terms((folder / "next.terms").read_bytes())
    require_valid_terms(signed)
    terms = signed.value
    assert (terms.price_version, terms.price_stroops, terms.first_epoch) == (2, 200_000, 7)
    assert set(json.loads(out)["changed"]) == {
        "price_version", "price_stroops", "price_quantity_bytes", "first_epoch",
    }  # fmt: skip


def test_same_price_keeps_its_version(run: Run, folder: Path) -> None:
    code, _, _ = sign_next(run, folder, "--price", "0.01", "--set", "address_delay_s=60")
    assert code == 0
    assert parse_terms((folder / "next.terms").read_bytes()).value.price_version == 1


def test_channels_windows_and_keys_change(run: Run, folder: Path) -> None:
    code, _, error = sign_next(
        run, folder,
        "--add-channel", address("channel 1"), "--remove-channel", address("channel 0"),
        "--set", "attempt_window_s=600", "--set", f"log_key={builders.key_of('next log').hex()}",
        "--set", f"fee_account={address('fees')}", "--set", "collector_url=https://other.example",
    )  # fmt: skip
    assert (code, error) == (0, "")
    terms = parse_terms((folder / "next.terms").read_bytes()).value
    assert terms.channel_accounts == (builders.key_of("channel 1"),)
    assert (terms.attempt_window_s, terms.collector_url) == (600, "https://other.example")
    assert terms.log_key == builders.key_of("next log")
    assert terms.fee_account == builders.key_of("fees")


def test_new_issuing_key_signs_and_is_bound(run: Run, folder: Path) -> None:
    key = folder / "next.seed"
    key.touch(mode=0o600)
    key.write_text(builders.seed_of("next issuing").hex())
    code, _, error = sign_next(
        run, folder, "--new-issuing-key", key, "--account-key", folder / "broadcaster.seed",
        "--binding-out", folder / "next.binding",
    )  # fmt: skip
    assert (code, error) == (0, "")
    signed = parse_terms((folder / "next.terms").read_bytes())
    require_valid_terms(signed)
    assert signed.value.issuing_key == builders.key_of("next issuing")
    binding = BINDING.parse((folder / "next.binding").read_bytes())
    assert is_valid_binding(binding)
    assert (binding.value.key, binding.value.first_epoch) == (signed.value.issuing_key, 7)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--price", "much"),
        ("--set", "genesis_s=1"),
        ("--set", "network_id=" + "00" * 32),
        ("--set", "no_such_field=1"),
        ("--set", f"escrow_account={address('mallory')}"),
        ("--set", f"anchor_account={address('mallory')}"),
        ("--set", "grace_s=60"),
        ("--set", "address_delay_s"),
        ("--set", "address_delay_s=-1"),
        ("--set", "address_delay_s=99999999999"),
        ("--set", "log_key=ab"),
        ("--set", "attempt_window_s=0"),
        ("--remove-channel", address("channel 9")),
        ("--remove-channel", address("channel 0")),
        ("--new-issuing-key", "/nonexistent"),
    ],
)
def test_wrong_change_is_one_line_and_writes_nothing(
    run: Run, folder: Path, arguments: tuple[str, ...]
) -> None:
    code, out, error = sign_next(run, folder, *arguments)
    assert (code, out) == (2, "")
    assert len(error.splitlines()) == 1
    assert not (folder / "next.terms").exists()


@pytest.mark.parametrize("epoch", [0, -1, 1 << 32])
def test_new_terms_begin_after_the_old_ones(run: Run, folder: Path, epoch: int) -> None:
    code, _, error = sign_next(run, folder, "--price", "2", epoch=epoch)
    assert code == 2
    assert "first-epoch" in error


def test_key_that_did_not_sign_the_old_terms_signs_no_new_ones(run: Run, folder: Path) -> None:
    key = folder / "other.seed"
    key.touch(mode=0o600)
    key.write_text(builders.seed_of("other").hex())
    code, _, error = run(
        "terms", folder / "broadcaster.terms", "--first-epoch", 7, "--issuing-key", key,
        "--out", folder / "next.terms", "--price", "2",
    )  # fmt: skip
    assert code == 2
    assert "issuing-key" in error
