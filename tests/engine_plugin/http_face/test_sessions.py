"""Sessions: joined, bounded, ended when nobody uses them."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from engine_plugin.http_face.errors import BusyError, NotKnownError
from engine_plugin.http_face.rates import ByteCount, RateGauge
from engine_plugin.http_face.sessions import PlaySession, SessionLimits, SessionTable


@dataclass
class Film:
    """As much of a playable as the table looks at."""

    key: str = "film"
    count: Any = field(default=ByteCount)


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def open_one(table: SessionTable, film: Any, pid: str = "", address: str = "::1") -> PlaySession:
    return table.open(film, pid=pid, address=address)


def make_table(clock: Clock, **limits: Any) -> SessionTable:
    return SessionTable(SessionLimits(**limits), clock=clock)


def test_player_joins_its_own_session_and_no_other() -> None:
    table, film = make_table(Clock()), Film()
    first = open_one(table, film, "a")
    assert open_one(table, film, "a") is first
    others = [
        open_one(table, film, "b"),
        open_one(table, film, "a", "127.0.0.1"),
        open_one(table, Film("other"), "a"),
    ]
    assert len({one.session_id for one in [first, *others]}) == 4
    assert table.get(first.session_id) is first


def test_film_that_came_again_under_its_name_gets_a_new_session() -> None:
    table = make_table(Clock())
    first = open_one(table, Film())
    second = open_one(table, Film())
    assert first.ended.is_set()
    assert second is not first
    assert len(table) == 1


def test_session_ends_when_nobody_has_used_it_for_a_while() -> None:
    clock = Clock()
    table = make_table(clock, idle_s=60)
    film = Film()
    idle, held, asked = (open_one(table, film, pid) for pid in "iha")
    with table.connection(held):
        clock.now_s += 50
        table.get(asked.session_id)
        clock.now_s += 11
        assert table.sweep() == [idle]
        assert idle.ended.is_set()
    clock.now_s += 61
    assert set(map(id, table.sweep())) == {id(held), id(asked)}
    assert not table.uses(film)
    with pytest.raises(NotKnownError):
        table.get(held.session_id)


def test_new_session_pushes_out_the_one_that_rested_longest() -> None:
    clock = Clock()
    table = make_table(clock, sessions_max=2)
    film = Film()
    old = open_one(table, film, "old")
    clock.now_s += 1
    new = open_one(table, film, "new")
    clock.now_s += 1
    table.get(old.session_id)
    open_one(table, film, "newest")
    assert new.ended.is_set()
    assert not old.ended.is_set()


def test_sessions_in_use_are_not_pushed_out() -> None:
    table = make_table(Clock(), sessions_max=1)
    film = Film()
    with table.connection(open_one(table, film, "a")), pytest.raises(BusyError):
        open_one(table, film, "b")
    open_one(table, film, "b")


def test_connections_are_bounded_over_all_sessions() -> None:
    table = make_table(Clock(), connections_max=2)
    one, other = open_one(table, Film("1")), open_one(table, Film("2"))
    with table.connection(one), table.connection(other):
        with pytest.raises(BusyError), table.connection(one):
            pass
        assert one.connection_count == 1
    with table.connection(one), table.connection(one):
        pass


@pytest.mark.parametrize("name", ["sessions_max", "connections_max", "idle_s", "stalled_s"])
def test_limit_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        SessionLimits(**{name: 0})


def test_rates_are_differences_over_time_and_never_negative() -> None:
    clock, count = Clock(), ByteCount()
    gauge = RateGauge(lambda: count, clock=clock)
    clock.now_s += 2
    count = ByteCount(p2p_bytes=1500, cdn_bytes=500, sent_bytes=100)
    _, rates = gauge.look()
    assert (rates.down, rates.up) == (1000, 50)
    clock.now_s += 0.1
    count = ByteCount(p2p_bytes=9000)
    assert gauge.look()[1] == rates
    clock.now_s += 1
    count = ByteCount()
    assert gauge.look()[1].down == 0
