"""How a libtorrent session is set up: the options, the settings pack they give, endpoints as text.

Each setting that matters to exact metering says why.
"""

import ipaddress
from dataclasses import dataclass
from functools import lru_cache

import libtorrent as lt

from engine_plugin.identity import PEER_ID_SIZE
from engine_plugin.meter import BLOCK_BYTES

_ALERT_QUEUE_SIZE = 1_000_000
_CATEGORY = lt.alert.category_t
ALERT_MASK = (
    _CATEGORY.status_notification
    | _CATEGORY.error_notification
    | _CATEGORY.peer_notification
    | _CATEGORY.connect_notification
    | _CATEGORY.block_progress_notification
    | _CATEGORY.piece_progress_notification
    | _CATEGORY.upload_notification
    | _CATEGORY.port_mapping_notification
)


CONNECTIONS_MAX = 1000
"""Peers of all torrents together; libtorrent lowers it to what file descriptors allow."""
_QUEUE_BLOCKS = 2000
"""What a peer may ask of us at a time; libtorrent's own default."""
_QUEUE_LEAST_BLOCKS = 2
_SEND_BUFFER_BYTES = 500 * 1024
"""libtorrent's own default."""
_SEND_BUFFER_LEAST_BYTES = 48 * 1024
"""Three blocks: one on its way, one next, one being read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How to set up a session.

    Raises:
        ValueError: a field is out of range.
    """

    listen: str
    """"IP:port" ("[IP]:port" for IPv6); port 0 lets the system choose."""
    peer_id: bytes
    """20 bytes, from `identity.make_peer_id`."""
    handshake_text: str
    """From `identity.format_handshake`."""
    upload_limit: int = 0
    """Bytes per second to all peers together; 0 = unlimited."""
    download_limit: int = 0
    """Bytes per second from all peers and web seeds together; 0 = unlimited."""
    discovers: bool = False
    """Whether to use DHT, local discovery, port mapping and trackers."""
    exchanges_peers: bool = True
    """Whether to tell peers of each other (PEX)."""
    allows_local_web_seeds: bool = False
    """Whether web seeds may lie on loopback or private addresses."""
    dials_utp: bool = True
    """Whether to dial over uTP before TCP: kind to home uplinks, slower on a fast network."""
    dials_encrypted: bool = True
    """Whether to offer encryption when dialling; when dialled it is taken anyway."""
    upload_slots: int = 64
    """Peers served at the same time; n ≥ 1."""
    tells_requests: bool = False
    """Whether to tell ASKED events: of use only where write reports are lost."""
    web_seed_request_bytes: int = 1024 * 1024
    """Longest range asked of a web seed; n ≥ 16,384."""

    def __post_init__(self) -> None:
        if len(self.peer_id) != PEER_ID_SIZE:
            raise ValueError(f"peer_id: got {len(self.peer_id)} bytes, want {PEER_ID_SIZE}")
        split_endpoint(self.listen)
        for name in ("upload_limit", "download_limit"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, want n >= 0")


def format_endpoint(address: str, port: int) -> str:
    """Formats "IP:port", with brackets around an IPv6 address."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@lru_cache(maxsize=4096)
def split_endpoint(text: str) -> tuple[str, int]:
    """Reads what `format_endpoint` prints; port 0 to 65535.

    Raises:
        ValueError: The text is no IP address and port.
    """
    address, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f'endpoint: got {text!r}, want "IP:port"')
    if address.startswith("[") and address.endswith("]"):
        return str(ipaddress.IPv6Address(address[1:-1])), int(port)
    return str(ipaddress.IPv4Address(address)), int(port)


def make_settings(options: SessionOptions) -> dict[str, object]:
    """Return the settings pack of a session."""
    address, _ = split_endpoint(options.listen)
    settings: dict[str, object] = {
        "alert_mask": ALERT_MASK,
        # The default of 2,000 drops alerts, and with them bytes, at a few MB/s.
        "alert_queue_size": _ALERT_QUEUE_SIZE,
        # Two finished peers would part before the last receipt.
        "close_redundant_connections": False,
        # A copied peer-id must not throw out the real peer.
        "allow_multiple_connections_per_pid": True,
        # Two viewers behind one address are two peers; by default the second is turned away.
        "allow_multiple_connections_per_ip": True,
        "peer_fingerprint": options.peer_id,
        "handshake_client_version": options.handshake_text,
        "user_agent": options.handshake_text.partition(" ")[0],
        # Dialling acts on the tick; the default is 500 ms.
        "tick_interval": 100,
        "min_reconnect_time": 5,
        # A killed peer says nothing over uTP; keep-alives go out at half this time.
        "peer_timeout": 20,
        # A torrent's first pieces would be picked at random, whatever a player needs.
        "initial_picker_threshold": 0,
        # A slow peer's long queue would be waited for when the player is elsewhere already.
        "request_queue_time": 1,
        "listen_interfaces": options.listen,
        "enable_outgoing_utp": options.dials_utp,
        "out_enc_policy": int(
            lt.enc_policy.pe_enabled if options.dials_encrypted else lt.enc_policy.pe_disabled
        ),
        # A port next to the one that was asked for is a port that nobody dials.
        "max_retry_port_bind": 0,
        "enable_dht": options.discovers,
        "enable_lsd": options.discovers,
        "enable_upnp": options.discovers,
        "enable_natpmp": options.discovers,
        "upload_rate_limit": options.upload_limit,
        "download_rate_limit": options.download_limit,
        # What a connection buffers counts as sent: at a slow rate it must not be seconds of it.
        "send_buffer_watermark": buffer_for(options.upload_limit),
        "max_allowed_in_request_queue": queue_for(options.upload_limit),
        # Pieces served to choked peers would be served outside of the owner's hours.
        "allowed_fast_set_size": 0,
        "unchoke_slots_limit": options.upload_slots,
        # The defaults, 200 and 5, turn viewers away when many come at once.
        "connections_limit": CONNECTIONS_MAX,
        "listen_queue_size": 128,
        "urlseed_max_request_bytes": options.web_seed_request_bytes,
        "urlseed_wait_retry": 2,
        # A web seed that answers nothing for so long is let go, and what it was asked for with it.
        "urlseed_timeout": 10,
        "ssrf_mitigation": not options.allows_local_web_seeds,
    }
    if not ipaddress.ip_address(address).is_unspecified:
        settings["outgoing_interfaces"] = address
    return settings


def buffer_for(upload_limit: int) -> int:
    """Return how many bytes a connection may buffer at a rate; 0 = unlimited."""
    if not upload_limit:
        return _SEND_BUFFER_BYTES
    return min(max(upload_limit // 4, _SEND_BUFFER_LEAST_BYTES), _SEND_BUFFER_BYTES)


def queue_for(upload_limit: int) -> int:
    """Return how many blocks a peer may ask for at a time at a rate; 0 = unlimited.

    Peers are told, and wait for the last of them, whatever they need more by then: a quarter of a
    second's worth.
    """
    if not upload_limit:
        return _QUEUE_BLOCKS
    blocks = upload_limit // (4 * BLOCK_BYTES)
    return min(max(blocks, _QUEUE_LEAST_BLOCKS), _QUEUE_BLOCKS)
