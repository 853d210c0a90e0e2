"""Who may ask what: the caller's address, Host, Origin and token.

A program on this machine may ask everything. A page in a browser may only play what this engine
knows already; it reads no answer (there is no CORS) and starts nothing. Names that lead here by a
foreign DNS entry (rebinding) are refused by their Host header. The owner may let in networks, and
pages of named origins; callers from a network need the token for what is private.

Not here: session numbers, which are secrets of their own (`sessions`).
"""

import hmac
import ipaddress
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from engine_plugin.http_face.errors import ForbiddenError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_OWN_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_TOKEN_BYTES = 32
_OWN_SITES = frozenset({"none", "same-origin"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, as far as the request shows it."""

    is_local: bool
    """Whether it runs on this machine."""
    is_foreign_page: bool
    """Whether a page that is not this engine's own makes a browser ask."""
    has_token: bool

    @property
    def may_ask_private(self) -> bool:
        """Whether it may search, add content and see what runs."""
        return self.has_token or (self.is_local and not self.is_foreign_page)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """Who is let in."""

    token: str = field(repr=False)
    """What opens the private methods."""
    host_names: frozenset[str] = frozenset()
    """Names besides the loopback ones that this engine answers to."""
    networks: tuple[Network, ...] = ()
    """Networks besides this machine that may ask."""
    origins: frozenset[str] = frozenset()
    """Origins of pages that are treated like programs of this machine."""

    def admit(
        self, address: str, headers: Iterable[tuple[str, str]], query: Mapping[str, str]
    ) -> Caller:
        """Return who asks.

        Args:
            address: The caller's IP address.
            headers: Names in lower case, and values.
            query: The request's parameters.

        Raises:
            ForbiddenError: The caller is not let in at all.
        """
        is_local = _is_loopback(address)
        if not is_local and not any(_is_in(address, network) for network in self.networks):
            raise ForbiddenError("address: not this machine, and not a network that is let in")
        fields: dict[str, list[str]] = {}
        for name, value in headers:
            fields.setdefault(name, []).append(value)
        hosts = fields.get("host", [])
        # A browser sends exactly one; old players speak HTTP/1.0 and send none.
        if len(hosts) > 1 or any(not self._is_own_name(host) for host in hosts):
            raise ForbiddenError("host: not a name of this engine")
        return Caller(
            is_local=is_local,
            is_foreign_page=self._is_foreign_page(fields, hosts),
            has_token=self._has_token(fields, query),
        )

    def _is_own_name(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name in _OWN_NAMES or name in self.host_names

    def _is_foreign_page(self, fields: Mapping[str, list[str]], hosts: list[str]) -> bool:
        origins = fields.get("origin", [])
        if origins:
            own = {f"http://{host}" for host in hosts} | self.origins
            return any(origin not in own for origin in origins)
        return any(site not in _OWN_SITES for site in fields.get("sec-fetch-site", []))

    def _has_token(self, fields: Mapping[str, list[str]], query: Mapping[str, str]) -> bool:
        given = [
            value.removeprefix("Bearer ")
            for value in fields.get("authorization", [])
            if value.startswith("Bearer ")
        ]
        if "token" in query:
            given.append(query["token"])
        wanted = self.token.encode()
        return any(hmac.compare_digest(text.encode(), wanted) for text in given)


def write_token(path: Path) -> str:
    """Make a new token and write it to a file that only the owner can read.

    Raises:
        OSError: The file cannot be written.
    """
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
    draft.replace(path)
    return token


def _is_loopback(address: str) -> bool:
    parsed = _parse(address)
    return parsed is not None and parsed.is_loopback


def _is_in(address: str, network: Network) -> bool:
    parsed = _parse(address)
    return parsed is not None and parsed.version == network.version and parsed in network


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed
