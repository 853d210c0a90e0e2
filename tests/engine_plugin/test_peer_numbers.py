"""Numbers of (peer-id, endpoint) pairs, met by several threads and forgotten."""

import threading
from typing import Any

import pytest

from engine_plugin.libtorrent_door import peer_numbers
from engine_plugin.libtorrent_door.peer_numbers import PeerNumbers


def test_two_threads_that_meet_peers_at_once_share_no_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = PeerNumbers()
    is_between, may_go_on = threading.Event(), threading.Event()
    format_endpoint = peer_numbers.format_endpoint

    def slowly(ip: str, port: int) -> str:
        if port == 1:
            is_between.set()
            may_go_on.wait(0.2)
        return format_endpoint(ip, port)

    monkeypatch.setattr(peer_numbers, "format_endpoint", slowly)
    given: dict[int, Any] = {}

    def meet(port: int) -> None:
        given[port] = numbers.number_of(b"P" * 20, ("127.0.0.2", port))

    threads = [threading.Thread(target=meet, args=(port,)) for port in (1, 2)]
    threads[0].start()
    is_between.wait(5)
    threads[1].start()
    for thread in threads:
        thread.join()
    for port, number in given.items():
        assert numbers.key_of(number) == (b"P" * 20, f"127.0.0.2:{port}")


def test_forgotten_number_is_not_given_again() -> None:
    numbers = PeerNumbers()
    pairs = [(b"P" * 20, ("127.0.0.2", port)) for port in (1, 2)]
    first, second = (numbers.number_of(*pair) for pair in pairs)
    numbers.forget([first, second], kept={second})
    assert numbers.list_numbers() == [second]
    assert numbers.find(b"P" * 20, "127.0.0.2:1") is None
    assert numbers.number_of(*pairs[0]) not in {first, second}
