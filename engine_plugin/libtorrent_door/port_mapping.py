"""The side channel's port beside BitTorrent's own on a router that maps ports (UPnP, NAT-PMP, PCP).

libtorrent maps the port it listens on; here it is asked for one TCP port more, once it listens.
When the router gives another outside port than the wanted one, the handshake text of connections
from then on says so. Not here: whether there is such a router; nothing fails without one.
"""

from typing import Any

import libtorrent as lt

from engine_plugin.identity import format_handshake, parse_handshake


class SidePortMapping:
    """One session's mapping of the port that its handshake text names."""

    def __init__(self, session: Any, handshake_text: str, *, is_wanted: bool) -> None:
        """Map nothing yet.

        Args:
            session: The `libtorrent.session`.
            handshake_text: Names the key and the port.
            is_wanted: Whether ports are mapped at all.
        """
        self._session = session
        hint = parse_handshake(handshake_text)
        self._hint = hint if is_wanted and hint is not None and hint.receipt_port else None
        self._mappings: set[int] = set()

    def want(self) -> None:
        """Ask for the port, anew when asked before: the session has just begun to listen."""
        if self._hint is None:
            return
        for mapping in self._mappings:
            self._session.delete_port_mapping(mapping)
        port = self._hint.receipt_port
        made = self._session.add_port_mapping(lt.portmap_protocol.tcp, port, port)
        self._mappings = {int(mapping) for mapping in made}

    def take(self, mapping: int, outside_port: int) -> None:
        """Take note of a mapping that the router granted."""
        if self._hint is not None and mapping in self._mappings:
            text = format_handshake(self._hint.public_key, outside_port)
            self._session.apply_settings({"handshake_client_version": text})
