"""Every rule of the order of leaves refuses what breaks it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from public_logs import LogMaker, activation_leaf, make_trust
from simulated_operator import key

from ledger.audit.errors import DisprovenError
from ledger.audit.trust import TrustedKey
from ledger.publiclog.leaf_order import LeafOrder

TRUST = make_trust()


def take_all(leaves: list[bytes], trust=TRUST, order: LeafOrder | None = None) -> LeafOrder:
    order = order or LeafOrder(trust=trust)
    for leaf in leaves:
        order.take(leaf)
    return order


def test_a_right_log_is_whole_after_every_epoch() -> None:
    log = LogMaker().close(2, payouts=0).close(0, payouts=3).close(4)
    order = LeafOrder(trust=TRUST)
    whole = []
    for index, leaf in enumerate(log.leaves, start=1):
        order.take(leaf)
        if order.is_whole:
            whole.append((index, order.epoch))
    assert [epoch for _, epoch in whole] == [0, 1, 2]


def test_it_goes_on_after_a_whole_epoch() -> None:
    log = LogMaker().close(2, payouts=2)
    size = len(log.leaves)
    log.close(3)
    order = LeafOrder.after(log.leaves[size - 3 : size], size, TRUST)
    for leaf in log.leaves[size:]:
        order.take(leaf)
    assert (order.is_whole, order.epoch, order.index) == (True, 1, len(log.leaves))


def test_it_goes_on_with_the_rules_of_the_epoch_before() -> None:
    log = LogMaker().close(payouts=2)
    size = len(log.leaves)
    log.close(rules_digest=bytes(32))
    order = LeafOrder.after(log.leaves[size - 3 : size], size, TRUST)
    with pytest.raises(DisprovenError, match="rules digest"):
        take_all(log.leaves[size:], order=order)


@pytest.mark.parametrize("goes_on", [False, True])
def test_another_dao_key_activates_the_rules_anew(goes_on: bool) -> None:
    next_key = TrustedKey(key=key("dao 2"), first_epoch=1)
    trust = replace(TRUST, dao_keys=(*TRUST.dao_keys, next_key))
    log = LogMaker().close()
    size = len(log.leaves)
    log.close()
    anew = activation_leaf(by="dao 2", first_epoch=1)
    old, new = log.leaves[:size], log.leaves[size:]
    assert take_all([*old, anew, *new], trust).epoch == 1
    order = LeafOrder.after(old[-2:], size, trust) if goes_on else take_all(old, trust)
    with pytest.raises(DisprovenError, match="activation: got none, want one that begins with"):
        take_all(new, order=order)


BREAKS: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "seal counts a bundle more": (
        lambda: LogMaker().close(2, bundle_count=3).leaves,
        "bundle count",
    ),
    "seal counts a correction more": (
        lambda: LogMaker().close(2, correction_count=1).leaves,
        "correction count",
    ),
    "opens otherwise than the last one closed": (
        lambda: LogMaker().close().close(opening_state_root=bytes(32)).leaves,
        "opening state root",
    ),
    "leaves an epoch out": (
        lambda: [*LogMaker().close().leaves, *LogMaker(epoch=2, batch=1).close().leaves[1:]],
        "got 2, want 1",
    ),
    "begins with another epoch": (lambda: LogMaker(epoch=3).close().leaves, "first epoch"),
    "another network": (lambda: LogMaker().close(0, network_id=bytes(32)).leaves, "network"),
    "a payout left out": (
        lambda: [*LogMaker().close(payouts=2).leaves[:-1], *LogMaker(epoch=1).close().leaves[1:]],
        "phase PAYOUTS",
    ),
    "a payout more": (
        lambda: [*LogMaker().close().leaves, LogMaker().close().leaves[-1]],
        "payout leaf",
    ),
    "a batch number left out": (
        lambda: [*LogMaker().close().leaves, *LogMaker(epoch=1, batch=2).close().leaves[1:]],
        "batch number",
    ),
    "a result without a seal": (
        lambda: [leaf for place, leaf in enumerate(LogMaker().close(2).leaves) if place != 3],
        "a seal leaf before it",
    ),
    "other rules than were activated": (
        lambda: [activation_leaf(rules_digest=bytes(32)), *LogMaker().close().leaves[1:]],
        "rules digest",
    ),
    "other rules than before": (
        lambda: LogMaker().close().close(rules_digest=bytes(32)).leaves,
        "rules digest",
    ),
    "no rules activated": (lambda: LogMaker().close().leaves[1:], "activation: got none"),
    "activated by a stranger": (lambda: [activation_leaf(by="thief")], "DAO key"),
    "activated for another": (
        lambda: [activation_leaf(broadcaster_account=bytes(32))],
        "broadcaster",
    ),
    "activation's signature": (lambda: [bytes(64) + activation_leaf()[64:]], "signature"),
    "activation after a bundle": (
        lambda: [LogMaker().close(1).leaves[1], activation_leaf()],
        "none after ACTIVATIONS",
    ),
    "bytes after a leaf": (lambda: [LogMaker().close(1).leaves[1] + b"\0"], "leaf 0"),
    "no leaf at all": (lambda: [b""], "leaf 0"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_order_is_refused(name: str) -> None:
    make, words = BREAKS[name]
    with pytest.raises(DisprovenError, match=words):
        take_all(make())


@given(st.binary(max_size=400), st.integers(0, 5))
def test_hostile_leaves_are_refused_or_taken_never_more(data: bytes, place: int) -> None:
    leaves = list(LogMaker().close(3).leaves)
    leaves.insert(place, data)
    with pytest.raises(DisprovenError):
        take_all(leaves)
