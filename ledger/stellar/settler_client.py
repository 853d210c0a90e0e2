"""A settler's way to the operator's API: what is wanted, audit files, answers.

The operator is not trusted: every exchange is bounded in time and size, redirects are not followed,
and what comes back is judged by the settler. Signatures and refusals may be posted again.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import httpx

from ledger.audit.address import format_account
from ledger.audit.trust import Trust
from ledger.evidence.errors import EvidenceError
from ledger.stellar.bounded_http import BoundedHttp
from ledger.stellar.cosigning import (
    KEY_HEADER,
    SIGNATURE_HEADER,
    Refusal,
    Wanted,
    audit_request_message,
    format_cosignature,
    format_refusal,
    parse_wanted,
)
from ledger.stellar.errors import GatewayError, SettlerError
from ledger.stellar.settler_records import write_whole
from ledger.stellar.signing import KeyHolder, KeySignature

TIMEOUT_S: Final = 15.0
AUDIT_TIMEOUT_S: Final = 3_600.0
AUDIT_BYTES_MAX: Final = 16 << 30
WANTED_MAX: Final = 64
_OK, _NO_CONTENT, _NOT_FOUND = 200, 204, 404


class OperatorClient:
    """One settler's connection to one operator."""

    def __init__(
        self,
        url: str,
        trust: Trust,
        key: bytes,
        holder: KeyHolder,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Connect to nothing yet.

        Args:
            url: Base URL of the operator's API.
            trust: Says which network and broadcaster.
            key: The settler's public key.
            holder: Who signs with it.
            timeout_s: In which each exchange must be over; audit files have longer.

        Raises:
            ValueError: The URL is not http or https.
        """
        self._url = url.rstrip("/")
        self._trust = trust
        self._key = key
        self._holder = holder
        self._parameters = {"broadcaster": format_account(trust.broadcaster_account)}
        self._http = BoundedHttp(self._url, timeout_s=timeout_s)
        # Audit files are streamed: they may be larger than memory.
        self._client = httpx.Client(timeout=timeout_s, trust_env=False, follow_redirects=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._client.close()

    def wanted(self) -> tuple[Wanted, ...]:
        """Return what the operator wants signed; nothing of it is believed.

        Raises:
            SettlerError: No usable answer.
        """
        document = self._json("/v1/settlement/wanted")
        rows = document.get("wanted")
        if not isinstance(rows, list) or len(rows) > WANTED_MAX:
            raise SettlerError(f"{self._url}: wanted: got no list of at most {WANTED_MAX}")
        try:
            return tuple(parse_wanted(row) for row in rows)
        except EvidenceError as error:
            raise SettlerError(f"{self._url}: {error}") from error

    def fetch_audit(self, epoch: int, path: Path) -> bool:
        """Put an epoch's audit file to a path; False if there is none yet.

        Raises:
            SettlerError: The operator does not give it.
        """
        trust = self._trust
        message = audit_request_message(trust.network_id, trust.broadcaster_account, epoch)
        headers = {
            KEY_HEADER: self._key.hex(),
            SIGNATURE_HEADER: self._holder.sign_message(message, self._key).hex(),
        }
        url = f"{self._url}/v1/audit/{epoch}"
        try:
            with self._client.stream(
                "GET", url, params=self._parameters, headers=headers
            ) as response:
                if response.status_code == _NOT_FOUND:
                    return False
                if response.status_code != _OK:
                    raise SettlerError(f"{url}: got HTTP {response.status_code}, want the file")
                write_whole(path, _bounded(response))
        except httpx.HTTPError as error:
            raise SettlerError(f"{url}: {type(error).__name__}: {error}") from error
        return True

    def post_signature(self, tx_hash: bytes, signed: KeySignature) -> None:
        """Hand a signature over.

        Raises:
            SettlerError: The operator does not take it.
        """
        self._post("/v1/settlement/signatures", format_cosignature(tx_hash, signed))

    def post_refusal(self, refusal: Refusal) -> None:
        """Say why something is not signed.

        Raises:
            SettlerError: The operator does not take it.
        """
        self._post("/v1/settlement/refusals", format_refusal(refusal))

    def _post(self, path: str, content: bytes) -> None:
        url = self._address_of(path)
        try:
            answer = self._http.post(url, content, "application/octet-stream")
        except GatewayError as error:
            raise SettlerError(str(error)) from error
        # What is wanted no more need not be answered.
        if answer.status not in {_NO_CONTENT, _NOT_FOUND}:
            raise SettlerError(f"{url}: got HTTP {answer.status}, want {_NO_CONTENT}")

    def _json(self, path: str) -> Mapping[str, Any]:
        url = self._address_of(path)
        try:
            answer = self._http.get(url)
            document = answer.json() if answer.status == _OK else None
        except GatewayError as error:
            raise SettlerError(str(error)) from error
        if not isinstance(document, dict):
            raise SettlerError(f"{url}: got HTTP {answer.status}, want {_OK} and an object")
        return document

    def _address_of(self, path: str) -> str:
        return f"{self._url}{path}?{urlencode(self._parameters)}"


def _bounded(
    response: httpx.Response, size_max: int = AUDIT_BYTES_MAX, timeout_s: float = AUDIT_TIMEOUT_S
) -> Iterator[bytes]:
    """Yield a body's pieces; raise as soon as it is too large or takes too long."""
    deadline_s = time.monotonic() + timeout_s
    size = 0
    for piece in response.iter_bytes():
        size += len(piece)
        if size > size_max or time.monotonic() > deadline_s:
            raise SettlerError(
                f"{response.url}: got {size} bytes, want at most {size_max} in {timeout_s} s"
            )
        yield piece
