"""Ed25519 keys and the one rule by which a signature is valid.

The rule, the same in plugin, worker and verifier: the public key passes libsodium's
`crypto_core_ed25519_is_valid_point` (on the curve, canonical, main subgroup, not small order), and
libsodium's detached verification accepts (canonical S, canonical R, cofactorless equation).
Libraries disagree on odd keys (RFC 8032 leaves room), so no other verifier may be used.

This module is the only importer of PyNaCl. It holds no key files: who holds which key, and where,
stands in SECURITY.md.
"""

import os
from functools import lru_cache
from hashlib import sha256

from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError as _SodiumRefusedError

SEED_SIZE = 32
"""Bytes of a private key's seed."""

KEY_SIZE = 32
"""Bytes of a public key."""

SIGNATURE_SIZE = 64
"""Bytes of a signature."""

_CACHED_KEYS = 65_536


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


@lru_cache(maxsize=_CACHED_KEYS)
def is_valid_key(public_key: bytes) -> bool:
    """Tell whether a public key is a canonical point of the main subgroup.

    Small-order keys (under which anybody can sign anything), mixed-order keys and non-canonical
    encodings are refused. The verdict is cached per key.
    """
    return len(public_key) == KEY_SIZE and bool(crypto_core_ed25519_is_valid_point(public_key))


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether a signature is valid under the project's one rule.

    Args:
        public_key: 32 bytes; any other length gives False.
        message: The signed bytes, any length.
        signature: 64 bytes; any other length gives False.
    """
    if len(signature) != SIGNATURE_SIZE or not is_valid_key(public_key):
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except _SodiumRefusedError:
        return False
    return True


def network_id_of(passphrase: str) -> bytes:
    """Return the 32-byte id of a Stellar network: SHA-256 of its passphrase."""
    return sha256(passphrase.encode()).digest()
