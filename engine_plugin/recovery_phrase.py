"""The recovery phrase: words on paper from which an account's key can be made again.

BIP-39 words give a seed; SLIP-0010 derives the Ed25519 key at m/44'/148'/n' from it, as every
Stellar wallet does, so the phrase opens the same account there. Not here: asking, showing, files.

Sources: SEP-5; BIP-39; SLIP-0010, "Master key generation" and "Private parent key → private child
key" for ed25519 (hardened steps only).
"""

import hmac
import secrets
import unicodedata
from hashlib import pbkdf2_hmac

from mnemonic import Mnemonic

from engine_plugin.errors import WrongInputError

WORD_COUNTS = (12, 15, 18, 21, 24)
"""Lengths that BIP-39 knows."""

DEFAULT_WORD_COUNT = 24
"""256 bits: as strong as the key itself."""

ACCOUNT_INDEX_MAX = 2**31 - 1

_PURPOSE = 44
_STELLAR_COIN = 148
_HARDENED = 2**31
_CURVE = b"ed25519 seed"
_SEED_ROUNDS = 2048
_BITS_PER_WORD_COUNT = {12: 128, 15: 160, 18: 192, 21: 224, 24: 256}


class PhraseError(WrongInputError):
    """A recovery phrase is wrong: a word, their number, or the checksum. Shows no word of it."""


def generate_phrase(word_count: int = DEFAULT_WORD_COUNT) -> str:
    """Return a new phrase from the operating system's randomness: English words, one space apart.

    Raises:
        PhraseError: BIP-39 has no phrase of that many words.
    """
    bits = _BITS_PER_WORD_COUNT.get(word_count)
    if bits is None:
        raise PhraseError(f"words: got {word_count}, want one of 12, 15, 18, 21, 24")
    return str(Mnemonic("english").to_mnemonic(secrets.token_bytes(bits // 8)))


def parse_phrase(text: str) -> str:
    """Return a phrase as typed by a person in its one form: lower case, one space between words.

    Raises:
        PhraseError: Wrong number of words, an unknown word (by its place), or a wrong checksum.
    """
    words = unicodedata.normalize("NFKD", text).lower().split()
    if len(words) not in WORD_COUNTS:
        raise PhraseError(f"phrase: got {len(words)} words, want 12, 15, 18, 21 or 24")
    dictionary = Mnemonic("english")
    known = set(dictionary.wordlist)
    for place, word in enumerate(words, start=1):
        if word not in known:
            raise PhraseError(f"phrase: word {place} is not in the English list of BIP-39")
    phrase = " ".join(words)
    if not dictionary.check(phrase):
        raise PhraseError("phrase: the words' checksum is wrong: a word is misread or misplaced")
    return phrase


def derive_account_seed(phrase: str, *, index: int = 0, passphrase: str = "") -> bytes:
    """Return the 32-byte Ed25519 seed of the phrase's account n: m/44'/148'/n'.

    Args:
        phrase: As `parse_phrase` returns it.
        index: Which of the phrase's accounts; 0 to 2^31 - 1.
        passphrase: BIP-39's additional secret; every text gives another, valid account.

    Raises:
        PhraseError: The index is out of range.
    """
    if not 0 <= index <= ACCOUNT_INDEX_MAX:
        raise PhraseError(f"index: got {index}, want 0 to {ACCOUNT_INDEX_MAX}")
    salt = "mnemonic" + passphrase
    seed = pbkdf2_hmac(
        "sha512",
        unicodedata.normalize("NFKD", phrase).encode(),
        unicodedata.normalize("NFKD", salt).encode(),
        _SEED_ROUNDS,
    )
    return derive_seed(seed, (_PURPOSE, _STELLAR_COIN, index))


def derive_seed(seed: bytes, path: tuple[int, ...]) -> bytes:
    """Return the Ed25519 seed at a path of hardened steps (SLIP-0010); 32 bytes.

    Args:
        seed: The master seed; 16 to 64 bytes.
        path: Steps without the hardening bit; each 0 to 2^31 - 1.
    """
    node = hmac.digest(_CURVE, seed, "sha512")
    for step in path:
        data = b"\0" + node[:32] + (step + _HARDENED).to_bytes(4, "big")
        node = hmac.digest(node[32:], data, "sha512")
    return node[:32]
