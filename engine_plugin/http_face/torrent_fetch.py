"""A torrent file by its URL, which a stranger may have chosen.

The name is resolved once and the connection goes to the address that was checked, so that it cannot
turn into another one in between. Unless the owner allows it, only public addresses are dialled: a
link must not make this engine ask the router, or other programs of this machine. Redirects are
checked alike. Size and time are bounded.
"""

import asyncio
import ipaddress
import socket
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx

from engine_plugin.errors import ContentError
from engine_plugin.http_face.errors import BadGatewayError, BadRequestError, ForbiddenError
from engine_plugin.torrents import TorrentFile, read_torrent

TORRENT_SIZE_MAX: Final = 16 << 20
FETCH_S: Final = 15.0
REDIRECTS_MAX: Final = 4
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

# Prefixes that lead to IPv4 addresses by way of IPv6: RFC 6052, RFC 3056, RFC 4380.
_TUNNELS: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)


async def fetch_torrent(url: str, *, allows_private: bool) -> TorrentFile:
    """Return the torrent that a URL leads to.

    Args:
        url: http or https.
        allows_private: Whether addresses of private networks may be dialled.

    Raises:
        BadRequestError: It is no such URL.
        ForbiddenError: It leads to an address that may not be dialled.
        BadGatewayError: It cannot be fetched, or leads to no torrent.
    """
    try:
        async with asyncio.timeout(FETCH_S):
            data = await _fetch(url, allows_private=allows_private)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
        raise BadGatewayError(f"url: cannot be fetched: {type(error).__name__}") from None
    try:
        return await asyncio.to_thread(read_torrent, data)
    except ContentError as error:
        raise BadGatewayError(f"url: {error}") from None


def is_public(address: str) -> bool:
    """Say whether an IP address may be dialled for a stranger."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif any(parsed in network for network in _TUNNELS):
            return False
    return parsed.is_global and not parsed.is_multicast


async def _fetch(url: str, *, allows_private: bool) -> bytes:
    # The machine's proxy settings would undo the check of the address.
    async with httpx.AsyncClient(
        trust_env=False, follow_redirects=False, timeout=FETCH_S
    ) as client:
        for _ in range(REDIRECTS_MAX + 1):
            parts = _split(url)
            address = await _resolve(parts, allows_private=allows_private)
            host = parts.hostname or ""
            target = httpx.URL(url).copy_with(host=address, fragment=None)
            request = client.build_request(
                "GET",
                target,
                headers={"host": _host_header(parts), "accept-encoding": "identity"},
                extensions={"sni_hostname": host},
            )
            answer = await client.send(request, stream=True)
            try:
                if answer.status_code in _REDIRECTS and "location" in answer.headers:
                    url = urljoin(url, answer.headers["location"])
                    continue
                if answer.status_code != 200:
                    raise BadGatewayError(f"url: got status {answer.status_code}, want 200")
                return await _read_bounded(answer)
            finally:
                await answer.aclose()
    raise BadGatewayError(f"url: got more than {REDIRECTS_MAX} redirects")


async def _read_bounded(answer: httpx.Response) -> bytes:
    data = bytearray()
    async for part in answer.aiter_raw():
        data += part
        if len(data) > TORRENT_SIZE_MAX:
            raise BadGatewayError(f"url: got more than {TORRENT_SIZE_MAX} bytes")
    return bytes(data)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise BadRequestError("url: got a malformed one, want http or https") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadRequestError("url: got another scheme or no host, want http or https")
    if parts.username is not None or parts.password is not None:
        raise BadRequestError("url: got a user name, want none")
    return parts


async def _resolve(parts: SplitResult, *, allows_private: bool) -> str:
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(
        parts.hostname, port, type=socket.SOCK_STREAM
    )
    addresses = [str(entry[4][0]) for entry in found]
    # One private address among public ones is the sign of an attack, not of a torrent.
    if not allows_private and not all(is_public(address) for address in addresses):
        raise ForbiddenError("url: leads to a private address")
    if not addresses:
        raise BadGatewayError("url: leads to no address")
    return addresses[0]


def _host_header(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]
