"""When receipts are due: bytes outstanding and bytes on the wire are both bounded."""

from dataclasses import replace

import pytest
from builders import EPOCH, digest_of, key_of
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.cadence import (
    KNOWN_KEY_BYTES,
    STALE_S,
    STEP_LEAST_BYTES,
    STEP_MOST_BYTES,
    UNKNOWN_KEY_BYTES,
    WAIT_MOST_S,
    Cadence,
)
from engine_plugin.journal_records import Claim, Source

MIB = 1 << 20
CLAIM = Claim(
    session_key=key_of("viewer"),
    scope_id=digest_of("content"),
    source=Source.P2P,
    payee_key=key_of("seeder"),
    epoch=EPOCH,
    byte_count=1,
)


def due(
    cadence: Cadence,
    *claims: Claim,
    is_known: bool = True,
    epoch: int | None = EPOCH,
    now_s: float = 0.0,
) -> list[Claim]:
    return cadence.list_due(claims, is_known=lambda _: is_known, epoch=epoch, now_s=now_s)


def look(cadence: Cadence, byte_count: int, *, is_known: bool = True, **changes: object) -> bool:
    """Tell whether a claim that grew byte by byte is due, once it has this size."""
    found: list[Claim] = []
    for size in range(byte_count - 4, byte_count + 1):
        found = due(cadence, claim_of(size, **changes), is_known=is_known)
    return bool(found)


def told(cadence: Cadence, delay: int) -> None:
    """Have a payee say twice how much it had outstanding: once is not believed."""
    cadence.note_answer(CLAIM.payee_key, delay)
    cadence.note_answer(CLAIM.payee_key, delay)


def claim_of(byte_count: int, **changes: object) -> Claim:
    return replace(CLAIM, byte_count=byte_count, **changes)  # type: ignore[arg-type]


def test_unknown_payee_gets_its_first_receipt_over_the_first_bytes() -> None:
    cadence = Cadence()
    assert due(cadence, CLAIM, is_known=False) == [CLAIM]
    cadence.note_signed(CLAIM, is_known=False)
    # The next in good time before the bound, however long the answer takes.
    assert not look(cadence, UNKNOWN_KEY_BYTES // 2 - 1, is_known=False)
    assert look(cadence, UNKNOWN_KEY_BYTES // 2, is_known=False)


def test_payee_that_never_answers_is_not_told_every_time() -> None:
    cadence = Cadence()
    for _ in range(8):
        assert due(cadence, claim_of(UNKNOWN_KEY_BYTES), is_known=False)
        cadence.note_signed(CLAIM, is_known=False)
    assert not look(cadence, STEP_LEAST_BYTES - 1, is_known=False)
    assert look(cadence, STEP_LEAST_BYTES, is_known=False)


@pytest.mark.parametrize(
    ("delay", "step"),
    [
        (0, STEP_MOST_BYTES),
        (MIB // 2, STEP_MOST_BYTES - MIB // 2),
        (MIB, STEP_MOST_BYTES - MIB),
        (2 * MIB, STEP_LEAST_BYTES),
        (900 * MIB, STEP_LEAST_BYTES),
    ],
)
def test_known_payee_gets_the_next_before_its_bound_is_reached(delay: int, step: int) -> None:
    cadence = Cadence()
    told(cadence, delay)
    assert cadence.step_bytes(CLAIM.payee_key, is_known=True) == step
    assert not look(cadence, step - 1)
    assert look(cadence, step)


@given(delays=st.lists(st.integers(0, 3 * MIB // 2 - 1), min_size=1))
def test_step_and_delay_stay_below_the_bound(delays: list[int]) -> None:
    cadence = Cadence()
    for delay in delays:
        cadence.note_answer(CLAIM.payee_key, delay)
    step = cadence.step_bytes(CLAIM.payee_key, is_known=True)
    assert STEP_LEAST_BYTES <= step <= STEP_MOST_BYTES
    assert step + delays[-1] <= KNOWN_KEY_BYTES


def test_the_first_word_of_a_payee_that_had_hardly_begun_to_send_is_not_believed() -> None:
    cadence = Cadence()
    assert cadence.step_bytes(CLAIM.payee_key, is_known=True) == STEP_LEAST_BYTES
    cadence.note_answer(CLAIM.payee_key, 0)
    assert cadence.step_bytes(CLAIM.payee_key, is_known=True) == STEP_LEAST_BYTES
    cadence.note_answer(CLAIM.payee_key, 0)
    assert cadence.step_bytes(CLAIM.payee_key, is_known=True) == STEP_MOST_BYTES


def test_receipts_that_came_late_make_the_next_come_sooner() -> None:
    cadence = Cadence()
    told(cadence, 0)
    cadence.note_signed(claim_of(STEP_MOST_BYTES + MIB // 2), is_known=True)
    assert cadence.step_bytes(CLAIM.payee_key, is_known=True) == STEP_MOST_BYTES - MIB // 2


def test_receipts_that_always_come_late_keep_their_mean_distance() -> None:
    cadence = Cadence()
    signed = []
    for _ in range(40):
        cadence.note_answer(CLAIM.payee_key, 3 * MIB)
        step = cadence.step_bytes(CLAIM.payee_key, is_known=True)
        signed.append(step + MIB // 2)
        cadence.note_signed(claim_of(signed[-1]), is_known=True)
    assert signed[-1] == STEP_LEAST_BYTES
    assert sum(signed) / len(signed) >= STEP_LEAST_BYTES


def test_of_the_looks_before_and_after_a_step_the_nearer_is_taken() -> None:
    cadence = Cadence()
    told(cadence, MIB)
    step = cadence.step_bytes(CLAIM.payee_key, is_known=True)
    jump = MIB // 2
    looks = [number * jump for number in range(1, 9)]
    first = next(size for size in looks if due(cadence, claim_of(size)))
    assert abs(first - step) <= jump // 2


def test_lanes_of_one_payee_count_together_and_the_fullest_go_first() -> None:
    cadence = Cadence()
    told(cadence, 0)
    small, middle, large = (
        claim_of(size * MIB, scope_id=digest_of(str(size))) for size in (0, 1, 3)
    )
    assert due(cadence, replace(small, byte_count=5), middle, large) == [large]
    cadence = Cadence()
    others = [claim_of(MIB, payee_key=key_of(str(number))) for number in range(9)]
    assert not due(cadence, *others)


def test_past_epoch_is_due_at_once() -> None:
    cadence = Cadence()
    assert not due(cadence, CLAIM)
    assert due(cadence, CLAIM, epoch=EPOCH + 1) == [CLAIM]
    assert not due(cadence, CLAIM, epoch=None)


def test_slow_lane_waits_for_minutes_and_not_longer() -> None:
    cadence = Cadence()
    assert not due(cadence, CLAIM, now_s=5.0)
    assert not due(cadence, claim_of(MIB), now_s=5.0 + WAIT_MOST_S - 1)
    assert due(cadence, claim_of(MIB), now_s=5.0 + WAIT_MOST_S)
    cadence.note_signed(CLAIM, is_known=True)
    assert not due(cadence, CLAIM, now_s=6.0 + WAIT_MOST_S)
    # 0.5 Mb/s fills a step before that.
    assert STEP_MOST_BYTES / 62_500 < WAIT_MOST_S


def test_cdn_is_signed_for_by_the_step_although_it_never_answers() -> None:
    cadence = Cadence()
    cdn = claim_of(MIB, source=Source.CDN)
    assert not due(cadence, cdn, is_known=False)
    assert due(cadence, replace(cdn, byte_count=STEP_MOST_BYTES), is_known=False)


def test_the_room_to_the_next_receipt_is_told() -> None:
    cadence = Cadence()
    assert cadence.room_of(CLAIM.payee_key) is None
    told(cadence, 0)
    due(cadence, claim_of(MIB))
    assert cadence.room_of(CLAIM.payee_key) == STEP_MOST_BYTES - MIB
    cadence.note_signed(claim_of(MIB), is_known=True)
    room = cadence.room_of(CLAIM.payee_key)
    assert room == cadence.step_bytes(CLAIM.payee_key, is_known=True)


def test_jumps_are_theirs_who_look_more_often() -> None:
    cadence = Cadence()
    told(cadence, 0)
    cadence.jump_of = lambda _: MIB // 4
    assert not due(cadence, claim_of(STEP_MOST_BYTES - MIB // 8 - 1))
    assert due(cadence, claim_of(STEP_MOST_BYTES - MIB // 8))


def test_what_a_fast_payee_sent_since_it_looked_is_held_back() -> None:
    cadence = Cadence()
    told(cadence, 0)
    assert cadence.step_bytes(CLAIM.payee_key, is_known=True) == STEP_MOST_BYTES
    cadence.rate_of = lambda _: 8_000_000.0
    want = KNOWN_KEY_BYTES - int(8_000_000 * STALE_S)
    assert cadence.step_bytes(CLAIM.payee_key, is_known=True) == want
    cadence.rate_of = lambda _: 1e9
    assert cadence.step_bytes(CLAIM.payee_key, is_known=True) == STEP_LEAST_BYTES
