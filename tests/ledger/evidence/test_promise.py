"""Promises and the clock: what the log key states about time."""

import builders
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.promise import PROMISE

u32 = st.integers(0, 2**32 - 1)


@given(u32, u32, u32, st.integers(0, 2**63 - 1))
def test_round_trip(epoch: int, sealing_epoch: int, ledger_sequence: int, close_time: int) -> None:
    signed = builders.promise(
        epoch=epoch,
        sealing_epoch=sealing_epoch,
        ledger_sequence=ledger_sequence,
        close_time_s=close_time,
    )
    assert PROMISE.parse(signed.raw) == signed


def test_promise_holds_for_one_bundle_of_one_submitter() -> None:
    promise = builders.promise()
    assert PROMISE.is_signed_by(promise, builders.key_of("log"))
    assert not PROMISE.is_signed_by(promise, builders.key_of("seeder"))
    bundle = builders.payee_bundle([builders.receipt()])
    assert promise.value.bundle_digest == bundle.digest
    assert promise.value.submitter_key == bundle.value.submitter_key
