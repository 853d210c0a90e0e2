"""Addresses: the same text as the SDK's, and nothing else parses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stellar_sdk import StrKey

from ledger.audit.address import format_account, parse_account
from ledger.evidence.errors import MalformedRecordError

ADDRESS = "GA5WMJMDCVNIEMEEWT7JJVUYOXNZFJFGNQNO2M6QQWCCXL2LCQTJNNEF"


@given(st.binary(min_size=32, max_size=32))
def test_round_trip_agrees_with_the_sdk(key: bytes) -> None:
    text = format_account(key)
    assert text == StrKey.encode_ed25519_public_key(key)
    assert parse_account(text) == key


def test_known_address() -> None:
    assert format_account(parse_account(ADDRESS)) == ADDRESS


@pytest.mark.parametrize("size", [0, 31, 33])
def test_key_of_another_length_is_malformed(size: int) -> None:
    with pytest.raises(MalformedRecordError):
        format_account(bytes(size))


def test_any_changed_letter_is_noticed() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    for place in range(56):
        for letter in alphabet:
            if letter != ADDRESS[place]:
                with pytest.raises(MalformedRecordError):
                    parse_account(ADDRESS[:place] + letter + ADDRESS[place + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "",
        ADDRESS[:-1],
        ADDRESS + "A",
        ADDRESS + "=",
        ADDRESS.lower(),
        " " + ADDRESS[1:],
        "1" + ADDRESS[1:],
        "Г" + ADDRESS[1:],
        StrKey.encode_ed25519_secret_seed(bytes(32)),
        StrKey.encode_pre_auth_tx(bytes(32)),
        StrKey.encode_sha256_hash(bytes(32)),
    ],
)
def test_text_that_is_no_account_is_malformed(text: str) -> None:
    with pytest.raises(MalformedRecordError):
        parse_account(text)
