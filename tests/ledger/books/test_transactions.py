"""Network facts: canonical bytes and their order."""

import book_builders
import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.books.transactions import (
    FACT_HEAD,
    XDR_SIZE_MAX,
    NetworkFact,
    format_fact,
    parse_fact,
)
from ledger.evidence.encoding import TAG_SIZE
from ledger.evidence.errors import MalformedRecordError

u32 = st.integers(0, 2**32 - 1)


@given(u32, st.integers(0, 2**63 - 1), u32, st.binary(max_size=300), st.binary(max_size=300))
def test_round_trip(
    ledger: int, close_time: int, order: int, envelope: bytes, result: bytes
) -> None:
    fact = NetworkFact(
        network_id=builders.NETWORK_ID,
        ledger_sequence=ledger,
        close_time_s=close_time,
        apply_order=order,
        envelope=envelope,
        result=result,
    )
    assert parse_fact(format_fact(fact)) == fact


def test_length_over_the_limit_is_refused_without_reading_it() -> None:
    data = bytearray(format_fact(book_builders.fact()))
    at = TAG_SIZE + FACT_HEAD.size
    for lie in (XDR_SIZE_MAX + 1, 2**32 - 1):
        data[at : at + 4] = lie.to_bytes(4, "little")
        with pytest.raises(MalformedRecordError, match="at most"):
            parse_fact(bytes(data))


def test_moving_a_byte_between_envelope_and_result_changes_the_fact() -> None:
    first = book_builders.fact(envelope=b"ab", result=b"c")
    second = book_builders.fact(envelope=b"a", result=b"bc")
    assert format_fact(first) != format_fact(second)


def test_facts_order_by_ledger_then_place() -> None:
    facts = [
        book_builders.fact(ledger_sequence=ledger, apply_order=place)
        for ledger, place in ((2, 1), (1, 9), (1, 10), (10, 1))
    ]
    order = sorted(facts, key=lambda fact: fact.order)
    assert [(f.ledger_sequence, f.apply_order) for f in order] == [(1, 9), (1, 10), (2, 1), (10, 1)]


def test_native_asset_is_the_one_without_an_issuer() -> None:
    assert book_builders.native_movement("a", "b", 1).is_native
    assert not book_builders.movement("a", "b", 1).is_native
    assert not book_builders.movement("a", "b", 1, asset_code="XLM").is_native
