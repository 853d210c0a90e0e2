"""Lanes and outcomes as columns: the same records, the same errors."""

from typing import Any

import pytest

from contracts.columns import LaneColumns, LaneOutcomes
from contracts.interface import ContractInputError, LaneInput, LaneOutcome, LaneSource


def lane(**changes: Any) -> LaneInput:
    fields: dict[str, Any] = {
        "entitlement": b"\x01" * 32,
        "payer": b"\x02" * 32,
        "payee": b"\x03" * 32,
        "payee_key": b"\x04" * 32,
        "content": b"\x05" * 32,
        "source": LaneSource.P2P,
        "received_bytes": 100,
        "media_ms": 50,
        "max_bytes": 0,
        "max_media_ms": 0,
    }
    return LaneInput(**{**fields, **changes})


def columns(**changes: Any) -> LaneColumns:
    fields: dict[str, Any] = {
        "entitlements": [b"\x01" * 32, b"\x06" * 32],
        "payers": [b"\x02" * 32] * 2,
        "payees": [b"\x03" * 32, b""],
        "payee_keys": [b"\x04" * 32] * 2,
        "contents": [b"\x05" * 32] * 2,
        "are_cdn": [False, True],
        "received_bytes": [100, 7],
        "media_ms": [50, 50],
        "max_bytes": [0, 0],
        "max_media_ms": [0, 0],
    }
    return LaneColumns(**{**fields, **changes})


def test_columns_are_the_lanes_that_they_were_made_of() -> None:
    lanes = [lane(), lane(source=LaneSource.CDN, payee=b"", received_bytes=2)]
    made = LaneColumns.of(lanes)
    assert list(made) == lanes
    assert made[-1] == lanes[1]
    assert made[:1] == (lanes[0],)
    assert LaneColumns.of(made) is made
    assert len(columns()) == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"entitlements": [b"\x01" * 32, b"\x06" * 31]}, "entitlement"),
        ({"payers": [b"", b"\x02" * 32]}, "payer"),
        ({"payees": [b"", b""]}, "payee"),
        ({"payees": [b"\x03" * 31, b""]}, "payee"),
        ({"payee_keys": [b"\x04" * 32, b""]}, "payee_key"),
        ({"contents": [b"\x05" * 33, b"\x05" * 32]}, "content"),
        ({"received_bytes": [100, -1]}, "received_bytes"),
        ({"received_bytes": [1 << 63, 1]}, "received_bytes"),
        ({"media_ms": [True, 1]}, "media_ms"),
        ({"max_bytes": [0, 1.0]}, "max_bytes"),
        ({"max_media_ms": [0, -5]}, "max_media_ms"),
        ({"max_media_ms": [0]}, "lanes"),
    ],
)
def test_lane_out_of_range_is_refused_by_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ContractInputError) as caught:
        columns(**changes)
    assert caught.value.field == field


def test_lanes_of_one_entitlement_with_other_terms_are_refused_by_their_place() -> None:
    same = [b"\x01" * 32] * 2
    columns(entitlements=same).check_agree()
    with pytest.raises(ContractInputError) as caught:
        columns(entitlements=same, max_bytes=[0, 9]).check_agree()
    assert caught.value.field == "lanes[1].terms"


def test_outcomes_are_records_on_demand() -> None:
    outcomes = LaneOutcomes([5, 2], [0, 3], [0, 1])
    second = LaneOutcome(credited_bytes=2, uncredited_bytes=3, reason=1)
    assert outcomes[1] == second
    assert outcomes == (outcomes[0], second)
    assert outcomes[1:] == (second,)
    assert outcomes != LaneOutcomes([5, 2], [0, 3], [0, 2])
    assert outcomes != 5
    assert "uncredited_bytes=3" in repr(outcomes)
