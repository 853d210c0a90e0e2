"""What a listener does wrong is its own affair."""

from typing import Any

from engine_plugin.events import EventHub


def test_taker_that_fails_stops_nobody() -> None:
    taken: list[str] = []

    def take(name: str, /, **_: Any) -> None:
        taken.append(name)
        raise BrokenPipeError("gone")

    hub = EventHub(take)
    hub.tell("progress")
    hub.tell("receipt")
    assert taken == ["progress", "receipt"]
