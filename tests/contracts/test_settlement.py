"""The border of a rule: what goes in is checked, and nothing that comes out is believed."""

from typing import Any

import pytest

from contracts.interface import CumulativeRow
from contracts.language import (
    ArgumentError,
    CheckError,
    Limits,
    ParseError,
    StepLimitError,
)
from contracts.output import ContractOutputError
from contracts.registry import Rule, load_standard, rule_from_source
from contracts.settlement import (
    CapUse,
    Charge,
    ContractInputError,
    ContractState,
    LaneInput,
    LaneSource,
    Parameters,
    settle,
)

PARAMETERS = Parameters(
    price_version=4, price_stroops=10, price_quantity_bytes=1, fee_ppm=100_000, cdn_prices={}
)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def lane(**changes: Any) -> LaneInput:
    fields: dict[str, Any] = {
        "entitlement": key(1),
        "payer": key(7),
        "payee": key(2),
        "payee_key": key(3),
        "content": key(4),
        "source": LaneSource.P2P,
        "received_bytes": 100,
        "media_ms": 50,
        "max_bytes": 150,
        "max_media_ms": 0,
    }
    return LaneInput(**{**fields, **changes})


LANES = [lane(), lane(payee=key(5), received_bytes=100), lane(entitlement=key(6), max_bytes=0)]
OPENING = ContractState(
    cap_use=(CapUse(entitlement=key(1), credited_bytes=20, media_ms=30),),
    cumulative=(
        CumulativeRow(
            payer=key(7),
            payee=key(2),
            source=LaneSource.P2P,
            price_version=4,
            total_bytes=20,
            charge_stroops=200,
            fee_stroops=20,
        ),
    ),
)


def rule_that(mutation: str) -> Rule:
    """The standard rule, with its result r changed before it is returned."""
    honest = load_standard("traffic").source.replace(b"def settle(", b"def honest(")
    body = "".join(f"    {line}\n" for line in mutation.split("\n"))
    changed = f"def settle(lanes, p, o):\n    r = honest(lanes, p, o)\n{body}    return r\n"
    return rule_from_source(honest + changed.encode())


def test_honest_result_passes() -> None:
    result = settle(rule_that("pass"), LANES, PARAMETERS, OPENING)
    assert [outcome.credited_bytes for outcome in result.outcomes] == [65, 65, 100]
    assert [charge.charge_stroops for charge in result.charges] == [1_650, 650]
    assert [row.total_bytes for row in result.closing.cumulative] == [185, 65]


DISHONEST = [
    ("nothing at all", "r = None", "result"),
    ("a list", "r = [r]", "result"),
    ("a part is missing", "r = {'lanes': r['lanes'], 'charges': r['charges']}", "result"),
    ("a part too many", "r['more'] = 1", "result"),
    ("lanes are a tuple", "r['lanes'] = tuple(r['lanes'])", "lanes"),
    ("a lane too few", "r['lanes'] = r['lanes'][1:]", "lanes"),
    ("a lane too many", "r['lanes'] += [[0, 0, 0]]", "lanes"),
    ("a lane is no list", "r['lanes'][1] = 5", "lanes[1]"),
    ("a lane of two", "r['lanes'][1] = [65, 35]", "lanes[1]"),
    ("boolean for a number", "r['lanes'][2] = [100, 0, False]", "lanes[2].reason"),
    ("text for a number", "r['lanes'][2][0] = '100'", "lanes[2].credited"),
    ("negative uncredited", "r['lanes'][2] = [101, -1, 1]", "lanes[2].uncredited"),
    ("negative credited", "r['lanes'][2] = [-1, 101, 1]", "lanes[2].credited"),
    ("bytes from nowhere", "r['lanes'][2][0] += 1", "lanes[2].credited + uncredited"),
    ("bytes lost", "r['lanes'][2][0] -= 1", "lanes[2].credited + uncredited"),
    ("bytes moved between lanes", "r['lanes'][0][0] += 1\nr['lanes'][1][0] -= 1",
     "lanes[0].credited + uncredited"),
    ("a loss without a reason", "r['lanes'][0][2] = 0", "lanes[0].reason"),
    ("a reason without a loss", "r['lanes'][2][2] = 1", "lanes[2].reason"),
    ("an unknown reason", "r['lanes'][0][2] = 256", "lanes[0].reason"),
    ("credit that is not charged", "r['lanes'][2] = [99, 1, 1]", "charges[0].bytes"),
    ("charges are a dict", "r['charges'] = {}", "charges"),
    ("a charge of six fields", "r['charges'][0] = r['charges'][0][1:]", "charges[0]"),
    ("a payer who has no lane", "r['charges'][0][0] = '00' * 32", "charges[0].bytes"),
    ("a payee who has no lane", "r['charges'][1][1] = 'ff' * 32", "charges[1].bytes"),
    ("an account in capitals", "r['charges'][1][1] = 'FF' * 32", "charges[1].payee"),
    ("an account too short", "r['charges'][1][1] = 'ff' * 31", "charges[1].payee"),
    ("an account with spaces", "r['charges'][1][1] = ' f' * 32", "charges[1].payee"),
    ("another source", "r['charges'][1][2] = 'cdn'", "charges[1].bytes"),
    ("an unknown source", "r['charges'][1][2] = 'P2P'", "charges[1].source"),
    ("a source that is a list", "r['charges'][1][2] = ['p2p']", "charges[1].source"),
    ("another price version", "r['charges'][1][3] = 5", "charges[1].bytes"),
    ("more bytes than credited", "r['charges'][0][4] += 1", "charges[0].bytes"),
    ("a charge for nothing", "r['charges'] += [['ff' * 32, 'ff' * 32, 'p2p', 4, 0, 9, 0]]",
     "charges[2].bytes"),
    ("a negative charge", "r['charges'][0][5] = -1", "charges[0].charge"),
    ("a fee above the charge", "r['charges'][0][6] = 1651", "charges[0].fee"),
    ("a charge of 64 bits", f"r['charges'][0][5] = {1 << 63}", "charges[0].charge"),
    ("charges out of order", "r['charges'] = [r['charges'][1], r['charges'][0]]", "charges[1]"),
    ("a charge twice", "r['charges'] = [r['charges'][0], r['charges'][0]]", "charges[1]"),
    ("a charge hidden from the total", "r['charges'][0][5] += 1", "cumulative[0]"),
    ("a charge that only the total has", "r['charges'] = r['charges'][:1]", "cumulative"),
    ("closing is missing a part", "r['closing'] = {'cap_use': []}", "closing"),
    ("cap use forgotten", "r['closing']['cap_use'] = r['closing']['cap_use'][1:]", "cap_use"),
    ("cap use of another", "r['closing']['cap_use'][0][0] = '00' * 32", "cap_use[0].entitlement"),
    ("cap use out of order",
     "r['closing']['cap_use'] = [r['closing']['cap_use'][1], r['closing']['cap_use'][0]]",
     "cap_use[0].entitlement"),
    ("cap use turned back", "r['closing']['cap_use'][0][1] -= 1", "cap_use[0].credited"),
    ("media mark turned back", "r['closing']['cap_use'][0][2] = 29", "cap_use[0].media_ms"),
    ("media mark that nobody stated", "r['closing']['cap_use'][0][2] = 51", "cap_use[0].media_ms"),
    ("cap ignored",
     "r['lanes'][0] = [66, 34, 1]\nr['charges'][0][4] += 1\nr['closing']['cap_use'][0][1] += 1",
     "cap_use[0].credited"),
    ("total forgotten", "r['closing']['cumulative'] = []", "cumulative"),
    ("total of another", "r['closing']['cumulative'][1][1] = 'ff' * 32", "cumulative[1]"),
    ("total of bytes changed", "r['closing']['cumulative'][0][4] += 1", "cumulative[0]"),
    ("total of charges changed", "r['closing']['cumulative'][0][5] += 1", "cumulative[0]"),
    ("total of fees changed", "r['closing']['cumulative'][0][6] -= 1", "cumulative[0]"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mutation", "field"), [row[1:] for row in DISHONEST], ids=[row[0] for row in DISHONEST]
)
def test_result_that_cannot_be_right_is_refused_by_field(mutation: str, field: str) -> None:
    with pytest.raises(ContractOutputError) as caught:
        settle(rule_that(mutation), LANES, PARAMETERS, OPENING)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: got ")


def test_rule_may_decide_differently_as_long_as_it_agrees_with_itself() -> None:
    generous = rule_that(
        "r['charges'][0][5] -= 7\nr['charges'][0][6] = 0\n"
        "r['closing']['cumulative'][0][5] -= 7\nr['closing']['cumulative'][0][6] = 20"
    )
    result = settle(generous, LANES, PARAMETERS, OPENING)
    assert (result.charge_stroops, result.fee_stroops) == (2_293, 65)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (b"def settle(", ParseError),
        (b"def settle(l, p, o):\n    return l / p\n", CheckError),
        (b"def other(l, p, o):\n    return l\n", ArgumentError),
        (b"def settle(l, p):\n    return l\n", ArgumentError),
        (b"def settle(l, p, o):\n    for x in range(2147483647): pass\n", StepLimitError),
    ],
)
def test_rule_that_is_no_rule_fails_in_the_language(source: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        settle(rule_from_source(source), LANES, PARAMETERS, OPENING)


def test_stated_limits_are_used() -> None:
    with pytest.raises(StepLimitError):
        settle(load_standard("traffic"), LANES, PARAMETERS, OPENING, Limits(steps=100))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"entitlement": b""}, "entitlement"),
        ({"payer": b"\0" * 31}, "payer"),
        ({"payee": b"\0" * 33}, "payee"),
        ({"payee": b""}, "payee"),
        ({"payee_key": b""}, "payee_key"),
        ({"content": b""}, "content"),
        ({"received_bytes": -1}, "received_bytes"),
        ({"received_bytes": 1 << 63}, "received_bytes"),
        ({"received_bytes": True}, "received_bytes"),
        ({"received_bytes": 1.0}, "received_bytes"),
        ({"media_ms": -1}, "media_ms"),
        ({"max_bytes": -1}, "max_bytes"),
        ({"max_media_ms": -1}, "max_media_ms"),
    ],
)
def test_lane_out_of_range_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ContractInputError) as caught:
        lane(**changes)
    assert caught.value.field == field


def test_cdn_lane_needs_no_payee() -> None:
    assert lane(source=LaneSource.CDN, payee=b"").payee == b""


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"price_version": -1}, "price_version"),
        ({"price_stroops": -1}, "price_stroops"),
        ({"price_quantity_bytes": 0}, "price_quantity_bytes"),
        ({"fee_ppm": 1_000_001}, "fee_ppm"),
        ({"cdn_prices": {b"": (1, 1)}}, "cdn_prices"),
        ({"cdn_prices": {key(1): (-1, 1)}}, "cdn_prices.stroops"),
        ({"cdn_prices": {key(1): (1, 0)}}, "cdn_prices.quantity_bytes"),
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict[str, Any], field: str) -> None:
    fields: dict[str, Any] = {
        "price_version": 1,
        "price_stroops": 1,
        "price_quantity_bytes": 1,
        "fee_ppm": 1,
    }
    with pytest.raises(ContractInputError) as caught:
        Parameters(**{**fields, **changes})
    assert caught.value.field == field


@pytest.mark.parametrize(
    "changes", [{"max_bytes": 151}, {"max_media_ms": 1}, {"payer": key(8)}], ids=str
)
def test_lanes_that_contradict_each_other_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ContractInputError) as caught:
        settle(load_standard("traffic"), [lane(), lane(**changes)], PARAMETERS, OPENING)
    assert caught.value.field == "lanes[1].terms"


def test_state_out_of_order_or_twice_is_refused() -> None:
    use = [CapUse(entitlement=key(n), credited_bytes=0, media_ms=0) for n in (1, 2)]
    (row,) = OPENING.cumulative
    for rows in ((use[1], use[0]), (use[0], use[0])):
        with pytest.raises(ContractInputError) as caught:
            ContractState(cap_use=rows)
        assert caught.value.field == "cap_use[1]"
    with pytest.raises(ContractInputError) as caught:
        ContractState(cumulative=(row, row))
    assert caught.value.field == "cumulative[1]"


def test_fee_above_the_charge_is_refused_in_every_record() -> None:
    fields: dict[str, Any] = {
        "payer": key(1),
        "payee": key(2),
        "source": LaneSource.P2P,
        "price_version": 1,
        "charge_stroops": 1,
        "fee_stroops": 2,
    }
    with pytest.raises(ContractInputError, match="fee_stroops"):
        Charge(charged_bytes=1, **fields)
    with pytest.raises(ContractInputError, match="fee_stroops"):
        CumulativeRow(total_bytes=1, **fields)
