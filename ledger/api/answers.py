"""What the API refuses, and how it says so: `{"code", "detail", "field", "got", "want"}`.

Codes are stable words that programs act on; `detail` is for people. 4xx: sending the same again
does not help, except 429; 503: it does, after `Retry-After` seconds.
"""

from typing import Any, Final

from fastapi.responses import JSONResponse

from ledger.evidence.errors import MalformedError

RETRY_AFTER_S: Final = 2
_SHOWN_MAX: Final = 200


class RefusedError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        code: Stable word.
        field: Where the fault is; may be empty.
        got: What stood there.
        want: What should.
    """

    def __init__(
        self, status: int, code: str, *, field: str = "", got: object = "", want: str = ""
    ) -> None:
        super().__init__(f"{field}: got {got}, want {want}" if field else code)
        self.status = status
        self.code = code
        self.field = field
        self.got = got
        self.want = want


def refuse_malformed(error: MalformedError) -> RefusedError:
    """Return the answer to bytes that are not in the format."""
    return RefusedError(400, "malformed", field=error.field, got=error.got, want=error.want)


def format_refusal(error: RefusedError) -> JSONResponse:
    """Return the response that says why."""
    content: dict[str, Any] = {
        "code": error.code,
        "detail": _shortened(str(error)),
        "field": error.field,
        "got": _shown(error.got),
        "want": error.want,
    }
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status in {429, 503} else {}
    return JSONResponse(content, status_code=error.status, headers=headers)


def _shown(value: object) -> str | int:
    if isinstance(value, int):
        return value
    return _shortened(value.hex() if isinstance(value, bytes) else str(value))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"
