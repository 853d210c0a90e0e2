"""Stellar addresses: the text form of an account's key (SEP-23 strkey, version "G").

Base32 of version byte, key and CRC-16/XMODEM, without padding. Only accounts; muxed and contract
addresses do not appear in evidence.
"""

import base64
import binascii

from ledger.evidence.errors import MalformedRecordError

_VERSION_ACCOUNT = 6 << 3
_TEXT_SIZE = 56


def _checksum(data: bytes) -> bytes:
    """CRC-16/XMODEM, little-endian (SEP-23)."""
    return binascii.crc_hqx(data, 0).to_bytes(2, "little")


def format_account(key: bytes) -> str:
    """Return the "G…" text of a 32-byte account key.

    Raises:
        MalformedRecordError: The key is not 32 bytes.
    """
    if len(key) != 32:
        raise MalformedRecordError("account", got=f"{len(key)} bytes", want="32 bytes")
    payload = bytes([_VERSION_ACCOUNT]) + key
    return base64.b32encode(payload + _checksum(payload)).decode()


def parse_account(text: str) -> bytes:
    """Return the 32-byte key of a "G…" address.

    Raises:
        MalformedRecordError: It is not what `format_account` prints.
    """
    try:
        data = base64.b32decode(text.encode("ascii")) if len(text) == _TEXT_SIZE else b""
    except (ValueError, UnicodeEncodeError):
        data = b""
    key = data[1:33]
    if len(key) != 32 or format_account(key) != text:
        raise MalformedRecordError("account", got=text[:60], want="a Stellar address G…")
    return key
