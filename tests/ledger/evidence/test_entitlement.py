"""Entitlements: round trip, and the constraints of the record."""

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.entitlement import ENTITLEMENT
from ledger.evidence.errors import MalformedRecordError

u63 = st.integers(0, 2**63 - 1)


@given(
    times=st.tuples(u63, u63).map(sorted),
    caps=st.tuples(u63, u63, st.integers(0, 2**32 - 1)),
    country=st.sampled_from(["", "DE", "PT"]),
    policy=st.integers(0, 2**16 - 1),
)
def test_round_trip(
    times: list[int], caps: tuple[int, int, int], country: str, policy: int
) -> None:
    signed = builders.entitlement(
        not_before_s=times[0],
        not_after_s=times[1],
        max_bytes=caps[0],
        max_media_ms=caps[1],
        max_rate_kbps=caps[2],
        country=country,
        assignment_policy=policy,
    )
    assert ENTITLEMENT.parse(signed.raw) == signed


def test_end_before_its_beginning_is_malformed() -> None:
    builders.entitlement(not_before_s=10, not_after_s=10)
    with pytest.raises(MalformedRecordError, match="not_after_s"):
        builders.entitlement(not_before_s=10, not_after_s=9)


def test_country_of_more_than_two_letters_is_malformed() -> None:
    with pytest.raises(MalformedRecordError, match="country"):
        builders.entitlement(country="DEU")


def test_serial_makes_two_entitlements_distinct() -> None:
    first = builders.entitlement(serial=bytes(16))
    second = builders.entitlement(serial=bytes(15) + b"\1")
    assert first.digest != second.digest
