"""Seating connections in slots: alone when it can be, never faster than the worst one in it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_plugin.slots import RESERVE, STUCK_S, SlotBoard
from engine_plugin.standing import Treatment

FREE, HELD, PROBATION = Treatment.FREE, Treatment.HELD, Treatment.PROBATION


def address_of(peer: int) -> str:
    return f"192.0.2.{peer}"


def plan(board: SlotBoard, treatments: dict[int, Treatment], now_s: float = 0.0):
    return board.plan({peer: address_of(peer) for peer in treatments}, treatments, now_s)


def test_whoever_comes_alone_gets_a_slot_that_nobody_else_gets_into():
    board = SlotBoard(count=8)
    assert plan(board, {}).front == 0
    first = plan(board, {1: PROBATION})
    assert first.front != 0
    assert first.treatments[0] is first.treatments[first.front] is PROBATION
    assert plan(board, {1: FREE}).treatments[0] is FREE


def test_a_slot_is_as_slow_as_its_worst_member_and_that_one_is_sent_away():
    board = SlotBoard(count=8)
    together = plan(board, {1: PROBATION, 2: PROBATION})
    assert plan(board, {1: FREE, 2: PROBATION}).treatments[0] is PROBATION
    waiting = plan(board, {1: FREE, 2: HELD}, now_s=STUCK_S / 2)
    assert waiting.treatments[0] is HELD
    assert waiting.moved == frozenset()
    moved = plan(board, {1: FREE, 2: HELD}, now_s=STUCK_S)
    assert moved.moved == {address_of(2)}
    assert plan(board, {1: FREE}, now_s=STUCK_S + 0.25).treatments[0] is FREE
    assert together.front != 0


def test_when_slots_run_out_free_peers_leave_theirs_once_and_get_into_none():
    board = SlotBoard(count=RESERVE + 4)
    treatments: dict[int, Treatment] = {}
    addresses: dict[int, str] = {}
    moved: list[str] = []
    for step in range(60):
        newest = step // 2
        addresses[newest] = address_of(newest)
        treatments[newest] = FREE if step % 2 else PROBATION
        result = board.plan(addresses, treatments, step / 2)
        for address in result.moved:
            assert address in result.exempt
            moved.append(address)
            left = next(peer for peer, at in addresses.items() if at == address)
            del treatments[left], addresses[left]
            board.plan(addresses, treatments, step / 2)
            # It comes back from the same address under another number.
            addresses[left + 100], treatments[left + 100] = address, FREE
            board.plan(addresses, treatments, step / 2)
            assert left + 100 in board.unholdable
        # Room for whoever comes next: never more than four slots are in use for long.
        assert len({slot for slots in board._slots.values() for slot in slots}) <= 6
    assert len(moved) == len(set(moved)) > 10


def test_whoever_was_there_when_the_front_moved_may_sit_before_or_after() -> None:
    board = SlotBoard(count=8)
    first = plan(board, {1: PROBATION})
    board.note_moved_front(0, {1: address_of(1), 2: address_of(2)})
    # The second is on probation yet, and the first may be its neighbour.
    assert plan(board, {1: FREE, 2: PROBATION}).treatments[0] is PROBATION
    assert plan(board, {1: FREE, 2: FREE}).treatments[0] is FREE
    assert board.front not in {0, first.front}


def test_a_slot_that_was_left_is_used_again_last() -> None:
    board = SlotBoard(count=8)
    fronts = []
    for peer in range(1, 9):
        fronts.append(plan(board, {peer: PROBATION}).front)
        assert plan(board, {}).treatments[fronts[-1]] is PROBATION
    assert fronts == [1, 2, 3, 4, 5, 6, 7, 0]


PEERS = st.dictionaries(st.integers(1, 40), st.sampled_from(list(Treatment)), max_size=30)


@settings(max_examples=200, deadline=None)
@given(st.lists(PEERS, max_size=20))
def test_nobody_sits_in_a_slot_faster_than_it_deserves(rounds):
    board = SlotBoard(count=9)
    for number, treatments in enumerate(rounds):
        result = plan(board, treatments, now_s=number / 4)
        assert result.treatments[result.front] <= PROBATION
        for peer, slots in board._slots.items():
            for slot in slots:
                assert result.treatments[slot] <= treatments[peer]
