"""When an envelope is called dead: each part of the proof is needed, and nothing else will do."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from ledger.books.transactions import NetworkFact
from ledger.stellar.domain import Policy
from ledger.stellar.errors import GatewayError
from ledger.stellar.evidence import is_dead
from ledger.stellar.gateway import (
    AccountView,
    NetworkLedger,
    Place,
    SubmitAnswer,
    SubmitStatus,
    TransactionPage,
)
from ledger.store.settlement_store import Attempt, LedgerPoint

CHANNEL = b"\x01" * 32
SLOT = (CHANNEL, 11)
MAX_LEDGER, MAX_TIME_S = 100, 5_000
ATTEMPT = Attempt(
    attempt=0,
    source_account=CHANNEL,
    sequence=11,
    envelope=b"envelope",
    tx_hash=b"\x02" * 32,
    max_ledger_sequence=MAX_LEDGER,
    max_time_s=MAX_TIME_S,
)
POLICY = Policy(margin_ledgers=2)
COMPLETE = LedgerPoint(sequence=101, close_time_s=5_001)


LATEST = NetworkLedger(sequence=103, close_time_s=5_011)
VIEW = AccountView(account=CHANNEL, sequence=10, balances={}, as_of_sequence=103)


@dataclass(frozen=True)
class Source:
    """A source of our own making that answers what it is told to."""

    latest: NetworkLedger = LATEST
    view: AccountView | None = VIEW
    known: frozenset[bytes] = frozenset()
    name: str = "source"
    network_id: bytes = bytes(32)

    def latest_ledger(self) -> NetworkLedger:
        return self.latest

    def ledger(self, sequence: int) -> NetworkLedger | None:
        return None

    def transactions_of(self, account: bytes, *, after: Place) -> TransactionPage:
        return TransactionPage(facts=(), is_last=True, as_of_sequence=self.latest.sequence)

    def transaction(self, tx_hash: bytes) -> NetworkFact | None:
        if tx_hash not in self.known:
            return None
        return NetworkFact(
            network_id=bytes(32),
            ledger_sequence=99,
            close_time_s=4_990,
            apply_order=1,
            envelope=b"envelope",
            result=b"result",
        )

    def account(self, account: bytes) -> AccountView | None:
        return self.view

    def submit(self, envelope: bytes) -> SubmitAnswer:
        return SubmitAnswer(status=SubmitStatus.REJECTED, code="txBAD_SEQ")


class UnreachableSource(Source):
    def latest_ledger(self) -> NetworkLedger:
        raise GatewayError("unreachable")


def judge(*sources: Source, complete: LedgerPoint | None = COMPLETE, **changes: Any) -> bool:
    attempts = changes.pop("attempts", [ATTEMPT])
    policy = replace(POLICY, evidence_sources=len(sources))
    return is_dead(sources, policy, slot=SLOT, attempts=attempts, complete=complete)


def with_view(**changes: Any) -> Source:
    return Source(view=replace(VIEW, **changes))


def test_envelope_behind_its_bounds_with_an_open_slot_and_unknown_hash_is_dead() -> None:
    assert judge(Source())
    assert judge(Source(), Source())


@pytest.mark.parametrize(
    "source",
    [
        Source(latest=NetworkLedger(sequence=102, close_time_s=5_011)),
        Source(latest=NetworkLedger(sequence=103, close_time_s=5_000)),
        Source(view=None),
        with_view(sequence=11),
        with_view(sequence=12),
        with_view(as_of_sequence=102),
        Source(known=frozenset({ATTEMPT.tx_hash})),
    ],
    ids=[
        "ledger within the margin",
        "close time not after the bound",
        "account unknown",
        "slot consumed",
        "later slot consumed",
        "account read at an older ledger",
        "hash known",
    ],
)
def test_one_missing_part_of_the_proof_keeps_the_envelope_alive(source: Source) -> None:
    assert not judge(source)
    assert not judge(Source(), source)
    assert not judge(source, Source())


@pytest.mark.parametrize(
    "complete",
    [
        None,
        LedgerPoint(sequence=100, close_time_s=5_001),
        LedgerPoint(sequence=101, close_time_s=5_000),
    ],
)
def test_facts_that_do_not_reach_behind_the_bounds_prove_nothing(
    complete: LedgerPoint | None,
) -> None:
    assert not judge(Source(), complete=complete)


def test_hash_and_bounds_of_every_attempt_count() -> None:
    later = replace(
        ATTEMPT, attempt=1, tx_hash=b"\x03" * 32, max_ledger_sequence=200, max_time_s=6_000
    )
    known = Source(known=frozenset({later.tx_hash}))
    assert not judge(Source(), attempts=[ATTEMPT, later])
    same_bounds = replace(later, max_ledger_sequence=100, max_time_s=5_000)
    assert judge(Source(), attempts=[ATTEMPT, same_bounds])
    assert not judge(known, attempts=[same_bounds, ATTEMPT])


def test_source_that_does_not_answer_is_no_evidence() -> None:
    with pytest.raises(GatewayError):
        judge(Source(), UnreachableSource())
