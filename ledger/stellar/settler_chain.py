"""A settler's own look at the chain: what stands on our accounts, and whether a plan explains it.

A transaction is ours when one of our accounts is its source, pays its fee, or is the source of one
of its operations: it then bears a signature of one of our keys. What is ours must be a planned
batch or its burning in its slot, an anchor of a proven checkpoint, or accepted by a person; what
strangers send to us is not. All sources must tell the same.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stellar_sdk import MuxedAccount, StrKey, xdr

from ledger.audit.address import parse_account
from ledger.audit.stellar_xdr import read_transaction
from ledger.audit.xdr import MalformedXdrError
from ledger.books.transactions import AppliedTransaction, NetworkFact
from ledger.evidence.leaf import PayoutLeaf, burn_hash, opening_hash
from ledger.stellar.envelopes import payout_memo
from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import LAST_ORDER, AssetKey, Gateway, NetworkLedger, Place

Slot = tuple[bytes, int]
"""(channel account, sequence number)."""


LONG_AGO: Final = NetworkLedger(sequence=0, close_time_s=0)
"""Stands for a ledger that no source remembers."""


class OwnChain:
    """The settler's own sources, of which none is believed alone if there are several."""

    def __init__(self, gateways: Sequence[Gateway], *, margin_ledgers: int = 2) -> None:
        """Take sources.

        Args:
            gateways: At least one.
            margin_ledgers: How far a source's history may lag behind its newest ledger, ≥ 0.

        Raises:
            ValueError: None is given.
        """
        if not gateways:
            raise ValueError("gateways: got none, want at least one")
        self._gateways = tuple(gateways)
        self._margin = margin_ledgers

    @property
    def first(self) -> Gateway:
        """The source that is asked where one is enough."""
        return self._gateways[0]

    def newest(self) -> tuple[NetworkLedger, NetworkLedger]:
        """Return the oldest and the newest of the sources' newest ledgers.

        Raises:
            GatewayError: No usable answer.
        """
        found = [gateway.latest_ledger() for gateway in self._gateways]
        by_sequence = sorted(found, key=lambda ledger: ledger.sequence)
        return by_sequence[0], by_sequence[-1]

    def complete_through(self) -> int:
        """Return the network ledger through which every source has its history.

        Raises:
            GatewayError: No usable answer.
        """
        return self.newest()[0].sequence - self._margin

    def facts(
        self, accounts: Collection[bytes], *, after: int, through: int
    ) -> tuple[NetworkFact, ...]:
        """Return all transactions of accounts in (after, through], as all sources tell them.

        Raises:
            GatewayError: No usable answer, or not the same one.
        """
        found = [
            _facts_of(gateway, accounts, after=after, through=through) for gateway in self._gateways
        ]
        if any(other != found[0] for other in found[1:]):
            raise GatewayError(
                f"network ledgers {after + 1} to {through}: the sources tell different histories"
            )
        return tuple(found[0][place] for place in sorted(found[0]))

    def newer_facts(self, accounts: Collection[bytes], *, after: int) -> tuple[NetworkFact, ...]:
        """Return all transactions after a ledger that any source knows.

        Raises:
            GatewayError: No usable answer.
        """
        found: dict[tuple[Place, bytes], NetworkFact] = {}
        for gateway in self._gateways:
            for place, fact in _facts_of(gateway, accounts, after=after, through=None).items():
                found[place, fact.envelope] = fact
        return tuple(found[key] for key in sorted(found))

    def has(self, fact: NetworkFact, tx_hash: bytes) -> bool:
        """Tell whether every source has a transaction, in that ledger and with that result.

        Raises:
            GatewayError: No usable answer.
        """
        return all(gateway.transaction(tx_hash) == fact for gateway in self._gateways)

    def sequence_of(self, account: bytes) -> int | None:
        """Return the largest sequence number that a source has as consumed; None: no account.

        Raises:
            GatewayError: No usable answer.
        """
        views = [gateway.account(account) for gateway in self._gateways]
        return max((view.sequence for view in views if view is not None), default=None)

    def least_balance(self, account: bytes, asset: AssetKey) -> int:
        """Return the least that any source says an account holds of an asset; stroops ≥ 0.

        One that lags still shows what a payment has taken since that another one tells.

        Raises:
            GatewayError: No usable answer.
        """
        views = [gateway.account(account, assets=(asset,)) for gateway in self._gateways]
        return min(0 if view is None else view.balances.get(asset, 0) for view in views)

    def opened(self, account: bytes, sequence: int) -> NetworkLedger | None:
        """Return the ledger since which a sequence number is the next; None if it is not.

        All sources must have it so. `LONG_AGO` if nobody remembers.

        Raises:
            GatewayError: No usable answer.
        """
        views = [gateway.account(account) for gateway in self._gateways]
        found = [view for view in views if view is not None and view.sequence == sequence - 1]
        if len(found) < len(views):
            return None
        since = max(view.sequence_ledger for view in found)
        return (self.first.ledger(since) if since else None) or LONG_AGO

    def applied(self, tx_hash: bytes) -> NetworkLedger:
        """Return the ledger of a transaction that is in one; `LONG_AGO` if it is forgotten.

        Raises:
            GatewayError: No usable answer.
        """
        return _ledger_of(self.first.transaction(tx_hash))

    def sequence_before(self, time_s: int) -> int:
        """Return a ledger that closed before a time, the last one that the first source remembers.

        Raises:
            GatewayError: No usable answer.
        """
        low, high = 0, self.first.latest_ledger().sequence
        while low + 1 < high:
            middle = (low + high) // 2
            ledger = self.first.ledger(middle)
            if ledger is None or ledger.close_time_s < time_s:
                low = middle
            else:
                high = middle
        return low

    def used(self, slot: Slot, *, since: int) -> NetworkLedger | None:
        """Return the ledger in which a slot was used; None if it is open.

        Args:
            slot: Channel account and sequence number.
            since: No ledger before this one has it.

        Raises:
            GatewayError: No usable answer.
        """
        account, sequence = slot
        taken = self.sequence_of(account)
        if taken is None or taken < sequence:
            return None
        return _ledger_of(self.first.transaction_of_slot(account, sequence, since=since).fact)


def _ledger_of(fact: NetworkFact | None) -> NetworkLedger:
    if fact is None:
        return LONG_AGO
    return NetworkLedger(sequence=fact.ledger_sequence, close_time_s=fact.close_time_s)


def _facts_of(
    gateway: Gateway, accounts: Collection[bytes], *, after: int, through: int | None
) -> dict[Place, NetworkFact]:
    facts: dict[Place, NetworkFact] = {}
    for account in sorted(accounts):
        place: Place = (after, LAST_ORDER)
        is_last = False
        while not is_last:
            page = gateway.transactions_of(account, after=place)
            facts |= {fact.order: fact for fact in page.facts}
            reached = max((place, page.through, *(fact.order for fact in page.facts)))
            is_last = page.is_last or (through is not None and reached > (through, LAST_ORDER))
            if not is_last and reached == place:
                raise GatewayError(f"{gateway.name}: history after {place}: it does not go on")
            place = reached
    if through is None:
        return facts
    return {place: fact for place, fact in facts.items() if place[0] <= through}


def acting_accounts(envelope: bytes) -> frozenset[bytes]:
    """Return the accounts that had to sign for a transaction: all sources, and who pays the fee.

    Raises:
        MalformedXdrError: The bytes are no transaction.
    """
    try:
        return frozenset(parse_account(text) for text in _actors(envelope))
    except (ValueError, EOFError) as error:
        raise MalformedXdrError("envelope", got=str(error)[:80], want="a transaction") from error


def fee_payer(envelope: bytes) -> bytes:
    """Return the account that pays a transaction's fee: a fee bump's source, or the source.

    Raises:
        MalformedXdrError: The bytes are no transaction.
    """
    try:
        return parse_account(next(iter(_actors(envelope))))
    except (ValueError, EOFError) as error:
        raise MalformedXdrError("envelope", got=str(error)[:80], want="a transaction") from error


def _actors(envelope: bytes) -> Iterable[str]:
    """Yield who pays the fee, then other sources."""
    found = xdr.TransactionEnvelope.from_xdr_bytes(envelope)
    if found.fee_bump is not None:
        yield MuxedAccount.from_xdr_object(found.fee_bump.tx.fee_source).account_id
    source, operations = _inner(found)
    yield source.account_id
    for operation in operations:
        if operation.source_account is not None:
            yield MuxedAccount.from_xdr_object(operation.source_account).account_id


def _inner(found: xdr.TransactionEnvelope) -> tuple[MuxedAccount, Sequence[xdr.Operation]]:
    """Return source and operations, of a fee bump's inner transaction too."""
    inner = found.v1 if found.fee_bump is None else found.fee_bump.tx.inner_tx.v1
    if inner is not None:
        return MuxedAccount.from_xdr_object(inner.tx.source_account), inner.tx.operations
    if found.v0 is None:
        raise ValueError("no transaction inside")
    key = StrKey.encode_ed25519_public_key(found.v0.tx.source_account_ed25519.uint256)
    return MuxedAccount(key), found.v0.tx.operations


def _only_pays(envelope: bytes) -> bool:
    """Tell whether every operation of a well-formed transaction is a payment."""
    _source, operations = _inner(xdr.TransactionEnvelope.from_xdr_bytes(envelope))
    return all(one.body.type == xdr.OperationType.PAYMENT for one in operations)


def is_anchor(
    fact: NetworkFact, memos: Collection[bytes], anchor_accounts: Collection[bytes]
) -> bool:
    """Tell whether a transaction writes one of these checkpoints' hashes, and does nothing else.

    One rule for operator and settlers: an anchor account is its source, and its one operation is a
    set_options that sets nothing. Whoever else has the memo, or moves anything, anchors nothing.

    Raises:
        MalformedXdrError: The fact cannot be read.
    """
    transaction = read_transaction(fact)
    is_named = transaction.source_account in anchor_accounts and transaction.memo_hash in memos
    return is_named and transaction.does_nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """What explains transactions of ours."""

    accounts: frozenset[bytes]
    """All accounts that are ours or were, by terms."""

    batches: Mapping[Slot, PayoutLeaf]
    """Proven payout leaves by their slots."""

    anchors: frozenset[bytes]
    """Memos of proven checkpoints."""

    anchor_accounts: frozenset[bytes]
    accepted: frozenset[bytes]
    """Hashes that a person accepts."""

    def explains(self, fact: NetworkFact) -> bool:
        """Tell whether a transaction is not ours, or planned."""
        try:
            transaction = read_transaction(fact)
            if not acting_accounts(fact.envelope) & self.accounts:
                return True
        except MalformedXdrError:
            return False
        if transaction.tx_hash in self.accepted:
            return True
        source, memo = transaction.source_account, transaction.memo_hash
        if source in self.anchor_accounts and memo in self.anchors:
            return is_anchor(fact, self.anchors, self.anchor_accounts)
        if source in self.accounts and memo == opening_hash(fact.network_id, source):
            return transaction.does_nothing
        leaf = self.batches.get((source, transaction.sequence))
        return leaf is not None and _is_planned(leaf, transaction, fact.envelope)

    def may_be_an_anchor(self, fact: NetworkFact) -> bool:
        """Tell whether a transaction may anchor an epoch that is not proven yet: it does nothing.

        What it says shows when that epoch's file is there.
        """
        try:
            transaction = read_transaction(fact)
        except MalformedXdrError:
            return False
        return transaction.source_account in self.anchor_accounts and transaction.does_nothing


def _is_planned(leaf: PayoutLeaf, transaction: AppliedTransaction, envelope: bytes) -> bool:
    planned = payout_memo(leaf)
    if transaction.memo_hash in {burn_hash(planned), burn_hash(planned, isolates=True)}:
        return transaction.does_nothing
    if transaction.memo_hash != planned or not _only_pays(envelope):
        return False
    if not transaction.succeeded:
        return True
    moved = [
        (m.asset_code, m.asset_issuer, m.source, m.destination, m.amount_stroops)
        for m in transaction.movements
    ]
    return moved == [
        (leaf.asset_code, leaf.asset_issuer, leaf.source_account, p.account, p.amount_stroops)
        for p in leaf.payments
    ]
