"""What a collector's answers may cost."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from builders import (
    EPOCH,
    binding,
    payee_bundle,
    promise,
    receipt,
    signed_terms,
)

from engine_plugin import collector as collector_module
from engine_plugin.collector import Collector, CollectorUnavailableError
from engine_plugin.http_face.access import AccessRules
from engine_plugin.ledger_side import Seeds
from engine_plugin.name_lookup import NameLookup
from engine_plugin.side_channel import ChannelIdentity
from engine_plugin.wire import Endpoint


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


def test_failures_name_no_secret_of_the_url() -> None:
    async def scene() -> None:
        def fail(_: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused")

        collector = Collector(
            signed_terms(),
            entitlement_url="https://user:hidden@backend.example/v1/entitlements?ticket=hidden",
            transport=httpx.MockTransport(fail),
        )
        with pytest.raises(CollectorUnavailableError) as caught:
            await collector.fetch_entitlement(binding("viewer"), b"c" * 32)
        assert "https://backend.example/v1/entitlements" in str(caught.value)
        assert "hidden" not in str(caught.value)
        await collector.close()

    asyncio.run(scene())


def test_private_seeds_are_in_no_representation() -> None:
    seed = b"hidden seed of thirty-two bytes!"
    identity = ChannelIdentity(
        network_id=b"",
        broadcaster_account=b"",
        session_seed=seed,
        session_key=b"",
        session_id=b"",
        peer_id=b"",
        listen=Endpoint("127.0.0.1", 1),
    )
    rules = AccessRules(token="hidden")
    for secret in (identity, Seeds(session=seed, account=seed), rules):
        assert "hidden" not in repr(secret)


def test_resolver_that_hangs_is_asked_once_and_holds_none_of_the_loops_threads() -> None:
    asked: list[str] = []
    may_go_on = threading.Event()

    def resolve(host: str) -> None:
        asked.append(host)
        may_go_on.wait(10)

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(max_workers=1))
        names = NameLookup(resolve)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await names.require("collector.example", within_s=0.01)
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(lambda: "piece") == "piece"
            may_go_on.set()
            await names.require("collector.example", within_s=5)
        await names.require("collector.example", within_s=0)
        await names.require("127.0.0.1", within_s=0)
        assert asked == ["collector.example"]

    asyncio.run(scene())


def test_name_that_leads_nowhere_is_a_collector_that_is_away() -> None:
    def resolve(_: str) -> None:
        raise OSError("no such name")

    async def scene() -> None:
        signed = signed_terms(collector_url="https://collector.example")
        collector = Collector(signed, names=NameLookup(resolve))
        with pytest.raises(CollectorUnavailableError, match="no such name"):
            await collector.read_clock()
        assert await collector.find_own_ip() == ""
        await collector.close()

    asyncio.run(scene())


WINDOW = 3
UNDUE = {
    "another epoch's": {"epoch": EPOCH + 1, "sealing_epoch": EPOCH + 1},
    "an earlier seal": {"sealing_epoch": EPOCH - 1},
    "past the window": {"sealing_epoch": EPOCH + WINDOW + 1},
    "never": {"sealing_epoch": 2**32 - 1},
}


def promised(terms: dict[str, int], **changes: int) -> int:
    """The seal that the engine takes a promise for."""

    async def scene() -> int:
        answer = httpx.Response(200, content=promise(**changes).raw)
        transport = httpx.MockTransport(lambda _: answer)
        collector = Collector(signed_terms(**terms), transport=transport)
        try:
            taken = await collector.send_bundle(payee_bundle([receipt()]))
        finally:
            await collector.close()
        return taken.value.sealing_epoch

    return asyncio.run(scene())


@pytest.mark.parametrize("changes", UNDUE.values(), ids=UNDUE)
def test_promise_that_need_not_fall_due_is_none(changes: dict[str, int]) -> None:
    with pytest.raises(CollectorUnavailableError, match="promise: got"):
        promised({"correction_epochs": WINDOW}, **changes)


@pytest.mark.parametrize("late", range(WINDOW + 1))
def test_late_bundle_is_promised_up_to_the_last_seal_that_takes_it(late: int) -> None:
    terms = {"correction_epochs": WINDOW}
    assert promised(terms, sealing_epoch=EPOCH + late) == EPOCH + late


def test_window_of_other_terms_is_theirs() -> None:
    terms = {"correction_epochs": 0, "first_epoch": EPOCH + 1}
    assert promised(terms, sealing_epoch=EPOCH + 2) == EPOCH + 2
