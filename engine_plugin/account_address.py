"""Stellar account addresses ("G…") as people write them.

Only the form is checked; whether an account exists is the network's to say. Source: SEP-23.
"""

import base64
import binascii

from engine_plugin.errors import WrongInputError
from ledger.evidence.keys import KEY_SIZE, is_valid_key

_VERSION = 6 << 3
_SIZE = 1 + KEY_SIZE + 2
_TEXT_SIZE = 56


class AddressError(WrongInputError):
    """A text is no account address."""


def format_address(public_key: bytes) -> str:
    """Return the address of a 32-byte account key.

    Raises:
        ValueError: The key is not 32 bytes.
    """
    if len(public_key) != KEY_SIZE:
        raise ValueError(f"public_key: got {len(public_key)} bytes, want {KEY_SIZE}")
    body = bytes([_VERSION]) + public_key
    return base64.b32encode(body + _checksum(body)).decode()


def parse_address(text: str, field: str) -> bytes:
    """Return the 32-byte account key of an address.

    Args:
        text: 56 characters, "G…".
        field: What an error names.

    Raises:
        AddressError: Another kind of address, a typing error, or no key at all.
    """
    try:
        raw = base64.b32decode(text) if len(text) == _TEXT_SIZE else b""
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _SIZE or raw[0] != _VERSION or raw[-2:] != _checksum(raw[:-2]):
        shown = text if text[:1] != "S" else "a secret key"
        raise AddressError(f"{field}: got {shown!r}, want an account address G… of 56 characters")
    if not is_valid_key(raw[1:-2]):
        raise AddressError(f"{field}: got {text!r}, want the address of a usable Ed25519 key")
    return raw[1:-2]


def _checksum(body: bytes) -> bytes:
    # CRC-16/XModem, little-endian.
    return binascii.crc_hqx(body, 0).to_bytes(2, "little")
