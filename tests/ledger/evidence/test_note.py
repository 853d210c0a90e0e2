"""Signed notes: the vectors of Go's sumdb/note, and every way to bend one."""

import base64
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence import keys, note
from ledger.evidence.errors import BadSignatureError, MalformedNoteError
from ledger.evidence.note import Note, NoteSignature, VerifierKey

# The published example of golang.org/x/mod/sumdb/note.
PETER_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
PETER_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
PETER_NOTE = (
    PETER_TEXT + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSN"
    "XgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
PETER = note.parse_verifier_key(PETER_VKEY)

# The example of c2sp.org/signed-note: its text holds blank lines.
POEM_NOTE = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
    "— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU"
    "0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
).encode()

SEED = bytes(range(32))
OTHER_SEED = bytes(range(1, 33))


def key_of(name: str, seed: bytes = SEED) -> VerifierKey:
    return VerifierKey(name=name, public_key=keys.public_key_of(seed))


def test_published_note_verifies():
    parsed = note.parse_note(PETER_NOTE)
    assert parsed.text == PETER_TEXT
    assert note.verify_note(parsed, [PETER]) == (PETER,)
    assert note.format_note(parsed) == PETER_NOTE


def test_published_note_is_what_its_key_signs():
    signed = note.sign_note(PETER_TEXT, name="PeterNeumann", seed=PETER_SEED)
    assert note.format_note(signed) == PETER_NOTE


def test_published_key_prints_back():
    assert PETER.name == "PeterNeumann"
    assert PETER.key_id.hex() == "c74f20a3"
    assert note.format_verifier_key(PETER) == PETER_VKEY
    assert keys.public_key_of(PETER_SEED) == PETER.public_key


def test_text_with_blank_lines_ends_at_the_last_one():
    parsed = note.parse_note(POEM_NOTE)
    assert parsed.text.endswith("sole:\n\ned è subito sera.\n")
    assert parsed.signatures[0].key_id.hex() == "367ba04b"
    assert note.format_note(parsed) == POEM_NOTE


def test_every_mangled_verifier_key_is_malformed():
    for begin in range(len(PETER_VKEY)):
        for end in range(begin + 1, len(PETER_VKEY) + 1):
            if (begin, end) != (0, len(PETER_VKEY)):
                with pytest.raises(MalformedNoteError):
                    note.parse_verifier_key(PETER_VKEY[begin:end])
    for at, character in enumerate(PETER_VKEY):
        with pytest.raises(MalformedNoteError):
            note.parse_verifier_key(
                PETER_VKEY[:at] + chr(ord(character) + 1) + PETER_VKEY[at + 1 :]
            )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a+b",
        PETER_VKEY + "\n",
        " " + PETER_VKEY,
        PETER_VKEY.replace("c74f20a3", "C74F20A3"),
        # Go's examples: a key of another length and another algorithm, with ids to match.
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_other_verifier_key_text_is_malformed(text):
    with pytest.raises(MalformedNoteError):
        note.parse_verifier_key(text)


def test_every_flipped_bit_of_a_note_is_noticed():
    for at in range(len(PETER_NOTE)):
        for bit in range(8):
            broken = bytearray(PETER_NOTE)
            broken[at] ^= 1 << bit
            with pytest.raises((MalformedNoteError, BadSignatureError)):
                note.verify_note(note.parse_note(bytes(broken)), [PETER])


def test_unknown_signatures_are_ignored_even_with_a_known_name_or_id():
    stranger = NoteSignature(name="stranger.example", key_id=PETER.key_id, signature=bytes(64))
    namesake = NoteSignature(name=PETER.name, key_id=b"\0\0\0\0", signature=b"x" * 2420)
    signed = note.parse_note(PETER_NOTE)
    both = Note(text=signed.text, signatures=(stranger, *signed.signatures, namesake))
    again = note.parse_note(note.format_note(both))
    assert again == both
    assert note.verify_note(again, [PETER]) == (PETER,)


def test_failing_signature_of_a_known_key_rejects_beside_a_good_one():
    second = key_of("second.example")
    bad = NoteSignature(name=second.name, key_id=second.key_id, signature=bytes(64))
    signed = note.parse_note(PETER_NOTE).with_signature(bad)
    assert note.verify_note(signed, [PETER]) == (PETER,)
    with pytest.raises(BadSignatureError, match="fails"):
        note.verify_note(signed, [PETER, second])


def test_failing_copy_of_a_signature_rejects_the_note():
    signed = note.parse_note(PETER_NOTE)
    line = signed.signatures[0]
    twice = signed.with_signature(dataclasses.replace(line, signature=line.signature[::-1]))
    with pytest.raises(BadSignatureError, match="fails"):
        note.verify_note(twice, [PETER])


def test_repeated_good_signature_counts_once():
    signed = note.parse_note(PETER_NOTE)
    assert note.verify_note(signed.with_signature(signed.signatures[0]), [PETER]) == (PETER,)


def test_note_without_a_known_signature_is_refused():
    signed = note.parse_note(PETER_NOTE)
    with pytest.raises(BadSignatureError, match="unknown keys \\(PeterNeumann\\)"):
        note.verify_note(signed, [key_of("PeterNeumann")])
    with pytest.raises(BadSignatureError):
        note.verify_note(signed, [])


def test_signature_of_another_text_is_refused():
    signed = note.parse_note(PETER_NOTE)
    with pytest.raises(BadSignatureError):
        note.verify_note(dataclasses.replace(signed, text=PETER_TEXT + "more\n"), [PETER])


def test_small_order_key_signs_nothing():
    # The identity point: under a lax rule R = identity, S = 0 verifies for every text.
    identity = b"\x01" + bytes(31)
    key = VerifierKey(name="weak.example", public_key=identity)
    line = NoteSignature(name=key.name, key_id=key.key_id, signature=identity + bytes(32))
    with pytest.raises(BadSignatureError):
        note.verify_note(Note(text="a\n", signatures=(line,)), [key])


def test_two_known_keys_of_one_name_and_id_are_ambiguous(monkeypatch):
    monkeypatch.setattr(VerifierKey, "key_id", b"\0\0\0\0")
    with pytest.raises(ValueError, match="two keys"):
        note.verify_note(note.parse_note(PETER_NOTE), [key_of("a"), key_of("a", OTHER_SEED)])


def test_several_keys_sign_one_note():
    first, second = key_of("a.example"), key_of("b.example", OTHER_SEED)
    signed = note.sign_note("x\n", name=first.name, seed=SEED)
    signed = signed.with_signature(note.sign_text("x\n", name=second.name, seed=OTHER_SEED))
    assert note.verify_note(signed, [second, first]) == (first, second)


def test_many_signatures_are_accepted_up_to_the_limit():
    line = note.parse_note(PETER_NOTE).signatures[0]
    others = tuple(
        NoteSignature(name=f"w{number}", key_id=b"abcd", signature=bytes(5000))
        for number in range(note.SIGNATURES_MAX - 1)
    )
    full = note.format_note(Note(text=PETER_TEXT, signatures=(*others, line)))
    assert note.verify_note(note.parse_note(full), [PETER]) == (PETER,)
    with pytest.raises(MalformedNoteError, match="lines"):
        note.parse_note(full + "— w AAAAAAA=\n".encode())
    with pytest.raises(MalformedNoteError, match="lines"):
        Note(text=PETER_TEXT, signatures=(line, line, *others))


def test_note_over_the_size_limit_is_malformed():
    with pytest.raises(MalformedNoteError, match="1000000"):
        note.parse_note(b"a" * note.NOTE_BYTES_MAX + PETER_NOTE)
    with pytest.raises(MalformedNoteError, match="1000000"):
        note.format_note(note.sign_note("a" * note.NOTE_BYTES_MAX + "\n", name="a", seed=SEED))


SIGNATURE_LINE = PETER_NOTE.decode().split("\n\n")[1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\n\n",
        PETER_TEXT.encode(),
        PETER_TEXT.encode() + b"\n",
        PETER_NOTE[:-1],
        PETER_NOTE + b"\n",
        PETER_NOTE + b"more\n",
        PETER_NOTE.replace(b"\n", b"\r\n"),
        PETER_NOTE.replace(b"you think", b"you\tthink"),
        PETER_NOTE.replace(b"you think", b"you\0think"),
        PETER_NOTE.replace(b"you think", b"you\x1fthink"),
        PETER_NOTE.replace(b"you think", b"you\xff\xfethink"),
        PETER_NOTE.replace(b"you think", b"you\xed\xa0\x80think"),
        PETER_NOTE.replace("— ".encode(), b"-- "),
        PETER_NOTE.replace("— ".encode(), "—  ".encode()),
        PETER_NOTE.replace("— ".encode(), "—".encode()),
        PETER_NOTE.replace(b"PeterNeumann ", b"PeterNeumann  "),
        PETER_NOTE.replace(b"PeterNeumann ", b"PeterNeumann"),
        PETER_NOTE.replace(b"PeterNeumann ", b" "),
        PETER_NOTE.replace(b"PeterNeumann ", b"Peter+Neumann "),
        PETER_NOTE.replace(b"PeterNeumann ", "Peter\u00a0Neumann ".encode()),
        PETER_NOTE.replace(b"PeterNeumann ", b"P" * 256 + b" "),
        PETER_NOTE.replace(b"wJnAM=", b"wJnAN="),
        PETER_NOTE.replace(b"wJnAM=", b"wJnAM"),
        PETER_NOTE.replace(b"wJnAM=", b"wJnAM=="),
        PETER_NOTE.replace(b"wJnAM=", b"wJnAM= "),
        PETER_NOTE.replace(b"wJnAM=", b"wJn\xc3\xa9AM="),
        PETER_NOTE.replace(b"wJnAM=", b"wJ-nAM="),
        ("a\n\n— a AAAAAA==\n").encode(),
        ("a\n\n— a \n").encode(),
        ("a\n\n" + SIGNATURE_LINE + "— b\n").encode(),
    ],
)
def test_bent_note_is_malformed(content):
    with pytest.raises(MalformedNoteError):
        note.parse_note(content)


@pytest.mark.parametrize("text", ["", "a", "a\n\t\n", "a\r\n", "\ud800\n", "a\x00\n"])
def test_text_that_cannot_stand_in_a_note_is_not_signed(text):
    with pytest.raises(MalformedNoteError):
        note.sign_note(text, name="a", seed=SEED)


@pytest.mark.parametrize(
    "name", ["", "a b", "a+b", "a\nb", "a\u2003b", "a\u0085", "\x7f" * 256, "\udc80", "a\x00"]
)
def test_name_that_is_not_allowed_is_malformed(name):
    with pytest.raises(MalformedNoteError):
        key_of(name)


def test_fields_of_another_length_are_malformed():
    with pytest.raises(MalformedNoteError):
        VerifierKey(name="a", public_key=bytes(31))
    with pytest.raises(MalformedNoteError):
        NoteSignature(name="a", key_id=bytes(3), signature=bytes(64))
    with pytest.raises(MalformedNoteError):
        NoteSignature(name="a", key_id=bytes(4), signature=b"")
    with pytest.raises(MalformedNoteError):
        Note(text="a\n", signatures=())


TEXTS = st.text(
    st.characters(min_codepoint=0x20, exclude_categories=["Cs"]) | st.just("\n"), max_size=60
).map(lambda text: text + "\n")
NAMES = st.from_regex(r"[a-z0-9./é-]{1,20}", fullmatch=True)
LINES = st.builds(
    NoteSignature,
    name=NAMES,
    key_id=st.binary(min_size=4, max_size=4),
    signature=st.binary(min_size=1, max_size=80),
)


@given(TEXTS, st.lists(LINES, min_size=1, max_size=20))
def test_any_note_parses_to_itself(text, lines):
    value = Note(text=text, signatures=tuple(lines))
    content = note.format_note(value)
    assert note.parse_note(content) == value
    assert note.format_note(note.parse_note(content)) == content


@given(st.binary(max_size=80).map(lambda tail: b"a\n\n" + "— ".encode() + tail + b"\n"))
def test_anything_that_parses_prints_back(content):
    try:
        parsed = note.parse_note(content)
    except MalformedNoteError:
        return
    assert note.format_note(parsed) == content


@given(NAMES, st.binary(min_size=32, max_size=32))
def test_any_verifier_key_parses_to_itself(name, public_key):
    key = VerifierKey(name=name, public_key=public_key)
    assert note.parse_verifier_key(note.format_verifier_key(key)) == key
