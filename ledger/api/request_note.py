"""What is noted of the request at hand, for its log line: sender and refusal.

Set from wherever it becomes known, in any thread that works for the request. Not here: writing the
line (`gate`).
"""

import hashlib
import hmac
import ipaddress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

SENDER_SIZE: Final = 16
_DOMAIN: Final = b"swarmledger sender v1\0"


@dataclass(slots=True)
class RequestNote:
    """Notes of one request; empty until something is known."""

    sender: str = ""
    """A name for the sender that says nobody's key or address."""
    code: str = ""
    """The stable word of a refusal."""


_current: ContextVar[RequestNote | None] = ContextVar("swarmledger_request_note", default=None)


def begin_note() -> RequestNote:
    """Begin the notes of a request."""
    note = RequestNote()
    _current.set(note)
    return note


def note_refusal(code: str) -> None:
    """Note why the request at hand is refused."""
    if (note := _current.get()) is not None:
        note.code = code


def note_sender(tag: bytes) -> None:
    """Note whose request it is, by a keyed hash of key or address."""
    if (note := _current.get()) is not None:
        note.sender = tag.hex()


def sender_tag(secret: bytes, name: bytes) -> bytes:
    """Return a keyed hash of a sender's key or address: 16 bytes that lead back to nobody.

    Args:
        secret: The operator's; the same in all its processes.
        name: A session key, or `network_of` an address.
    """
    return hmac.digest(secret, _DOMAIN + name, hashlib.sha256)[:SENDER_SIZE]


def network_of(host: str | None) -> bytes:
    """Return what counts as one sender: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return b""
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return address.packed[:8] if mapped is None else mapped.packed
    return address.packed
