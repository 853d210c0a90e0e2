"""What the API refuses, and how it says so: `{"code", "detail", "field", "got", "want"}`.

Codes are stable words that programs act on; `detail` is for people. 4xx: sending the same again
does not help, except 429; 503: it does, after `Retry-After` seconds.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from fastapi.responses import JSONResponse

from ledger.api.request_note import note_refusal
from ledger.evidence.errors import MalformedError

RETRY_AFTER_S: Final = 2
"""Told with every 429 and 503 that knows no better."""

_SHOWN_MAX: Final = 200


class RefusedError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        code: Stable word.
        field: Where the fault is; may be empty.
        got: What stood there.
        want: What should.
        retry_after_s: After which time the same may be taken; told with 429 and 503.
    """

    def __init__(
        self,
        status: int,
        code: str,
        *,
        field: str = "",
        got: object = "",
        want: str = "",
        retry_after_s: float = RETRY_AFTER_S,
    ) -> None:
        super().__init__(f"{field}: got {got}, want {want}" if field else code)
        self.status = status
        self.code = code
        self.field = field
        self.got = got
        self.want = want
        self.retry_after_s = retry_after_s


def refuse_malformed(error: MalformedError) -> RefusedError:
    """Return the answer to bytes that are not in the format."""
    return RefusedError(400, "malformed", field=error.field, got=error.got, want=error.want)


def format_refusal(error: RefusedError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the response that says why, with these headers beside its own."""
    note_refusal(error.code)
    answer = JSONResponse(describe_refusal(error), status_code=error.status, headers=headers)
    if error.status in {429, 503}:
        answer.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return answer


def describe_refusal(error: RefusedError) -> dict[str, Any]:
    """Return a refusal as JSON objects."""
    return {
        "code": error.code,
        "detail": _shortened(str(error)),
        "field": error.field,
        "got": _shown(error.got),
        "want": error.want,
    }


def _shown(value: object) -> str | int:
    if isinstance(value, int):
        return value
    return _shortened(value.hex() if isinstance(value, bytes) else str(value))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"
