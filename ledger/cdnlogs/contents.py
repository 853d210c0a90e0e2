"""Contents: which content a path of a CDN belongs to, by declared prefixes; the longest one wins.

Paths and prefixes are percent-decoded. The file is TOML, as the broadcaster keeps it:

    [contents]
    "/films/uncut/" = "<64 hex digits>"
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

UNKNOWN_CONTENT: Final = b""
"""Content of a path that no prefix covers."""

CONTENTS_CHARACTERS_MAX: Final = 64 << 20
_HEX_DIGITS = frozenset("0123456789abcdef")


class ContentsError(Exception):
    """A list of contents that cannot be read: field, got, want."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Content ids by path prefix."""

    by_prefix: Mapping[str, bytes]
    """Prefix → 32-byte content id."""

    lengths: tuple[int, ...]
    """Lengths of the prefixes, longest first."""

    @classmethod
    def of(cls, by_prefix: Mapping[str, bytes]) -> "Contents":
        """Return the contents of these prefixes."""
        lengths = sorted({len(prefix) for prefix in by_prefix}, reverse=True)
        return cls(by_prefix=dict(by_prefix), lengths=tuple(lengths))

    def find(self, path: str) -> bytes:
        """Return the content id of a path: 32 bytes, or `UNKNOWN_CONTENT`."""
        for length in self.lengths:
            content = self.by_prefix.get(path[:length])
            if content is not None:
                return content
        return UNKNOWN_CONTENT


def parse_contents(text: str) -> Contents:
    """Read a list of contents.

    Raises:
        ContentsError: Not such a document.
    """
    if len(text) > CONTENTS_CHARACTERS_MAX:
        raise ContentsError(f"contents: got {len(text)} characters, want ≤ 64 MiB")
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ContentsError(f"contents: {error}") from None
    table = document.get("contents")
    if set(document) != {"contents"} or not isinstance(table, dict):
        raise ContentsError("contents: want one table [contents] of prefix = content id")
    for prefix, content in table.items():
        if not prefix.startswith("/"):
            raise ContentsError(f"contents: got prefix {prefix!r}, want one that begins with /")
        if not isinstance(content, str) or len(content) != 64 or set(content) - _HEX_DIGITS:
            raise ContentsError(f"contents[{prefix!r}]: got {content!r}, want 64 hex digits")
    return Contents.of({prefix: bytes.fromhex(content) for prefix, content in table.items()})
