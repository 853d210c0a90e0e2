"""Amounts of bytes and rates as an owner writes them: "500 GiB", "2MB/s", "20 Mbit/s".

Whole numbers only, and every unit says its definition: k, M, G, T are powers of 1000, Ki, Mi, Gi,
Ti powers of 1024; "bit" is an eighth of a byte and allowed in rates only.
"""

import re

from engine_plugin.errors import WrongInputError

BYTES_MAX = 2**63 - 1

_PREFIXES = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_AMOUNT = re.compile(r"(\d{1,19}) ?(?:(k|M|G|T|Ki|Mi|Gi|Ti|)(B|bit))?(/s)?", re.ASCII)


class AmountError(WrongInputError):
    """A text is no amount of bytes, or too large."""


def parse_byte_count(text: str, field: str) -> int:
    """Return an amount in bytes: "0", "1500", "10 MB", "500GiB".

    Raises:
        AmountError: It is no whole amount of bytes below 2^63.
    """
    return _parse(text, field, is_rate=False)


def parse_byte_rate(text: str, field: str) -> int:
    """Return a rate in bytes per second: "0", "250000", "2 MB/s", "20 Mbit/s".

    Raises:
        AmountError: It is no whole rate below 2^63.
    """
    return _parse(text, field, is_rate=True)


def format_byte_count(count: int) -> str:
    """Return an amount so that it reads back to itself: the largest unit that divides it."""
    for prefix in ("Ti", "T", "Gi", "G", "Mi", "M", "Ki", "k"):
        if count and count % _PREFIXES[prefix] == 0:
            return f"{count // _PREFIXES[prefix]} {prefix}B"
    return f"{count} B"


def _parse(text: str, field: str, *, is_rate: bool) -> int:
    found = _AMOUNT.fullmatch(text.strip())
    want = "2 MB/s or 20 Mbit/s" if is_rate else "500 GB or 465 GiB"
    if found is None or (not is_rate and (found[3] == "bit" or found[4])):
        raise AmountError(f"{field}: got {text!r}, want a whole number with its unit, as {want}")
    count = int(found[1]) * _PREFIXES[found[2] or ""]
    if found[3] == "bit":
        count //= 8
        if not count and int(found[1]):
            raise AmountError(f"{field}: got {text!r}, want 8 bit/s or more, or 0")
    if count > BYTES_MAX:
        raise AmountError(f"{field}: got {text!r}, want less than 2^63 bytes")
    return count
