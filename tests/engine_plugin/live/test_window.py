"""What a player is offered: in order, a sliding few, gaps marked."""

import asyncio

import builders
import pytest

from engine_plugin.http_face.hls import SegmentGoneError
from engine_plugin.live.policy import LivePolicy, cdn_wait_ms, due_in_ms
from engine_plugin.live.window import LiveWindow
from ledger.evidence.segment import Segment


def segment(number: int) -> Segment:
    before = builders.segment() if number else None
    return builders.segment(number, before=before).value


async def fill(window: LiveWindow, numbers: list[int]) -> None:
    for number in numbers:

        async def read(number: int = number) -> bytes:
            return b"%d" % number

        await window.append(segment(number), read)


def test_window_slides_and_numbers_have_no_gap() -> None:
    async def run() -> None:
        window = LiveWindow(builders.stream(), size=3)
        await fill(window, [5, 6])
        window.skip()
        await fill(window, [8, 9])
        offered = await window.window()
        assert [listed.number for listed in offered.segments] == [1, 2, 3]
        assert [listed.is_discontinuity for listed in offered.segments] == [False, True, False]
        assert await window.segment(3) == b"9"
        with pytest.raises(SegmentGoneError):
            await window.segment(0)

    asyncio.run(run())


def test_discontinuities_that_slid_out_are_counted() -> None:
    async def run() -> None:
        window = LiveWindow(builders.stream(), size=1)
        window.skip()
        await fill(window, [1, 2])
        assert (await window.window()).discontinuity_sequence == 1

    asyncio.run(run())


def test_next_segment_is_waited_for() -> None:
    async def run() -> None:
        window = LiveWindow(builders.stream(), size=3)
        waiting = asyncio.create_task(window.segment(0))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await fill(window, [7])
        assert await waiting == b"7"

    asyncio.run(run())


def test_player_is_let_in_when_there_is_enough_or_the_end() -> None:
    async def run() -> None:
        window = LiveWindow(builders.stream(), size=3, ready_segments=2)
        waiting = asyncio.create_task(window.window())
        await fill(window, [0])
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await window.end()
        assert (await waiting).is_ended

    asyncio.run(run())


def test_cdn_is_asked_only_when_the_segment_is_at_risk() -> None:
    policy = LivePolicy(behind_segments=3, cdn_lead_ms=1200, cdn_rate=1_000_000)
    due = due_in_ms(policy, segment_ms=1000, behind=0)
    assert due == 3000
    assert cdn_wait_ms(policy, due_ms=due, size_bytes=100_000, is_playing=True) == 1800
    # A large segment takes the CDN longer, so it is asked earlier; an overdue one at once.
    assert cdn_wait_ms(policy, due_ms=due, size_bytes=2_500_000, is_playing=True) == 500
    assert cdn_wait_ms(policy, due_ms=0, size_bytes=1, is_playing=True) == 0
    assert cdn_wait_ms(policy, due_ms=due, size_bytes=1, is_playing=False) == policy.first_peers_ms
    assert due_in_ms(policy, segment_ms=1000, behind=9) == 0
