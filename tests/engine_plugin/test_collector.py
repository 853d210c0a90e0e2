"""What a collector's answers may cost."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from builders import signed_terms

from engine_plugin import collector as collector_module
from engine_plugin.collector import Collector, CollectorUnavailableError


class Dripping(httpx.AsyncByteStream):
    """An answer that goes on for ever, each part of it in time."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.01)
            yield b"."


def test_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "WHOLE_ANSWER_FACTOR", 0.01)

    async def scene() -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Dripping()))
        collector = Collector(signed_terms(), transport=transport)
        async with asyncio.timeout(5):
            with pytest.raises(CollectorUnavailableError, match="TimeoutError"):
                await collector.read_clock()
        await collector.close()

    asyncio.run(scene())
