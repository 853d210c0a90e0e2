"""The rule by which an envelope is called dead: it is in no ledger and never will be.

All three, from as many sources as the policy says, none of which lags behind what it once said:

1. a closed ledger lies behind both bounds of every attempt, with a margin;
2. the source account's sequence, read at that ledger or later, is below the slot;
3. no hash of any attempt is known, of the fee bumps around it and the no-ops beside it included.

And our own facts must be complete behind the bounds with nothing in the slot. An API's error, a
refused submission, or "not found" alone is never enough: an envelope that a node accepted before
its connection broke may be applied ledgers later.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ledger.stellar.domain import Policy
from ledger.stellar.envelopes import Bounds
from ledger.stellar.gateway import Gateway, NetworkLedger
from ledger.store.settlement_store import Attempt, LedgerPoint

Slot = tuple[bytes, int]
"""(source account, sequence number): the network applies at most one transaction for it."""


def is_dead(
    gateways: Sequence[Gateway],
    policy: Policy,
    *,
    slot: Slot,
    attempts: Sequence[Attempt],
    complete: LedgerPoint | None,
    outer_hashes: Sequence[bytes] = (),
    marks: Mapping[str, LedgerPoint] = MappingProxyType({}),
) -> bool:
    """Tell whether no attempt at a slot was applied or can be any more.

    Args:
        gateways: Sources, in the order in which they are asked.
        policy: How many must agree, and the margin.
        slot: The slot of all attempts.
        attempts: Every envelope ever signed for it, at least one.
        complete: The ledger through which our facts are complete; they have nothing in the slot.
        outer_hashes: Of fee bumps around the attempts.
        marks: Source → the newest ledger that it ever told, by its name.

    Raises:
        GatewayError: A source gave no usable answer.
    """
    bounds = Bounds(
        max_ledger_sequence=max(attempt.max_ledger_sequence for attempt in attempts),
        max_time_s=max(attempt.max_time_s for attempt in attempts),
    )
    if complete is None or len(gateways) < max(1, policy.evidence_sources):
        return False
    point = NetworkLedger(sequence=complete.sequence, close_time_s=complete.close_time_s)
    if not bounds.passed_by(point):
        return False
    hashes = [*(attempt.tx_hash for attempt in attempts), *outer_hashes]
    return all(
        _source_excludes(gateway, policy, slot, hashes, bounds, marks.get(gateway.name))
        for gateway in gateways[: max(1, policy.evidence_sources)]
    )


def _source_excludes(
    gateway: Gateway,
    policy: Policy,
    slot: Slot,
    hashes: Sequence[bytes],
    bounds: Bounds,
    mark: LedgerPoint | None,
) -> bool:
    account, sequence = slot
    latest = gateway.latest_ledger()
    if mark is not None and latest.sequence < mark.sequence:
        return False
    with_margin = NetworkLedger(
        sequence=latest.sequence - policy.margin_ledgers, close_time_s=latest.close_time_s
    )
    if not bounds.passed_by(with_margin):
        return False
    view = gateway.account(account)
    if view is None or view.as_of_sequence < latest.sequence or view.sequence >= sequence:
        return False
    return all(gateway.transaction(tx_hash) is None for tx_hash in hashes)
