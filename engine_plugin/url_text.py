"""URLs as logs, events and status pages may show them: without what gives access.

A CDN's URL may hold a token in its query, or a name and a password: whoever reads a log must not
get them. Not here: which URLs are used.
"""

import re
from typing import Final

_CREDENTIALS: Final = re.compile(r"(?<=://)[^/?#\s@'\"]*@")
_QUERY: Final = re.compile(r"(\bhttps?://[^\s?#'\"<>]*)[?#][^\s'\"<>]*")


def hide_queries(text: str) -> str:
    """Return a text whose http and https URLs have no credentials, and "?…" for what follows."""
    return _QUERY.sub(r"\1?…", _CREDENTIALS.sub("", text))
