"""How a plugin names itself inside BitTorrent's own handshake.

Two places of the handshake are free and ignored by other clients: the peer-id, which here commits
to a session key, and the client text of the extension handshake (BEP 10, field "v"), which here
states that key and the port of the receipt channel. Anybody can copy both, so what is read here
is a hint where to dial and what to expect, and never a proof: a key counts only after it has
signed on the receipt channel. Pure functions, no sockets, no libtorrent.

Spec: peer-id = 8-byte client prefix, then the first 12 bytes of SHA-256(public key, session id);
client text = "swarmledger/1 <public key as base64url without padding>:<receipt port>".
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass

CLIENT_PREFIX = b"-SL0100-"
PEER_ID_SIZE = 20
PUBLIC_KEY_SIZE = 32
SESSION_ID_SIZE = 16

_TEXT_PREFIX = "swarmledger/1 "
_TEXT = re.compile(re.escape(_TEXT_PREFIX) + r"([A-Za-z0-9_-]{43}):(0|[1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeHint:
    """What a peer's client text claims. Not proved."""

    public_key: bytes
    """The claimed session key; 32 bytes."""

    receipt_port: int
    """TCP port of the receipt channel; 1 to 65535, or 0: this peer cannot be dialled."""


def make_peer_id(public_key: bytes, session_id: bytes) -> bytes:
    """Makes the peer-id that commits to a session key.

    Args:
        public_key: Ed25519 public key of the session; 32 bytes.
        session_id: Random id of this process run; 16 bytes.

    Returns:
        20 bytes for libtorrent's `peer_fingerprint`.

    Raises:
        ValueError: An argument has another length.
    """
    _need_size("public_key", public_key, PUBLIC_KEY_SIZE)
    _need_size("session_id", session_id, SESSION_ID_SIZE)
    commitment = hashlib.sha256(public_key + session_id).digest()
    return CLIENT_PREFIX + commitment[: PEER_ID_SIZE - len(CLIENT_PREFIX)]


def peer_id_commits(peer_id: bytes, public_key: bytes, session_id: bytes) -> bool:
    """Tells whether a peer-id is the one that this key and session id make.

    Lengths may be anything, they come from a stranger; a wrong length is a plain no.
    """
    if len(public_key) != PUBLIC_KEY_SIZE or len(session_id) != SESSION_ID_SIZE:
        return False
    return hmac.compare_digest(peer_id, make_peer_id(public_key, session_id))


def format_handshake(public_key: bytes, receipt_port: int) -> str:
    """Formats the client text.

    Args:
        public_key: Ed25519 public key of the session; 32 bytes.
        receipt_port: 1 to 65535, or 0 for a peer that cannot be dialled.

    Raises:
        ValueError: The key has another length or the port is out of range.
    """
    _need_size("public_key", public_key, PUBLIC_KEY_SIZE)
    if not 0 <= receipt_port <= 65535:
        raise ValueError(f"receipt_port: got {receipt_port}, want 0..65535")
    key = base64.urlsafe_b64encode(public_key).rstrip(b"=").decode("ascii")
    return f"{_TEXT_PREFIX}{key}:{receipt_port}"


def parse_handshake(text: str) -> HandshakeHint | None:
    """Reads a client text.

    Strict: only a text that `format_handshake` would print is read, so two spellings of one hint
    do not exist.

    Returns:
        The hint, or None for every other client.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    key, port = base64.urlsafe_b64decode(match[1] + "="), int(match[2])
    # 43 characters carry 258 bits: the decoder ignores the two spare ones, the re-print does not.
    if port > 65535 or format_handshake(key, port) != text:
        return None
    return HandshakeHint(public_key=key, receipt_port=port)


def _need_size(field: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise ValueError(f"{field}: got {len(value)} bytes, want {size}")
