"""The one rule of signatures: crafted keys and signatures on which libraries disagree.

The vectors in tests/vectors/signatures.json are made by this module's own arithmetic over
edwards25519 (RFC 8032 §5.1) and compared with the file, so the file is evidence of the verdicts and
this module of how each vector came to be. `SWARMLEDGER_UPDATE_VECTORS=1` writes the file anew.
"""

import json
import os
from collections.abc import Iterator
from hashlib import sha256, sha512
from pathlib import Path

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.keys import (
    KEY_SIZE,
    SEED_SIZE,
    SIGNATURE_SIZE,
    generate_seed,
    is_valid_key,
    network_id_of,
    public_key_of,
    sign,
    verify,
)

VECTORS = Path(__file__).parents[2] / "vectors" / "signatures.json"

# --- edwards25519, affine and slow ----------------------------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_MINUS_1 = pow(2, (P - 1) // 4, P)
Point = tuple[int, int]
IDENTITY: Point = (0, 1)


def add(a: Point, b: Point) -> Point:
    x1, y1, x2, y2 = *a, *b
    product = D * x1 * x2 * y1 * y2 % P
    return (
        (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P,
    )


def times(scalar: int, point: Point) -> Point:
    result = IDENTITY
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def encode(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def decode(data: bytes) -> Point | None:
    number = int.from_bytes(data, "little")
    y, sign_bit = (number & 2**255 - 1) % P, number >> 255
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * SQRT_MINUS_1 % P
    if x * x % P != square:
        return None
    return (P - x if x and x & 1 != sign_bit else x), y


def decoded(data: bytes) -> Point:
    point = decode(data)
    assert point is not None
    return point


BASE = decoded((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def torsion_points() -> list[Point]:
    """The eight points of small order: multiples of one of order eight."""
    for number in range(2, 100):
        point = decode(number.to_bytes(32, "little"))
        generator = times(L, point) if point else IDENTITY
        if times(4, generator) != IDENTITY:
            return [times(k, generator) for k in range(8)]
    raise AssertionError("no point of order eight")


TORSION = torsion_points()


def odd_encodings(points: list[Point]) -> Iterator[bytes]:
    """Non-canonical encodings of points: y not reduced, or a sign bit beside x = 0."""
    for x, y in points:
        for sign_bit in {x & 1} if x else {0, 1}:
            for number in (y, y + P):
                encoding = (number | sign_bit << 255).to_bytes(32, "little")
                if number < 2**255 and encoding != encode((x, y)):
                    yield encoding


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(sha512(r + key + message).digest(), "little") % L


def secret_scalar(seed: bytes) -> int:
    number = int.from_bytes(sha512(seed).digest()[:32], "little")
    return (number & ((1 << 254) - 8)) | (1 << 254)


def accepts_cofactored(key: bytes, message: bytes, signature: bytes) -> bool:
    """What a lax library says: 8SB = 8R + 8kA, with anything reduced and decoded."""
    point, r = decode(key), decode(signature[:32])
    if point is None or r is None:
        return False
    s = int.from_bytes(signature[32:], "little") % L
    k = challenge(signature[:32], key, message)
    return times(8 * s, BASE) == times(8, add(r, times(k, point)))


# --- crafted vectors ------------------------------------------------------------------------------

SEED = builders.seed_of("signer")
KEY = public_key_of(SEED)
MESSAGE = b"swarmledger signature vector"
Vector = tuple[str, bytes, bytes, bytes]


def scalar_bytes(number: int) -> bytes:
    return number.to_bytes(32, "little")


def signed_with(r: bytes, nonce: int, key: bytes, secret: int, message: bytes) -> bytes:
    return r + scalar_bytes((nonce + challenge(r, key, message) * secret) % L)


def small_order_vectors() -> Iterator[Vector]:
    keys = [encode(point) for point in TORSION] + list(odd_encodings(TORSION))
    for place, key in enumerate(keys):
        # S = 0 and R of small order: holds for every eighth message even without the cofactor.
        for number in range(64):
            message = MESSAGE + bytes([number])
            point = times(challenge(encode(IDENTITY), key, message), decoded(key))
            if point == IDENTITY:
                yield f"small-order key {place}", key, message, encode(IDENTITY) + bytes(32)
                break


def mixed_order_vectors() -> Iterator[Vector]:
    secret = secret_scalar(SEED)
    key = encode(add(times(secret, BASE), TORSION[1]))
    for nonce in range(1, 200):
        r = encode(times(nonce, BASE))
        if challenge(r, key, MESSAGE) % 8 == 0:
            # The torsion part vanishes: only the check of the key refuses it.
            yield "mixed-order key", key, MESSAGE, signed_with(r, nonce, key, secret, MESSAGE)
            break
    r = encode(add(times(7, BASE), TORSION[3]))
    yield "mixed-order R", KEY, MESSAGE, signed_with(r, 7, KEY, secret, MESSAGE)


def odd_signature_vectors() -> Iterator[Vector]:
    good = sign(SEED, MESSAGE)
    secret = secret_scalar(SEED)
    s = int.from_bytes(good[32:], "little")
    for factor in range(1, 16):
        if s + factor * L < 2**256:
            malleated = good[:32] + scalar_bytes(s + factor * L)
            yield f"S + {factor} L", KEY, MESSAGE, malleated
    for place, point in enumerate(TORSION):
        for form, r in enumerate([encode(point), *odd_encodings([point])]):
            s_bytes = scalar_bytes(challenge(r, KEY, MESSAGE) * secret % L)
            yield f"R of small order {place}, form {form}", KEY, MESSAGE, r + s_bytes
    for name, signature in (
        ("empty signature", b""),
        ("signature of 63 bytes", good[:63]),
        ("signature of 65 bytes", good + b"\0"),
        ("all-zero signature", bytes(64)),
        ("all-ones signature", b"\xff" * 64),
        ("S = L", good[:32] + scalar_bytes(L)),
        ("S all ones", good[:32] + b"\xff" * 32),
        ("R and S swapped", good[32:] + good[:32]),
        ("zero R", bytes(32) + good[32:]),
        ("zero S", good[:32] + bytes(32)),
    ):
        yield name, KEY, MESSAGE, signature


def odd_key_vectors() -> Iterator[Vector]:
    good = sign(SEED, MESSAGE)
    unreduced = scalar_bytes(int.from_bytes(KEY, "little") ^ (1 << 255))
    not_on_curve = next(
        scalar_bytes(number) for number in range(2, 50) if decode(scalar_bytes(number)) is None
    )
    for name, key in (
        ("empty key", b""),
        ("key of 31 bytes", KEY[:31]),
        ("key of 33 bytes", KEY + b"\0"),
        ("all-zero key", bytes(32)),
        ("all-ones key", b"\xff" * 32),
        ("key not on the curve", not_on_curve),
        ("negated key", unreduced),
        ("another's key", public_key_of(builders.seed_of("other signer"))),
    ):
        yield name, key, MESSAGE, good


def crafted() -> dict[str, Vector]:
    vectors = [
        *small_order_vectors(),
        *mixed_order_vectors(),
        *odd_signature_vectors(),
        *odd_key_vectors(),
    ]
    return {vector[0]: vector for vector in vectors}


CRAFTED = crafted()
every_crafted = pytest.mark.parametrize("vector", CRAFTED.values(), ids=lambda v: v[0])


def document() -> dict[str, object]:
    good = ("honest signature", KEY, MESSAGE, sign(SEED, MESSAGE))
    return {
        "what": "Ed25519 verdicts of the project's one rule; made by test_keys.py's arithmetic",
        "vectors": [
            {
                "name": name,
                "public_key": key.hex(),
                "message": message.hex(),
                "signature": signature.hex(),
                "valid": name == good[0],
            }
            for name, key, message, signature in (good, *CRAFTED.values())
        ],
    }


@every_crafted
def test_crafted_vector_is_refused(vector: Vector) -> None:
    _, key, message, signature = vector
    assert not verify(key, message, signature)


def test_file_of_vectors_holds_these() -> None:
    if os.environ.get("SWARMLEDGER_UPDATE_VECTORS"):
        VECTORS.write_text(json.dumps(document(), indent=1) + "\n")
    assert json.loads(VECTORS.read_text()) == document()


def test_verdicts_of_the_file() -> None:
    vectors = json.loads(VECTORS.read_text())["vectors"]
    verdicts = [
        verify(*(bytes.fromhex(vector[part]) for part in ("public_key", "message", "signature")))
        for vector in vectors
    ]
    assert verdicts == [vector["valid"] for vector in vectors]
    assert sum(verdicts) == 1


@pytest.mark.parametrize(
    "prefix", ["small-order key", "mixed-order", "S + 1 L", "R of small order"]
)
def test_vectors_are_real_ones_that_a_lax_library_accepts(prefix: str) -> None:
    chosen = [vector for name, vector in CRAFTED.items() if name.startswith(prefix)]
    assert chosen
    for _, key, message, signature in chosen:
        assert accepts_cofactored(key, message, signature)


def test_every_encoding_of_a_small_order_point_is_no_key() -> None:
    encodings = {encode(point) for point in TORSION} | set(odd_encodings(TORSION))
    assert len(TORSION) == 8
    assert len(encodings) == 14
    assert not any(is_valid_key(encoding) for encoding in encodings)


def test_arithmetic_of_this_test_agrees_with_the_library() -> None:
    assert times(L, BASE) == IDENTITY
    assert encode(times(secret_scalar(SEED), BASE)) == KEY
    good = sign(SEED, MESSAGE)
    assert accepts_cofactored(KEY, MESSAGE, good)
    assert verify(KEY, MESSAGE, good)
    nonce = int.from_bytes(sha512(sha512(SEED).digest()[32:] + MESSAGE).digest(), "little") % L
    r = encode(times(nonce, BASE))
    assert signed_with(r, nonce, KEY, secret_scalar(SEED), MESSAGE) == good


# --- honest signatures ----------------------------------------------------------------------------


def test_rfc_8032_vectors() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    signature = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert public_key_of(seed) == key
    assert sign(seed, b"") == signature
    assert verify(key, b"", signature)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_honest_signature_verifies_and_no_other_message_does(seed: bytes, message: bytes) -> None:
    key, signature = public_key_of(seed), sign(seed, message)
    assert len(key) == KEY_SIZE
    assert len(signature) == SIGNATURE_SIZE
    assert verify(key, message, signature)
    assert not verify(key, message + b"\0", signature)


def test_any_flipped_bit_of_key_message_or_signature_is_noticed() -> None:
    good = sign(SEED, MESSAGE)
    joined = KEY + good + MESSAGE
    for bit in range(8 * len(joined)):
        mutated = bytearray(joined)
        mutated[bit // 8] ^= 1 << bit % 8
        assert not verify(bytes(mutated[:32]), bytes(mutated[96:]), bytes(mutated[32:96]))


def test_bytes_cannot_move_between_signature_and_message() -> None:
    good = sign(SEED, MESSAGE)
    assert not verify(KEY, MESSAGE[1:], good + MESSAGE[:1])
    assert not verify(KEY, good[-1:] + MESSAGE, good[:-1])
    assert not verify(KEY, good + MESSAGE, b"")


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_seed_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        public_key_of(bytes(size))
    with pytest.raises(ValueError, match="seed"):
        sign(bytes(size), b"")


def test_generated_seeds_differ() -> None:
    seeds = {generate_seed() for _ in range(8)}
    assert len(seeds) == 8
    assert {len(seed) for seed in seeds} == {SEED_SIZE}


def test_network_id_is_the_hash_of_the_passphrase() -> None:
    passphrase = "Public Global Stellar Network ; September 2015"
    assert network_id_of(passphrase) == sha256(passphrase.encode()).digest()
    assert network_id_of(passphrase).hex().startswith("7ac33997544e3175")
