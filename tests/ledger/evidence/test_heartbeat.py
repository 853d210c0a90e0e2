"""Heartbeats: round trip and the letters of CMCD's playback state."""

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.heartbeat import HEARTBEAT, STATES

u63 = st.integers(0, 2**63 - 1)


@given(st.sampled_from(STATES), st.integers(0, 2**32 - 1), u63, st.tuples(u63, u63, u63))
def test_round_trip(
    state: str, sequence_number: int, timestamp: int, totals: tuple[int, int, int]
) -> None:
    signed = builders.heartbeat(
        state=state,
        sequence_number=sequence_number,
        timestamp_ms=timestamp,
        media_ms_total=totals[0],
        bytes_p2p_total=totals[1],
        bytes_cdn_total=totals[2],
    )
    assert HEARTBEAT.parse(signed.raw) == signed


@pytest.mark.parametrize("state", ["", "x", "P", "sp", "é"])
def test_unknown_state_is_malformed(state: str) -> None:
    with pytest.raises(MalformedRecordError, match="state"):
        builders.heartbeat(state=state)


def test_chain_binds_each_heartbeat_to_the_one_before() -> None:
    first = builders.heartbeat()
    second = builders.heartbeat(sequence_number=1, previous_digest=first.digest)
    forked = builders.heartbeat(media_ms_total=1)
    assert second.value.previous_digest == first.digest != forked.digest
