"""Horizon's listings: cursor, limit and order of a request, the page they cut, and its links."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from stellar_sdk import StrKey
from stellar_sdk.exceptions import Ed25519PublicKeyInvalidError

from ledger.devnet.horizon import Json, problem

MAX_LIMIT: Final = 200
_DEFAULT_LIMIT: Final = 10
_DIGITS_MAX: Final = 20

T = TypeVar("T")


class RefusalError(Exception):
    """A request answered with a problem."""

    def __init__(self, body: Json) -> None:
        super().__init__(body["detail"])
        self.body = body


def missing(detail: str = "The resource at the url requested was not found.") -> RefusalError:
    """404."""
    return RefusalError(problem(404, "not_found", "Resource Missing", detail))


def bad(field: str, reason: str) -> RefusalError:
    """400 for a field of the request."""
    extras = {"invalid_field": field, "reason": reason}
    detail = "The request you sent was invalid in some way."
    return RefusalError(problem(400, "bad_request", "Bad Request", detail, extras))


@dataclass(frozen=True, slots=True)
class Page:
    """Paging parameters of a listing."""

    cursor: int | None
    limit: int
    descending: bool

    def cut(self, items: Iterable[tuple[int, Json]]) -> list[Json]:
        """The page of (token, resource) pairs."""
        ranked = sorted(items, key=lambda item: item[0], reverse=self.descending)
        if self.cursor is not None and self.descending:
            ranked = [item for item in ranked if item[0] < (self.cursor or 0)]
        elif self.cursor is not None:
            ranked = [item for item in ranked if item[0] > (self.cursor or 0)]
        return [resource for _, resource in ranked[: self.limit]]

    def walk(
        self, items: Sequence[T], token: Callable[[T], int], cursor: int | None
    ) -> Iterator[T]:
        """An ascending listing in the page's order, from a cursor's own item on."""
        if self.descending:
            end = len(items) if cursor is None else bisect_right(items, cursor, key=token)
            return (items[index] for index in range(end - 1, -1, -1))
        start = 0 if cursor is None else bisect_left(items, cursor, key=token)
        return (items[index] for index in range(start, len(items)))

    def window(self, items: Sequence[T], token: Callable[[T], int]) -> Sequence[T]:
        """The part of an ascending listing that the page needs, so that only it is rendered."""
        if self.descending:
            end = len(items) if self.cursor is None else bisect_left(items, self.cursor, key=token)
            return items[max(0, end - self.limit) : end]
        start = 0 if self.cursor is None else bisect_right(items, self.cursor, key=token)
        return items[start : start + self.limit]


def page_of(request: Request, now: int) -> Page:
    """Read a request's paging parameters; `now` is the token after everything that there is.

    Raises:
        RefusalError: One of them cannot be.
    """
    query = request.query_params
    order, limit = query.get("order", "asc"), query.get("limit", str(_DEFAULT_LIMIT))
    if order not in ("asc", "desc"):
        raise bad("order", "order: invalid value")
    if not limit.isdecimal() or len(limit) > 3 or not 1 <= int(limit) <= MAX_LIMIT:
        raise bad("limit", f"limit: got {limit:.20}, want 1 to {MAX_LIMIT}")
    # A client that comes back to a stream names the last event it had.
    text = request.headers.get("last-event-id") or query.get("cursor", "")
    cursor: int | None = None
    if text == "now":
        cursor = now
    elif text:
        head = text.split("-", maxsplit=1)[0]
        if not head.isdecimal() or len(head) > _DIGITS_MAX:
            raise bad("cursor", "cursor: invalid value")
        cursor = int(head)
    return Page(cursor, int(limit), order == "desc")


def base_of(request: Request) -> str:
    """The URL that links begin with."""
    return str(request.base_url).rstrip("/")


def key_of(address: str, field: str) -> bytes:
    """The key of a G-address.

    Raises:
        RefusalError: It is none.
    """
    try:
        return StrKey.decode_ed25519_public_key(address)
    except (Ed25519PublicKeyInvalidError, ValueError):
        raise bad(field, f"{field}: got {address[:80]!r}, want a G-address") from None


def listing(request: Request, page: Page, records: list[Json], headers: dict[str, str]) -> Response:
    """A page with its links."""
    query = {"limit": str(page.limit), "order": "desc" if page.descending else "asc"}
    kept = ("cursor", "limit", "order")
    query |= {name: value for name, value in request.query_params.items() if name not in kept}
    here = f"{base_of(request)}{request.url.path}"
    current = request.query_params.get("cursor", "")
    last = records[-1]["paging_token"] if records else current
    first = records[0]["paging_token"] if records else current
    turned = query | {"order": "asc" if page.descending else "desc"}
    links = {
        "self": {"href": f"{here}?{urlencode(query | {'cursor': current})}"},
        "next": {"href": f"{here}?{urlencode(query | {'cursor': last})}"},
        "prev": {"href": f"{here}?{urlencode(turned | {'cursor': first})}"},
    }
    return JSONResponse({"_links": links, "_embedded": {"records": records}}, headers=headers)
