from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_plugin.meter import BLOCK_BYTES, EventKind, PieceLayout, TorrentMeter

ASKED, WRITTEN, PASSED, FAILED, SENT, CHECKING, CHECKED, FINISHED, DROPPED, SENT_BLOCKS = EventKind
A, B = 0, 1

# Two full pieces of two blocks, and a last piece of one block of 1,000 bytes.
PLAIN = PieceLayout(total_bytes=4 * BLOCK_BYTES + 1000, piece_bytes=2 * BLOCK_BYTES)
# A file of 20,000 bytes, padding to the piece, then a file that fills a piece.
PADDED = PieceLayout(
    total_bytes=4 * BLOCK_BYTES, piece_bytes=2 * BLOCK_BYTES, pads=((20_000, 2 * BLOCK_BYTES),)
)

Step = tuple[EventKind, int, int, int]


def _meter(steps: list[Step], layout: PieceLayout = PLAIN) -> TorrentMeter:
    meter = TorrentMeter(layout)
    meter.feed([(kind, 0, peer, piece, block) for kind, peer, piece, block in steps])
    return meter


def _asked_and_written(peer: int, piece: int, blocks: int = 2) -> list[Step]:
    return [(kind, peer, piece, b) for b in range(blocks) for kind in (ASKED, WRITTEN)]


def test_written_block_is_credited_when_its_piece_passes_and_not_before() -> None:
    meter = _meter(_asked_and_written(A, 0))
    assert meter.take_credits() == {}
    meter.feed([(PASSED, 0, -1, 0, 0)])
    assert meter.take_credits() == {A: [(0, 0, BLOCK_BYTES), (0, 1, BLOCK_BYTES)]}
    assert meter.take_credits() == {}
    assert meter.firm == {A: 2 * BLOCK_BYTES}


def test_last_piece_counts_with_its_own_length() -> None:
    meter = _meter([*_asked_and_written(A, 2, 1), (PASSED, -1, 2, 0)])
    assert meter.take_credits() == {A: [(2, 0, 1000)]}


CASES: list[tuple[str, list[Step], dict[int, int], int, int]] = [
    # name, events, firm in blocks, pending blocks, ambiguous blocks
    ("written by two", [*_asked_and_written(A, 0), *_asked_and_written(B, 0), (PASSED, -1, 0, 0)],
     {B: 2}, 0, 0),
    ("asked of one, not written", [(ASKED, A, 0, 0), (ASKED, A, 0, 1), (PASSED, -1, 0, 0)],
     {}, 2, 0),
    ("late write moves to the true peer",
     [(ASKED, A, 0, 0), (ASKED, A, 0, 1), (PASSED, -1, 0, 0), (WRITTEN, B, 0, 0)], {B: 1}, 1, 0),
    ("late write twice counts once",
     [(ASKED, A, 0, 0), (ASKED, A, 0, 1), (PASSED, -1, 0, 0), (WRITTEN, A, 0, 0),
      (WRITTEN, B, 0, 0)], {A: 1}, 1, 0),
    ("passed twice counts once",
     [*_asked_and_written(A, 0), (PASSED, -1, 0, 0), (PASSED, -1, 0, 0)], {A: 2}, 0, 0),
    ("write after a firm credit changes nothing",
     [*_asked_and_written(A, 0), (PASSED, -1, 0, 0), (WRITTEN, B, 0, 0)], {A: 2}, 0, 0),
    ("nobody seen", [(PASSED, -1, 0, 0)], {}, 0, 2),
    ("failed piece is not credited", [*_asked_and_written(A, 0), (FAILED, -1, 0, 0)], {}, 0, 0),
    ("failed, then fetched from another",
     [*_asked_and_written(A, 0), (FAILED, -1, 0, 0), *_asked_and_written(B, 0),
      (PASSED, -1, 0, 0)], {B: 2}, 0, 0),
    ("failed, one block kept: nobody's",
     [*_asked_and_written(A, 0), (FAILED, -1, 0, 0), (ASKED, B, 0, 1), (WRITTEN, B, 0, 1),
      (PASSED, -1, 0, 0)], {B: 1}, 0, 1),
    ("found on disk", [(CHECKING, -1, 0, 0), (PASSED, -1, 0, 0), (CHECKED, -1, 0, 0)], {}, 0, 0),
    ("recheck credits nothing again",
     [*_asked_and_written(A, 0), (PASSED, -1, 0, 0), (CHECKING, -1, 0, 0), (PASSED, -1, 0, 0),
      (CHECKED, -1, 0, 0)], {A: 2}, 0, 0),
    ("write reported during a recheck is nobody's piece",
     [(ASKED, A, 0, 0), (CHECKING, -1, 0, 0), (WRITTEN, A, 0, 0), (CHECKED, -1, 0, 0),
      *_asked_and_written(B, 0), (PASSED, -1, 0, 0)], {B: 2}, 0, 0),
    ("write reported during a recheck does not stand for a later download",
     [(CHECKING, -1, 0, 0), (WRITTEN, A, 0, 0), (CHECKED, -1, 0, 0), (ASKED, B, 0, 0),
      (ASKED, B, 0, 1), (WRITTEN, B, 0, 1), (PASSED, -1, 0, 0)], {B: 1}, 1, 0),
    ("lost in a recheck, fetched again",
     [*_asked_and_written(A, 0), (PASSED, -1, 0, 0), (CHECKING, -1, 0, 0), (CHECKED, -1, 0, 0),
      *_asked_and_written(B, 0), (PASSED, -1, 0, 0)], {A: 2, B: 2}, 0, 0),
    ("events lost: what was open is nobody's",
     [*_asked_and_written(A, 0), (DROPPED, -1, 0, 0), (PASSED, -1, 0, 0)], {}, 0, 2),
]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "firm", "pending", "ambiguous"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_events_give_firm_pending_and_ambiguous(
    steps: list[Step], firm: dict[int, int], pending: int, ambiguous: int
) -> None:
    meter = _meter(steps)
    assert meter.firm == {peer: blocks * BLOCK_BYTES for peer, blocks in firm.items()}
    assert meter.pending_bytes == pending * BLOCK_BYTES
    assert meter.ambiguous_bytes == ambiguous * BLOCK_BYTES
    total = sum(meter.firm.values()) + meter.pending_bytes + meter.ambiguous_bytes
    assert total == meter.passed_bytes


def test_block_that_outlives_a_failed_piece_is_its_writers_when_every_write_is_reported() -> None:
    meter = TorrentMeter(PLAIN, reports_every_write=True)
    failing: list[Step] = [(WRITTEN, A, 0, 0), (WRITTEN, B, 0, 1), (FAILED, -1, 0, 0)]
    steps = [*failing, (WRITTEN, A, 0, 1), (FAILED, -1, 0, 0)]
    meter.feed([(kind, 0, peer, piece, block) for kind, peer, piece, block in steps])
    assert meter.failed == {A: 2 * BLOCK_BYTES, B: BLOCK_BYTES}
    meter.feed([(WRITTEN, 0, B, 0, 1), (PASSED, 0, -1, 0, 0)])
    assert meter.take_credits() == {A: [(0, 0, BLOCK_BYTES)], B: [(0, 1, BLOCK_BYTES)]}
    # A's first block was good all along; its second and B's first copy were not.
    assert meter.failed == {A: BLOCK_BYTES, B: BLOCK_BYTES}
    assert meter.ambiguous_bytes == 0


def test_batch_with_loss_credits_nothing_that_it_tells() -> None:
    meter = TorrentMeter(PLAIN, reports_every_write=True)
    meter.feed([(WRITTEN, 0, A, 1, 0)])
    # Between write and verdict a failure and another peer's copy may have been lost.
    meter.feed_with_loss([(WRITTEN, 0, A, 0, 0), (WRITTEN, 0, A, 0, 1), (PASSED, 0, -1, 0, 0)])
    meter.feed([(WRITTEN, 0, B, 1, 1), (PASSED, 0, -1, 1, 0)])
    assert meter.take_credits() == {B: [(1, 1, BLOCK_BYTES)]}
    assert meter.is_estimated
    assert meter.ambiguous_bytes == 3 * BLOCK_BYTES


def test_failed_piece_is_charged_to_writer_else_to_who_was_asked() -> None:
    meter = _meter([(ASKED, A, 0, 0), (WRITTEN, B, 0, 0), (ASKED, A, 0, 1), (FAILED, -1, 0, 0)])
    assert meter.failed == {B: BLOCK_BYTES, A: BLOCK_BYTES}


def test_grace_gives_block_asked_of_one_to_it_and_leaves_the_rest_ambiguous() -> None:
    meter = _meter(
        [(ASKED, A, 0, 0), (ASKED, A, 0, 1), (ASKED, B, 0, 1), (PASSED, -1, 0, 0), (FINISHED,) * 4]
    )
    assert meter.is_finished
    assert meter.take_credits() == {}
    meter.settle_pending()
    assert meter.take_credits() == {A: [(0, 0, BLOCK_BYTES)]}
    assert (meter.pending_bytes, meter.ambiguous_bytes) == (0, BLOCK_BYTES)
    meter.settle_pending()
    assert meter.take_credits() == {}
    # The write report comes still later: certain now.
    meter.feed([(WRITTEN, 0, A, 0, 1)])
    assert meter.take_credits() == {A: [(0, 1, BLOCK_BYTES)]}
    assert meter.ambiguous_bytes == 0


def test_lost_events_leave_pending_blocks_to_nobody_and_mark_the_estimate() -> None:
    meter = _meter([(ASKED, A, 0, 0), (ASKED, A, 0, 1), (PASSED, -1, 0, 0), (DROPPED, -1, 0, 0)])
    meter.settle_pending()
    assert meter.take_credits() == {}
    assert meter.is_estimated
    assert meter.ambiguous_bytes == 2 * BLOCK_BYTES


def test_padding_is_nobodys_and_a_mixed_block_counts_its_file_bytes() -> None:
    meter = _meter([*_asked_and_written(A, 0), (PASSED, -1, 0, 0)], PADDED)
    assert [length for _, _, length in meter.take_credits()[A]] == [
        BLOCK_BYTES,
        20_000 - BLOCK_BYTES,
    ]
    assert meter.padding == {A: 2 * BLOCK_BYTES - 20_000}
    assert PADDED.content_bytes == 20_000 + 2 * BLOCK_BYTES
    assert PADDED.mixed_padding_bytes == 2 * BLOCK_BYTES - 20_000


def test_block_of_padding_only_is_not_credited() -> None:
    layout = PieceLayout(
        total_bytes=2 * BLOCK_BYTES, piece_bytes=2 * BLOCK_BYTES, pads=((1, 2 * BLOCK_BYTES),)
    )
    meter = _meter([*_asked_and_written(A, 0), (PASSED, -1, 0, 0)], layout)
    assert meter.take_credits() == {A: [(0, 0, 1)]}
    assert meter.ambiguous_bytes == 0


def test_block_around_a_pad_in_its_middle_counts_both_files() -> None:
    layout = PieceLayout(
        total_bytes=BLOCK_BYTES, piece_bytes=BLOCK_BYTES, pads=((10, 30), (40, 41))
    )
    meter = _meter([*_asked_and_written(A, 0, 1), (PASSED, -1, 0, 0)], layout)
    assert meter.take_credits() == {A: [(0, 0, BLOCK_BYTES - 21)]}


def test_sent_counts_content_bytes_without_any_credit() -> None:
    meter = _meter(
        [(SENT, A, 0, 0), (SENT, A, 0, 1), (SENT, B, 1, 0), (SENT_BLOCKS, B, 7, 0)], PADDED
    )
    assert meter.sent == {A: 20_000, B: 8 * BLOCK_BYTES}
    assert not meter.firm


def test_check_counts_what_is_on_disk_and_starts_over_each_time() -> None:
    check: list[Step] = [(CHECKING, -1, 0, 0), (PASSED, -1, 0, 0), (CHECKED, -1, 0, 0)]
    assert _meter(check * 2).present_bytes == 2 * BLOCK_BYTES


def test_lost_piece_may_be_downloaded_and_counted_again() -> None:
    meter = _meter([*_asked_and_written(A, 0), (PASSED, -1, 0, 0)])
    meter.forget_piece(0)
    meter.feed(
        [(k, 0, p, pc, b) for k, p, pc, b in [*_asked_and_written(B, 0), (PASSED, -1, 0, 0)]]
    )
    assert meter.firm == {A: 2 * BLOCK_BYTES, B: 2 * BLOCK_BYTES}


def test_piece_found_on_disk_counts_once_though_it_failed_in_between() -> None:
    found = [(CHECKING, -1, 0, 0), (PASSED, -1, 0, 0)]
    again = [(FAILED, -1, 0, 0), (PASSED, -1, 0, 0)]
    assert _meter([*found, *again]).present_bytes == _meter(found).present_bytes
    assert _meter([*found, again[0]]).present_bytes == 0


@pytest.mark.parametrize(
    "event", [(ASKED, 0, A, 3, 0), (ASKED, 0, A, 0, 2), (PASSED, 0, -1, -1, 0)]
)
def test_event_outside_the_torrent_is_refused(event: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="want"):
        TorrentMeter(PLAIN).feed([event])


@pytest.mark.parametrize(
    "pads", [((5, 5),), ((5, 4),), ((0, 10), (9, 12)), ((10, 12), (0, 3)), ((0, 10**9),)]
)
def test_impossible_pads_are_refused(pads: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="pads"):
        PieceLayout(total_bytes=1000, piece_bytes=1000, pads=pads)


_EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([ASKED, WRITTEN]),
            st.integers(0, 2),
            st.integers(0, 1),
            st.integers(0, 1),
        ),
        st.tuples(st.sampled_from([PASSED, FAILED]), st.just(-1), st.integers(0, 2), st.just(0)),
        st.sampled_from([CHECKING, CHECKED, FINISHED, DROPPED]).map(lambda kind: (kind, -1, 0, 0)),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(_EVENTS, st.lists(st.integers(0, 59), max_size=4), st.sampled_from([PLAIN, PADDED]))
def test_any_order_of_events_conserves_bytes_and_firm_never_falls(
    steps: list[Step], settle_at: list[int], layout: PieceLayout
) -> None:
    meter = TorrentMeter(layout)
    taken: Counter[int] = Counter()
    before: dict[int, int] = {}
    for position, (kind, peer, piece, block) in enumerate(steps):
        if piece < layout.piece_count:
            meter.feed([(kind, 0, peer, piece, block)])
        if position in settle_at:
            meter.settle_pending()
        for peer_number, blocks in meter.take_credits().items():
            taken[peer_number] += sum(length for _, _, length in blocks)
        assert meter.firm == taken
        assert all(meter.firm[p] >= count for p, count in before.items())
        before = dict(meter.firm)
        total = sum(meter.firm.values()) + meter.pending_bytes + meter.ambiguous_bytes
        assert total == meter.passed_bytes
        assert meter.present_bytes <= layout.content_bytes
