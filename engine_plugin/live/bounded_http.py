"""One HTTP answer, no longer and no later than we want it.

Neither its size nor the time it takes is the server's choice. Not here: what the answer says.
"""

import asyncio
from dataclasses import dataclass, field

import httpx


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer."""

    url: str
    """Where it came from in the end."""
    body: bytes = field(repr=False)


async def ask_bounded(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    body: bytes = b"",
    most_bytes: int,
    within_s: float,
) -> Answer:
    """Return an answer; what is longer is given up as soon as it is.

    Args:
        http: The client.
        method: GET or POST.
        url: Whom to ask.
        body: What to send.
        most_bytes: Of the answer, unpacked.
        within_s: From the request to the answer's last byte.

    Raises:
        httpx.HTTPError: There is no such answer, or it is too long.
        TimeoutError: It took too long.
    """
    content = bytearray()
    async with asyncio.timeout(within_s), http.stream(method, url, content=body) as answer:
        answer.raise_for_status()
        async for part in answer.aiter_bytes():
            content += part
            if len(content) > most_bytes:
                raise httpx.ReadError(f"got over {most_bytes} bytes")
    return Answer(url=str(answer.url), body=bytes(content))
