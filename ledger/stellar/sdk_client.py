"""stellar-sdk's HTTP client, replaced by one that is bounded and repeats nothing.

The SDK's own client asks again on its own, for minutes, and reads answers of any size. This one
makes one exchange of `bounded_http` for each call and takes only the status 200.
"""

import json
from collections.abc import Generator
from typing import Any

from stellar_sdk.client.base_sync_client import BaseSyncClient
from stellar_sdk.client.response import Response

from ledger.stellar.bounded_http import EXCHANGE_TIMEOUT_S, Answer, BoundedHttp
from ledger.stellar.errors import GatewayError


class BoundedSdkClient(BaseSyncClient):
    """A client for `stellar_sdk.SorobanServer`."""

    def __init__(self, base_url: str, *, timeout_s: float = EXCHANGE_TIMEOUT_S) -> None:
        """Take the host from a URL.

        Raises:
            SourceError: The URL is not http or https.
        """
        self._http = BoundedHttp(base_url, timeout_s=timeout_s)

    def get(
        self, url: str, params: dict[str, str] | None = None, max_content_size: int | None = None
    ) -> Response:
        """Ask for a resource; the limit on its size is `bounded_http`'s, or the one given.

        Raises:
            GatewayError: No answer in time, one that is too large, or another status than 200.
        """
        answer = self._http.get(url, params)
        if max_content_size is not None and len(answer.body) > max_content_size:
            raise GatewayError(f"{url}: got over {max_content_size} bytes, want less")
        return _response(answer)

    def post(
        self, url: str, data: dict[str, str] | None = None, json_data: dict[str, Any] | None = None
    ) -> Response:
        """Send JSON.

        Raises:
            GatewayError: No answer in time, one that is too large, or another status than 200.
        """
        if data is not None:
            raise GatewayError(f"{url}: got a form, want JSON")
        body = json.dumps(json_data).encode()
        answer = self._http.post(url, body, "application/json")
        return _response(answer)

    def stream(
        self, url: str, params: dict[str, str] | None = None
    ) -> Generator[dict[str, Any], None, None]:
        """Refuse: a stream has no end and so no bound.

        Raises:
            GatewayError: Always.
        """
        raise GatewayError(f"{url}: got a stream of {params}, want one answer")

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()


def _response(answer: Answer) -> Response:
    if answer.status != 200:
        raise GatewayError(f"{answer.url}: got HTTP {answer.status}, want 200")
    text = answer.body.decode("utf-8", "replace")
    return Response(answer.status, text, dict(answer.headers), answer.url)
