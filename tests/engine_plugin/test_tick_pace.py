"""How often the accounting is looked at; real event loop, scripted seconds."""

import asyncio

from engine_plugin.tick_pace import CALM_TICK_S, EARLY_TICK_S, LIVELY_S, TICK_S, TickPace


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def rest_s(pace: TickPace, *, is_calm: bool) -> float:
    """Return how long the loop was told to rest, by its own clock."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    await pace.rest(is_calm=is_calm)
    return loop.time() - begun_s


def test_ticks_are_seldom_only_when_all_is_calm_and_no_news_came() -> None:
    asyncio.run(look_seldom())


async def look_seldom() -> None:
    clock = Clock()
    pace = TickPace(clock)
    assert await rest_s(pace, is_calm=True) < CALM_TICK_S
    clock.now_s = LIVELY_S
    assert await rest_s(pace, is_calm=False) < CALM_TICK_S
    assert await rest_s(pace, is_calm=True) >= CALM_TICK_S * 0.99


def test_news_end_a_calm_rest_in_time_for_a_quick_tick() -> None:
    asyncio.run(hear_news())


async def hear_news() -> None:
    clock = Clock()
    pace = TickPace(clock)
    clock.now_s = LIVELY_S
    resting = asyncio.create_task(rest_s(pace, is_calm=True))
    await asyncio.sleep(0)
    pace.note_news()
    assert TICK_S * 0.99 <= await resting < CALM_TICK_S
    assert await rest_s(pace, is_calm=True) < CALM_TICK_S


def test_a_long_calm_rest_ends_when_the_process_is_awake_anyway_and_a_short_one_does_not() -> None:
    asyncio.run(wake_early())


async def wake_early() -> None:
    clock = Clock()
    pace = TickPace(clock)
    clock.now_s = LIVELY_S
    pace.note_awake()
    resting = asyncio.create_task(rest_s(pace, is_calm=True))
    await asyncio.sleep(0)
    clock.now_s += EARLY_TICK_S / 2
    pace.note_awake()
    await asyncio.sleep(0)
    assert not resting.done()
    clock.now_s += EARLY_TICK_S / 2
    pace.note_awake()
    pace.note_awake()
    assert await resting < CALM_TICK_S
