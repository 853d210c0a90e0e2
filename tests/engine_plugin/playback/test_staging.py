"""Which pieces a web seed and peers are led to while a CDN helps a player who waits."""

from collections.abc import Mapping

from engine_plugin.meter import PieceLayout
from engine_plugin.playback.staging import RUN_BYTES, Stage
from engine_plugin.torrents import TorrentFile

PIECE = RUN_BYTES // 16
RUN = 16
COUNT = 200


class Picker:
    """A content of 200 pieces that remembers what it was told."""

    def __init__(self) -> None:
        self.torrent = TorrentFile(
            data=b"",
            name="film",
            infohash_v1=bytes(20),
            infohash_v2=bytes(32),
            layout=PieceLayout(total_bytes=COUNT * PIECE, piece_bytes=PIECE, pads=()),
            files=(("film", COUNT * PIECE),),
            web_seeds=(),
            is_private=False,
        )
        self.here: set[int] = set()
        self.touched: set[int] = set()
        self.deadlines: dict[int, int] = {9: 0}
        self.priorities: dict[int, int] = {}

    def has_piece(self, piece: int) -> bool:
        return piece in self.here

    def touched_pieces(self) -> set[int]:
        return self.touched

    def want_piece(self, piece: int, deadline_ms: int) -> None:
        self.deadlines[piece] = deadline_ms

    def forget_deadlines(self) -> None:
        self.deadlines.clear()

    def set_priorities(self, priorities: Mapping[int, int]) -> None:
        self.priorities.update(priorities)

    def of(self, priority: int) -> set[int]:
        return {piece for piece, set_to in self.priorities.items() if set_to == priority}


def begin(picker: Picker, first: int, count: int = 64) -> Stage:
    stage = Stage(picker)
    stage.begin(range(first, first + count), 0.0, had_deadlines=True)
    return stage


def test_run_that_ends_with_the_highest_priority_begins_at_the_player() -> None:
    picker = Picker()
    begin(picker, 100)
    assert picker.of(7) == {112, 113, 114, 115}
    assert max(picker.of(7)) - RUN + 1 == 100


def test_nothing_before_the_player_is_wanted_so_that_no_run_begins_there() -> None:
    picker = Picker()
    picker.here = {90, 91}
    begin(picker, 100)
    assert picker.of(0) == set(range(85, 100)) - picker.here


def test_all_stays_wanted_when_nothing_lies_further_on() -> None:
    picker = Picker()
    begin(picker, 180, COUNT - 180)
    assert picker.of(0) == set()
    assert picker.of(7)


def test_old_deadlines_go_and_one_far_on_has_libtorrent_cancel_what_they_asked_for() -> None:
    picker = Picker()
    begin(picker, 100)
    assert set(picker.deadlines) == {164}


def test_begun_pieces_come_first_and_the_next_run_is_an_untouched_one() -> None:
    picker = Picker()
    picker.touched = {100, 103}
    stage = begin(picker, 100)
    assert picker.of(7) == {100, 103, 101, 102, 116, 117, 118, 119}
    picker.touched = set(range(100, 120))
    stage.update(range(100, 164), 0.1)
    assert picker.of(7) == set(range(100, 120)) | {132, 133, 134, 135}


def test_first_piece_that_is_stuck_is_asked_for_by_deadline() -> None:
    picker = Picker()
    stage = begin(picker, 100)
    stage.update(range(100, 164), 0.6)
    assert 100 not in picker.deadlines
    stage.update(range(100, 164), 0.8)
    assert picker.deadlines[100] == 0
    stage.update(range(100, 164), 1.4)
    assert 100 in picker.deadlines
    stage.update(range(100, 164), 1.6)
    assert set(picker.deadlines) == {164}, "taken back: nobody is asked for it any more"


def test_end_of_the_stage_leaves_usual_priorities() -> None:
    picker = Picker()
    stage = begin(picker, 100)
    picker.here = {112}
    stage.clear()
    assert picker.of(0) == set()
    assert picker.of(7) == {112}, "it is here: there is nothing to set"
    assert not stage.is_on
