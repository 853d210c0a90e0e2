"""Many signatures at once: the verdict of one at a time, on every crafted vector and any other."""

import json
from pathlib import Path

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.evidence import keys
from ledger.evidence.keys import is_valid_key, public_key_of, sign, verify, verify_rows
from ledger.evidence.recent import RecentSet

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "signatures.json").read_text())


def vectors() -> list[tuple[bytes, bytes, bytes, bool]]:
    """Those with a signature of the right length: a row has one."""
    return [
        (
            bytes.fromhex(one["public_key"]),
            bytes.fromhex(one["message"]),
            bytes.fromhex(one["signature"]),
            one["valid"],
        )
        for one in VECTORS["vectors"]
        if len(one["signature"]) == 128
    ]


@pytest.fixture(params=["in place", "by PyNaCl's own functions", "the quicker library first"])
def way(request, monkeypatch):
    """All ways of verifying rows: with libsodium's function itself, without, after another one."""
    if request.param == "by PyNaCl's own functions":
        monkeypatch.setattr(keys, "_sodium", None)
    is_quick = request.param == "the quicker library first"
    monkeypatch.setattr(keys, "QUICK_ROWS_MIN", 1 if is_quick else 1 << 30)


def test_libsodium_is_called_without_copies():
    assert keys._sodium is not None


@pytest.mark.usefixtures("way")
def test_every_vector_gets_the_verdict_of_the_file():
    for public_key, message, signature, is_valid in vectors():
        row = signature + message
        assert verify_rows(b"xx" + row + row, 2, len(row), [public_key] * 2) == [is_valid] * 2
        assert verify(public_key, message, signature) == is_valid


@pytest.mark.usefixtures("way")
def test_vectors_of_one_size_get_the_same_verdicts_side_by_side_with_honest_ones():
    by_size: dict[int, list[tuple[bytes, bytes, bool]]] = {}
    for public_key, message, signature, is_valid in vectors():
        seed = builders.seed_of("honest")
        rows = by_size.setdefault(len(message), [])
        rows.append((public_key, signature + message, is_valid))
        rows.append((public_key_of(seed), sign(seed, message) + message, True))
    for size, rows in by_size.items():
        joined = b"".join(row for _, row, _ in rows)
        verdicts = verify_rows(joined, 0, 64 + size, [key for key, _, _ in rows])
        assert verdicts == [wanted for _, _, wanted in rows]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 95)), max_size=8))
def test_changed_rows_get_the_verdict_of_each_alone(changes):
    rows, signers = [], []
    for who, signer, at in changes:
        seed = builders.seed_of(f"party {who}")
        message = bytes([who, signer, at]) + bytes(29)
        row = bytearray(sign(seed, message) + message)
        if who != 2:
            row[at] ^= 1 << who
        rows.append(bytes(row))
        signers.append(None if signer == 2 else public_key_of(builders.seed_of(f"party {signer}")))
    alone = [
        signer is not None and verify(signer, row[64:], row[:64])
        for row, signer in zip(rows, signers, strict=True)
    ]
    assert verify_rows(b"".join(rows), 0, 96, signers) == alone


def test_key_of_another_length_signs_nothing():
    seed = builders.seed_of("party")
    row = sign(seed, b"message") + b"message"
    key = public_key_of(seed)
    for wrong in (b"", key[:-1], key + b"\0"):
        assert verify_rows(row, 0, len(row), [wrong]) == [False]


def test_rows_that_are_not_all_in_the_bytes_are_a_programming_error():
    key = public_key_of(builders.seed_of("party"))
    for start, size, count in ((0, 100, 2), (1, 150, 1), (-1, 64, 1), (0, 63, 1)):
        with pytest.raises(ValueError, match="want all inside"):
            verify_rows(bytes(150), start, size, [key] * count)


def test_key_found_valid_is_remembered_and_an_invalid_one_is_refused_each_time():
    small_order = bytes([1]) + bytes(31)
    for _ in range(2):
        assert not is_valid_key(small_order)
        assert is_valid_key(public_key_of(builders.seed_of("remembered")))
    assert small_order not in keys._valid_keys
    assert public_key_of(builders.seed_of("remembered")) in keys._valid_keys


@given(st.lists(st.integers(0, 20)), st.integers(1, 6))
def test_recent_set_remembers_the_last_ones_and_never_more_than_twice_as_many(items, size):
    recent: RecentSet[int] = RecentSet(size)
    order: list[int] = []
    for item in items:
        known = item in recent
        if known:
            assert item in order
        recent.add(item)
        order = [one for one in order if one != item] + [item]
        assert len(recent) <= 2 * size
        assert all(one in recent for one in order[-size:])
    recent.clear()
    assert len(recent) == 0
