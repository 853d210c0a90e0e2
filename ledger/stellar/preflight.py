"""Preflight: whether those who may be paid next can take it, seen on the network before the seal.

For each account that the newest closing state may pay soon: is it there, has its trustline, is that
authorised and has it room, does its owner ask for a memo (SEP-29), is it frozen (CAP-77). Where the
answer changes what the state goes by, a note signed by the log key joins the next seal; the planner
then carries the payee with a reason, or pays it again. An account that nobody noted counts as
ready, so a source that gives no answer holds up nothing. An account whose payment nobody took even
alone, because a key is frozen and no source tells, or nodes filter it, counts as frozen for some
epochs, twice as many each time, so that it does not use a slot up in each. Not here: what a note
comes to (`ledger.books.instructing`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ledger.books.slots import forbidden_addresses
from ledger.books.standing import SeenAccount, Standing, accepts
from ledger.books.state import State
from ledger.evidence.encoding import ZERO_KEY, Signed
from ledger.evidence.instruction import (
    READINESS,
    Instruction,
    Readiness,
    ReadinessNote,
    parse_instruction,
)
from ledger.evidence.terms import Terms
from ledger.evidence.units import AMOUNT_MAX
from ledger.stellar.failures import FROZEN
from ledger.stellar.gateway import (
    FILTERED,
    MEMO_REQUIRED,
    AccountState,
    DataState,
    EntriesView,
    EntryKey,
    Gateway,
    TrustlineState,
)
from ledger.store.engine import SessionFactory
from ledger.store.epoch_store import load_closing_state
from ledger.store.instruction_store import keep_instruction, newest_computed_epoch
from ledger.store.sending_store import Refusal, load_refusals
from ledger.store.shard_store import Shard

ACCOUNTS_MAX: Final = 2_000
"""Most accounts looked at in one epoch; who was not ready comes first, then the largest amounts."""

KEYS_PER_CALL: Final = 200
"""Most ledger entries that a source is asked for at once."""

REFUSED: Final = (FILTERED, FROZEN)
"""Reasons for which a batch is burned because of whom it pays."""

DOUBLINGS_MAX: Final = 5
"""Most doublings of the epochs after which an account that was refused is tried again."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An account that may be paid soon."""

    account: bytes
    amount_stroops: int


@dataclass(slots=True)
class Preflight:
    """Looks once an epoch; a process that began anew looks again, and notes nothing twice."""

    sessions: SessionFactory
    _looked: dict[bytes, int] = field(default_factory=dict)
    """Broadcaster → newest epoch whose closing state was gone through."""

    def look(self, shard: Shard, terms: Terms, gateway: Gateway, log_seed: bytes) -> int:
        """Note what has changed of the accounts that may be paid next.

        Args:
            shard: Whose ledger.
            terms: In force.
            gateway: The source that is asked.
            log_seed: Seed of the terms' log key.

        Returns:
            How many notes joined the next seal.

        Raises:
            GatewayError: No usable answer; nothing is noted.
        """
        with self.sessions.begin() as session:
            epoch = newest_computed_epoch(session, shard)
            if epoch is None or self._looked.get(shard.account, -1) >= epoch:
                return 0
            state = load_closing_state(session, shard, epoch)
            refusals = load_refusals(session, shard.account, REFUSED)
        if state is None:
            return 0
        notes = [
            sign_note(note, log_seed)
            for note in notes_of(state, terms, gateway, ACCOUNTS_MAX, refusals)
        ]
        with self.sessions.begin() as session:
            kept = [keep_instruction(session, shard, note) for note in notes]
        # The notes are durable from here on.
        self._looked[shard.account] = epoch
        return sum(kept)


def notes_of(
    state: State,
    terms: Terms,
    gateway: Gateway,
    accounts_max: int,
    refusals: Mapping[bytes, Refusal] = MappingProxyType({}),
) -> Iterator[ReadinessNote]:
    """Yield a note for each account of which the state would go by something else than is seen.

    Args:
        state: After the newest computed epoch.
        terms: Of the epoch that is sealed next.
        gateway: The source that is asked.
        accounts_max: Most accounts that are looked at.
        refusals: Account → what nobody took of it.

    Raises:
        GatewayError: No usable answer.
    """
    candidates = candidates_of(state, terms)[:accounts_max]
    per_call = KEYS_PER_CALL // len(entry_keys_of(ZERO_KEY, terms))
    for at in range(0, len(candidates), per_call):
        piece = candidates[at : at + per_call]
        keys = [key for candidate in piece for key in entry_keys_of(candidate.account, terms)]
        view = gateway.entries(keys)
        for candidate in piece:
            note = _note_of(state, terms, candidate, view, refusals.get(candidate.account))
            if note is not None:
                yield note


def candidates_of(state: State, terms: Terms) -> list[Candidate]:
    """Return whom a payout may go to soon: who was not ready first, then the largest amounts."""
    amounts: dict[bytes, int] = {}
    for account, balance in state.payees.items():
        standing = state.standing.get(account, Standing())
        least_stroops = terms.payout_threshold_stroops
        if standing.cash_out_open:
            least_stroops = terms.cash_out_least_stroops
        if balance.owed_stroops >= least_stroops:
            for to in {_now_of(account, standing), _next_of(account, standing)}:
                amounts[to] = max(amounts.get(to, 0), balance.owed_stroops)
    for held in state.suspense.values():
        if held.amount_stroops >= terms.cash_out_least_stroops:
            amounts[held.sender] = max(amounts.get(held.sender, 0), held.amount_stroops)
    if state.refund is not None and state.refund.left_stroops:
        amounts.setdefault(terms.broadcaster_account, 1)
    forbidden = forbidden_addresses(terms)
    return sorted(
        (
            Candidate(account, amount_stroops)
            for account, amount_stroops in amounts.items()
            if account not in forbidden
        ),
        key=lambda one: (_is_thought_ready(state, one), -one.amount_stroops, one.account),
    )


def _now_of(account: bytes, standing: Standing) -> bytes:
    return account if standing.pay_to == ZERO_KEY else standing.pay_to


def _next_of(account: bytes, standing: Standing) -> bytes:
    named = standing.next_pay_to
    return _now_of(account, standing) if named == ZERO_KEY else named


def _is_thought_ready(state: State, candidate: Candidate) -> bool:
    seen = state.seen_accounts.get(candidate.account)
    return accepts(seen, candidate.amount_stroops) == Readiness.READY


def entry_keys_of(account: bytes, terms: Terms) -> Sequence[EntryKey]:
    """Return the entries by which an account's readiness is known: itself, memo, trustline."""
    keys = [EntryKey(account=account), EntryKey(account=account, name=MEMO_REQUIRED)]
    if terms.asset_issuer not in {ZERO_KEY, account}:
        asset = (terms.asset_code, terms.asset_issuer)
        keys.append(EntryKey(account=account, asset=asset))
    return keys


def _note_of(
    state: State,
    terms: Terms,
    candidate: Candidate,
    view: EntriesView,
    refusal: Refusal | None,
) -> ReadinessNote | None:
    """Return a note if what is seen would be decided otherwise than what the state holds."""
    before = state.seen_accounts.get(candidate.account)
    if before is not None and view.as_of_sequence <= before.seen_ledger:
        return None  # a replica that lags
    readiness, room_stroops = readiness_of(candidate.account, terms, view)
    if readiness == Readiness.READY and _is_refused(refusal, state.head.next_epoch - 1, view):
        readiness, room_stroops = Readiness.FROZEN, 0
    # The entry changed at this ledger or before: no source need tell when exactly.
    exists = EntryKey(account=candidate.account) in view.entries
    seen = SeenAccount(
        seen_ledger=view.as_of_sequence,
        readiness=readiness,
        entry_ledger=view.as_of_sequence if exists else 0,
        room_stroops=room_stroops,
    )
    if accepts(seen, candidate.amount_stroops) == accepts(before, candidate.amount_stroops):
        return None
    return ReadinessNote(
        network_id=terms.network_id,
        broadcaster_account=terms.broadcaster_account,
        log_key=terms.log_key,
        account=candidate.account,
        seen_ledger=seen.seen_ledger,
        readiness=seen.readiness,
        entry_ledger=seen.entry_ledger,
        room_stroops=seen.room_stroops,
    )


def _is_refused(refusal: Refusal | None, epoch: int, view: EntriesView) -> bool:
    """Tell whether an account that looks ready is not to be paid after an epoch.

    Where the source tells what is frozen, its word counts, and not what was refused for that.
    """
    if refusal is None or (refusal.reason == FROZEN and view.frozen is not None):
        return False
    return epoch < refusal.epoch + (1 << min(refusal.times, DOUBLINGS_MAX))


def readiness_of(account: bytes, terms: Terms, view: EntriesView) -> tuple[Readiness, int]:
    """Return whether an account can be paid, and how much at most, by its ledger entries."""
    keys = entry_keys_of(account, terms)
    if view.frozen is not None and not view.frozen.isdisjoint(keys):
        return Readiness.FROZEN, 0
    if not isinstance(view.entries.get(keys[0]), AccountState):
        return Readiness.NO_ACCOUNT, 0
    memo = view.entries.get(keys[1])
    if isinstance(memo, DataState) and memo.value == b"1":
        return Readiness.MEMO_REQUIRED, 0
    if len(keys) < 3:
        return Readiness.READY, AMOUNT_MAX
    line = view.entries.get(keys[2])
    if not isinstance(line, TrustlineState):
        return Readiness.NO_TRUSTLINE, 0
    if not line.is_authorized:
        return Readiness.NOT_AUTHORISED, 0
    room_stroops = max(0, line.room_stroops)
    return (Readiness.READY if room_stroops else Readiness.LINE_FULL), room_stroops


def sign_note(note: ReadinessNote, log_seed: bytes) -> Signed[Instruction]:
    """Return a note signed by the log key."""
    return parse_instruction(READINESS.sign(note, log_seed).raw)
