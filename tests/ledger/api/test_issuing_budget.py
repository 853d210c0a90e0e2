"""Issuing budget: nothing is promised that the deposits, the budget or the day do not cover."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import builders
import pytest

from ledger.api.answers import RefusedError
from ledger.api.issuer import Caps, IssuedFile, Issuer, Order
from ledger.api.issuing_budget import DAY_S, CoverageSource, IssuingBudget, Limits, cost_of
from ledger.evidence.terms import Terms

NOW_S = 20_000 * DAY_S + DAY_S // 2


def priced() -> Terms:
    return builders.terms(price_stroops=1, price_quantity_bytes=1, cdns=())


class Back:
    """An issuer, and what it is told."""

    def __init__(self, folder: Path, limits: Limits, read_free: Callable[[], int] | None) -> None:
        self.now_s = NOW_S
        self.free_stroops = 10**9
        self._issued = IssuedFile(folder / "issued")
        self._count = 0
        self.issuer = Issuer(
            terms=builders.signed_terms(price_stroops=1, price_quantity_bytes=1, cdns=()),
            issuing_seed=builders.seed_of("issuing"),
            caps=Caps(),
            issued=self._issued,
            now_s=lambda: self.now_s,
            budget=IssuingBudget(
                priced(), limits, read_free=read_free or (lambda: self.free_stroops)
            ),
        )

    def order(self, max_bytes: int, valid_s: int = 3_600) -> str:
        """Order one; the code of its refusal, or empty."""
        self._count += 1
        order = Order(
            session_key=builders.key_of("viewer"),
            content_id=builders.digest_of("content"),
            caps=Caps(max_bytes=max_bytes, valid_s=valid_s),
            request_id=str(self._count),
        )
        try:
            self.issuer.issue_orders([order])
        except RefusedError as error:
            return error.code
        return ""

    @property
    def size(self) -> int:
        return len(self._issued.list_live(0))

    def close(self) -> None:
        self._issued.close()


@pytest.fixture
def make_back(tmp_path: Path) -> Iterator[Callable[..., Back]]:
    made: list[Back] = []

    def make(read_free: Callable[[], int] | None = None, **limits: int) -> Back:
        made.append(Back(tmp_path, Limits(**limits), read_free))
        return made[-1]

    yield make
    for back in made:
        back.close()


def test_cost_is_by_the_dearest_price_and_rounded_up() -> None:
    cdn = builders.cdn(
        price_stroops=7, price_quantity_bytes=2, account=builders.key_of("cdn owner")
    )
    both = builders.terms(price_stroops=1, price_quantity_bytes=1, cdns=(cdn,))
    assert cost_of(both, 3) == 11
    assert cost_of(priced(), 3) == 3


def test_entitlements_beyond_the_deposits_are_not_issued(make_back: Callable[..., Back]) -> None:
    back = make_back()
    back.free_stroops = 100
    assert [back.order(60), back.order(41), back.order(40), back.order(1)] == [
        "", "not_covered", "", "not_covered",
    ]  # fmt: skip
    assert back.size == 2
    back.free_stroops = 101
    assert back.order(1) == ""


def test_entitlements_that_are_over_promise_nothing_more(make_back: Callable[..., Back]) -> None:
    back = make_back()
    back.free_stroops = 100
    assert back.order(100) == ""
    back.now_s += 3_600
    assert back.order(1) == "not_covered"
    back.now_s += 1
    assert back.order(100) == ""


@pytest.mark.parametrize("free_stroops", [0, -5])
def test_without_anything_left_not_even_an_uncapped_one_is_issued(
    make_back: Callable[..., Back], free_stroops: int
) -> None:
    back = make_back()
    assert back.order(0) == ""
    back.free_stroops = free_stroops
    assert back.order(0) == "not_covered"


def test_budget_is_for_ever_and_the_daily_cap_for_a_day(make_back: Callable[..., Back]) -> None:
    back = make_back(budget_stroops=250, daily_stroops=100)
    assert [back.order(100), back.order(1)] == ["", "daily_cap_reached"]
    back.now_s += DAY_S
    assert back.order(100) == ""
    back.now_s += DAY_S
    assert [back.order(51), back.order(50)] == ["budget_spent", ""]


def test_a_days_caps_come_to_so_many_bytes_and_none_is_without(
    make_back: Callable[..., Back],
) -> None:
    back = make_back(daily_bytes=1_000)
    assert back.order(600) == ""
    assert back.order(401) == "daily_cap_reached"
    assert back.order(0) == "daily_cap_reached"
    assert back.order(400) == ""
    assert back.order(1) == "daily_cap_reached"
    back.now_s += DAY_S
    assert back.order(1_000) == ""


def test_orders_of_one_request_are_refused_together(make_back: Callable[..., Back]) -> None:
    back = make_back(daily_stroops=100)
    orders = [
        Order(
            session_key=builders.key_of("viewer"),
            content_id=builders.digest_of("content"),
            caps=Caps(max_bytes=60),
            request_id=name,
        )
        for name in ("one", "two")
    ]
    with pytest.raises(RefusedError, match="max_bytes"):
        back.issuer.issue_orders(orders)
    assert back.size == 0


def test_what_was_issued_before_a_restart_still_counts(make_back: Callable[..., Back]) -> None:
    first = make_back(budget_stroops=100)
    assert first.order(80) == ""
    second = make_back(budget_stroops=100)
    second._count = 5
    assert second.order(21) == "budget_spent"


def test_repeated_order_gets_its_answer_though_nothing_more_is_issued(
    make_back: Callable[..., Back],
) -> None:
    back = make_back()
    back.free_stroops = 100
    assert back.order(100) == ""
    back._count = 0
    assert back.order(100) == ""


# --- the collector's answer -----------------------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[tuple[str, dict[str, Any]]]:
    state: dict[str, Any] = {"document": {"free_stroops": 7}, "asked": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state["asked"] += 1
            body = json.dumps(state["document"]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", state
    server.shutdown()
    thread.join()
    server.server_close()


def test_collector_is_asked_again_after_some_seconds(collector: tuple[str, dict[str, Any]]) -> None:
    url, state = collector
    now = [0.0]
    source = CoverageSource(url, builders.key_of("broadcaster"), monotonic=lambda: now[0])
    assert [source.read_free(), source.read_free()] == [7, 7]
    state["document"] = {"free_stroops": -2}
    assert source.read_free() == 7
    now[0] = 6.0
    assert source.read_free() == -2
    assert state["asked"] == 2
    source.close()


@pytest.mark.parametrize(
    "document", [{}, [], {"free_stroops": "7"}, {"free_stroops": 7.0}, {"free_stroops": True}]
)
def test_without_a_usable_answer_nothing_is_issued(
    collector: tuple[str, dict[str, Any]], document: object, make_back: Callable[..., Back]
) -> None:
    url, state = collector
    state["document"] = document
    source = CoverageSource(url, builders.key_of("broadcaster"))
    back = make_back(read_free=source.read_free)
    assert back.order(1) == "coverage_unknown"
    assert back.size == 0
    source.close()


def test_limits_below_zero_are_refused() -> None:
    for name in ("budget_stroops", "daily_stroops"):
        with pytest.raises(ValueError, match=name):
            Limits(**{name: -1})
