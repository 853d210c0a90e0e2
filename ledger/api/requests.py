"""Reading requests: bounded bodies and hexadecimal parameters."""

import asyncio

from fastapi import Request
from starlette.requests import ClientDisconnect

from ledger.api.answers import RefusedError

BODY_TIMEOUT_S = 60.0
"""How long a body may take by default: 4 MiB at 70 kB/s."""


async def read_bounded(request: Request, size_max: int, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """Return the body; stops reading at the first byte too many.

    Args:
        request: Whose body nobody has read yet.
        size_max: Most bytes of it.
        timeout_s: In which all of it has to come in.

    Raises:
        RefusedError: 413, it is longer than `size_max` bytes; 408, it came too slowly or was cut.
    """
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and int(stated) > size_max:
        raise _refuse_size(size_max)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > size_max:
                    raise _refuse_size(size_max)
    except TimeoutError:
        raise RefusedError(
            408, "slow_body", field="body", got=f"{len(body)} bytes", want=f"all in {timeout_s} s"
        ) from None
    except ClientDisconnect:
        raise RefusedError(
            408, "cut_body", field="body", got=f"{len(body)} bytes", want="all of it"
        ) from None
    return bytes(body)


def _refuse_size(size_max: int) -> RefusedError:
    return RefusedError(
        413, "too_large", field="body", got="more", want=f"at most {size_max} bytes"
    )


def parse_hex(field: str, text: str, size: int) -> bytes:
    """Return the bytes of lower- or upper-case hexadecimal digits.

    Raises:
        RefusedError: 400, it is not exactly `size` bytes of them.
    """
    try:
        value = bytes.fromhex(text) if len(text) == 2 * size else b""
    except ValueError:
        value = b""
    if len(value) != size:
        raise RefusedError(
            400, "bad_parameter", field=field, got=text, want=f"{2 * size} hexadecimal digits"
        )
    return value
