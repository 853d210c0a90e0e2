"""Co-signing's messages: as FORMATS.md shows them, strict, and nothing passes for another."""

import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.keys import public_key_of, verify
from ledger.stellar.cosigning import (
    Reason,
    Refusal,
    audit_request_message,
    format_cosignature,
    format_refusal,
    parse_cosignature,
    parse_refusal,
    parse_wanted,
    sign_refusal,
)
from ledger.stellar.seed_files import decrypt_seed
from ledger.stellar.signing import Demand, SeedKeys, Threshold
from ledger.stellar.treasury import SignerSet, choose_keys

SEED = sha256(b"format example settler").digest()
KEY = public_key_of(SEED)
TX = sha256(b"format example transaction").digest()


def examples() -> list[str]:
    page = (Path(__file__).parents[3] / "FORMATS.md").read_text("utf-8")
    section = page.split("\n## Keys and co-signing\n")[1].split("\n## ")[0]
    return [found.strip() for found in re.findall(r"```text\n(.*?)```", section, re.DOTALL)]


def test_examples_of_the_format_page_are_read_and_written_back() -> None:
    seed_line, cosignature, refusal = examples()
    assert decrypt_seed("example", seed_line, b"example passphrase") == SEED
    raw = bytes.fromhex(cosignature.replace("\n", ""))
    tx_hash, signed = parse_cosignature(raw)
    assert (tx_hash, signed.key) == (TX, KEY)
    assert verify(KEY, TX, signed.signature)
    assert format_cosignature(tx_hash, signed) == raw
    raw = bytes.fromhex(refusal.replace("\n", ""))
    said = parse_refusal(raw)
    assert (said.reason, said.detail) == (Reason.HASH_DIFFERS, "batch 7")
    assert said.is_valid(bytes(32))
    assert not said.is_valid(bytes(31) + b"\1")
    assert format_refusal(said) == raw


def refusal(detail: str = "why") -> Refusal:
    holder = SeedKeys({KEY: SEED})
    return sign_refusal(holder, KEY, bytes(32), TX, Reason.LEAF_UNKNOWN, detail)


@given(detail=st.text(max_size=700))
def test_refusal_with_any_detail_is_read_back(detail: str) -> None:
    made = refusal(detail)
    again = parse_refusal(format_refusal(made))
    assert again == made
    assert again.is_valid(bytes(32))
    assert len(again.detail.encode()) <= 500


@given(data=st.binary(max_size=800))
def test_other_bytes_are_malformed_or_print_back(data: bytes) -> None:
    try:
        assert format_refusal(parse_refusal(data)) == data
    except MalformedRecordError:
        assert not data or parse_fails(data)


def parse_fails(data: bytes) -> bool:
    with pytest.raises(MalformedRecordError):
        parse_refusal(data)
    return True


@pytest.mark.parametrize(
    "change", [{"reason": Reason.HASH_DIFFERS}, {"detail": "wh"}, {"tx_hash": bytes(32)}]
)
def test_changed_refusal_is_not_its_signers(change: dict[str, object]) -> None:
    assert refusal().is_valid(bytes(32))
    assert not replace(refusal(), **change).is_valid(bytes(32))  # type: ignore[arg-type]


def test_no_message_is_as_long_as_a_transactions_hash() -> None:
    """Or a signature asked for one purpose would serve another."""
    assert len(audit_request_message(bytes(32), bytes(32), 1)) > 32


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        {},
        {"epoch": -1, "batch_number": 0, "attempt": 0, "tx_hash": "00" * 32},
        {"epoch": True, "batch_number": 0, "attempt": 0, "tx_hash": "00" * 32},
        {"epoch": 1 << 32, "batch_number": 0, "attempt": 0, "tx_hash": "00" * 32},
        {"epoch": 0, "batch_number": 0, "attempt": 0, "tx_hash": "00"},
        {"epoch": 0, "batch_number": 0, "attempt": 0, "tx_hash": "zz" * 32},
    ],
)
def test_wanted_that_is_none_is_malformed(row: object) -> None:
    with pytest.raises(MalformedRecordError):
        parse_wanted(row)


KEYS = [sha256(bytes([number])).digest() for number in range(6)]
signer_sets = st.builds(
    lambda weights, need: SignerSet(weights=weights, thresholds=(need, need, need)),
    weights=st.dictionaries(st.sampled_from(KEYS), st.integers(1, 4), max_size=6),
    need=st.integers(0, 8),
)


def network_checks(sets: list[SignerSet], keys: list[bytes]) -> bool:
    """As stellar-core: signatures in order until the weight is there, and none unused."""
    used: set[bytes] = set()
    for who in sets:
        weight = 0
        for key in keys:
            if key in who.weights:
                used.add(key)
                weight += who.weights[key]
                if weight >= who.thresholds[0]:
                    break
        else:
            return False
        if weight < who.thresholds[0]:
            return False
    return used == set(keys)


@given(
    sets=st.lists(signer_sets, min_size=1, max_size=3),
    available=st.lists(st.sampled_from(KEYS), unique=True),
)
def test_chosen_keys_are_what_the_network_takes(
    sets: list[SignerSet], available: list[bytes]
) -> None:
    accounts = [bytes([number]) * 32 for number in range(len(sets))]
    signers = dict(zip(accounts, sets, strict=True))
    demands = [Demand(account=account, threshold=Threshold.MEDIUM) for account in accounts]
    chosen = choose_keys(signers, demands, available)
    if chosen is None:
        # Then no choice of them would do either, in this order or any.
        everything = sorted(available)
        assert not network_checks(sets, everything) or not available
    else:
        assert list(chosen) == sorted(chosen)
        assert set(chosen) <= set(available)
        assert network_checks(sets, list(chosen))
