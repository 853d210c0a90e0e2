"""The `Range` header of a request for one file. Pure.

Of several ranges the first that the file has is served: a player that asks for several takes what
`Content-Range` says. What is no byte range is ignored, as the specification wants it.

Spec: RFC 9110 §14.
"""

import re
from dataclasses import dataclass

_SPEC = re.compile(r"([0-9]{0,19})-([0-9]{0,19})")
_RANGES_MAX = 32


class UnsatisfiableRangeError(ValueError):
    """None of the ranges asked for is in the file (416)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """A part of a file that is not empty."""

    first: int
    """0 ≤ first ≤ last."""
    last: int
    """The last byte itself; last < size."""

    @property
    def length(self) -> int:
        """Number of bytes; n ≥ 1."""
        return self.last - self.first + 1


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """Return the part asked for, or None for the whole file.

    Args:
        header: Value of `Range`, if there is one.
        size: The file's size; n ≥ 0.

    Raises:
        UnsatisfiableRangeError: The header is well-formed and the file has none of it.
    """
    if header is None:
        return None
    unit, equals, text = header.partition("=")
    specs = [part.strip() for part in text.split(",") if part.strip()]
    if not equals or unit.strip().lower() != "bytes" or not 1 <= len(specs) <= _RANGES_MAX:
        return None
    parsed = [_SPEC.fullmatch(spec) for spec in specs]
    pairs = [(match[1], match[2]) for match in parsed if match is not None]
    if len(pairs) < len(specs) or ("", "") in pairs:
        return None
    if any(first and last and int(first) > int(last) for first, last in pairs):
        return None
    for first, last in pairs:
        if (found := _fit(first, last, size)) is not None:
            return found
    raise UnsatisfiableRangeError(f"range: got {header}, want bytes of {size}")


def _fit(first: str, last: str, size: int) -> ByteRange | None:
    if not first:
        suffix = min(int(last), size)
        return ByteRange(first=size - suffix, last=size - 1) if suffix else None
    if int(first) >= size:
        return None
    return ByteRange(first=int(first), last=min(int(last), size - 1) if last else size - 1)
