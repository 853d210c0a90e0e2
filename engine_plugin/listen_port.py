"""Waits until a session listens on the port that was asked for."""

import asyncio
import time

from engine_plugin.errors import SessionError
from engine_plugin.libtorrent_door import EngineSession
from engine_plugin.wire import Endpoint

LISTEN_TIMEOUT_S = 10.0
_LOOK_S = 0.02


async def await_port(session: EngineSession, wanted: Endpoint) -> int:
    """Return the port that a session listens on, once it does.

    Args:
        session: Its queue is drained meanwhile, by somebody else.
        wanted: Address and port; port 0: any.

    Raises:
        SessionError: The address cannot be bound, or not in time.
    """
    deadline_s = time.monotonic() + LISTEN_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if port := session.listen_port:
            # libtorrent takes a neighbouring port when the wanted one is in use.
            if wanted.port in {0, port}:
                return port
            break
        await asyncio.sleep(_LOOK_S)
    raise SessionError(f"listen: {wanted}: cannot be bound")
