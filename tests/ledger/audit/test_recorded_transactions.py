"""The small XDR reader against everything that stellar-core was recorded to apply."""

import base64
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stellar_sdk import xdr as stellar_xdr

from ledger.audit.address import parse_account
from ledger.audit.stellar_xdr import read_transaction
from ledger.audit.xdr import MalformedXdrError
from ledger.books.transactions import AppliedTransaction, NetworkFact

VECTORS = Path(__file__).parents[2] / "vectors" / "stellar"
BUMP_SEQUENCE = 11
ZEROS = bytes(32)

Place = tuple[bytes, str, bytes]
"""Account, asset code, issuer."""


# --- cases: one transaction each ------------------------------------------------------------------


def recorded() -> Iterator[dict[str, Any]]:
    with gzip.open(VECTORS / "cases.jsonl.gz", "rt") as lines:
        next(lines)
        for line in lines:
            case = json.loads(line)
            if case["outcome"].startswith("applied"):
                yield case


RECORDED = list(recorded())


def fact_from(case: dict[str, Any]) -> NetworkFact:
    return NetworkFact(
        network_id=sha256(case["network_passphrase"].encode()).digest(),
        ledger_sequence=case["ledger"]["seq"],
        close_time_s=case["ledger"]["close_time"],
        apply_order=case["apply_index"] or 0,
        envelope=base64.b64decode(case["envelope"]),
        result=base64.b64decode(case["result"]),
    )


def operation_types(envelope_xdr: str) -> set[int]:
    """Its operations' types, as the SDK reads them."""
    envelope = stellar_xdr.TransactionEnvelope.from_xdr(envelope_xdr)
    bump = envelope.fee_bump
    inner = bump.tx.inner_tx.v1.tx if bump else (envelope.v1 or envelope.v0).tx
    return {operation.body.type.value for operation in inner.operations}


def hash_told(case: dict[str, Any]) -> str:
    """Hash of the (inner) transaction."""
    if not stellar_xdr.TransactionEnvelope.from_xdr(case["envelope"]).fee_bump:
        return str(case["hash"])
    result = stellar_xdr.TransactionResult.from_xdr(case["result"]).result
    return str(result.inner_result_pair.transaction_hash.hash.hex())


def balances(entries: Sequence[dict[str, Any]]) -> dict[Place, int]:
    found: dict[Place, int] = {}
    for entry in entries:
        data = (entry["json"] or {"data": {}})["data"]
        if "account" in data:
            account = parse_account(data["account"]["account_id"])
            found[account, "XLM", ZEROS] = int(data["account"]["balance"])
        if "trustline" in data and isinstance(data["trustline"]["asset"], dict):
            line = data["trustline"]
            for asset in line["asset"].values():
                if isinstance(asset, dict) and "asset_code" in asset:
                    place = (
                        parse_account(line["account_id"]),
                        asset["asset_code"],
                        parse_account(asset["issuer"]),
                    )
                    found[place] = int(line["balance"])
    return found


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
def test_recorded_transaction_is_read_as_stellar_core_applied_it(case: dict[str, Any]) -> None:
    transaction = read_transaction(fact_from(case))
    assert transaction.tx_hash.hex() == hash_told(case)
    assert transaction.succeeded == (case["outcome"] == "applied_success")
    assert transaction.fee_charged_stroops == case["codes"]["fee_charged"]
    sequence = sequence_after(case, transaction.source_account)
    if sequence is not None and BUMP_SEQUENCE not in operation_types(case["envelope"]):
        assert transaction.is_sequence_consumed == (sequence >= transaction.sequence)


def sequence_after(case: dict[str, Any], account: bytes) -> int | None:
    for entry in case["post"] if isinstance(case["post"], list) else []:
        data = (entry["json"] or {"data": {}})["data"].get("account")
        if data and parse_account(data["account_id"]) == account:
            return int(data["seq_num"])
    return None


def changes_explained(transactions: Sequence[AppliedTransaction]) -> dict[Place, int]:
    """What the exact movements and the fees come to."""
    sums: dict[Place, int] = defaultdict(int)
    for transaction in transactions:
        sums[transaction.fee_account, "XLM", ZEROS] -= transaction.fee_charged_stroops
        for move in transaction.movements:
            if move.is_exact:
                sums[move.destination, move.asset_code, move.asset_issuer] += move.amount_stroops
                sums[move.source, move.asset_code, move.asset_issuer] -= move.amount_stroops
    return sums


def accounts_untold(transactions: Sequence[AppliedTransaction]) -> set[bytes]:
    """Accounts whose books would stop, were they ours."""
    moves = (move for transaction in transactions for move in transaction.movements)
    return {move.source for move in moves if not move.is_exact}


def comparable() -> list[dict[str, Any]]:
    return [
        case for case in RECORDED if not case.get("companions") and isinstance(case["post"], list)
    ]


@pytest.mark.parametrize("case", comparable(), ids=lambda case: case["name"])
def test_no_balance_changes_unless_told_exactly_or_told_to_be_untold(case: dict[str, Any]) -> None:
    transaction = read_transaction(fact_from(case))
    before, after = balances(case["pre"]), balances(case["post"])
    explained, untold = changes_explained([transaction]), accounts_untold([transaction])
    for place in after:
        if place[0] not in untold:
            assert after[place] - before.get(place, 0) == explained[place], place


def test_recordings_hold_what_these_tests_are_about() -> None:
    """Of both kinds: transactions that tell everything, and accounts of which they do not."""
    kinds = {kind for case in RECORDED for kind in operation_types(case["envelope"])}
    untold = [case for case in comparable() if accounts_untold([read_transaction(fact_from(case))])]
    assert {3, 12, 13, 14, 15, 18, 20} <= kinds
    assert 0 < len(untold) < len(comparable()) / 2


# --- random: ledgers of several transactions on a world -------------------------------------------


@cache
def random_ledgers() -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """The first line with the starting world, and the lines after it."""
    with gzip.open(VECTORS / "random.jsonl.gz", "rt") as lines:
        start, *ledgers = (json.loads(line) for line in lines)
    return start, tuple(ledgers)


def facts_of(ledger: dict[str, Any], passphrase: str) -> list[NetworkFact]:
    envelopes = {entry["hash"]: entry["envelope"] for entry in ledger["submitted"]}
    return [
        NetworkFact(
            network_id=sha256(passphrase.encode()).digest(),
            ledger_sequence=ledger["ledger"]["seq"],
            close_time_s=ledger["ledger"]["close_time"],
            apply_order=applied["index"],
            envelope=base64.b64decode(envelopes[applied["hash"]]),
            result=base64.b64decode(applied["result"]),
        )
        for applied in ledger["applied"]
    ]


def balance_of(entry_xdr: str) -> tuple[Place, int] | None:
    """Place and balance of an account or a trust line for an asset."""
    data = stellar_xdr.LedgerEntry.from_xdr(entry_xdr).data
    if data.account:
        key = data.account.account_id.account_id.ed25519.uint256
        return (key, "XLM", ZEROS), data.account.balance.int64
    credit = data.trust_line and (
        data.trust_line.asset.alpha_num4 or data.trust_line.asset.alpha_num12
    )
    if not credit:
        return None
    code = credit.asset_code
    raw = code.asset_code4 if hasattr(code, "asset_code4") else code.asset_code12
    issuer = credit.issuer.account_id.ed25519.uint256
    key = data.trust_line.account_id.account_id.ed25519.uint256
    return (key, raw.rstrip(b"\0").decode(), issuer), data.trust_line.balance.int64


def world_of(line: dict[str, Any]) -> dict[Place, int]:
    told = (balance_of(entry) for entry in line["world"].values())
    return dict(balance for balance in told if balance)


def test_random_ledgers_are_read_and_explain_every_balance() -> None:
    start, ledgers = random_ledgers()
    world = world_of(start)
    read, compared = 0, 0
    for ledger in ledgers:
        if "resync" in ledger:  # after ledgers that were not recorded, the whole world again
            world = world_of(ledger)
            continue
        facts = facts_of(ledger, start["passphrase"])
        transactions = [read_transaction(fact) for fact in facts]
        read += len(transactions)
        for fact, transaction, applied in zip(facts, transactions, ledger["applied"], strict=True):
            assert fact.apply_order == transaction.apply_order
            assert transaction.succeeded == (applied["codes"]["tx"] in SUCCEEDED)
            assert transaction.fee_charged_stroops == applied["codes"]["fee_charged"]
        explained, untold = changes_explained(transactions), accounts_untold(transactions)
        for entry in ledger["changes"].values():
            told = balance_of(entry) if entry else None
            if told is None:
                continue
            place, balance = told
            if place[0] not in untold:
                assert balance - world.get(place, 0) == explained[place], place
                compared += 1
            world[place] = balance
    assert read > 200
    assert compared > 200


SUCCEEDED = {"txSUCCESS", "txFEE_BUMP_INNER_SUCCESS"}


# --- damaged --------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(
    case=st.sampled_from(RECORDED),
    part=st.sampled_from(["envelope", "result"]),
    cut=st.integers(0, 400),
)
def test_truncated_input_is_malformed_and_nothing_else(
    case: dict[str, Any], part: str, cut: int
) -> None:
    fact = fact_from(case)
    data = getattr(fact, part)
    with pytest.raises(MalformedXdrError):
        read_transaction(replace(fact, **{part: data[: cut % len(data)]}))


@settings(max_examples=300)
@given(
    case=st.sampled_from(RECORDED),
    part=st.sampled_from(["envelope", "result"]),
    at=st.integers(0, 400),
    patch=st.binary(min_size=1, max_size=4),
)
def test_overwritten_input_is_read_or_malformed_and_nothing_else(
    case: dict[str, Any], part: str, at: int, patch: bytes
) -> None:
    fact = fact_from(case)
    data = getattr(fact, part)
    at %= len(data)
    changed = (data[:at] + patch + data[at + len(patch) :])[: len(data)]
    try:
        read_transaction(replace(fact, **{part: changed}))
    except MalformedXdrError:
        return
