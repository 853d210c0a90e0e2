"""Ed25519 keys and the one rule by which a signature is valid; X25519 for keys that two share.

The rule, the same in plugin, worker and verifier: the public key passes libsodium's
`crypto_core_ed25519_is_valid_point` (on the curve, canonical, main subgroup, not small order), and
libsodium's detached verification accepts (canonical S, canonical R, cofactorless equation).
Libraries disagree on odd keys (RFC 8032 leaves room), so no other verifier may refuse, and of many
signatures at once another one may only find the good ones (`quick_rows` says why that is the same).

Two keys can also seal bytes for each other (X25519 of the same keys, XSalsa20-Poly1305), against
whoever carries them. This module is the only importer of PyNaCl. It holds no key files: who holds
which key, and where, stands in SECURITY.md.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from nacl.bindings import (
    crypto_box_afternm,
    crypto_box_beforenm,
    crypto_box_open_afternm,
    crypto_core_ed25519_is_valid_point,
    crypto_pwhash_alg,
    crypto_pwhash_ALG_ARGON2ID13,
    crypto_scalarmult,
    crypto_scalarmult_base,
    crypto_secretbox,
    crypto_secretbox_open,
    crypto_sign,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError as _SodiumRefusedError
from nacl.exceptions import CryptoError as _SealBrokenError
from nacl.exceptions import RuntimeError as _SodiumFailedError

from ledger.evidence import quick_rows
from ledger.evidence.errors import BadSealError
from ledger.evidence.recent import RecentSet

try:
    # Private, and pinned with PyNaCl: without it every signature costs two copies of its record.
    from nacl._sodium import ffi as _ffi
    from nacl._sodium import lib as _sodium
except ImportError:  # another build of PyNaCl
    _ffi = _sodium = None

SEED_SIZE = 32
"""Bytes of a private key's seed."""

KEY_SIZE = 32
"""Bytes of a public key."""

SIGNATURE_SIZE = 64
"""Bytes of a signature."""

_SEAL_NONCE_SIZE = 24
SEAL_SIZE = _SEAL_NONCE_SIZE + 16
"""Bytes that sealing adds: nonce 24, authenticator 16."""

PASSPHRASE_SALT_SIZE = 16
"""Bytes of the salt of a key that is derived from a passphrase."""

KEYS_REMEMBERED = 1 << 19
"""Valid keys that are remembered at least, once so many were seen; 110 bytes each."""

_valid_keys: RecentSet[bytes] = RecentSet(KEYS_REMEMBERED)

QUICK_ROWS_MIN = 16
"""Fewest records of a run that the quicker library is asked about first, if it is installed."""


def generate_seed() -> bytes:
    """Return a new 32-byte private seed from the operating system's randomness."""
    return os.urandom(SEED_SIZE)


@lru_cache(maxsize=1024)
def _key_pair(seed: bytes) -> tuple[bytes, bytes]:
    if len(seed) != SEED_SIZE:
        raise ValueError(f"seed: got {len(seed)} bytes, want {SEED_SIZE}")
    public_key, secret_key = crypto_sign_seed_keypair(seed)
    return bytes(public_key), bytes(secret_key)


def public_key_of(seed: bytes) -> bytes:
    """Return the 32-byte public key of a private seed.

    Raises:
        ValueError: The seed is not 32 bytes.
    """
    return _key_pair(seed)[0]


def sign(seed: bytes, message: bytes) -> bytes:
    """Return the 64-byte Ed25519 signature of a message (RFC 8032, deterministic).

    Raises:
        ValueError: The seed is not 32 bytes.
    """
    return bytes(crypto_sign(message, _key_pair(seed)[1])[:SIGNATURE_SIZE])


def is_valid_key(public_key: bytes) -> bool:
    """Tell whether a public key is a canonical point of the main subgroup.

    Small-order keys (under which anybody can sign anything), mixed-order keys and non-canonical
    encodings are refused. Valid keys are remembered: the check costs as much as a signature's.
    """
    if public_key in _valid_keys:
        return True
    if len(public_key) != KEY_SIZE or not crypto_core_ed25519_is_valid_point(public_key):
        return False
    _valid_keys.add(bytes(public_key))
    return True


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether a signature is valid under the project's one rule.

    Args:
        public_key: 32 bytes; any other length gives False.
        message: The signed bytes, any length.
        signature: 64 bytes; any other length gives False.
    """
    if len(signature) != SIGNATURE_SIZE or not is_valid_key(public_key):
        return False
    return _opens(signature + message, public_key)


def verify_rows(buffer: bytes, start: int, size: int, keys: Sequence[bytes | None]) -> list[bool]:
    """Tell of each record of a run whether its signature is valid, by the same rule as `verify`.

    Nothing is copied: a record is its 64-byte signature and then what was signed, as it came.

    Args:
        buffer: Holds one record after another.
        start: Offset of the first one.
        size: Bytes of each, ≥ 64.
        keys: Each record's public key; None gives False without a look at the signature.

    Raises:
        ValueError: The buffer ends before the records do, or `size` holds no signature.
    """
    if start < 0 or size < SIGNATURE_SIZE or len(buffer) < start + size * len(keys):
        raise ValueError(
            f"rows: got {len(keys)} of {size} bytes from {start} in {len(buffer)} bytes, "
            f"want all inside, of at least {SIGNATURE_SIZE} bytes"
        )
    valid = {key for key in dict.fromkeys(keys) if key is not None and is_valid_key(key)}
    if not valid:
        return [False] * len(keys)
    if len(keys) < QUICK_ROWS_MIN:
        return _judge_rows(buffer, start, size, [key if key in valid else None for key in keys])
    found = quick_rows.find_valid(buffer, start, size, keys, valid)
    if all(found):
        return found
    left = [
        None if is_found or key not in valid else key
        for key, is_found in zip(keys, found, strict=True)
    ]
    judged = _judge_rows(buffer, start, size, left)
    return [is_found or is_good for is_found, is_good in zip(found, judged, strict=True)]


def _judge_rows(buffer: bytes, start: int, size: int, keys: Sequence[bytes | None]) -> list[bool]:
    """Tell libsodium's verdict on each record whose key is not None; False of the others."""
    if _sodium is None:
        return [
            key is not None and _opens(buffer[start + index * size :][:size], key)
            for index, key in enumerate(keys)
        ]
    first = _ffi.from_buffer(buffer) + start
    # libsodium hands the message out only if it is told where to.
    nowhere = _ffi.NULL
    sign_open = _sodium.crypto_sign_open
    return [
        key is not None and sign_open(nowhere, nowhere, first + index * size, size, key) == 0
        for index, key in enumerate(keys)
    ]


def _opens(signed: bytes, public_key: bytes) -> bool:
    try:
        crypto_sign_open(signed, public_key)
    except _SodiumRefusedError:
        return False
    return True


def exchange_key_of(secret: bytes) -> bytes:
    """Return the 32-byte X25519 public key of a secret (RFC 7748).

    Args:
        secret: 32 bytes that nobody else knows and that serve one exchange only; `generate_seed`
            makes them.

    Raises:
        ValueError: The secret is not 32 bytes.
    """
    if len(secret) != SEED_SIZE:
        raise ValueError(f"secret: got {len(secret)} bytes, want {SEED_SIZE}")
    return bytes(crypto_scalarmult_base(secret))


def agree_secret(secret: bytes, exchange_key: bytes) -> bytes | None:
    """Return the 32 bytes that only the holders of two secrets can compute (RFC 7748).

    Args:
        secret: One side's secret; 32 bytes.
        exchange_key: The other side's X25519 public key, which may come from anybody.

    Returns:
        The shared secret, or None for a key of small order or wrong length: under such a key
        the secret would be known to everybody.

    Raises:
        ValueError: The secret is not 32 bytes.
    """
    if len(secret) != SEED_SIZE:
        raise ValueError(f"secret: got {len(secret)} bytes, want {SEED_SIZE}")
    if len(exchange_key) != KEY_SIZE:
        return None
    try:
        return bytes(crypto_scalarmult(secret, exchange_key))
    except _SodiumFailedError:
        return None


@lru_cache(maxsize=1024)
def _shared_key(seed: bytes, public_key: bytes) -> bytes:
    if not is_valid_key(public_key):
        raise BadSealError(f"seal: got key {public_key.hex()}, want a valid one")
    secret = crypto_sign_ed25519_sk_to_curve25519(_key_pair(seed)[1])
    return bytes(
        crypto_box_beforenm(crypto_sign_ed25519_pk_to_curve25519(public_key), bytes(secret))
    )


def seal(seed: bytes, public_key: bytes, message: bytes) -> bytes:
    """Return the message sealed between two keys: only they can read it or could have made it.

    Neither direction nor order is protected, nor the past when a seed leaks: sign what is sealed.

    Raises:
        BadSealError: The public key is not valid.
    """
    nonce = os.urandom(_SEAL_NONCE_SIZE)
    return nonce + bytes(crypto_box_afternm(message, nonce, _shared_key(seed, public_key)))


def open_seal(seed: bytes, public_key: bytes, sealed: bytes) -> bytes:
    """Return the message that was sealed between these two keys.

    Raises:
        BadSealError: It was not, or the public key is not valid.
    """
    nonce, box = sealed[:_SEAL_NONCE_SIZE], sealed[_SEAL_NONCE_SIZE:]
    if len(sealed) < SEAL_SIZE:
        raise BadSealError(f"seal: got {len(sealed)} bytes, want at least {SEAL_SIZE}")
    try:
        return bytes(crypto_box_open_afternm(box, nonce, _shared_key(seed, public_key)))
    except _SealBrokenError:
        raise BadSealError("seal: got bytes that were not sealed between these keys") from None


def derive_key(passphrase: bytes, salt: bytes, *, passes: int, memory_bytes: int) -> bytes:
    """Return a 32-byte key that costs this much to try a passphrase (Argon2id, RFC 9106, 1.3).

    Args:
        passphrase: Any bytes.
        salt: `PASSPHRASE_SALT_SIZE` random bytes.
        passes: Argon2's time cost, ≥ 1.
        memory_bytes: Memory it fills, ≥ 8 KiB.
    """
    return bytes(
        crypto_pwhash_alg(
            KEY_SIZE, passphrase, salt, passes, memory_bytes, crypto_pwhash_ALG_ARGON2ID13
        )
    )


def lock(key: bytes, message: bytes) -> bytes:
    """Return the message encrypted under a secret key (XSalsa20-Poly1305, nonce in front)."""
    nonce = os.urandom(_SEAL_NONCE_SIZE)
    return nonce + bytes(crypto_secretbox(message, nonce, key))


def unlock(key: bytes, locked: bytes) -> bytes:
    """Return what was locked under a secret key.

    Raises:
        BadSealError: It was not: another key, or other bytes.
    """
    nonce, box = locked[:_SEAL_NONCE_SIZE], locked[_SEAL_NONCE_SIZE:]
    if len(locked) < SEAL_SIZE:
        raise BadSealError(f"lock: got {len(locked)} bytes, want at least {SEAL_SIZE}")
    try:
        return bytes(crypto_secretbox_open(box, nonce, key))
    except _SealBrokenError:
        raise BadSealError("lock: got another key or other bytes") from None


def network_id_of(passphrase: str) -> bytes:
    """Return the 32-byte id of a Stellar network: SHA-256 of its passphrase."""
    return sha256(passphrase.encode()).digest()
