"""Each of the treasury's keys lost or stolen, and what its holders do about it, on a devnet."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from settlement_scene import PASSPHRASE, DevnetProcess
from stellar_sdk import Account, Asset, Keypair, TransactionBuilder

from ledger.audit.address import format_account, parse_account
from ledger.evidence.keys import public_key_of
from ledger.stellar.command import main
from ledger.stellar.envelopes import (
    Bounds,
    attach_signatures,
    build_anchor,
    own_demands,
    unsigned_transaction,
)
from ledger.stellar.errors import TreasuryError
from ledger.stellar.horizon import HorizonGateway
from ledger.stellar.rotation import Cosigned, add_signature, propose_rotation
from ledger.stellar.seed_files import read_seed, write_secret
from ledger.stellar.signing import KeySignature, SeedKeys
from ledger.stellar.treasury import choose_keys, read_signers, treasury_of_accounts

pytestmark = pytest.mark.process
REPOSITORY = Path(__file__).parents[3]


def seed(name: str) -> bytes:
    return sha256(f"key loss {name}".encode()).digest()


def address(name: str) -> str:
    return format_account(public_key_of(seed(name)))


@dataclass
class Accounts:
    """A treasury that `stellar setup` made, and commands on it."""

    devnet: DevnetProcess
    folder: Path
    capsys: pytest.CaptureFixture[str]
    gateway: HorizonGateway
    made: dict[str, Any]

    def run(self, command: str, *arguments: str, fails: bool = False) -> dict[str, Any]:
        options = ["--gateway", self.devnet.url, "--passphrase", PASSPHRASE, "--json"]
        with self.devnet.closing():
            code = main([command, *arguments, *options])
        told = self.capsys.readouterr()
        assert code == fails, told.err
        return {"error": told.err} if fails else json.loads(told.out)

    def key_file(self, name: str) -> str:
        path = self.folder / f"{name}.seed"
        if not path.exists():
            write_secret(path, seed(name).hex())
        return str(path)

    def wanted(self, *settlers: str, operator: dict[str, str] | None = None) -> list[str]:
        options = ["--accounts", str(self.folder / "setup.json"), "--threshold", "2"]
        for account, name in (operator or {}).items():
            options += ["--operator-key", f"{account}={address(name)}"]
        return [*options, "--settlers", *map(address, settlers)]

    def rotate(self, wanted: list[str], *key_files: str) -> dict[str, Any]:
        """Propose, have the holders of these files sign, send."""
        file = str(self.folder / "rotation.json")
        proposed = self.run("rotate", "--out", file, *wanted)
        assert proposed["does"]
        for key_file in key_files:
            self.run("sign", file, "--key-file", key_file)
        done = self.run("submit", file)
        assert self.run("submit", file) == done
        assert self.run("signers", *wanted)["is_as_wanted"]
        return proposed


@pytest.fixture
def accounts(
    devnet: DevnetProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Accounts]:
    gateway = HorizonGateway(devnet.url, PASSPHRASE)
    scene = Accounts(devnet, tmp_path, capsys, gateway, {})
    setup = ["--keys-dir", str(tmp_path / "keys"), "--fee-account", "--threshold", "2"]
    setup += ["--settlers", *map(address, ("a", "b", "c"))]
    scene.made = scene.run("setup", *setup)
    (tmp_path / "setup.json").write_text(json.dumps(scene.made))
    assert scene.made["treasury"]["is_as_wanted"]
    # Again: nothing is left to do, and nothing is done.
    again = scene.run("setup", *setup)
    assert again["treasury"] == scene.made["treasury"]
    yield scene
    gateway.close()


def operator_file(scene: Accounts, name: str) -> str:
    return str(scene.folder / "keys" / "operator" / f"{name}.seed")


def test_settler_whose_key_is_lost_or_stolen_is_replaced_by_the_others(accounts: Accounts) -> None:
    wanted = accounts.wanted("a", "b", "d")
    shown = accounts.run("signers", *wanted)
    assert not shown["is_as_wanted"]
    escrow = accounts.made["accounts"]["escrow"]
    assert shown["accounts"][escrow]["differs"] == sorted(
        [
            f"signer {address('c')}: got weight 1, want 0",
            f"signer {address('d')}: got weight 0, want 1",
        ],
        key=lambda line: parse_account(line.split()[1].rstrip(":")),
    )
    file = str(accounts.folder / "rotation.json")
    accounts.run("rotate", "--out", file, *wanted)
    accounts.run("sign", file, "--key-file", accounts.key_file("a"))
    # One settler and all the operator's keys are not enough.
    for name in ("anchor", "fee", "channel-0"):
        accounts.run("sign", file, "--key-file", operator_file(accounts, name))
    assert "want more" in accounts.run("submit", file, fails=True)["error"]
    accounts.rotate(wanted, accounts.key_file("a"), accounts.key_file("b"))
    signers = read_signers(accounts.gateway, [parse_account(escrow)])
    demands = own_demands(parse_account(escrow))
    keys = {name: public_key_of(seed(name)) for name in "abcd"}
    assert choose_keys(signers, demands, [keys["a"], keys["c"]]) is None
    assert choose_keys(signers, demands, [keys["b"], keys["d"]]) is not None


def test_operators_keys_that_are_lost_are_replaced_by_settlers(accounts: Accounts) -> None:
    lost = {
        name: read_seed(Path(operator_file(accounts, name)))
        for name in ("channel-0", "anchor", "fee")
    }
    addresses = {name: format_account(public_key_of(one)) for name, one in lost.items()}
    wanted = accounts.wanted(
        "a", "b", "c", operator={one: f"new {name}" for name, one in addresses.items()}
    )
    proposed = accounts.rotate(wanted, accounts.key_file("b"), accounts.key_file("c"))
    assert {line.partition(":")[0] for line in proposed["does"]} == set(addresses.values())
    for name, one in addresses.items():
        assert acts_alone(accounts, one, seed(f"new {name}"))
        assert not acts_alone(accounts, one, lost[name])
    # A key that may be known is replaced by the operator's own; no settler is needed.
    anchor = addresses["anchor"]
    again = accounts.wanted(
        "a", "b", "c",
        operator={
            addresses["channel-0"]: "new channel-0", anchor: "newer", addresses["fee"]: "new fee"
        },
    )  # fmt: skip
    accounts.rotate(again, accounts.key_file("new anchor"), accounts.key_file("new fee"))
    assert acts_alone(accounts, anchor, seed("newer"))
    assert not acts_alone(accounts, anchor, seed("new anchor"))


def test_proposal_stays_good_while_epochs_are_anchored_and_slots_used(accounts: Accounts) -> None:
    file = str(accounts.folder / "rotation.json")
    channel = public_key_of(read_seed(Path(operator_file(accounts, "channel-0"))))
    hot_only = accounts.wanted("a", "b", "c", operator={format_account(channel): "new channel-0"})
    for wanted in (hot_only, accounts.wanted("a", "b", "d")):
        accounts.run("rotate", "--out", file, *wanted)
        for name in ("anchor", "channel-1"):
            seed_file = Path(operator_file(accounts, name))
            account = format_account(public_key_of(read_seed(seed_file)))
            assert acts_alone(accounts, account, read_seed(seed_file))
        for name in ("a", "b"):
            accounts.run("sign", file, "--key-file", accounts.key_file(name))
        assert accounts.run("submit", file)


def test_without_a_fee_account_a_proposal_takes_escrows_sequence(accounts: Accounts) -> None:
    made = accounts.made["accounts"]
    hot = [*map(parse_account, made["channels"]), parse_account(made["anchor"])]
    escrow = parse_account(made["escrow"])
    treasury = treasury_of_accounts(
        (escrow, parse_account(made["payout"])),
        hot,
        settlers=[public_key_of(seed(name)) for name in "abc"],
        threshold=2,
        operator_keys={hot[0]: public_key_of(seed("new channel-0"))},
    )
    proposed = propose_rotation(
        accounts.gateway, treasury, PASSPHRASE, fee_account=None, valid_s=600
    )
    assert proposed is not None
    assert proposed.transaction().transaction.source.account_id == made["escrow"]


def acts_alone(scene: Accounts, account: str, key_seed: bytes) -> bool:
    """Tell whether the network takes a no-op of an account that one key has signed."""
    key = parse_account(account)
    view, now = scene.gateway.account(key), scene.gateway.latest_ledger()
    assert view is not None
    unsigned = build_anchor(
        b"\x07" * 32,
        key,
        sequence=view.sequence + 1,
        bounds=Bounds(max_ledger_sequence=now.sequence + 50, max_time_s=now.close_time_s + 500),
        fee_bid_stroops=100,
        passphrase=PASSPHRASE,
    )
    holder = SeedKeys({public_key_of(key_seed): key_seed})
    (one,) = holder.keys
    transaction = unsigned_transaction(unsigned)
    signed = KeySignature(key=one, signature=holder.sign(transaction, one))
    answer = scene.gateway.submit(attach_signatures(unsigned, [signed]).envelope)
    scene.devnet.close_ledgers()
    return scene.gateway.transaction(transaction.tx_hash) is not None and not answer.code


def test_only_signers_and_thresholds_are_ever_cosigned() -> None:
    """Whoever asks for a rotation's signature cannot have a payment signed."""
    pair = Keypair.from_raw_ed25519_seed(seed("a"))
    builder = TransactionBuilder(Account(pair.public_key, 1), PASSPHRASE).add_time_bounds(0, 0)
    envelope = builder.append_payment_op(address("thief"), Asset.native(), "1").build()
    asked = Cosigned(passphrase=PASSPHRASE, envelope=envelope.to_xdr_object().to_xdr_bytes())
    holder = SeedKeys({public_key_of(seed("a")): seed("a")})
    with pytest.raises(TreasuryError, match="want signers and thresholds only"):
        add_signature(asked, holder, public_key_of(seed("a")))


def test_every_key_in_the_security_page_has_a_drill_that_exists() -> None:
    page = (REPOSITORY / "SECURITY.md").read_text("utf-8")
    table = page.split("\n## Keys\n")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) > 15
    drills = re.findall(r"`(tests/[\w/]+\.py)` (\w+)", table)
    assert len(drills) >= 12
    for path, name in drills:
        assert f"def {name}(" in (REPOSITORY / path).read_text("utf-8"), (path, name)
