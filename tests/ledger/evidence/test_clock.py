"""The signed clock: an old reading cannot answer a new question."""

import builders
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.clock import CLOCK

u32 = st.integers(0, 2**32 - 1)


@given(st.binary(min_size=16, max_size=16), u32, st.integers(0, 2**63 - 1), u32)
def test_round_trip(nonce: bytes, ledger_sequence: int, close_time: int, age: int) -> None:
    signed = builders.clock(
        nonce=nonce, ledger_sequence=ledger_sequence, close_time_s=close_time, age_ms=age
    )
    assert CLOCK.parse(signed.raw) == signed


def test_reading_is_signed_together_with_the_question_it_answers() -> None:
    first = builders.clock(nonce=bytes(16))
    replayed = first.raw[:64] + builders.clock(nonce=bytes(15) + b"\1").body
    assert CLOCK.is_signed_by(first, builders.key_of("log"))
    assert not CLOCK.is_signed_by(CLOCK.parse(replayed), builders.key_of("log"))
