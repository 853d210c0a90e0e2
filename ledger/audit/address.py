"""Stellar addresses: the text form of an account's key (SEP-23 strkey, version "G").

Base32 of version byte, key and CRC-16/XMODEM, without padding. Of muxed addresses ("M": a key and
an id) only the form; they and contract addresses do not appear in evidence.
"""

import base64
import binascii

from ledger.evidence.errors import MalformedRecordError

_VERSION_ACCOUNT = 6 << 3
_VERSION_MUXED = 12 << 3
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


def format_muxed(key: bytes, muxed_id: int) -> str:
    """Return the "M…" text of a 32-byte account key with an id, 0 to 2**64 - 1.

    Raises:
        MalformedRecordError: The key is not 32 bytes, or the id out of range.
    """
    if len(key) != 32 or not 0 <= muxed_id < 1 << 64:
        got = f"{len(key)} bytes, id {muxed_id}"
        raise MalformedRecordError("muxed account", got=got, want="32 bytes, id of 64 bits")
    payload = bytes([_VERSION_MUXED]) + key + muxed_id.to_bytes(8, "big")
    return base64.b32encode(payload + _checksum(payload)).decode().rstrip("=")


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
