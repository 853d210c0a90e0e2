"""Runs the meter's pump in a thread of its own and hands its steps to the event loop."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from engine_plugin.pump import MeterPump
from engine_plugin.pump_steps import StepResult

WAIT_MS = 250
"""How long a step waits for the first alert after nothing came."""

READING_PAUSE_S = 0.01
"""Between two steps while somebody plays: a player waits for its pieces. Otherwise the pump says
how long: fewer, larger batches cost less."""

READING_S = 2.0
"""How long after a piece was read somebody is taken to play."""

RETRY_S = 0.25


class PumpThread:
    """The thread; made and stopped in the event loop that takes its steps."""

    def __init__(
        self,
        pump: MeterPump,
        *,
        take_step: Callable[[StepResult], None],
        fail: Callable[[str, str], None],
    ) -> None:
        """Start it.

        Args:
            pump: Called from this thread only, until `stop`.
            take_step: Takes every step, in the event loop's thread.
            fail: Takes where something failed, and how; likewise.
        """
        self._pump = pump
        self._take_step = take_step
        self._fail = fail
        self._loop = asyncio.get_running_loop()
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop it and wait for its last step; blocks for up to a drain."""
        self._stops.set()
        self._thread.join()

    def _run(self) -> None:
        last_read_s = -READING_S
        while not self._stops.is_set():
            try:
                result = self._pump.step(WAIT_MS)
            except Exception as error:  # noqa: BLE001 - without the thread no piece is read again
                # Fails open: what this step would have counted is reported as lost, not guessed.
                self._call(self._fail, "meter", f"{type(error).__name__}: {error}")
                self._stops.wait(RETRY_S)
                continue
            now_s = time.monotonic()
            if result.reads:
                last_read_s = now_s
            if result.tells_something:
                self._call(self._take_step, result)
            is_read = now_s - last_read_s < READING_S
            self._stops.wait(READING_PAUSE_S if is_read else self._pump.rest_s())

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop has closed: nobody is left to tell
            self._loop.call_soon_threadsafe(function, *arguments)
