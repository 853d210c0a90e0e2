"""The plugin's HTTP questions to the operator and to the broadcaster's back end.

    GET  {collector}/v1/clock?nonce=<32 hex>        → 152-byte clock record
    POST {collector}/v1/bundles                      → 220-byte promise, or {"code", "detail"}
    POST {collector}/v1/uploads, PATCH …/<id>        → the same promise, for a bundle in chunks
    GET  {collector}/v1/bundles/<digest hex>         → {"state", "code", "codes"}
    POST {collector}/v1/provisional                  → nothing; what there are receipts for so far
    POST {collector}/v1/relay, …/relay/fetch         → our address, and frames from other engines
    GET  {collector}/v1/issuing-binding              → 252-byte binding of the issuing key
    GET  {collector}/v1/coverage                     → {"held_stroops", "liable_stroops", …}
    POST {issuer}/v1/entitlements?content_id=<hex>   → entitlement; the body is a session binding

Answers are untrusted: bounded in size, and believed only with the signature of the key that the
terms name. Every failure is one of two kinds: try again later, or never again.

Not here: when to ask, and keeping what comes back (`uploader`, `upkeep`).
"""

import asyncio
import json
import os
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from engine_plugin.account_address import format_address
from engine_plugin.chunked_upload import ChunkedUpload
from engine_plugin.coverage import Coverage
from engine_plugin.errors import CollectorRefusedError, CollectorUnavailableError
from engine_plugin.name_lookup import NameLookup
from ledger.evidence.binding import BINDING, Binding
from ledger.evidence.bundle import Bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.errors import EvidenceError
from ledger.evidence.promise import PROMISE, Promise
from ledger.evidence.terms import Terms

__all__ = [
    "BundleStatus",
    "Collector",
    "CollectorRefusedError",
    "CollectorUnavailableError",
]

TIMEOUT_S = 10.0
CHUNKED_ABOVE_BYTES = 512 << 10
"""A bundle above this size is sent in chunks."""

WHOLE_ANSWER_FACTOR = 3
"""A whole answer may take so many times as long as each of its parts."""

ANSWER_SIZE_MAX = 1 << 20
RETRY_AFTER_MOST_S = 300.0
_RETRIED = frozenset({408, 425, 429})
_RETRIED_CODES = frozenset(
    {
        "completed_upload",
        "digest_mismatch",
        "epoch_not_begun",
        "mismatching_upload_offset",
        "unknown_upload",
        "upload_incomplete",
    }
)
"""Refusals that time mends, or beginning an upload anew."""

_NO_UPLOADS = frozenset({"http_404", "http_405"})
"""What a collector that takes bundles whole only says to an upload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStatus:
    """What the collector says became of a bundle."""

    state: str
    code: int
    """Why the bundle was refused whole; 0 = it was not."""
    codes: tuple[int, ...]
    """Per receipt, in the bundle's order; 0 = counted."""


class Collector:
    """Talks to the collector of one broadcaster's terms, and to its issuer."""

    def __init__(
        self,
        terms: Signed[Terms],
        *,
        entitlement_url: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        names: NameLookup | None = None,
    ) -> None:
        self._terms = terms
        self._base = terms.value.collector_url.rstrip("/")
        self._broadcaster = format_address(terms.value.broadcaster_account)
        self._entitlement_url = None if entitlement_url is None else entitlement_url.rstrip("/")
        # What stands in for the network needs no names.
        self._names = NameLookup() if names is None and transport is None else names
        # Ambient proxy settings are meant for people's browsers; they would break loopback.
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT_S,
            trust_env=False,
            headers={"user-agent": "swarmledger-engine/1"},
            transport=transport,
        )

    @property
    def can_entitle(self) -> bool:
        """Whether an entitlement URL is configured."""
        return self._entitlement_url is not None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def read_clock(self) -> tuple[bytes, bytes]:
        """Ask for the signed clock.

        Returns:
            The nonce asked with, and the record as it came.

        Raises:
            CollectorUnavailableError: There was no 200 answer.
            CollectorRefusedError: The question was refused.
        """
        nonce = os.urandom(16)
        # During a rotation the operator has two log keys, and we know the one of our terms.
        question = {"nonce": nonce.hex(), "log_key": self._terms.value.log_key.hex()}
        answer = await self._ask("GET", f"{self._base}/v1/clock", params=question)
        return nonce, answer

    async def send_bundle(self, bundle: Signed[Bundle]) -> Signed[Promise]:
        """Send a bundle and return the collector's promise for exactly this bundle.

        The promise must fall due: one for a seal that the terms are long past by would leave the
        bundle waiting for ever, with nothing to complain of.

        Raises:
            CollectorUnavailableError: There was no answer, or no promise that holds.
            CollectorRefusedError: The bundle was refused whole.
        """
        answer = await self._send_whole(bundle.raw)
        terms, sent = self._terms.value, bundle.value
        try:
            promise = PROMISE.parse(answer)
            PROMISE.require_signed_by(promise, terms.log_key)
        except EvidenceError as error:
            raise CollectorUnavailableError(f"promise: {error}") from None
        stated = (
            promise.value.network_id,
            promise.value.bundle_digest,
            promise.value.submitter_key,
            promise.value.broadcaster_account,
            promise.value.epoch,
        )
        if stated != (
            terms.network_id,
            bundle.digest,
            sent.submitter_key,
            terms.broadcaster_account,
            sent.epoch,
        ):
            raise CollectorUnavailableError("promise: got one for another bundle, want this one's")
        _require_due(promise.value, terms)
        return promise

    async def _send_whole(self, raw: bytes) -> bytes:
        """Send a bundle, in chunks if it is large, and return the answer."""
        if len(raw) > CHUNKED_ABOVE_BYTES:
            try:
                return await ChunkedUpload(self._exchange, self._base, raw).send()
            except CollectorRefusedError as error:
                if error.code not in _NO_UPLOADS:
                    raise
        return await self._ask(
            "POST",
            f"{self._base}/v1/bundles",
            content=raw,
            headers={"content-type": "application/octet-stream"},
        )

    async def read_status(self, digest: bytes) -> BundleStatus:
        """Ask what became of a bundle.

        Raises:
            CollectorUnavailableError: There was no answer, or not a status.
            CollectorRefusedError: The bundle is unknown there.
        """
        answer = await self._ask("GET", f"{self._base}/v1/bundles/{digest.hex()}")
        try:
            content = json.loads(answer)
            return BundleStatus(
                state=str(content["state"]),
                code=int(content.get("code") or 0),
                codes=tuple(int(code) for code in content.get("codes") or ()),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CollectorUnavailableError(f"bundle status: {error!r}") from None

    async def send_report(self, raw: bytes) -> None:
        """Send a provisional report; nothing depends on it.

        Raises:
            CollectorUnavailableError: There was no answer, or reports have to wait.
            CollectorRefusedError: It was refused.
        """
        await self._ask(
            "POST",
            f"{self._base}/v1/provisional",
            content=raw,
            headers={"content-type": "application/octet-stream"},
        )

    async def post_relay(self, raw: bytes) -> bytes:
        """Post a frame for another engine; it is durable on return.

        Raises:
            CollectorUnavailableError: There was no answer, or too much waits already.
            CollectorRefusedError: The frame was refused.
        """
        return await self._ask(
            "POST",
            f"{self._base}/v1/relay",
            content=raw,
            headers={"content-type": "application/octet-stream"},
        )

    async def fetch_relay(self, raw: bytes, wait_s: int) -> bytes:
        """Fetch the frames that wait for us; an answer without any comes after `wait_s` seconds.

        Raises:
            CollectorUnavailableError: There was no answer.
            CollectorRefusedError: The wish was refused.
        """
        return await self._ask(
            "POST",
            f"{self._base}/v1/relay/fetch",
            content=raw,
            params={"wait_s": str(wait_s)},
            headers={"content-type": "application/octet-stream"},
            timeout_s=wait_s + TIMEOUT_S,
        )

    async def find_own_ip(self) -> str:
        """Return this machine's address on the way to the collector; "" if there is no way."""
        parts = urlsplit(self._base)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        try:
            await self._require_name(self._base)
            found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_DGRAM)
            family, kind, protocol, _, address = found[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)  # names a route, sends nothing
                return str(probe.getsockname()[0])
        except OSError:
            return ""

    async def read_issuing_binding(self) -> Signed[Binding]:
        """Ask for the newest binding of the broadcaster's issuing key; the caller checks it.

        Raises:
            CollectorUnavailableError: There was no answer, or not a binding.
            CollectorRefusedError: The collector does not tell.
        """
        answer = await self._ask(
            "GET", f"{self._base}/v1/issuing-binding", params={"broadcaster": self._broadcaster}
        )
        try:
            return BINDING.parse(answer)
        except EvidenceError as error:
            raise CollectorUnavailableError(str(error)) from None

    async def read_coverage(self) -> Coverage:
        """Ask what the escrow holds and owes.

        Raises:
            CollectorUnavailableError: There was no answer, or not the figures.
            CollectorRefusedError: The collector does not tell.
        """
        answer = await self._ask(
            "GET", f"{self._base}/v1/coverage", params={"broadcaster": self._broadcaster}
        )
        try:
            content = json.loads(answer)
            epoch = content["epoch"]
            return Coverage(
                epoch=None if epoch is None else int(epoch),
                escrow_stroops=int(content["held_stroops"]),
                liable_stroops=int(content["liable_stroops"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CollectorUnavailableError(f"coverage: {error!r}") from None

    async def fetch_entitlement(
        self, binding: Signed[Binding], content_id: bytes, *, after: bytes | None = None
    ) -> Signed[Entitlement]:
        """Ask the broadcaster's back end for an entitlement; the caller checks what it says.

        Args:
            binding: Of our session key.
            content_id: Of the content or stream.
            after: Digest of one that is nearly used up: ask for the next.

        Raises:
            CollectorUnavailableError: No URL, no answer, or not an entitlement.
            CollectorRefusedError: The back end refused.
        """
        if self._entitlement_url is None:
            raise CollectorUnavailableError("entitlement: got no URL to ask, want one")
        url = self._entitlement_url
        if not urlsplit(url).path.endswith("/v1/entitlements"):
            url += "/v1/entitlements"
        answer = await self._ask(
            "POST",
            url,
            content=binding.raw,
            params={"content_id": content_id.hex()} | ({"after": after.hex()} if after else {}),
            headers={"content-type": "application/octet-stream"},
        )
        try:
            return ENTITLEMENT.parse(answer)
        except EvidenceError as error:
            raise CollectorUnavailableError(str(error)) from None

    async def _require_name(self, url: str) -> None:
        """Return when a URL's name can be looked up; raises OSError."""
        host = urlsplit(url).hostname
        if self._names is not None and host:
            await self._names.require(host, within_s=TIMEOUT_S)

    async def _ask(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> bytes:
        _, body = await self._exchange(
            method, url, content=content, params=params, headers=headers, timeout_s=timeout_s
        )
        return body

    async def _exchange(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[httpx.Headers, bytes]:
        """Ask, and return a successful answer's headers and body."""
        try:
            await self._require_name(url)
            # The client's own limit is for each read: an answer that drips would never end.
            async with (
                asyncio.timeout(WHOLE_ANSWER_FACTOR * timeout_s),
                self._client.stream(
                    method, url, content=content, params=params, headers=headers, timeout=timeout_s
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > ANSWER_SIZE_MAX:
                        raise CollectorUnavailableError(
                            f"{_name_of(url)}: answer over {ANSWER_SIZE_MAX} B"
                        )
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise CollectorUnavailableError(f"{_name_of(url)}: {error!r}") from None
        if response.is_success:
            return response.headers, bytes(body)
        _raise_for(response, bytes(body))
        raise AssertionError("unreachable: every failure raises")


def _require_due(promise: Promise, terms: Terms) -> None:
    """Refuse a promise for a seal in which the bundle could not count any more.

    Of epochs that other terms cover we do not know the correction window: their bundles count for
    nothing under ours, and `log find-missing` judges such promises by the time that they state.
    """
    is_ours = terms.first_epoch <= promise.epoch <= terms.last_epoch
    latest = promise.epoch + terms.correction_epochs if is_ours else promise.sealing_epoch
    if not promise.epoch <= promise.sealing_epoch <= latest:
        raise CollectorUnavailableError(
            f"promise: got the seal of epoch {promise.sealing_epoch}, "
            f"want one of {promise.epoch} to {latest}"
        )


def _name_of(url: str) -> str:
    """Return a URL for people, without the secrets that a user name or a query may hold."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _raise_for(response: httpx.Response, body: bytes) -> None:
    status = response.status_code
    where = f"{response.request.url.path}: HTTP {status}"
    if 400 <= status < 500 and status not in _RETRIED:
        try:
            content = json.loads(body)
            code, detail = content["code"], content.get("detail", "")
        except (ValueError, KeyError, TypeError, AttributeError):
            # Not the collector's own words: a proxy, or another server on that port.
            raise CollectorUnavailableError(where) from None
        if code in _RETRIED_CODES:
            raise CollectorUnavailableError(f"{where}: {code}")
        text = detail if isinstance(detail, str) else json.dumps(detail)
        raise CollectorRefusedError(str(code), text)
    raise CollectorUnavailableError(where, retry_after_s=_parse_retry_after(response))


def _parse_retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return min(float(text), RETRY_AFTER_MOST_S) if text.isascii() and text.isdigit() else None
