"""Reading requests: bounded bodies and hexadecimal parameters."""

from fastapi import Request

from ledger.api.answers import RefusedError


async def read_bounded(request: Request, size_max: int) -> bytes:
    """Return the body; stops reading at the first byte too many.

    Raises:
        RefusedError: 413, it is longer than `size_max` bytes.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > size_max:
            raise RefusedError(
                413, "too_large", field="body", got="more", want=f"at most {size_max} bytes"
            )
    return bytes(body)


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
