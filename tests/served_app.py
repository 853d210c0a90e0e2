"""An application on a real socket for the length of a test, and a client that talks to it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from fastapi import FastAPI

from ledger.serving import bind, url_of


@contextmanager
def serve_app(app: FastAPI, listener: socket.socket | None = None) -> Iterator[httpx.Client]:
    """Serve in a thread of this process; stopped and joined at the end.

    A listener may come from another network namespace; then the client reaches nothing.
    """
    listener = listener or bind("127.0.0.1:0")
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("application: got an end before its start")
            time.sleep(0.01)
        with httpx.Client(base_url=url_of(listener), trust_env=False, timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
