"""Issuer: the broadcaster's own back end, which gives entitlements to session keys.

    POST /v1/entitlements?content_id=…[&after=…]  a viewer's own question; the body is its binding
    POST /v1/issue                                a player back end's, with a bearer token; JSON
    GET  /v1/issued                               what is out: live entitlements and their caps

A separate application and process: it holds the issuing key and nothing of the operator's, and the
operator holds nothing of it. A viewer shows the binding of its session key and names a content; it
gets an entitlement with the configured caps, the same one again until it is about to run out, or
until it says that it used this one up and the next is allowed. A player back end that has already
decided who may watch names session keys, contents and caps; the same request gets the same answer.
What was issued is on disk, its serial with it, before it is answered, so a restart issues the
same. Time is ledger time, from the collector's signed clock; without it nothing is issued. What
the deposits or the broadcaster's own budget do not cover is refused (`issuing_budget`), and said so
in the log. Not here: who may watch.
"""

import hmac
import json
import os
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
from fastapi import FastAPI, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from ledger.api.answers import RefusedError, refuse_malformed
from ledger.api.app import add_error_answers
from ledger.api.documents import OCTETS
from ledger.api.issuer_pace import Pace
from ledger.api.issuing_budget import IssuingBudget
from ledger.api.requests import parse_hex, read_bounded
from ledger.api.signed_clock import ClockUnknownError
from ledger.evidence.binding import BINDING, Binding, Role, is_valid_binding
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.errors import MalformedError, MalformedRecordError
from ledger.evidence.keys import is_valid_key
from ledger.evidence.terms import Terms

BACKDATED_S: Final = 60
"""An entitlement begins this long ago: a seeder's reading of ledger time may lag behind ours."""

RENEWED_BEFORE_S: Final = 120
"""One that has less than this left, or than half its life, is replaced by a new one."""


VALID_MOST_S: Final = 366 * 86_400
"""An entitlement that holds longer than a year would hardly be a permission."""

ORDERS_MAX: Final = 1_000
"""Most orders in one request of a player back end."""

ORDERS_SIZE_MAX: Final = 1 << 20
REQUEST_ID_MAX: Final = 128
_SERIAL_DOMAIN: Final = b"swarmledger serial v1\0"
_U63_MAX: Final = (1 << 63) - 1
_U32_MAX: Final = (1 << 32) - 1

_log = structlog.get_logger(__name__)


class IssuedFileError(Exception):
    """The file of issued entitlements cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What an entitlement of this issuer allows."""

    max_bytes: int = 0
    """Cap of credited bytes; 0 = none."""

    valid_s: int = 86_400
    """Seconds it holds, ≥ 1."""

    max_media_ms: int = 0
    """Cap of media time; 0 = none."""

    max_rate_kbps: int = 0
    """Cap of the rate; 0 = none."""

    country: str = ""
    """ISO 3166 code, or empty."""

    def __post_init__(self) -> None:
        for name, most in (
            ("max_bytes", _U63_MAX),
            ("max_media_ms", _U63_MAX),
            ("max_rate_kbps", _U32_MAX),
        ):
            if not 0 <= getattr(self, name) <= most:
                raise MalformedRecordError(name, got=getattr(self, name), want=f"0 to {most}")
        if not 1 <= self.valid_s <= VALID_MOST_S:
            raise MalformedRecordError("valid_s", got=self.valid_s, want=f"1 to {VALID_MOST_S}")
        if self.country and not (len(self.country) == 2 and self.country.isascii()):
            raise MalformedRecordError("country", got=self.country, want="two letters, or none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A player back end's wish for one entitlement."""

    session_key: bytes
    """32 bytes, a valid key."""

    content_id: bytes
    """32 bytes."""

    caps: Caps

    request_id: str = ""
    """What makes two orders for the same key and content different; up to 128 characters."""

    def __post_init__(self) -> None:
        if not is_valid_key(self.session_key):
            raise MalformedRecordError(
                "session_key", got=self.session_key, want="a valid Ed25519 public key, 32 bytes"
            )
        if len(self.content_id) != 32:
            raise MalformedRecordError("content_id", got=self.content_id, want="32 bytes")
        if len(self.request_id) > REQUEST_ID_MAX:
            raise MalformedRecordError(
                "request_id", got=self.request_id, want=f"at most {REQUEST_ID_MAX} characters"
            )

    @property
    def serial(self) -> bytes:
        """The serial that this order and no other leads to; 16 bytes."""
        name = self.request_id.encode()
        parts = (_SERIAL_DOMAIN, self.session_key, self.content_id, name)
        return sha256(b"".join(parts)).digest()[:16]


class IssuedFile:
    """Entitlements as they were issued, one fixed-width record after the other, synced each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_key: dict[tuple[bytes, bytes], Signed[Entitlement]] = {}
        self._by_serial: dict[bytes, Signed[Entitlement]] = {}
        self._sums: defaultdict[tuple[bytes, bytes], int] = defaultdict(int)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._load()
        except (OSError, MalformedError) as error:
            raise IssuedFileError(f"{path}: {error}") from None

    def _load(self) -> None:
        content = self._path.read_bytes()
        whole = len(content) // ENTITLEMENT.size * ENTITLEMENT.size
        for at in range(0, whole, ENTITLEMENT.size):
            self._note(ENTITLEMENT.parse(content[at : at + ENTITLEMENT.size]))
        # A record that was half written when the machine stopped was never answered.
        os.ftruncate(self._descriptor, whole)
        os.lseek(self._descriptor, whole, os.SEEK_SET)

    def find(self, session_key: bytes, content_id: bytes) -> Signed[Entitlement] | None:
        """Return the newest entitlement of a session key for a content."""
        return self._by_key.get((session_key, content_id))

    def find_serial(self, serial: bytes) -> Signed[Entitlement] | None:
        """Return the newest entitlement with a serial."""
        return self._by_serial.get(serial)

    def sum_bytes(self, session_key: bytes, content_id: bytes) -> int:
        """Return the caps of bytes that a session key got for a content so far, together."""
        return self._sums[session_key, content_id]

    def list_live(self, now_s: int) -> list[Entitlement]:
        """Return the entitlements that hold now or later."""
        issued = self._by_serial.values()
        return [signed.value for signed in issued if signed.value.not_after_s >= now_s]

    def add(self, batch: Sequence[Signed[Entitlement]]) -> None:
        """Append entitlements; they are durable when this returns.

        Raises:
            OSError: It is not.
        """
        start = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        try:
            os.write(self._descriptor, b"".join(signed.raw for signed in batch))
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, start)
            os.lseek(self._descriptor, start, os.SEEK_SET)
            raise
        for signed in batch:
            self._note(signed)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _note(self, signed: Signed[Entitlement]) -> None:
        name = signed.value.session_key, signed.value.content_id
        self._by_key[name] = signed
        self._sums[name] += signed.value.max_bytes
        self._by_serial[signed.value.serial] = signed


class Issuer:
    """Issues entitlements under one broadcaster's terms."""

    def __init__(
        self,
        *,
        terms: Signed[Terms],
        issuing_seed: bytes,
        caps: Caps,
        issued: IssuedFile,
        now_s: Callable[[], int],
        total_bytes: int = 0,
        budget: IssuingBudget | None = None,
    ) -> None:
        """Begin to issue.

        Args:
            terms: Verified terms.
            issuing_seed: Seed of the terms' issuing key.
            caps: Of every entitlement.
            issued: What was issued before, and will be.
            now_s: Ledger time in Unix seconds; raises `ClockUnknownError` when it is not known.
            total_bytes: Most bytes that a session key gets for a content, over all entitlements
                that it asks for itself; 0 = any number.
            budget: What may be promised; None: anything.
        """
        if budget is not None:
            budget.note(issued.list_live(0))
        self._budget = budget
        self._total_bytes = total_bytes
        self._terms = terms
        self._seed = issuing_seed
        self._caps = caps
        self._issued = issued
        self._now_s = now_s
        self._lock = threading.Lock()

    def issue(self, binding_raw: bytes, content_id: bytes, after: bytes = b"") -> bytes:
        """Return a signed entitlement for a bound session key.

        Args:
            binding_raw: Of the session key.
            content_id: Of the content or stream.
            after: Digest of an entitlement that the viewer has nearly used up; if it is the
                newest one, the next is issued. So asking twice gives one, not two.

        Raises:
            RefusedError: The binding is malformed, not signed by both, for another network or
                role, or does not cover the present epoch; ledger time is not known; or no more
                bytes are allowed for this key and content, or more than may be promised.
        """
        now_s = self.read_time()
        binding = self._check_binding(binding_raw, now_s)
        with self._lock:
            known = self._issued.find(binding.key, content_id)
            is_used_up = known is not None and known.digest == after
            if known is not None and not is_used_up and not self._runs_out(known.value, now_s):
                return known.raw
            self._check_total(binding.key, content_id)
            order = Order(session_key=binding.key, content_id=content_id, caps=self._caps)
            signed = self._sign(order, secrets.token_bytes(16), now_s)
            self._require_budget([signed], now_s)
            self._add([signed])
            return signed.raw

    def issue_orders(self, orders: Sequence[Order]) -> list[Signed[Entitlement]]:
        """Return an entitlement for each order of a player back end, or of a batch.

        An order that was answered before gets the same answer, with the times of then.

        Raises:
            RefusedError: Ledger time is not known; or an order repeats an earlier one's key,
                content and request id with other caps. Nothing of this call is issued then.
        """
        now_s = self.read_time()
        with self._lock:
            new: dict[bytes, Signed[Entitlement]] = {}
            answers: list[Signed[Entitlement]] = []
            for place, order in enumerate(orders):
                known = new.get(order.serial) or self._issued.find_serial(order.serial)
                if known is None or known.value.terms_digest != self._terms.digest:
                    known = new[order.serial] = self._sign(order, order.serial, now_s)
                self._require_same_caps(place, order, known.value)
                answers.append(known)
            if new:
                self._require_budget(list(new.values()), now_s)
                self._add(list(new.values()))
        return answers

    def read_time(self) -> int:
        """Return ledger time.

        Raises:
            RefusedError: 503, it is not known.
        """
        try:
            return self._now_s()
        except ClockUnknownError as error:
            raise RefusedError(
                503, "clock_unknown", field="clock", got=error, want="a reading signed by the log"
            ) from None

    def describe_issued(self) -> dict[str, int]:
        """Return what is out: how many live entitlements, their caps, and what they may cost."""
        now_s, terms = self.read_time(), self._terms.value
        with self._lock:
            live = self._issued.list_live(now_s)
        capped = sum(entitlement.max_bytes for entitlement in live)
        return {
            "live": len(live),
            "uncapped": sum(1 for entitlement in live if not entitlement.max_bytes),
            "max_bytes": capped,
            "max_stroops": -(-capped * terms.price_stroops // terms.price_quantity_bytes),
        }

    def _require_budget(self, wanted: Sequence[Signed[Entitlement]], now_s: int) -> None:
        if self._budget is None:
            return
        try:
            self._budget.require([signed.value for signed in wanted], now_s)
        except RefusedError as error:
            _log.warning("not_issued", code=error.code, got=str(error.got), want=error.want)
            raise

    def _add(self, signed: list[Signed[Entitlement]]) -> None:
        self._issued.add(signed)
        if self._budget is not None:
            self._budget.note(each.value for each in signed)

    def _check_total(self, session_key: bytes, content_id: bytes) -> None:
        if not self._total_bytes:
            return
        so_far = self._issued.sum_bytes(session_key, content_id)
        if so_far + self._caps.max_bytes > self._total_bytes or not self._caps.max_bytes:
            raise RefusedError(
                403,
                "cap_reached",
                field="max_bytes",
                got=f"{so_far} + {self._caps.max_bytes}",
                want=f"at most {self._total_bytes} for one key and content",
            )

    def _require_same_caps(self, place: int, order: Order, known: Entitlement) -> None:
        got, caps = known, order.caps
        lasts_s = got.not_after_s - got.not_before_s - BACKDATED_S
        stated = (got.max_bytes, got.max_media_ms, got.max_rate_kbps, got.country)
        wanted = (caps.max_bytes, caps.max_media_ms, caps.max_rate_kbps, caps.country)
        if stated != wanted or lasts_s != caps.valid_s:
            raise RefusedError(
                409,
                "order_differs",
                field=f"orders[{place}]",
                got="other caps than when it was answered first",
                want="the same, or another request_id",
            )

    def _runs_out(self, entitlement: Entitlement, now_s: int) -> bool:
        left_s = entitlement.not_after_s - now_s
        of_other_terms = entitlement.terms_digest != self._terms.digest
        return of_other_terms or left_s < min(RENEWED_BEFORE_S, self._caps.valid_s // 2)

    def _check_binding(self, raw: bytes, now_s: int) -> Binding:
        try:
            signed = BINDING.parse(raw)
        except MalformedError as error:
            raise refuse_malformed(error) from None
        binding, terms = signed.value, self._terms.value
        if binding.network_id != terms.network_id:
            raise RefusedError(
                400,
                "wrong_network",
                field="binding.network_id",
                got=binding.network_id,
                want=terms.network_id.hex(),
            )
        if not is_valid_binding(signed):
            raise RefusedError(
                403,
                "bad_signature",
                field="binding.signature",
                got="one that is not valid",
                want="the account's and the key's",
            )
        epoch = terms.epoch_at(now_s)
        if not binding.covers(Role.SESSION, epoch):
            raise RefusedError(
                403,
                "binding_not_valid",
                field="binding",
                got=f"role {binding.role}, epochs {binding.first_epoch} to {binding.last_epoch}",
                want=f"role {int(Role.SESSION)} in epoch {epoch}",
            )
        return binding

    def _sign(self, order: Order, serial: bytes, now_s: int) -> Signed[Entitlement]:
        terms, caps = self._terms.value, order.caps
        entitlement = Entitlement(
            network_id=terms.network_id,
            broadcaster_account=terms.broadcaster_account,
            issuing_key=terms.issuing_key,
            terms_digest=self._terms.digest,
            content_id=order.content_id,
            session_key=order.session_key,
            payer_account=terms.broadcaster_account,
            serial=serial,
            assignment_seed=bytes(32),
            not_before_s=max(0, now_s - BACKDATED_S),
            not_after_s=now_s + caps.valid_s,
            max_bytes=caps.max_bytes,
            max_media_ms=caps.max_media_ms,
            max_rate_kbps=caps.max_rate_kbps,
            assignment_policy=0,
            country=caps.country,
        )
        return ENTITLEMENT.sign(entitlement, self._seed)


def make_issuer_app(
    issuer: Issuer, *, token: str | None = None, pace: Pace | None = None
) -> FastAPI:
    """Make the application around an issuer.

    Args:
        issuer: Holds the key.
        token: What a player back end must present as a bearer token; None: there is no such door.
        pace: How often somebody may ask; None: as often as the default limits of the API say.
    """
    app = FastAPI(title="swarmledger issuer", version="1", docs_url=None)
    add_error_answers(app)
    pace = pace or Pace()

    @app.post("/v1/entitlements", response_class=Response)
    async def entitlements(
        request: Request, content_id: Annotated[str, Query()], after: str | None = None
    ) -> Response:
        """Give the session key of the binding in the body an entitlement for a content."""
        pace.require_address(request)
        content = parse_hex("content_id", content_id, 32)
        newest = b"" if after is None else parse_hex("after", after, 32)
        raw = await read_bounded(request, BINDING.size)
        pace.require_sender(sha256(raw).digest())
        entitlement = await run_in_threadpool(issuer.issue, raw, content, newest)
        return Response(entitlement, media_type=OCTETS)

    if token is not None:
        _add_back_end_door(app, issuer, token, pace)

    @app.get("/v1/issued")
    def issued() -> dict[str, int]:
        """How much is out: live entitlements, the sum of their caps, and what that may cost."""
        return issuer.describe_issued()

    @app.get("/healthz")
    def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    return app


def _add_back_end_door(app: FastAPI, issuer: Issuer, token: str, pace: Pace) -> None:
    @app.post("/v1/issue")
    async def issue(
        request: Request, authorization: Annotated[str | None, Header()] = None
    ) -> dict[str, Any]:
        """Give entitlements to the session keys that a player back end names.

        The body is `{"orders": [{"session_key", "content_id", …}, …]}` with the fields of
        `swarmledger broadcaster entitle --batch`; the answers stand in the same order.
        """
        pace.require_address(request)
        presented = (authorization or "").removeprefix("Bearer ")
        if not hmac.compare_digest(presented.encode(), token.encode()):
            raise RefusedError(
                401, "unauthorized", field="authorization", got="another", want="the bearer token"
            )
        pace.require_sender(sha256(token.encode()).digest())
        orders = parse_orders(await read_bounded(request, ORDERS_SIZE_MAX))
        answers = await run_in_threadpool(issuer.issue_orders, orders)
        return {"entitlements": [describe_entitlement(signed) for signed in answers]}


def parse_orders(raw: bytes) -> list[Order]:
    """Return the orders in a request of a player back end.

    Raises:
        RefusedError: 400, the body is not such a document, or an order is wrong.
    """
    try:
        document = json.loads(raw)
        rows = document["orders"]
        if not isinstance(rows, list) or not 1 <= len(rows) <= ORDERS_MAX:
            raise MalformedRecordError("orders", got="others", want=f"1 to {ORDERS_MAX} orders")
        return [parse_order(row) for row in rows]
    except MalformedError as error:
        raise refuse_malformed(error) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedError(
            400, "malformed", field="body", got=repr(error), want='{"orders": […]}'
        ) from None


_ORDER_NUMBERS = ("max_bytes", "max_media_ms", "max_rate_kbps", "valid_s")


def parse_order(row: Mapping[str, Any], defaults: Caps | None = None) -> Order:
    """Return the order in a JSON object or a CSV row; absent and empty fields have defaults.

    Raises:
        MalformedRecordError: A field is unknown, missing or out of range.
    """
    given = {name: value for name, value in row.items() if value not in {None, ""}}
    known = {"session_key", "content_id", "country", "request_id", *_ORDER_NUMBERS}
    if unknown := sorted(set(given) - known):
        raise MalformedRecordError(str(unknown[0]), got="an unknown field", want=f"{sorted(known)}")
    keys = {name: _hex_field(name, given.get(name)) for name in ("session_key", "content_id")}
    base = defaults or Caps()
    numbers = {
        name: _number_field(name, given.get(name, getattr(base, name))) for name in _ORDER_NUMBERS
    }
    caps = Caps(country=str(given.get("country", base.country)), **numbers)
    return Order(caps=caps, request_id=str(given.get("request_id", "")), **keys)


def _hex_field(name: str, value: object) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != 32:
        raise MalformedRecordError(name, got=str(value)[:80], want="64 hexadecimal digits")
    return data


def _number_field(name: str, value: object) -> int:
    text = str(value) if type(value) in {int, str} else ""
    if not (text.isascii() and text.isdigit()):
        raise MalformedRecordError(name, got=str(value)[:80], want="a whole number")
    return int(text)


def describe_entitlement(signed: Signed[Entitlement]) -> dict[str, Any]:
    """Return an entitlement for programs: its fields, and the record itself in hexadecimal."""
    value = signed.value
    return {
        "session_key": value.session_key.hex(),
        "content_id": value.content_id.hex(),
        "serial": value.serial.hex(),
        "digest": signed.digest.hex(),
        "not_before_s": value.not_before_s,
        "not_after_s": value.not_after_s,
        "max_bytes": value.max_bytes,
        "max_media_ms": value.max_media_ms,
        "max_rate_kbps": value.max_rate_kbps,
        "country": value.country,
        "entitlement": signed.raw.hex(),
    }
