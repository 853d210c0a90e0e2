"""Recovery phrases give the keys that every other Stellar wallet gives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mnemonic import Mnemonic
from stellar_sdk import Keypair, StrKey

from engine_plugin.account_address import AddressError, format_address, parse_address
from engine_plugin.recovery_phrase import (
    WORD_COUNTS,
    PhraseError,
    derive_account_seed,
    derive_seed,
    generate_phrase,
    parse_phrase,
)
from ledger.evidence.keys import public_key_of

# SEP-5, "Test Cases": phrase, passphrase, account index, address, secret key.
SEP5 = [
    (
        "illness spike retreat truth genius clock brain pass fit cave bargain toe",
        "",
        0,
        "GDRXE2BQUC3AZNPVFSCEZ76NJ3WWL25FYFK6RGZGIEKWE4SOOHSUJUJ6",
        "SBGWSG6BTNCKCOB3DIFBGCVMUPQFYPA2G4O34RMTB343OYPXU5DJDVMN",
    ),
    (
        (
            "resource asthma orphan phone ice canvas fire useful arch jewel impose vague theory"
            " cushion top"
        ),
        "",
        0,
        "GAVXVW5MCK7Q66RIBWZZKZEDQTRXWCZUP4DIIFXCCENGW2P6W4OA34RH",
        "SAKS7I2PNDBE5SJSUSU2XLJ7K5XJ3V3K4UDFAHMSBQYPOKE247VHAGDB",
    ),
    (
        (
            "bench hurt jump file august wise shallow faculty impulse spring exact slush thunder"
            " author capable act festival slice deposit sauce coconut afford frown better"
        ),
        "",
        0,
        "GC3MMSXBWHL6CPOAVERSJITX7BH76YU252WGLUOM5CJX3E7UCYZBTPJQ",
        "SAEWIVK3VLNEJ3WEJRZXQGDAS5NVG2BYSYDFRSH4GKVTS5RXNVED5AX7",
    ),
    (
        (
            "cable spray genius state float twenty onion head street palace net private method"
            " loan turn phrase state blanket interest dry amazing dress blast tube"
        ),
        "p4ssphr4se",
        0,
        "GDAHPZ2NSYIIHZXM56Y36SBVTV5QKFIZGYMMBHOU53ETUSWTP62B63EQ",
        "SAFWTGXVS7ELMNCXELFWCFZOPMHUZ5LXNBGUVRCY3FHLFPXK4QPXYP2X",
    ),
    (
        (
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon"
            " abandon about"
        ),
        "",
        0,
        "GB3JDWCQJCWMJ3IILWIGDTQJJC5567PGVEVXSCVPEQOTDN64VJBDQBYX",
        "SBUV3MRWKNS6AYKZ6E6MOUVF2OYMON3MIUASWL3JLY5E3ISDJFELYBRZ",
    ),
]


@pytest.mark.parametrize(("phrase", "passphrase", "index", "address", "secret"), SEP5)
def test_published_vector_gives_its_published_key(
    phrase: str, passphrase: str, index: int, address: str, secret: str
) -> None:
    seed = derive_account_seed(parse_phrase(phrase), index=index, passphrase=passphrase)
    assert StrKey.encode_ed25519_secret_seed(seed) == secret
    assert format_address(public_key_of(seed)) == address


def test_slip_0010_vector_1_gives_its_chain_of_keys() -> None:
    seed = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
    assert derive_seed(seed, ()).hex() == (
        "2b4be7f19ee27bbf30c667b642d5f4aa69fd169872f8fc3059c08ebae2eb19e7"
    )
    assert derive_seed(seed, (0,)).hex() == (
        "68e0fe46dfb67e368c75379acec591dad19df3cde26e63b93a8e704f1dade7a3"
    )


@settings(max_examples=15, deadline=None)
@given(
    entropy=st.sampled_from([16, 20, 24, 28, 32]).flatmap(
        lambda size: st.binary(min_size=size, max_size=size)
    ),
    index=st.integers(0, 2**31 - 1),
    passphrase=st.text(alphabet="aZ9 äß漢", max_size=12),
)
def test_keys_are_those_of_the_stellar_sdk(entropy: bytes, index: int, passphrase: str) -> None:
    phrase = Mnemonic("english").to_mnemonic(entropy)
    other = Keypair.from_mnemonic_phrase(phrase, passphrase=passphrase, index=index)
    seed = derive_account_seed(parse_phrase(phrase), index=index, passphrase=passphrase)
    assert seed == other.raw_secret_key()
    assert format_address(public_key_of(seed)) == other.public_key
    assert parse_address(other.public_key, "account") == other.raw_public_key()


@pytest.mark.parametrize("word_count", WORD_COUNTS)
def test_new_phrases_are_long_as_asked_valid_and_never_the_same(word_count: int) -> None:
    first, second = generate_phrase(word_count), generate_phrase(word_count)
    assert len(first.split()) == word_count
    assert parse_phrase(first) == first
    assert first != second


def test_phrase_is_read_as_people_type_it() -> None:
    phrase = SEP5[0][0]
    assert parse_phrase(f"  {phrase.upper()}\n".replace(" ", "  ")) == phrase


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got 0 words"),
        ("abandon " * 13, "got 13 words"),
        (SEP5[0][0].replace("brain", "brayn"), "word 7 is not in the English list"),
        (SEP5[0][0].replace("illness spike", "spike illness"), "checksum is wrong"),
    ],
)
def test_wrong_phrase_is_refused_and_none_of_its_words_shown(text: str, message: str) -> None:
    with pytest.raises(PhraseError, match=message) as caught:
        parse_phrase(text)
    assert not {word for word in text.split() if word in str(caught.value).split()} - {"a", "is"}


def test_word_count_and_index_out_of_range_are_refused() -> None:
    with pytest.raises(PhraseError, match="words: got 13"):
        generate_phrase(13)
    for index in (-1, 2**31):
        with pytest.raises(PhraseError, match="index: got"):
            derive_account_seed(SEP5[0][0], index=index)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        SEP5[0][3][:-1],
        SEP5[0][3][:-1] + "7",
        SEP5[0][3].lower(),
        SEP5[0][4],
        "é" * 56,
        "M" + SEP5[0][3][1:],
    ],
)
def test_what_is_no_account_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="payout_account: got") as caught:
        parse_address(text, "payout_account")
    assert SEP5[0][4] not in str(caught.value)
