"""Quick rows: ed25519-dalek finds the good signatures of a run; libsodium judges all others.

The rule is `keys`': A a canonical point of the main subgroup, and libsodium's verification. Both
libraries compute k = SHA-512(R ‖ A ‖ message) mod L over the bytes as they came, and

- libsodium accepts if S < L is canonical, A and R are canonical and not of small order, and R is,
  byte for byte, the encoding of S·B − k·A;
- ed25519-dalek (`VerifyingKey::verify`) accepts if S < L is canonical, A decodes (also from other
  encodings), and R is, byte for byte, the encoding of S·B − k·A.

Neither multiplies by the cofactor. So they differ for odd A, which `keys` has refused before, and
for R of small order: of those only the identity can equal S·B − k·A for an A of the main subgroup,
and every encoding of the eight is passed on. An encoding that was computed is canonical. Hence
*accepted here implies accepted by libsodium*; what is not accepted here is not refused either, but
judged again. The crafted vectors and a generated corpus hold both to that.

The library comes with the extra `server` (qh3, a maintained wheel of abi3 without dependencies that
carries ed25519-dalek with AVX2). Not needed anywhere: without it, or if it fails its first two
signatures, libsodium does everything. Not used: libraries with the cofactored equation (ZIP-215),
which accept more, and batch equations, which accept mixed-order R by chance. This module is the
only importer of qh3.
"""

import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from typing import Final

_Check = Callable[[bytes, int, bytes, bytes], None]
"""Takes a key's SubjectPublicKeyInfo, the scheme, message and signature; raises if not valid."""

_KEY_INFO: Final = bytes.fromhex("302a300506032b6570032100")
"""DER of a SubjectPublicKeyInfo before the 32 bytes of an Ed25519 key (RFC 8410)."""

_ED25519: Final = 0x0807
"""SignatureScheme of RFC 8446."""

_R_SIZE: Final = 32
_SIGNATURE_SIZE: Final = 64

_SMALL_ORDER_Y: Final = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)
"""Every y, canonical or not, of a point of small order; each with either sign bit."""

SMALL_ORDER: Final = frozenset(
    number[:31] + bytes([number[31] | sign])
    for number in map(bytes.fromhex, _SMALL_ORDER_Y)
    for sign in (0, 0x80)
)
"""The 14 encodings of the eight points of small order."""

# RFC 8032 §7.1, test 1; and the same with another message.
_KNOWN_KEY: Final = bytes.fromhex(
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
)
_KNOWN_SIGNATURE: Final = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
    "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
)


@cache
def load_check() -> tuple[_Check, tuple[type[Exception], ...]] | None:
    """Return the library's check and what it raises; None if it is not there or does not work.

    Loaded when first asked for: it takes 0.1 s and 16 MB, which commands without work of this kind
    do not pay.
    """
    try:
        from qh3 import _hazmat  # noqa: PLC0415 — see above
    except ImportError:
        return None
    refusals = (_hazmat.SignatureError, _hazmat.CryptoError)
    check = _hazmat.verify_with_public_key
    verdicts = []
    for message in (b"", b"another message"):
        try:
            check(_KEY_INFO + _KNOWN_KEY, _ED25519, message, _KNOWN_SIGNATURE)
        except refusals:
            verdicts.append(False)
        else:
            verdicts.append(True)
    return (check, refusals) if verdicts == [True, False] else None


def find_valid(
    buffer: bytes, start: int, size: int, keys: Sequence[bytes | None], valid: Collection[bytes]
) -> list[bool]:
    """Tell of each record of a run whether its signature was found valid here.

    Args:
        buffer: Holds one record after another, and all of them.
        start: Offset of the first one.
        size: Bytes of each, ≥ 64.
        keys: Each record's public key, or None.
        valid: Those of the keys that are canonical points of the main subgroup.

    Returns:
        True: libsodium accepts it too. False: it may or may not.
    """
    loaded = load_check()
    if loaded is None:
        return [False] * len(keys)
    check, refusals = loaded
    infos = {key: _KEY_INFO + key for key in valid}
    run = memoryview(buffer)[start : start + size * len(keys)]
    # One pass tells that no R of the run is of small order, as a rule.
    is_plain = SMALL_ORDER.isdisjoint(r for (r,) in _parts(f"{_R_SIZE}s{size - _R_SIZE}x", run))
    parts = _parts(f"{_SIGNATURE_SIZE}s{size - _SIGNATURE_SIZE}s", run)
    ed25519, find_info = _ED25519, infos.get
    found: list[bool] = []
    for key, (signature, message) in zip(keys, parts, strict=True):
        is_found = False
        info = None if key is None else find_info(key)
        if info is not None:
            try:
                check(info, ed25519, message, signature)
            except refusals:
                pass
            else:
                is_found = is_plain or signature[:_R_SIZE] not in SMALL_ORDER
        found.append(is_found)
    return found


def _parts(layout: str, run: memoryview) -> Iterator[tuple[bytes, ...]]:
    return struct.iter_unpack(f"<{layout}", run)
