"""When the pump looks and commits next for the sake of receipts."""

from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.lookahead import BURST_BYTES, BURST_S, LOOK_LEAST_S, LOOK_MOST_S, Lookahead

ALICE, BOB = b"A" * 32, b"B" * 32
STEP = 2_500_000
JUMP = 250_000
RATE = 5_000_000


def flow(rooms: dict[bytes, int | None], looks: int, *, key: bytes = ALICE) -> Lookahead:
    """Bytes that come at a steady rate, a jump at a time, none of them durable yet."""
    lookahead = Lookahead(rooms.get)
    for number in range(looks):
        lookahead.note({key: JUMP}, number * JUMP / RATE, grain_bytes=JUMP)
    return lookahead


def test_the_first_bytes_of_a_payee_are_worth_a_commit() -> None:
    lookahead = flow({}, 1)
    assert lookahead.is_due
    lookahead.note_commit()
    assert not lookahead.is_due


def test_who_cannot_be_signed_for_is_not_committed_for() -> None:
    assert not flow({ALICE: 0}, 100).is_due
    assert flow({ALICE: 0}, 100).wait_s(5.0) == LOOK_MOST_S


def test_the_look_that_is_nearest_to_the_step_is_due() -> None:
    assert not flow({ALICE: STEP}, 9).is_due
    assert flow({ALICE: STEP}, 10).is_due
    # A step in the middle of a jump: the look before it is as near as the one after it.
    assert flow({ALICE: STEP - JUMP // 2}, 9).is_due


def test_the_next_look_is_when_the_step_is_filled() -> None:
    lookahead = flow({ALICE: STEP}, 7)
    left = STEP - 7 * JUMP - JUMP // 2
    assert abs(lookahead.wait_s(6 * JUMP / RATE) - left / RATE) < 1e-6
    # Between two jumps nothing can change.
    assert lookahead.wait_s(6 * JUMP / RATE) >= JUMP / 2 / RATE
    assert flow({ALICE: STEP}, 10).wait_s(9 * JUMP / RATE) >= JUMP / 2 / RATE


def test_of_several_payees_the_first_to_be_due_counts() -> None:
    lookahead = flow({ALICE: 100 * STEP, BOB: STEP}, 5)
    # Far from its step a payee is looked at often enough not to burst past it.
    assert lookahead.wait_s(4 * JUMP / RATE) == max(BURST_BYTES / RATE, BURST_S)
    lookahead.note({BOB: STEP // 2}, 1.0, grain_bytes=JUMP)
    lookahead.note({BOB: STEP // 2}, 1.1, grain_bytes=JUMP)
    assert lookahead.is_due
    assert lookahead.wait_s(1.1) < LOOK_MOST_S


def test_a_payee_that_brings_nothing_is_not_waited_for() -> None:
    assert flow({ALICE: STEP}, 8).wait_s(100.0) == LOOK_MOST_S


@given(st.lists(st.tuples(st.sampled_from([ALICE, BOB]), st.integers(1, 1 << 24)), max_size=40))
def test_waits_are_bounded_and_every_byte_is_counted(looks: list[tuple[bytes, int]]) -> None:
    rooms = {ALICE: STEP, BOB: STEP}
    lookahead = Lookahead(rooms.get)
    fresh = {ALICE: 0, BOB: 0}
    for number, (key, count) in enumerate(looks):
        lookahead.note({key: count}, number / 10, grain_bytes=JUMP)
        fresh[key] += count
        assert LOOK_LEAST_S <= lookahead.wait_s(number / 10) <= max(LOOK_MOST_S, LOOK_LEAST_S)
        if any(count >= STEP for count in fresh.values()):
            assert lookahead.is_due
        if lookahead.is_due:
            lookahead.note_commit()
            fresh = {ALICE: 0, BOB: 0}
