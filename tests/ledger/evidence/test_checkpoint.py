"""Checkpoints: the specification's example, a worked one, and every way to bend one."""

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence import checkpoint, keys, merkle, note
from ledger.evidence.checkpoint import Checkpoint
from ledger.evidence.errors import (
    BadSignatureError,
    MalformedCheckpointError,
    MalformedNoteError,
)
from ledger.evidence.note import VerifierKey

# The example of c2sp.org/tlog-checkpoint.
SOFA_TEXT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
SOFA_NOTE = (
    SOFA_TEXT + "\n— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4U"
    "RYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
).encode()

ORIGIN = "log.example/broadcaster"
SEED = bytes(range(32))
KEY = VerifierKey(name=ORIGIN, public_key=keys.public_key_of(SEED))
WITNESS_SEED = bytes(range(1, 33))
WITNESS = VerifierKey(name="witness.example", public_key=keys.public_key_of(WITNESS_SEED))
HEAD = Checkpoint(origin=ORIGIN, tree_size=3, root_hash=merkle.root_hash([b"a", b"b", b"c"]))


def test_example_of_the_specification_parses_and_prints_back():
    parsed = checkpoint.parse_checkpoint(note.parse_note(SOFA_NOTE).text)
    assert parsed.origin == "example.com/behind-the-sofa"
    assert parsed.tree_size == 20852163
    assert parsed.root_hash.hex()[:8] == "0ac5186a"
    assert checkpoint.format_checkpoint(parsed) == SOFA_TEXT


def test_text_is_three_lines():
    assert checkpoint.format_checkpoint(HEAD) == (
        "log.example/broadcaster\n3\n" + note.encode_base64(HEAD.root_hash) + "\n"
    )


def test_body_hash_is_the_hash_of_the_text_without_signatures():
    assert checkpoint.body_hash(checkpoint.parse_checkpoint(SOFA_TEXT)) == (
        hashlib.sha256(SOFA_TEXT.encode()).digest()
    )


def test_signed_checkpoint_verifies():
    content = note.format_note(checkpoint.sign_checkpoint(HEAD, SEED))
    verified = checkpoint.verify_checkpoint(content, origin=ORIGIN, known_keys=[KEY])
    assert verified.checkpoint == HEAD
    assert verified.signers == (KEY,)
    assert note.format_note(verified.note) == content


def test_every_flipped_bit_of_a_signed_checkpoint_is_noticed():
    content = note.format_note(checkpoint.sign_checkpoint(HEAD, SEED))
    for at in range(len(content)):
        for bit in range(8):
            broken = bytearray(content)
            broken[at] ^= 1 << bit
            with pytest.raises((MalformedNoteError, MalformedCheckpointError, BadSignatureError)):
                checkpoint.verify_checkpoint(bytes(broken), origin=ORIGIN, known_keys=[KEY])


def test_checkpoint_of_another_log_is_refused_though_its_key_is_known():
    other = dataclasses.replace(HEAD, origin="log.example/other")
    other_key = dataclasses.replace(KEY, name="log.example/other")
    content = note.format_note(checkpoint.sign_checkpoint(other, SEED))
    with pytest.raises(BadSignatureError, match="origin"):
        checkpoint.verify_checkpoint(content, origin=ORIGIN, known_keys=[KEY, other_key])


def test_checkpoint_signed_by_a_witness_alone_is_refused():
    text = checkpoint.format_checkpoint(HEAD)
    content = note.format_note(note.sign_note(text, name=WITNESS.name, seed=WITNESS_SEED))
    with pytest.raises(BadSignatureError, match="signers"):
        checkpoint.verify_checkpoint(content, origin=ORIGIN, known_keys=[KEY, WITNESS])


def test_witness_line_beside_the_log_s_is_reported():
    text = checkpoint.format_checkpoint(HEAD)
    signed = checkpoint.sign_checkpoint(HEAD, SEED).with_signature(
        note.sign_text(text, name=WITNESS.name, seed=WITNESS_SEED)
    )
    verified = checkpoint.verify_checkpoint(
        note.format_note(signed), origin=ORIGIN, known_keys=[KEY, WITNESS]
    )
    assert verified.signers == (KEY, WITNESS)


def test_rotated_key_of_the_same_origin_is_accepted_when_known():
    new_key = dataclasses.replace(WITNESS, name=ORIGIN)
    content = note.format_note(checkpoint.sign_checkpoint(HEAD, WITNESS_SEED))
    verified = checkpoint.verify_checkpoint(content, origin=ORIGIN, known_keys=[KEY, new_key])
    assert verified.signers == (new_key,)
    with pytest.raises(BadSignatureError):
        checkpoint.verify_checkpoint(content, origin=ORIGIN, known_keys=[KEY])


ROOT_LINE = SOFA_TEXT.split("\n")[2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "\n\n\n",
        SOFA_TEXT[:-1],
        SOFA_TEXT + "\n",
        SOFA_TEXT + "extension\n",
        f"\n1\n{ROOT_LINE}\n",
        f"a\tb\n1\n{ROOT_LINE}\n",
        f"a\r\n1\n{ROOT_LINE}\n",
        f"a\n01\n{ROOT_LINE}\n",
        f"a\n00\n{ROOT_LINE}\n",
        f"a\n\n{ROOT_LINE}\n",
        f"a\n-1\n{ROOT_LINE}\n",
        f"a\n+1\n{ROOT_LINE}\n",
        f"a\n 1\n{ROOT_LINE}\n",
        f"a\n1 \n{ROOT_LINE}\n",
        f"a\n1_0\n{ROOT_LINE}\n",
        f"a\n0x1\n{ROOT_LINE}\n",
        f"a\n²\n{ROOT_LINE}\n",
        f"a\n١\n{ROOT_LINE}\n",
        f"a\n{2**63}\n{ROOT_LINE}\n",
        f"a\n{10**30}\n{ROOT_LINE}\n",
        f"a\n{'9' * 5000}\n{ROOT_LINE}\n",
        f"a\n0\n{ROOT_LINE}\n",
        f"a\n1\n{ROOT_LINE[:-1]}\n",
        f"a\n1\n{ROOT_LINE} \n",
        f"a\n1\n{ROOT_LINE[:-2]}J=\n",
        f"a\n1\n{ROOT_LINE.replace('/', '_')}\n",
        f"a\n1\n{note.encode_base64(bytes(31))}\n",
        f"a\n1\n{note.encode_base64(bytes(33))}\n",
        f"{'a' * 256}\n1\n{ROOT_LINE}\n",
    ],
)
def test_bent_checkpoint_is_malformed(text):
    with pytest.raises(MalformedCheckpointError):
        checkpoint.parse_checkpoint(text)


def test_size_with_leading_zero_names_the_field():
    with pytest.raises(MalformedCheckpointError) as caught:
        checkpoint.parse_checkpoint(f"a\n01\n{ROOT_LINE}\n")
    assert caught.value.field == "checkpoint.tree_size"
    assert caught.value.got == "01"


@pytest.mark.parametrize("origin", ["", "a\nb", "\ud800", "é" * 128])
def test_origin_that_cannot_stand_in_a_checkpoint_is_malformed(origin):
    with pytest.raises(MalformedCheckpointError):
        Checkpoint(origin=origin, tree_size=1, root_hash=bytes(32))


def test_origin_that_cannot_name_a_key_is_not_signed():
    with pytest.raises(MalformedNoteError):
        checkpoint.sign_checkpoint(dataclasses.replace(HEAD, origin="a b"), SEED)


def test_empty_tree_has_the_empty_root():
    empty = Checkpoint(origin=ORIGIN, tree_size=0, root_hash=merkle.EMPTY_ROOT)
    assert checkpoint.parse_checkpoint(checkpoint.format_checkpoint(empty)) == empty


@given(
    st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"]), min_size=1, max_size=60),
    st.integers(1, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
)
def test_any_checkpoint_parses_to_itself(origin, tree_size, root_hash):
    value = Checkpoint(origin=origin, tree_size=tree_size, root_hash=root_hash)
    text = checkpoint.format_checkpoint(value)
    assert checkpoint.parse_checkpoint(text) == value
    assert checkpoint.format_checkpoint(checkpoint.parse_checkpoint(text)) == text
