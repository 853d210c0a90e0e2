"""Fees: when a bid is raised, by how much, and what all of that may cost.

A bid is raised for an envelope that waits: a node said that the bid is too low, or forgot and
banned the envelope, or the last ledgers charged more than is offered. Each rung of the ladder
offers ten times the one before, for less does not replace what a node holds, or what the last
ledgers charged if that is more; the terms' greatest bid ends the ladder. One transaction may cost
its ladder's last rung at most, whatever is applied, and a day's bumps are counted before another is
made. Payments take only a share of each network ledger, so that others get through.
"""

import logging
from dataclasses import dataclass
from typing import Final

from ledger.stellar.domain import SettlementDomain
from ledger.stellar.errors import GatewayError
from ledger.stellar.fee_bumps import build_bump, bump_fee, sign_bump
from ledger.stellar.gateway import Gateway, NetworkLedger, SubmitStatus
from ledger.stellar.outlook import Outlook
from ledger.stellar.signing import SignaturesMissingError
from ledger.store import sending_store
from ledger.store.engine import SessionFactory
from ledger.store.sending_store import Bump, Sending
from ledger.store.settlement_store import Attempt

REPLACE_FACTOR: Final = 10
"""A node replaces what it holds for a bid at least this many times as high."""

CHARGED_PERCENTILE: Final = 90
"""A raised bid offers at least what this part of the last transactions paid."""

DAY_S: Final = 86_400
LANE_OPERATIONS_LEAST: Final = 200
"""Operations of a network ledger that are counted on where no source tells: the test network's."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bidding:
    """An envelope that waits, and what is offered for it."""

    attempt: Attempt
    operations: int
    bid_stroops: int
    """The envelope's own bid per operation."""

    replaces_stroops: int
    """Highest bid per operation of anything sent for the same slot."""


def raise_bid(
    sessions: SessionFactory,
    outlook: Outlook,
    domain: SettlementDomain,
    bidding: Bidding,
    *,
    is_refused: bool,
) -> Bump | None:
    """Make and commit the next rung of an envelope's ladder, if one is due; it is not sent here.

    Args:
        sessions: One commit is made, if any.
        outlook: What the sources say now.
        domain: Whose fee account, terms and caps.
        bidding: What waits.
        is_refused: Whether a node just called the bid too low, so that waiting is no use.

    Raises:
        StellarError: A key or its holder gave no usable answer.
    """
    terms, attempt = domain.terms, bidding.attempt
    if terms.fee_account == bytes(32) or not domain.signer.covers(terms.fee_account):
        return None
    with sessions() as session:
        bumps = sending_store.load_bumps(session, [attempt.tx_hash])
        newest_hash = bumps[-1].outer_hash if bumps else attempt.tx_hash
        sending = sending_store.load_sending(session, newest_hash)
    offered_stroops = bumps[-1].bid_stroops if bumps else bidding.bid_stroops
    highest_stroops = max(offered_stroops, bidding.replaces_stroops)
    if offered_stroops >= terms.fee_bid_max_stroops:
        return None
    if not is_refused and not _has_waited(sending, outlook.latest, domain):
        return None
    charged_stroops = _charged(outlook.primary)
    is_banned = sending is not None and sending.status == SubmitStatus.TRY_AGAIN
    if not (is_refused or is_banned or charged_stroops > offered_stroops):
        return None
    bid_stroops = min(
        terms.fee_bid_max_stroops, max(REPLACE_FACTOR * highest_stroops, charged_stroops)
    )
    return _commit(sessions, outlook, domain, bidding, len(bumps), bid_stroops)


def _charged(gateway: Gateway) -> int:
    """Return what most of the last transactions paid at most per operation; 0 if nobody tells."""
    try:
        return gateway.fee_statistics().charged_stroops.get(CHARGED_PERCENTILE, 0)
    except GatewayError as error:
        _log.warning("%s: fee statistics: %s", gateway.name, error)
        return 0


def _has_waited(sending: Sending | None, now: NetworkLedger, domain: SettlementDomain) -> bool:
    if sending is None:
        return False
    return now.sequence - sending.first_sequence >= domain.policy.bump_after_ledgers


def _commit(
    sessions: SessionFactory,
    outlook: Outlook,
    domain: SettlementDomain,
    bidding: Bidding,
    step: int,
    bid_stroops: int,
) -> Bump | None:
    fee_stroops = bump_fee(bid_stroops, bidding.operations)
    account, attempt, latest = domain.terms.fee_account, bidding.attempt, outlook.latest
    with sessions() as session:
        spent_stroops = sending_store.bump_costs(
            session, domain.broadcaster, after_s=latest.close_time_s - DAY_S
        )
    if spent_stroops + fee_stroops > domain.policy.fee_day_max_stroops:
        _log.error(
            "fee account: bumps of a day cost up to %d stroops, want no more than %d",
            spent_stroops + fee_stroops,
            domain.policy.fee_day_max_stroops,
        )
        return None
    unsigned = build_bump(attempt.envelope, account, fee_stroops, domain.passphrase)
    try:
        envelope = sign_bump(unsigned, account, domain.signer)
    except SignaturesMissingError as missing:
        _log.error("fee account: got no key that signs a bump: %s", missing)
        return None
    bump = Bump(
        outer_hash=unsigned.tx_hash,
        tx_hash=attempt.tx_hash,
        step=step,
        bid_stroops=bid_stroops,
        fee_stroops=fee_stroops,
        envelope=envelope,
        ledger_sequence=latest.sequence,
        close_time_s=latest.close_time_s,
    )
    with sessions.begin() as session:
        sending_store.insert_bump(session, domain.broadcaster, bump)
    with sessions() as session:
        # Another worker may have taken the rung: its bytes are the ones to send.
        stored = sending_store.load_bumps(session, [attempt.tx_hash])
    _log.warning(
        "transaction %s: bid raised to %d stroops an operation", attempt.tx_hash.hex(), bid_stroops
    )
    return next(other for other in stored if other.step == step)


def lane_allowance(gateway: Gateway, domain: SettlementDomain) -> int:
    """Return how many operations of ours one network ledger may take, at least 1."""
    try:
        operations = gateway.fee_statistics().operations_max
    except GatewayError as error:
        _log.warning("%s: fee statistics: %s", gateway.name, error)
        operations = LANE_OPERATIONS_LEAST
    return max(1, operations * domain.policy.lane_share_ppm // 1_000_000)
