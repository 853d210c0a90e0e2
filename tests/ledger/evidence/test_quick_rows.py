"""The quicker library changes no verdict: crafted vectors, and a corpus of odd keys and signatures.

Points are made by libsodium's own group operations, which take points of any order, so that the
corpus can be large; the seed is fixed and in the name of what fails.
"""

import json
import random
import sys
from collections.abc import Iterator
from hashlib import sha512
from itertools import product
from pathlib import Path

import builders
import pytest
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_sign_open,
)
from nacl.exceptions import BadSignatureError

from ledger.evidence import keys, quick_rows
from ledger.evidence.keys import is_valid_key, public_key_of, sign, verify, verify_rows
from ledger.evidence.quick_rows import SMALL_ORDER, find_valid, load_check

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "signatures.json").read_text())
L = 2**252 + 27742317777372353535851937790883648493
IDENTITY = bytes([1]) + bytes(31)

Case = tuple[str, bytes, bytes, bytes]
"""Name, key, message, signature."""


def scalar_bytes(number: int) -> bytes:
    return number.to_bytes(32, "little")


def base_times(scalar: int) -> bytes:
    return crypto_scalarmult_ed25519_base_noclamp(scalar_bytes(scalar)) if scalar else IDENTITY


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(sha512(r + key + message).digest(), "little") % L


def respond(r: bytes, nonce: int, key: bytes, secret: int, message: bytes) -> bytes:
    """R and the S that an honest signer with this nonce would give for it."""
    return r + scalar_bytes((nonce + challenge(r, key, message) * secret) % L)


TORSION = sorted({crypto_core_ed25519_add(point, IDENTITY) for point in SMALL_ORDER})
"""The eight points of small order, encoded canonically."""


def corpus(chance: random.Random, count: int) -> Iterator[Case]:
    """Yield so many rounds of every kind."""
    for number in range(count):
        secret, nonce = chance.randrange(1, L), chance.randrange(1, L)
        message = chance.randbytes(chance.choice((0, 1, 32, 168, 300)))
        key, r = base_times(secret), base_times(nonce)
        good = respond(r, nonce, key, secret, message)
        yield "honest", key, message, good
        yield "nonce zero", key, message, respond(IDENTITY, 0, key, secret, message)
        for odd in TORSION:
            odd_r, odd_key = crypto_core_ed25519_add(r, odd), crypto_core_ed25519_add(key, odd)
            yield "odd R", key, message, respond(odd_r, nonce, key, secret, message)
            yield "odd R, S of the honest one", key, message, odd_r + good[32:]
            yield "odd key", odd_key, message, respond(r, nonce, odd_key, secret, message)
            both = respond(odd_r, nonce, odd_key, secret, message)
            yield "odd key and R", odd_key, message, both
        for odd in sorted(SMALL_ORDER):
            yield "R of small order", key, message, respond(odd, 0, key, secret, message)
            yield "key of small order", odd, message, respond(r, nonce, odd, 0, message)
        s = int.from_bytes(good[32:], "little")
        for factor in (1, 2, 7, 8, 15):
            if s + factor * L < 1 << 256:
                yield "S not reduced", key, message, good[:32] + scalar_bytes(s + factor * L)
        yield "S negated", key, message, good[:32] + scalar_bytes(-s % L)
        yield "R negated", key, message, good[:31] + bytes([good[31] ^ 0x80]) + good[32:]
        for _ in range(12):
            joined = bytearray(key + good + message)
            joined[chance.randrange(len(joined))] ^= 1 << chance.randrange(8)
            flipped = bytes(joined)
            yield "flipped bit", flipped[:32], flipped[96:], flipped[32:96]
        yield "another's", base_times(secret + 1), message, good
        yield f"noise {number}", key, message, chance.randbytes(64)


def vectors() -> Iterator[Case]:
    for one in VECTORS["vectors"]:
        parts = (bytes.fromhex(one[name]) for name in ("public_key", "message", "signature"))
        key, message, signature = parts
        if len(signature) == 64:
            yield one["name"], key, message, signature


def libsodium_accepts(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        crypto_sign_open(signature + message, key)
    except BadSignatureError:
        return False
    return True


def quick_accepts(key: bytes, message: bytes, signature: bytes) -> bool:
    """What the library says alone, without what this module adds."""
    loaded = load_check()
    assert loaded is not None
    check, refusals = loaded
    try:
        check(quick_rows._KEY_INFO + key, quick_rows._ED25519, message, signature)
    except refusals:
        return False
    return True


def test_library_is_installed_and_works():
    assert load_check() is not None


@pytest.mark.parametrize(("seed", "count"), [(1, 120), (2, 120)])
def test_verdicts_of_the_corpus_are_those_of_libsodium_alone(monkeypatch, seed, count):
    monkeypatch.setattr(keys, "QUICK_ROWS_MIN", 1)
    accepted: dict[str, int] = {}
    for name, key, message, signature in corpus(random.Random(seed), count):
        wanted = is_valid_key(key) and libsodium_accepts(key, message, signature)
        row = signature + message
        assert verify_rows(row, 0, len(row), [key]) == [wanted], (name, seed, key.hex(), row.hex())
        assert verify(key, message, signature) == wanted, (name, seed)
        accepted[name] = accepted.get(name, 0) + wanted
    assert {name for name, times in accepted.items() if times} >= {"honest"}
    # One of the eight points is the identity, and leaves an honest signature honest.
    assert accepted["odd R"] == accepted["odd key"] == accepted["odd key and R"] == count
    assert not accepted["R of small order"] + accepted["key of small order"]
    assert not accepted["nonce zero"] + accepted["S not reduced"] + accepted["flipped bit"]


@pytest.mark.parametrize("seed", [3])
def test_what_the_library_finds_libsodium_accepts_and_the_other_way_round(seed):
    cases = [*vectors(), *corpus(random.Random(seed), 40)]
    compared = 0
    for name, key, message, signature in cases:
        if len(key) != 32 or not is_valid_key(key):
            continue
        compared += 1
        row = signature + message
        (is_found,) = find_valid(row, 0, len(row), [key], {key})
        assert is_found == libsodium_accepts(key, message, signature), (name, key.hex(), row.hex())
    assert compared > 1_000


def test_library_alone_accepts_r_of_small_order_so_each_is_passed_on():
    secret, message = 5, b"message"
    key = base_times(secret)
    signature = respond(IDENTITY, 0, key, secret, message)
    assert is_valid_key(key)
    assert quick_accepts(key, message, signature)
    assert not libsodium_accepts(key, message, signature)
    row = signature + message
    assert find_valid(row, 0, len(row), [key], {key}) == [False]


def test_library_alone_accepts_a_mixed_order_key_so_keys_are_checked_before():
    secret, message = 5, b"message"
    odd = next(point for point in TORSION if point != IDENTITY)
    key = crypto_core_ed25519_add(base_times(secret), odd)
    candidates = (respond(base_times(nonce), nonce, key, secret, message) for nonce in range(1, 99))
    signature = next(one for one in candidates if quick_accepts(key, message, one))
    assert not is_valid_key(key)
    row = signature + message
    assert find_valid(row, 0, len(row), [key], set()) == [False]
    assert verify_rows(row * 20, 0, len(row), [key] * 20) == [False] * 20


def test_encodings_of_small_order_are_fourteen_of_eight_points():
    assert len(SMALL_ORDER) == 14
    assert len(TORSION) == 8
    assert {crypto_core_ed25519_add(one, two) for one, two in product(TORSION, TORSION)} == {
        *TORSION
    }
    assert set(TORSION) < SMALL_ORDER


def honest_run(count: int) -> tuple[bytes, int, list[bytes]]:
    seeds = [builders.seed_of(f"signer {number % 3}") for number in range(count)]
    rows = [
        sign(seed, bytes([number]) * 40) + bytes([number]) * 40 for number, seed in enumerate(seeds)
    ]
    return b"".join(rows), len(rows[0]), [public_key_of(seed) for seed in seeds]


def test_good_and_bad_records_of_a_run_get_their_own_verdict():
    run, size, signers = honest_run(40)
    changed = bytearray(run)
    changed[7 * size + 70] ^= 1
    signed_by: list[bytes | None] = list(signers)
    signed_by[9] = None
    signed_by[11] = IDENTITY
    signed_by[13] = signers[14]
    wanted = [place not in {7, 9, 11, 13} for place in range(40)]
    assert verify_rows(b"xyz" + bytes(changed), 3, size, signed_by) == wanted


def test_what_the_library_does_not_find_is_judged_by_libsodium(monkeypatch):
    def refuse_all(*_):
        raise BadSignatureError

    monkeypatch.setattr(quick_rows, "load_check", lambda: (refuse_all, (BadSignatureError,)))
    run, size, signers = honest_run(20)
    assert verify_rows(run, 0, size, signers) == [True] * 20


def test_run_of_one_signature_does_not_load_the_library(monkeypatch):
    def fail():
        raise AssertionError("loaded")

    monkeypatch.setattr(quick_rows, "load_check", fail)
    run, size, signers = honest_run(1)
    assert verify_rows(run, 0, size, signers) == [True]


def test_without_the_library_libsodium_does_all(monkeypatch):
    monkeypatch.setitem(sys.modules, "qh3", None)
    assert load_check.__wrapped__() is None
    monkeypatch.setattr(quick_rows, "load_check", lambda: None)
    run, size, signers = honest_run(20)
    assert verify_rows(run, 0, size, signers) == [True] * 20


@pytest.mark.parametrize("accepts", [[True, True], [False, False], [False, True]])
def test_library_that_fails_its_first_two_signatures_is_not_used(monkeypatch, accepts):
    from qh3 import _hazmat

    answers = iter(accepts)

    def check(*_):
        if not next(answers):
            raise _hazmat.SignatureError("no")

    monkeypatch.setattr(_hazmat, "verify_with_public_key", check)
    assert load_check.__wrapped__() is None
