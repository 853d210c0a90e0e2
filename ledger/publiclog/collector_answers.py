"""What the collector says of a bundle: unsigned, so told beside the log and never instead of it."""

import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from ledger.audit.errors import UndecidableError
from ledger.publiclog.source import WebSource

_ANSWER_BYTES_MAX: Final = 4 << 20
_OK, _NOT_FOUND = 200, 404


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorAnswer:
    """State and codes of a bundle, by the operator's word."""

    state: str
    code: int | None
    codes: tuple[int, ...]
    """One per receipt."""


class CollectorAnswers:
    """Asks a collector what became of bundles.

    Raises:
        UndecidableError: The URL is none.
    """

    def __init__(self, url: str) -> None:
        self._source = WebSource(url)
        self._prefix = urlsplit(url).path.rstrip("/")

    def ask(self, digest: bytes) -> CollectorAnswer | None:
        """Return what the collector says of a bundle, None if it knows none.

        Raises:
            UndecidableError: It does not answer, or answers otherwise.
        """
        target = f"{self._prefix}/v1/bundles/{digest.hex()}"
        status, content = self._source.get(target, _ANSWER_BYTES_MAX)
        if status == _NOT_FOUND:
            return None
        if status != _OK or len(content) > _ANSWER_BYTES_MAX:
            raise UndecidableError(f"{self._source.url}: got HTTP {status}, want 200")
        try:
            return _answer_of(json.loads(content))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UndecidableError(f"{self._source.url}: got another answer, want JSON") from None

    def close(self) -> None:
        """Close the connection."""
        self._source.close()


def _answer_of(document: Any) -> CollectorAnswer:
    codes = tuple(document["codes"])
    code = document["code"]
    if any(type(one) is not int or not 0 <= one < 1 << 16 for one in codes):
        raise ValueError("codes")
    if code is not None and type(code) is not int:
        raise ValueError("code")
    return CollectorAnswer(state=str(document["state"]), code=code, codes=codes)
