"""Proof files: round trips, the worked example, and every way to bend one."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence import checkpoint, keys, merkle, note, tlog_proof
from ledger.evidence.checkpoint import Checkpoint
from ledger.evidence.errors import (
    BadSignatureError,
    EvidenceError,
    InclusionError,
    MalformedNoteError,
    MalformedProofError,
)
from ledger.evidence.note import VerifierKey
from ledger.evidence.tlog_proof import TlogProof

ORIGIN = "log.example/broadcaster"
SEED = bytes(range(32))
KEY = VerifierKey(name=ORIGIN, public_key=keys.public_key_of(SEED))
LEAVES = [b"leaf %d" % number for number in range(11)]
TREE = merkle.HashTree(map(merkle.leaf_hash, LEAVES))
NOTE = checkpoint.sign_checkpoint(
    Checkpoint(origin=ORIGIN, tree_size=11, root_hash=TREE.root()), SEED
)


def proof_of(leaf_index: int, extra: bytes = b"") -> TlogProof:
    hashes = tuple(TREE.prove_inclusion(leaf_index))
    return TlogProof(leaf_index=leaf_index, hashes=hashes, note=NOTE, extra=extra)


PROOF = proof_of(6)
CONTENT = tlog_proof.format_tlog_proof(PROOF)


def test_file_is_header_index_hashes_and_the_note_verbatim():
    hashes = "".join(note.encode_base64(value) + "\n" for value in PROOF.hashes)
    assert (
        f"c2sp.org/tlog-proof@v1\nindex 6\n{hashes}\n".encode() + note.format_note(NOTE)
    ) == CONTENT


def test_extra_data_stands_on_the_second_line():
    content = tlog_proof.format_tlog_proof(proof_of(6, b"statement line 6"))
    assert content.startswith(b"c2sp.org/tlog-proof@v1\nextra c3RhdGVtZW50IGxpbmUgNg==\nindex 6\n")
    assert tlog_proof.parse_tlog_proof(content) == proof_of(6, b"statement line 6")


@pytest.mark.parametrize("leaf_index", range(11))
def test_every_leaf_is_proven_and_no_other(leaf_index):
    content = tlog_proof.format_tlog_proof(proof_of(leaf_index))
    parsed = tlog_proof.parse_tlog_proof(content)
    verified = tlog_proof.check_tlog_proof(
        parsed, LEAVES[leaf_index], origin=ORIGIN, known_keys=[KEY]
    )
    assert verified.checkpoint.tree_size == 11
    with pytest.raises(InclusionError):
        tlog_proof.check_tlog_proof(parsed, LEAVES[leaf_index - 1], origin=ORIGIN, known_keys=[KEY])


def test_every_flipped_bit_of_a_proof_is_noticed():
    for at in range(len(CONTENT)):
        for bit in range(8):
            broken = bytearray(CONTENT)
            broken[at] ^= 1 << bit
            with pytest.raises(EvidenceError):
                tlog_proof.check_tlog_proof(
                    tlog_proof.parse_tlog_proof(bytes(broken)),
                    LEAVES[6],
                    origin=ORIGIN,
                    known_keys=[KEY],
                )


def test_proof_of_a_log_of_one_leaf_has_no_hash():
    root = merkle.root_hash([b"only"])
    signed = checkpoint.sign_checkpoint(
        Checkpoint(origin=ORIGIN, tree_size=1, root_hash=root), SEED
    )
    content = tlog_proof.format_tlog_proof(TlogProof(leaf_index=0, hashes=(), note=signed))
    assert content.startswith(b"c2sp.org/tlog-proof@v1\nindex 0\n\nlog.example/broadcaster\n1\n")
    parsed = tlog_proof.parse_tlog_proof(content)
    tlog_proof.check_tlog_proof(parsed, b"only", origin=ORIGIN, known_keys=[KEY])


def test_proof_against_another_log_or_key_is_refused():
    for origin, known_keys in (
        ("log.example/other", [KEY]),
        (ORIGIN, []),
        (ORIGIN, [VerifierKey(name=ORIGIN, public_key=keys.public_key_of(bytes(32)))]),
    ):
        with pytest.raises(BadSignatureError):
            tlog_proof.check_tlog_proof(PROOF, LEAVES[6], origin=origin, known_keys=known_keys)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        CONTENT.replace(b"\n\n", b"\n"),
        CONTENT.replace(b"proof@v1", b"proof@v2"),
        CONTENT.replace(b"index 6\n", b""),
        CONTENT.replace(b"index 6\n", b"index 06\n"),
        CONTENT.replace(b"index 6\n", b"index -6\n"),
        CONTENT.replace(b"index 6\n", b"index  6\n"),
        CONTENT.replace(b"index 6\n", b"index 6 \n"),
        CONTENT.replace(b"index 6\n", b"index \n"),
        CONTENT.replace(b"index 6\n", b"index %d\n" % 2**63),
        CONTENT.replace(b"index 6\n", b"index 6\r\n"),
        CONTENT.replace(b"index 6\n", b"Index 6\n"),
        CONTENT.replace(b"index 6\n", b"index 6\nextra AA==\n"),
        CONTENT.replace(b"index 6\n", b"extra \nindex 6\n"),
        CONTENT.replace(b"index 6\n", b"extra AB==\nindex 6\n"),
        CONTENT.replace(b"index 6\n", b"extra AA==\nextra AA==\nindex 6\n"),
        CONTENT.replace(b"index 6\n", b"index 6\nAAAA\n"),
        CONTENT.replace(b"index 6\n", "index 6é\n".encode()),
        CONTENT.replace(b"index 6\n", b"index 6\n" + (b"A" * 43 + b"=\n") * 60),
        CONTENT.replace(b"index 6\n", b"extra " + b"AAAA" * 21846 + b"\nindex 6\n"),
        b"\n" + CONTENT,
    ],
)
def test_bent_proof_is_malformed(content):
    with pytest.raises(MalformedProofError):
        tlog_proof.parse_tlog_proof(content)


@pytest.mark.parametrize(
    "content", [CONTENT + b"\n", CONTENT[:-1], CONTENT.replace(b"\n\n", b"\n\n\n", 1)]
)
def test_proof_with_a_bent_note_is_malformed(content):
    with pytest.raises((MalformedNoteError, MalformedProofError)):
        tlog_proof.parse_tlog_proof(content)


def test_oversized_file_is_malformed_before_it_is_read():
    with pytest.raises(MalformedProofError, match="limits"):
        tlog_proof.parse_tlog_proof(bytes(1_200_000))


def test_note_that_is_no_checkpoint_is_malformed():
    signed = note.sign_note("just a text\n", name=ORIGIN, seed=SEED)
    with pytest.raises(MalformedProofError, match=r"tlog_proof\.checkpoint"):
        dataclasses.replace(PROOF, note=signed)


@pytest.mark.parametrize(
    "change",
    [
        {"leaf_index": -1},
        {"leaf_index": 2**63},
        {"hashes": (bytes(31),)},
        {"hashes": (bytes(32),) * 64},
        {"extra": bytes(65_536)},
    ],
)
def test_field_out_of_range_is_malformed(change):
    with pytest.raises(MalformedProofError):
        dataclasses.replace(PROOF, **change)


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63),
    st.binary(max_size=100),
)
def test_any_proof_parses_to_itself(leaf_index, hashes, extra):
    value = TlogProof(leaf_index=leaf_index, hashes=tuple(hashes), note=NOTE, extra=extra)
    content = tlog_proof.format_tlog_proof(value)
    assert tlog_proof.parse_tlog_proof(content) == value
    assert tlog_proof.format_tlog_proof(tlog_proof.parse_tlog_proof(content)) == content
