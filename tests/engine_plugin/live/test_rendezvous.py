"""Who is told to dial whom: one link a pair, few firsts, and a swarm that hangs together."""

from random import Random

import pytest

from engine_plugin.live import rendezvous
from engine_plugin.live.rendezvous import EXPIRES_S, FIRST_MOST, Rendezvous
from engine_plugin.wire import Endpoint


def viewer(number: int) -> Endpoint:
    return Endpoint(f"192.0.2.{number}", 6881)


def reachable(dials: dict[Endpoint, list[Endpoint]]) -> int:
    links: dict[Endpoint, set[Endpoint]] = {one: set() for one in dials}
    for one, others in dials.items():
        for other in others:
            links[one].add(other)
            links[other].add(one)
    seen, todo = set(), [next(iter(links))]
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            todo += links[one]
    return len(seen)


@pytest.mark.parametrize("count", [2, 5, 20, 100])
def test_every_pair_is_linked_at_most_once_and_all_hang_together(count: int) -> None:
    meeting = Rendezvous(Random(count))
    dials: dict[Endpoint, list[Endpoint]] = {}
    for round_s in range(3):
        for number in range(count):
            dials[viewer(number)] = meeting.announce(viewer(number), round_s)
    pairs = [frozenset((one, other)) for one, others in dials.items() for other in others]
    assert len(set(pairs)) == len(pairs)
    assert all(one not in others for one, others in dials.items())
    assert reachable(dials) == count


def test_links_of_one_are_bounded_by_the_degree() -> None:
    meeting = Rendezvous(Random(1), degree=4)
    for number in range(60):
        assert len(meeting.announce(viewer(number), 0.0)) <= 4 + FIRST_MOST


def test_few_fetch_from_the_source_and_are_linked_with_each_other() -> None:
    meeting = Rendezvous(Random(1), first_most=3)
    dials = {viewer(number): meeting.announce(viewer(number), 0.0) for number in range(20)}
    firsts = [one for one in dials if meeting.is_first(one)]
    assert len(firsts) == 3
    for one in firsts:
        for other in firsts:
            assert one == other or other in dials[one] or one in dials[other]


@pytest.mark.parametrize("leaves", [True, False])
def test_place_of_a_first_that_left_goes_to_the_next(*, leaves: bool) -> None:
    meeting = Rendezvous(Random(1), first_most=1)
    meeting.announce(viewer(1), 0.0)
    meeting.announce(viewer(2), EXPIRES_S)
    assert not meeting.is_first(viewer(2))
    if leaves:
        meeting.leave(viewer(1))
    later = EXPIRES_S if leaves else 2 * EXPIRES_S
    assert meeting.announce(viewer(2), later) == []
    assert meeting.is_first(viewer(2))
    assert len(meeting) == 1


def test_neighbours_that_left_are_replaced() -> None:
    meeting = Rendezvous(Random(2), degree=2)
    for number in range(6):
        meeting.announce(viewer(number), 0.0)
    before = meeting.announce(viewer(5), 0.0)
    meeting.leave(before[0])
    after = meeting.announce(viewer(5), 1.0)
    assert before[0] not in after
    assert len(after) >= len(before)


def test_one_address_cannot_crowd_out_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "VIEWERS_PER_ADDRESS_MAX", 2)
    meeting = Rendezvous(Random(1))
    for port in range(1, 10):
        meeting.announce(Endpoint("198.51.100.7", port), 0.0)
    assert len(meeting) == 2
    meeting.announce(Endpoint("198.51.100.8", 1), 0.0)
    assert len(meeting) == 3
    meeting.leave(Endpoint("198.51.100.7", 1))
    meeting.announce(Endpoint("198.51.100.7", 3), 0.0)
    assert len(meeting) == 3
