"""Signed beside logged: every difference has its cause, and causes add up to the byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.books.errors import ConservationError
from ledger.books.reconciliation import (
    Cell,
    KnownSession,
    SignedKey,
    merge_sessions,
    ppm_of,
    reconcile,
    sum_cells,
)
from ledger.cdnlogs.tally import GroupKey, GroupTotals

CDN, FILM, ANN, BOB = "cdn.example", b"\x01" * 32, b"\xaa" * 32, b"\xbb" * 32
SID_ANN, SID_BOB, SID_STRANGER = b"a" * 16, b"b" * 16, b"s" * 16
SESSIONS = {
    SID_ANN: KnownSession(session=ANN, content_id=FILM),
    SID_BOB: KnownSession(session=BOB, content_id=FILM),
}
DAY = 20_000


def signed(amounts: dict[tuple[bytes, int], int]) -> dict[SignedKey, int]:
    return {SignedKey(CDN, FILM, who, day): size for (who, day), size in amounts.items()}


def group(
    sid: bytes, payload: int, *, day: int = DAY, content: bytes = FILM, **more: int
) -> tuple[GroupKey, GroupTotals]:
    totals = GroupTotals(
        **{
            "lines": 1,
            "body_lines": 1,
            "total_lines": 1,
            "body_bytes": payload,
            "total_bytes": payload,
            "payload_bytes": payload,
            **more,
        }
    )
    return GroupKey(content, sid, day), totals


def one_cell(amounts: dict, *groups: tuple[GroupKey, GroupTotals]) -> Cell:
    cells = reconcile(signed(amounts), {CDN: groups}, SESSIONS)
    [cell] = [cell for cell in cells if cell.day == DAY and cell.content_id == FILM]
    return cell


def causes(cell: Cell) -> dict[str, int]:
    names = ("shifted", "aborted", "unknown_session", "unexplained", "lost", "quarantined")
    return {name: size for name in names if (size := getattr(cell, f"{name}_bytes"))}


@pytest.mark.parametrize(
    ("name", "amounts", "groups", "expected"),
    [
        ("equal", {(ANN, DAY): 100}, [group(SID_ANN, 100)], {}),
        ("log lost a line", {(ANN, DAY): 100}, [group(SID_ANN, 70)], {"lost": 30}),
        ("log lost all", {(ANN, DAY): 100}, [], {"lost": 100}),
        (
            "answers were left",
            {(ANN, DAY): 100},
            [group(SID_ANN, 130, aborted_bytes=40, aborted_lines=1)],
            {"aborted": 30},
        ),
        (
            "more than was left",
            {(ANN, DAY): 100},
            [group(SID_ANN, 150, aborted_bytes=20, aborted_lines=1)],
            {"aborted": 20, "unexplained": 30},
        ),
        (
            "a stranger",
            {(ANN, DAY): 100},
            [group(SID_ANN, 100), group(SID_STRANGER, 55)],
            {"unknown_session": 55},
        ),
        (
            "one's loss is not another's surplus",
            {(ANN, DAY): 100, (BOB, DAY): 100},
            [group(SID_ANN, 60), group(SID_BOB, 140)],
            {"lost": 40, "unexplained": 40},
        ),
        (
            "in conflict",
            {(ANN, DAY): 100},
            [group(SID_ANN, 60, conflict_lines=2, conflict_bytes=30)],
            {"quarantined": 30, "lost": 10},
        ),
        (
            "lines without any session id are matched in sum",
            {(ANN, DAY): 100, (BOB, DAY): 50},
            [group(b"", 120, aborted_bytes=5, aborted_lines=1)],
            {"lost": 30},
        ),
        (
            "and beyond that belong to nobody known",
            {(ANN, DAY): 100},
            [group(b"", 120, aborted_bytes=5, aborted_lines=1)],
            {"aborted": 5, "unknown_session": 15},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_difference_has_its_cause(name: str, amounts: dict, groups: list, expected: dict) -> None:
    assert causes(one_cell(amounts, *groups)) == expected


def test_what_moved_over_midnight_is_neither_lost_nor_unexplained() -> None:
    cells = reconcile(
        signed({(ANN, DAY): 100}),
        {CDN: [group(SID_ANN, 60), group(SID_ANN, 40, day=DAY + 1)]},
        SESSIONS,
    )
    assert [causes(cell) for cell in cells] == [{"shifted": -40}, {"shifted": 40}]
    assert sum(cell.shifted_bytes for cell in cells) == 0


def test_days_that_do_not_adjoin_explain_nothing_of_each_other() -> None:
    cells = reconcile(signed({(ANN, DAY): 100}), {CDN: [group(SID_ANN, 40, day=DAY + 2)]}, SESSIONS)
    assert [causes(cell) for cell in cells] == [{"lost": 100}, {"unexplained": 40}]


def test_a_known_session_names_the_content_of_an_undeclared_path() -> None:
    assert causes(one_cell({(ANN, DAY): 100}, group(SID_ANN, 100, content=b""))) == {}


def test_two_session_ids_of_one_key_are_one_session() -> None:
    sessions = {**SESSIONS, SID_BOB: SESSIONS[SID_ANN]}
    [cell] = reconcile(
        signed({(ANN, DAY): 100}), {CDN: [group(SID_ANN, 60), group(SID_BOB, 40)]}, sessions
    )
    assert causes(cell) == {}
    assert (cell.log_lines_known, cell.log_lines) == (2, 2)


def test_a_session_id_that_two_keys_claim_belongs_to_nobody() -> None:
    ann, bob = SESSIONS[SID_ANN], SESSIONS[SID_BOB]
    for order in ([ann, bob], [bob, ann], [ann, bob, ann]):
        sessions: dict[bytes, KnownSession] = {}
        merge_sessions(sessions, [(SID_ANN, claim) for claim in order])
        [cell] = reconcile(signed({}), {CDN: [group(SID_ANN, 100)]}, sessions)
        assert causes(cell) == {"unknown_session": 100}
        assert cell.log_lines_known == 0


def test_one_key_that_plays_two_contents_under_one_id_is_known_by_its_paths() -> None:
    sessions: dict[bytes, KnownSession] = {}
    other = KnownSession(session=ANN, content_id=b"\x02" * 32)
    merge_sessions(sessions, [(SID_ANN, SESSIONS[SID_ANN]), (SID_ANN, other)])
    [cell] = reconcile(signed({(ANN, DAY): 100}), {CDN: [group(SID_ANN, 100)]}, sessions)
    assert causes(cell) == {}


def test_another_cdns_log_explains_nothing() -> None:
    cells = reconcile(signed({(ANN, DAY): 100}), {"other": [group(SID_ANN, 100)]}, SESSIONS)
    assert {cell.cdn: causes(cell) for cell in cells} == {
        CDN: {"lost": 100},
        "other": {"unexplained": 100},
    }


def test_causes_that_do_not_add_up_are_an_error() -> None:
    with pytest.raises(ConservationError):
        Cell(cdn=CDN, content_id=FILM, day=DAY, signed_bytes=1, log_bytes=3).require_identity()


@pytest.mark.parametrize(
    ("part", "whole", "want"), [(1, 3, 333_333), (-1, 3, -333_333), (0, 3, 0), (1, 0, None)]
)
def test_shares_are_cut_towards_zero(part: int, whole: int, want: int | None) -> None:
    assert ppm_of(part, whole) == want


SIZES = st.integers(0, 100)
GROUPS = st.lists(
    st.builds(
        lambda sid, day, payload, aborted, conflict: group(
            sid, payload, day=day, aborted_bytes=min(aborted, payload), conflict_bytes=conflict
        ),
        st.sampled_from([SID_ANN, SID_BOB, SID_STRANGER, b""]),
        st.integers(DAY, DAY + 3),
        SIZES,
        SIZES,
        SIZES,
    ),
    max_size=12,
)
SIGNED = st.dictionaries(
    st.tuples(st.sampled_from([ANN, BOB]), st.integers(DAY, DAY + 3)), SIZES, max_size=6
)


@given(SIGNED, GROUPS, st.randoms(use_true_random=False))
def test_any_input_adds_up_in_any_order(amounts: dict, groups: list, rng) -> None:
    cells = reconcile(signed(amounts), {CDN: groups}, SESSIONS)
    shuffled = rng.sample(groups, len(groups))
    assert reconcile(signed(amounts), {CDN: shuffled}, SESSIONS) == cells
    total = sum_cells(cells, cdn=CDN)
    total.require_identity()
    assert total.shifted_bytes == 0
    assert total.signed_bytes == sum(amounts.values())
    assert total.log_bytes == sum(totals.payload_bytes for _, totals in groups)
    for cell in cells:
        names = ("aborted", "unknown_session", "unexplained", "lost", "quarantined")
        assert all(getattr(cell, f"{name}_bytes") >= 0 for name in names)
