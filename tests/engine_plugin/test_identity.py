import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.identity import (
    CLIENT_PREFIX,
    HandshakeHint,
    format_handshake,
    make_peer_id,
    parse_handshake,
    peer_id_commits,
)

KEY, SESSION = bytes(range(32)), bytes(range(100, 116))
TEXT = "swarmledger/1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8:6881"


def test_peer_id_is_prefix_and_commitment_to_key_and_session() -> None:
    expected = CLIENT_PREFIX + hashlib.sha256(KEY + SESSION).digest()[:12]
    assert make_peer_id(KEY, SESSION) == expected
    assert len(expected) == 20


@given(
    st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16), st.integers(0, 159)
)
def test_peer_id_with_any_bit_flipped_does_not_commit(key: bytes, session: bytes, bit: int) -> None:
    peer_id = bytearray(make_peer_id(key, session))
    assert peer_id_commits(bytes(peer_id), key, session)
    peer_id[bit // 8] ^= 1 << bit % 8
    assert not peer_id_commits(bytes(peer_id), key, session)


def test_peer_id_of_other_key_or_session_does_not_commit() -> None:
    peer_id = make_peer_id(KEY, SESSION)
    assert not peer_id_commits(peer_id, bytes(32), SESSION)
    assert not peer_id_commits(peer_id, KEY, bytes(16))


@pytest.mark.parametrize(("key", "session"), [(b"", SESSION), (KEY, b""), (KEY + b"x", SESSION)])
def test_wrong_length_is_an_error_to_make_and_a_no_to_check(key: bytes, session: bytes) -> None:
    with pytest.raises(ValueError, match="want"):
        make_peer_id(key, session)
    assert not peer_id_commits(bytes(20), key, session)


def test_handshake_text_is_as_specified() -> None:
    assert format_handshake(KEY, 6881) == TEXT
    assert parse_handshake(TEXT) == HandshakeHint(public_key=KEY, receipt_port=6881)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 65535))
def test_handshake_text_reads_back(key: bytes, port: int) -> None:
    hint = HandshakeHint(public_key=key, receipt_port=port)
    assert parse_handshake(format_handshake(key, port)) == hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "qBittorrent/4.5.2",
        TEXT + " ",
        TEXT + "\n",
        " " + TEXT,
        TEXT.replace("/1", "/2"),
        TEXT.replace(":6881", ""),
        TEXT.replace(":6881", ":"),
        TEXT.replace(":6881", ":06881"),
        TEXT.replace(":6881", ":65536"),
        TEXT.replace(":6881", ":-1"),
        TEXT.replace(":6881", ":٣"),
        TEXT.replace("AAEC", "AAE"),
        TEXT.replace("AAEC", "AAE*"),
        TEXT.replace("AAEC", "AAE+"),
        TEXT.replace("AAEC", "AAECA"),
        # The last character's two spare bits are set: a second spelling of the same key.
        TEXT.replace("Hh8:", "Hh9:"),
    ],
)
def test_handshake_text_that_would_not_print_back_is_no_hint(text: str) -> None:
    assert parse_handshake(text) is None


@given(st.text())
def test_any_text_of_a_stranger_is_read_without_an_error(text: str) -> None:
    for candidate in (text, "swarmledger/1 " + text):
        hint = parse_handshake(candidate)
        assert hint is None or format_handshake(hint.public_key, hint.receipt_port) == candidate


@pytest.mark.parametrize(("key", "port"), [(b"", 1), (KEY, -1), (KEY, 65536)])
def test_impossible_handshake_is_not_formatted(key: bytes, port: int) -> None:
    with pytest.raises(ValueError, match="want"):
        format_handshake(key, port)
