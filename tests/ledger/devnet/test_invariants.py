"""Whatever is sent, money is conserved and every count matches what it counts."""

from __future__ import annotations

from collections import Counter

from devnet_traffic import Traffic, broken_sums, issued_amounts
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.devnet.codes import operation_code_names
from ledger.devnet.entries import decode_entry
from ledger.devnet.results import TxCode

LEDGERS = 12


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32))
def test_random_transactions_keep_every_sum(seed: int) -> None:
    traffic = Traffic(seed)
    issued = issued_amounts(traffic.bench)
    assert broken_sums(traffic.bench) == []
    for _ in range(LEDGERS):
        before = traffic.bench.network.header.fee_pool
        closed = traffic.close()
        assert broken_sums(traffic.bench) == []
        assert issued_amounts(traffic.bench) == issued
        paid = sum(item.result.fee_charged for item in closed.applied)
        assert closed.header.fee_pool - before == paid
        assert all(item.result.code is not TxCode.INTERNAL_ERROR for item in closed.applied)
        for raw in traffic.bench.network.world.entries.values():
            assert decode_entry(raw).encode() == raw


def test_traffic_reaches_success_and_failure_of_most_operations() -> None:
    good: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    for seed in range(4):
        traffic = Traffic(seed)
        for _ in range(LEDGERS):
            for item in traffic.close().applied:
                names = operation_code_names(item.result)
                for operation, name in zip(item.tx.operations, names, strict=False):
                    (good if name == "op_success" else bad)[operation.body.type.name] += 1
    assert len(good) >= 15
    assert len(bad) >= 12
