"""Settlement: from planned batches and anchors to payments and anchors on the chain, exactly once.

`settle` is one tick: look at the sources, read the network's facts, decide what they decide, give
up what provably can never happen, sign what is ready, and send what is signed. Each step is one
commit and may be the last one before a crash; the next tick goes on from what is stored. Two
workers may run at once: they make the same bytes, and only one moves a row. The rules:

- an envelope and its hash, and a fee bump and its hash, are committed before they are sent, and
  re-sent unchanged;
- that something happened is believed when a ledger has it, from any source;
- that it never will is believed only of closed ledgers behind both its bounds, a source account
  whose sequence is still below the slot, and unknown hashes, from as many sources as configured;
  never of an API's error or a refused submission;
- a new attempt takes the same slot, and so does the no-op that cancels a batch, so the network can
  apply at most one of them;
- a payment that can be in no ledger any more, and is not proven dead yet, gives its slot up to a
  no-op (`overdue`), so that ledgers decide soon;
- only a payout leaf that is proven to be in the anchored log is signed; another halts the domain;
- a slot that holds a transaction nobody planned halts the domain: a person looks; so does money
  of ours that moved without a plan, and a balance that is not the books' (`book_watch`); so do
  facts that cannot be read, or exclude each other, until they can be believed again.

Order: the anchor of an epoch, then its funding batch, then its payments; slots of one channel one
after another, a stuck one used up and never skipped. What is done about answers and failures stands
in `ledger.stellar.failures`. No clock and no wait here: all times are ledgers' close times.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ledger.audit.xdr import MalformedXdrError
from ledger.evidence.leaf import PAYOUT_FUNDING
from ledger.stellar import burning
from ledger.stellar.anchors import settle_anchors
from ledger.stellar.book_watch import watch_books
from ledger.stellar.burn_rules import burn_bid
from ledger.stellar.deciding import (
    decide_by_facts,
    envelopes_of,
    expire,
    find_used,
    give_up,
    halt_batch,
)
from ledger.stellar.domain import SettlementDomain
from ledger.stellar.envelopes import next_attempt, sign_payout
from ledger.stellar.errors import (
    ConflictingFactError,
    ExternalSignerError,
    GatewayError,
    TreasuryError,
)
from ledger.stellar.facts import ingest_facts
from ledger.stellar.failures import FROZEN, Reaction, reaction_to_answer
from ledger.stellar.fees import Bidding, lane_allowance
from ledger.stellar.gateway import (
    FILTERED,
    AccountView,
    Gateway,
    NetworkLedger,
    SubmitAnswer,
    SubmitStatus,
)
from ledger.stellar.gathering import ask_settlers, drop_requests
from ledger.stellar.outlook import Outlook, look
from ledger.stellar.overdue import (
    BANNED,
    MAKES_WAY,
    OVERDUE,
    TOO_LATE,
    can_be_next,
    ledgers_to_proof,
)
from ledger.stellar.payout_proof import AnchoredLog
from ledger.stellar.sending import Sent, send_once, stored_attempt
from ledger.stellar.signing import SignaturesMissingError
from ledger.stellar.stopping import (
    OTHER_HISTORY,
    UNPROVEN,
    halt,
    holdings_text,
    is_halted,
    lift_pauses,
    load_stops,
    note_facts,
    stop_for,
)
from ledger.store import sending_store
from ledger.store import settlement_store as store
from ledger.store.engine import SessionFactory
from ledger.store.errors import UnprovenError
from ledger.store.halt_store import HaltName
from ledger.store.settlement_states import SettlementState
from ledger.store.settlement_store import Attempt, Batch
from ledger.store.settlement_tables import BATCH, BURN
from ledger.store.stop_store import Stop

_log = logging.getLogger(__name__)

_SIGNED = frozenset({SettlementState.SIGNED, SettlementState.IN_FLIGHT})
_UNSIGNED = frozenset({SettlementState.PLANNED, SettlementState.EXPIRED})


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementReport:
    """What one tick found and did."""

    latest: NetworkLedger | None
    """Newest closed ledger of the first source; None if it gave no answer."""

    undecided: int
    """Batches whose outcome is open."""

    is_halted: bool
    """Whether the domain is halted, so that nothing is signed or sent."""

    problem: str
    """Why the tick ended early or did less; empty if it did not. The next tick tries again."""

    stops: tuple[Stop, ...] = ()
    """What stands still, and why: the domain, or lanes of accounts."""

    is_network_paused: bool = False
    """Whether no ledger has closed for many looks: nothing can be concluded meanwhile."""


def settle(
    sessions: SessionFactory, gateways: Sequence[Gateway], domain: SettlementDomain
) -> SettlementReport:
    """Do everything that can be done for one domain now; running it twice changes nothing.

    Args:
        sessions: One transaction a step.
        gateways: Sources; the first one that answers is read and submitted to, the others are asked
            for evidence. At least as many as the policy's `evidence_sources`, of different names.
        domain: Whose accounts.

    Raises:
        ValueError: Too few gateways.
    """
    wanted = max(1, domain.policy.evidence_sources)
    names = {gateway.name for gateway in gateways}
    if len(names) < wanted or len(names) < len(gateways):
        raise ValueError(f"gateways: got {len(names)}, want {wanted} or more, each once")
    latest: NetworkLedger | None = None
    problem, looks = "", 0
    try:
        outlook = look(sessions, gateways, domain)
        latest, looks = outlook.latest, outlook.looks
        problem = _settle(sessions, outlook, domain)
        note_facts(sessions, domain, None, "", latest)
    except MalformedXdrError as error:
        problem = str(error)
        note_facts(sessions, domain, HaltName.UNREADABLE_TRANSACTION, problem, latest)
    except ConflictingFactError as error:
        problem = str(error)
        note_facts(sessions, domain, HaltName.CONFLICTING_FACTS, problem, latest)
    except (GatewayError, ExternalSignerError, TreasuryError) as error:
        _log.warning("settlement: %s", error)
        problem = str(error)
    stops = load_stops(sessions, domain)
    return SettlementReport(
        latest=latest,
        undecided=len(_undecided(sessions, domain)),
        is_halted=is_halted(sessions, domain),
        problem=problem,
        stops=stops,
        is_network_paused=looks >= domain.policy.paused_after_looks,
    )


def _settle(sessions: SessionFactory, outlook: Outlook, domain: SettlementDomain) -> str:
    """Do the tick's work; returns why it did less than all of it."""
    if outlook.contradiction:
        with sessions.begin() as session:
            reason, now = outlook.contradiction, outlook.latest
            halt(session, domain, cause=OTHER_HISTORY, reason=reason, now=now)
        return outlook.contradiction
    gateway, latest, policy = outlook.primary, outlook.latest, domain.policy
    witnesses = outlook.gateways[1 : max(1, policy.evidence_sources)]
    ingest_facts(
        sessions,
        gateway,
        domain.reading_terms,
        margin_ledgers=policy.margin_ledgers,
        witnesses=witnesses,
    )
    if outlook.apart_s > policy.apart_max_s:
        _decide_all(sessions, gateway, domain, latest)
        return f"sources: got newest closes {outlook.apart_s} s apart, want the same network"
    if not is_halted(sessions, domain):
        lift_pauses(sessions, domain, latest)
        domain.signer.refresh()
        settle_anchors(sessions, outlook, domain)
    # Who tells the facts proves nothing by telling balances that fit: another one is asked.
    watch_books(
        sessions,
        witnesses[-1] if witnesses else gateway,
        domain.reading_terms,
        surplus_max_stroops=policy.surplus_max_stroops,
    )
    undecided = _decide_all(sessions, gateway, domain, latest)
    if is_halted(sessions, domain):
        return "halted"
    signed = [batch for batch in undecided if batch.state in _SIGNED]
    expired = [expire(sessions, outlook, domain, batch) for batch in signed]
    if any(expired):
        undecided = _undecided(sessions, domain)
    if _give_up_stuck(sessions, domain, undecided):
        undecided = _undecided(sessions, domain)
    _Lanes(sessions, outlook, domain).go_on(undecided)
    return ""


def _decide_all(
    sessions: SessionFactory, gateway: Gateway, domain: SettlementDomain, latest: NetworkLedger
) -> tuple[Batch, ...]:
    """Decide what facts decide; returns what is undecided then."""
    undecided = _undecided(sessions, domain)
    is_any_used = decide_by_facts(sessions, gateway, domain, undecided, latest)
    return _undecided(sessions, domain) if is_any_used else undecided


def _undecided(sessions: SessionFactory, domain: SettlementDomain) -> tuple[Batch, ...]:
    """Return the undecided batches.

    As long as this tick moves none they are not read again: another worker's moves are seen when
    one of them is to be moved here, which then does not happen.
    """
    with sessions() as session:
        return store.load_batches(session, domain.broadcaster, undecided=True)


def _give_up_stuck(
    sessions: SessionFactory, domain: SettlementDomain, undecided: Sequence[Batch]
) -> bool:
    """Use up the slots of batches that no node takes, or that never get into a ledger.

    Returns:
        Whether one's is from now on.
    """
    given_up = False
    for batch in undecided:
        if batch.state != SettlementState.EXPIRED:
            continue
        attempts, _ = envelopes_of(sessions, domain, batch)
        if _was_filtered(sessions, domain, batch):
            given_up |= give_up(sessions, domain, batch, reason=FILTERED, isolates=True)
        elif len(attempts) >= domain.policy.attempts_max:
            reason = f"stuck after {len(attempts)} attempts"
            given_up |= give_up(sessions, domain, batch, reason=reason)
    return given_up


def _was_filtered(sessions: SessionFactory, domain: SettlementDomain, batch: Batch) -> bool:
    """Tell whether every source refused a batch's newest envelope by its node's own policy."""
    attempts, bumps = envelopes_of(sessions, domain, batch)
    if not attempts:
        return False
    with sessions() as session:
        hashes = [bump.outer_hash for bump in bumps] or [attempts[-1].tx_hash]
        sending = sending_store.load_sending(session, hashes[-1])
    return sending is not None and sending.code == FILTERED


class _Lanes:
    """One tick's signing and sending."""

    def __init__(
        self, sessions: SessionFactory, outlook: Outlook, domain: SettlementDomain
    ) -> None:
        self._sessions = sessions
        self._outlook = outlook
        self._domain = domain
        self._log = AnchoredLog(sessions, outlook.primary, domain.terms)
        stops = load_stops(sessions, domain)
        self._stopped = {stop.account for stop in stops}
        self._allowance: int | None = None
        self._makes_way = False
        """Whether a batch gave its slot up for one behind it."""
        self._waiting: set[tuple[str, int]] = set()
        """(purpose, batch number) of what settlers are asked to sign."""

    def go_on(self, undecided: Sequence[Batch]) -> None:
        """Sign what is ready, then send what is signed.

        Args:
            undecided: All undecided batches, in order of their slots.
        """
        ready = self._ready(undecided)
        for batch in ready:
            try:
                self._log.require(batch.leaf)
            except UnprovenError as error:
                self._halt_unproven(batch, str(error))
                return
            if not self._sign(batch):
                self._waiting.add((BATCH, batch.leaf.batch_number))
        if ready or self._makes_way:
            undecided = _undecided(self._sessions, self._domain)
        heads: set[bytes] = set()
        for batch in undecided:
            channel = batch.leaf.channel_account
            is_head = channel not in heads
            heads.add(channel)
            if not is_head or channel in self._stopped:
                continue
            if batch.state in _SIGNED:
                self._send_payment(batch)
            elif batch.state == SettlementState.BURNING:
                self._send_burn(batch)
        drop_requests(self._sessions, self._domain.broadcaster, self._waiting)

    def _ready(self, undecided: Sequence[Batch]) -> list[Batch]:
        """Return unsigned batches whose turn it is.

        The first undecided slot of each channel, once the epoch's anchor stands on the chain and,
        for payments, every earlier funding batch is decided and the lane has room.
        """
        anchored = self._anchored({batch.leaf.epoch for batch in undecided})
        ready: list[Batch] = []
        busy_channels: set[bytes] = set()
        is_funding_open = False
        for batch in undecided:
            leaf = batch.leaf
            is_next_slot = leaf.channel_account not in busy_channels
            busy_channels.add(leaf.channel_account)
            is_funding = leaf.kind == PAYOUT_FUNDING
            if (
                is_next_slot
                and batch.state in _UNSIGNED
                and leaf.channel_account not in self._stopped
                and anchored[leaf.epoch]
                and (is_funding or not is_funding_open)
            ):
                ready.append(batch)
            is_funding_open |= is_funding
        covered = self._covered(ready, undecided)
        return self._within_lane(covered, [batch for batch in undecided if batch.state in _SIGNED])

    def _anchored(self, epochs: set[int]) -> dict[int, bool]:
        with self._sessions() as session:
            anchors = {
                epoch: store.load_anchor(session, self._domain.broadcaster, epoch)
                for epoch in epochs
            }
        return {
            epoch: anchor is not None and anchor.state == SettlementState.PAID
            for epoch, anchor in anchors.items()
        }

    def _within_lane(self, ready: list[Batch], under_way: list[Batch]) -> list[Batch]:
        """Return as many of the ready batches as the lane's share has room for.

        What is under way may all land in one ledger, so it counts; a batch larger than the share
        goes alone, once in so many ledgers that the share holds on average.
        """
        if not ready:
            return []
        if self._allowance is None:
            self._allowance = lane_allowance(self._outlook.primary, self._domain)
        taken = sum(len(batch.leaf.payments) for batch in under_way)
        admitted: list[Batch] = []
        # First what was out already: its slot has waited longest.
        for batch in sorted(ready, key=lambda batch: batch.attempt < 0):
            operations = len(batch.leaf.payments)
            if taken and taken + operations > self._allowance:
                break
            if operations > self._allowance and not self._is_spaced(operations):
                break
            taken += operations
            admitted.append(batch)
        return admitted

    def _is_spaced(self, operations: int) -> bool:
        """Tell whether the last payment went out long enough ago for one above the share."""
        with self._sessions() as session:
            last = sending_store.last_first_sending(session, self._domain.broadcaster)
        ledgers = -(-operations // (self._allowance or 1))
        return self._outlook.latest.sequence - last >= ledgers

    def _covered(self, ready: list[Batch], undecided: Sequence[Batch]) -> list[Batch]:
        """Return the ready batches whose account holds enough beside what is under way."""
        if not ready:
            return []
        with self._sessions() as session:
            newest_fact = store.newest_fact_sequence(session, self._domain.broadcaster)
        views: dict[bytes, AccountView | None] = {}
        needed: dict[bytes, int] = {}
        for batch in undecided:
            # A burning batch's payment may still be the one that a ledger takes.
            if batch.state in _SIGNED or batch.state == SettlementState.BURNING:
                account = batch.leaf.source_account
                needed[account] = needed.get(account, 0) + batch.leaf.total_stroops
        covered: list[Batch] = []
        for batch in ready:
            leaf = batch.leaf
            account, asset = leaf.source_account, (leaf.asset_code, leaf.asset_issuer)
            if account not in views:
                views[account] = self._outlook.primary.account(account, assets=(asset,))
            view = views[account]
            if view is not None and view.as_of_sequence < newest_fact:
                # It still shows what a payment known by now has taken: a replica that lags.
                continue
            holds = 0 if view is None else view.balances.get(asset, 0)
            needed[account] = needed.get(account, 0) + leaf.total_stroops
            if holds >= needed[account]:
                covered.append(batch)
                continue
            _log.error(
                "batch %d: account %s holds %d stroops, want %d before anything is sent",
                leaf.batch_number,
                account.hex(),
                holds,
                needed[account],
            )
            if view is not None and view.as_of_sequence >= self._outlook.latest.sequence:
                self._make_way(batch, undecided)
        return covered

    def _make_way(self, batch: Batch, undecided: Sequence[Batch]) -> None:
        """Give the slot of a batch without money up if a funding batch waits behind it."""
        leaf = batch.leaf
        if leaf.kind != PAYOUT_FUNDING and any(
            other.leaf.kind == PAYOUT_FUNDING
            and other.leaf.channel_account == leaf.channel_account
            and other.leaf.batch_number > leaf.batch_number
            for other in undecided
        ):
            self._makes_way |= give_up(self._sessions, self._domain, batch, reason=MAKES_WAY)

    def _halt_unproven(self, batch: Batch, reason: str) -> None:
        now = self._outlook.latest
        halt_batch(self._sessions, self._domain, batch, cause=UNPROVEN, reason=reason, now=now)

    def _sign(self, batch: Batch) -> bool:
        """Sign the next attempt and commit it, or ask settlers to; nothing is sent here.

        Returns:
            Whether it does not wait for signatures.
        """
        leaf, domain, latest = batch.leaf, self._domain, self._outlook.latest
        attempt = next_attempt(
            leaf,
            domain.terms,
            latest,
            least=batch.attempt + 1,
            margin_ledgers=domain.policy.room_ledgers,
            margin_s=domain.policy.room_s,
        )
        try:
            signed = sign_payout(leaf, attempt, domain.terms, domain.passphrase, domain.signer)
        except SignaturesMissingError as missing:
            ask_settlers(self._sessions, domain.terms, leaf, attempt, missing.transaction)
            return False
        stored = stored_attempt(
            signed, attempt, account=leaf.channel_account, sequence=leaf.channel_sequence
        )
        with self._sessions.begin() as session:
            if store.move_batch(
                session, domain.broadcaster, batch, SettlementState.SIGNED, attempt=attempt
            ):
                store.insert_attempt(session, domain.broadcaster, BATCH, leaf.batch_number, stored)
        # From here on the envelope and its hash are durable, and it may be sent.
        return True

    def _send_payment(self, batch: Batch) -> None:
        """Send the stored envelope, at most once a ledger; use its slot up if that is no use."""
        with self._sessions() as session:
            attempts = store.load_attempts(
                session, self._domain.broadcaster, BATCH, batch.leaf.batch_number
            )
        if not can_be_next(attempts[-1], self._outlook.closed, self._domain.policy):
            if _was_filtered(self._sessions, self._domain, batch):
                # Somebody in it is why: nobody knows who, so each is paid alone from then on.
                self._use_up(replace(batch, isolates=True), FILTERED)
            else:
                self._use_up(batch, OVERDUE)
            return
        bid_stroops = batch.leaf.fee_bid_stroops
        sent = self._send(batch, attempts[-1], len(batch.leaf.payments), bid_stroops)
        if sent is None:
            return
        if batch.state == SettlementState.SIGNED:
            with self._sessions.begin() as session:
                store.move_batch(
                    session, self._domain.broadcaster, batch, SettlementState.IN_FLIGHT
                )
            batch = replace(batch, state=SettlementState.IN_FLIGHT)
        if reaction_to_answer(sent.answer) == Reaction.BURN:
            give_up(self._sessions, self._domain, batch, reason=FROZEN, isolates=True)
        elif sent.answer.code == "txTOO_LATE":
            self._use_up(batch, TOO_LATE)
        elif sent.is_banned:
            self._use_up(batch, BANNED)

    def _use_up(self, batch: Batch, reason: str) -> None:
        """Send a no-op in place of a payment, unless the proof that it is dead is near."""
        domain, outlook, leaf = self._domain, self._outlook, batch.leaf
        envelopes, _ = envelopes_of(self._sessions, domain, batch)
        wait_ledgers = domain.policy.proof_wait_ledgers
        if ledgers_to_proof(envelopes, outlook.closed, domain.policy) <= wait_ledgers:
            return
        view = outlook.primary.account(leaf.channel_account)
        if view is not None and view.sequence >= leaf.channel_sequence:
            # The slot is used; a no-op would tell nothing that its transaction does not.
            find_used(self._sessions, outlook.gateways, domain, leaf)
            return
        self._burn_anew(batch, reason)

    def _burn_anew(self, batch: Batch, reason: str) -> None:
        """Sign a no-op with fresh bounds and send it; a batch that lacks its key stays as it is."""
        domain, number = self._domain, batch.leaf.batch_number
        attempt = burning.next_no_op(domain, batch, self._outlook.latest)
        try:
            signed = burning.sign_no_op(self._sessions, domain, batch, attempt, reason=reason)
        except SignaturesMissingError as missing:
            _log.info("batch %d: waits for proof, no key signs a no-op: %s", number, missing)
            return
        if signed is not None:
            _log.warning("batch %d: its slot is used up: %s", number, reason)
            state = SettlementState.BURNING
            burned = replace(batch, state=state, attempt=attempt, reason=reason)
            self._send_burn(burned, is_fresh=True)

    def _send_burn(self, batch: Batch, *, is_fresh: bool = False) -> None:
        """Send the no-op, signed first if it has to be; another one if it is of no use."""
        domain, outlook = self._domain, self._outlook
        try:
            attempt = burning.tend_burn(self._sessions, domain, batch, outlook.latest)
        except SignaturesMissingError as error:
            _log.info("batch %d: no-op waits for signatures: %s", batch.leaf.batch_number, error)
            self._waiting.add((BURN, batch.leaf.batch_number))
            return
        if attempt is None:
            return
        batch = replace(batch, attempt=attempt.attempt)
        if not is_fresh and not can_be_next(attempt, outlook.closed, domain.policy):
            self._burn_anew(batch, batch.reason)
            return
        sent = self._send(batch, attempt, burning.OPERATIONS, burn_bid(batch.leaf, domain.terms))
        if sent is None:
            return
        answer = sent.answer
        if reaction_to_answer(answer) == Reaction.BURN:
            # The no-op touches the channel only: it is the channel that is frozen.
            self._stop(batch, Reaction.HALT_LANE, answer)
        elif answer.code == "txBAD_SEQ":
            find_used(self._sessions, outlook.gateways, domain, batch.leaf)
        elif not is_fresh and (
            answer.status == SubmitStatus.TRY_AGAIN or answer.code == "txTOO_LATE"
        ):
            # A node drops what starves and bans it, but takes another no-op at once.
            self._burn_anew(batch, batch.reason)

    def _send(
        self, batch: Batch, attempt: Attempt, operations: int, bid_stroops: int
    ) -> Sent | None:
        domain = self._domain
        _, bumps = envelopes_of(self._sessions, domain, batch)
        bidding = Bidding(
            attempt=attempt,
            operations=operations,
            bid_stroops=bid_stroops,
            replaces_stroops=max((bump.bid_stroops for bump in bumps), default=bid_stroops),
        )
        sent = send_once(
            self._sessions,
            self._outlook,
            domain,
            bidding,
            may_bump=domain.terms.fee_account not in self._stopped,
        )
        if sent is not None:
            self._stop(batch, reaction_to_answer(sent.answer), sent.answer)
        return sent

    def _stop(self, batch: Batch, reaction: Reaction, answer: SubmitAnswer) -> None:
        if reaction not in {Reaction.HALT, Reaction.HALT_LANE, Reaction.PAUSE_LANE}:
            return
        leaf, domain = batch.leaf, self._domain
        _, bumps = envelopes_of(self._sessions, domain, batch)
        account = domain.terms.fee_account if bumps else leaf.channel_account
        reason = f"batch {leaf.batch_number}: refused with {answer.code}"
        if reaction == Reaction.PAUSE_LANE:
            reason += f"; it holds {holdings_text(self._outlook.primary, account)}"
        elif reaction == Reaction.HALT_LANE:
            account = leaf.channel_account
        with self._sessions.begin() as session:
            stop_for(
                session,
                domain,
                reaction,
                cause=answer.code,
                reason=reason,
                now=self._outlook.latest,
                account=account,
            )
