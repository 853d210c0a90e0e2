"""Ledger time from signed readings, whatever the machine's own clock does."""

from typing import Any

import pytest
from builders import (
    EPOCH,
    EPOCH_LENGTH_S,
    GENESIS_S,
    clock,
    digest_of,
    seed_of,
    terms,
)

from engine_plugin.ledger_clock import ClockRefusedError, LedgerClock
from ledger.evidence.clock import CLOCK

NONCE = digest_of("question")[:16]
READING_MS = (GENESIS_S + EPOCH * EPOCH_LENGTH_S) * 1000 + 250


class Monotonic:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_time_runs_on_between_readings_and_epochs_turn_by_it() -> None:
    monotonic = Monotonic()
    ledger = LedgerClock(terms(), monotonic)
    assert (ledger.now_ms(), ledger.epoch(), ledger.ms_since_end(0)) == (None, None, None)
    ledger.take_reading(clock().raw, nonce=NONCE, asked_s=monotonic.now_s)
    assert ledger.now_ms() == READING_MS
    assert ledger.epoch() == EPOCH
    monotonic.now_s += EPOCH_LENGTH_S - 0.5
    assert ledger.epoch() == EPOCH
    monotonic.now_s += 0.3
    assert ledger.epoch() == EPOCH + 1
    assert ledger.ms_since_end(EPOCH) == 50


def test_the_answers_travel_time_is_halved() -> None:
    monotonic = Monotonic()
    ledger = LedgerClock(terms(), monotonic)
    asked_s, monotonic.now_s = monotonic.now_s, monotonic.now_s + 2
    ledger.take_reading(clock().raw, nonce=NONCE, asked_s=asked_s)
    assert ledger.now_ms() == READING_MS + 1000


def test_time_never_steps_back() -> None:
    monotonic = Monotonic()
    ledger = LedgerClock(terms(), monotonic)
    ledger.take_reading(clock(age_ms=3000).raw, nonce=NONCE, asked_s=monotonic.now_s)
    told_ms = ledger.now_ms()
    ledger.take_reading(clock(age_ms=0).raw, nonce=NONCE, asked_s=monotonic.now_s)
    assert ledger.now_ms() == told_ms


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": bytes(16)},
        {"network_id": bytes(32)},
        {"genesis_s": GENESIS_S + 1},
        {"epoch_length_s": EPOCH_LENGTH_S + 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_reading_of_another_question_or_other_terms_is_refused(changes: dict[str, Any]) -> None:
    ledger = LedgerClock(terms(), Monotonic())
    with pytest.raises(ClockRefusedError, match=next(iter(changes))):
        ledger.take_reading(clock(**changes).raw, nonce=NONCE, asked_s=1000.0)
    assert not ledger.is_known


def test_reading_signed_by_another_key_is_refused() -> None:
    ledger = LedgerClock(terms(), Monotonic())
    forged = CLOCK.sign(clock().value, seed_of("mallory"))
    with pytest.raises(ClockRefusedError, match="signature"):
        ledger.take_reading(forged.raw, nonce=NONCE, asked_s=1000.0)


def test_malformed_reading_is_refused() -> None:
    with pytest.raises(ClockRefusedError, match="clock"):
        LedgerClock(terms(), Monotonic()).take_reading(b"no", nonce=NONCE, asked_s=1000.0)


def test_reading_that_came_late_is_refused() -> None:
    with pytest.raises(ClockRefusedError, match="after"):
        LedgerClock(terms(), Monotonic()).take_reading(clock().raw, nonce=NONCE, asked_s=990.0)
