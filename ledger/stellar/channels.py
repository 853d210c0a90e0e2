"""Channel accounts: create, fund, look at, retire; rotating them is naming others in new terms.

A channel's slots count from the sequence number its account begins with, so the books have to see
the transaction that creates it: an account is created only when terms in force name it. Whoever
reads new terms before that can create the account first, with next to nothing on it; it is its
key's nevertheless. Then it is funded, and a no-op of its own, which only its key can sign, tells
the books where its slots begin. What is not its key's alone, with other signers or entries, is
left as it is and named: the other channels go on, and the next terms name another. Channels that
new terms no longer name get no new slot; their open slots are decided first, and then the account
is merged away. A channel's own transactions are slots and nothing else: it never bumps its
sequence, and no precondition of ours lets it jump.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stellar_sdk.operation import AccountMerge

from ledger.audit.address import format_account
from ledger.audit.stellar_xdr import read_transaction
from ledger.evidence.keys import public_key_of
from ledger.evidence.leaf import opening_hash
from ledger.evidence.terms import Terms
from ledger.stellar.envelopes import Bounds, build_anchor, own_demands, sign_envelope
from ledger.stellar.errors import NotSubmittedError
from ledger.stellar.gateway import NATIVE, AccountState, EntryKey, Gateway
from ledger.stellar.signing import Signer
from ledger.stellar.transacting import (
    FEE_BID_STROOPS,
    WINDOW_LEDGERS,
    WINDOW_S,
    Transacting,
    account_creation,
    asset_payment,
)
from ledger.store import settlement_store as store
from ledger.store.engine import SessionFactory
from ledger.store.epoch_store import load_closing_state
from ledger.store.instruction_store import newest_computed_epoch
from ledger.store.shard_store import find_shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel account as network and database have it."""

    account: bytes
    is_in_terms: bool
    xlm_stroops: int | None
    """None: it is not on the network."""

    sequence: int | None
    """The last sequence number consumed."""

    open_batches: tuple[int, ...]
    """Undecided batches, the one whose turn it is first."""


def list_channels(sessions: SessionFactory, gateway: Gateway, terms: Terms) -> tuple[Channel, ...]:
    """Return the terms' channels, and earlier ones with open slots.

    Raises:
        GatewayError: The network gave no usable answer.
    """
    with sessions() as session:
        undecided = store.load_batches(session, terms.broadcaster_account, undecided=True)
    open_batches: dict[bytes, list[int]] = {account: [] for account in terms.channel_accounts}
    for batch in undecided:
        open_batches.setdefault(batch.leaf.channel_account, []).append(batch.leaf.batch_number)
    found: list[Channel] = []
    for account, numbers in sorted(open_batches.items()):
        view = gateway.account(account)
        found.append(
            Channel(
                account=account,
                is_in_terms=account in terms.channel_accounts,
                xlm_stroops=None if view is None else view.balances.get(NATIVE, 0),
                sequence=None if view is None else view.sequence,
                open_batches=tuple(numbers),
            )
        )
    return tuple(found)


def create_channels(
    gateway: Gateway, passphrase: str, terms: Terms, funder_seed: bytes, *, xlm_stroops: int
) -> tuple[bytes, ...]:
    """Create the terms' channels that are not on the network; returns those created.

    Raises:
        GatewayError: The network gave no usable answer.
        NotSubmittedError: The terms are not in force yet, or a transaction had no effect.
    """
    latest, starts_s = gateway.latest_ledger(), terms.epoch_start_s(terms.first_epoch)
    if latest.close_time_s < starts_s:
        raise NotSubmittedError(
            f"terms: got a newest ledger that closed at {latest.close_time_s}, want one from "
            f"{starts_s} on: the books would not see the channel's beginning"
        )
    funder = public_key_of(funder_seed)
    missing = [account for account in terms.channel_accounts if gateway.account(account) is None]
    creations = [account_creation(funder, account, xlm_stroops) for account in missing]
    if creations:
        Transacting(gateway, passphrase).apply_all([(creations, [funder_seed])])
    return tuple(missing)


def unopened_channels(
    sessions: SessionFactory, gateway: Gateway, terms: Terms
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Return the terms' channels that are on the network and that the books do not know.

    Nothing before the first epoch is computed: its facts have every account's beginning.

    Returns:
        Those that are their own key's alone, and those that are not.

    Raises:
        GatewayError: The network gave no usable answer.
    """
    with sessions() as session:
        shard = find_shard(session, terms.broadcaster_account)
        epoch = newest_computed_epoch(session, shard)
        state = None if epoch is None else load_closing_state(session, shard, epoch)
        progress = store.fact_progress(session, terms.broadcaster_account)
        facts = (
            ()
            if state is None or progress is None
            else store.load_facts(
                session,
                terms.broadcaster_account,
                after_sequence=state.head.last_ledger_sequence,
                through_sequence=progress.sequence,
            )
        )
    if state is None:
        return (), ()
    seen = {
        movement.destination
        for transaction in map(read_transaction, facts)
        for movement in transaction.movements
        if movement.creates_account and transaction.succeeded
    }
    own: list[bytes] = []
    others: list[bytes] = []
    for account in terms.channel_accounts:
        if account in state.channels or account in seen:
            continue
        key = EntryKey(account=account)
        entry = gateway.entries([key]).entries.get(key)
        if isinstance(entry, AccountState):
            is_own = set(entry.signers) == {format_account(account)} and not entry.subentry_count
            (own if is_own else others).append(account)
    return tuple(own), tuple(others)


def open_channels(
    gateway: Gateway, passphrase: str, terms: Terms, accounts: Sequence[bytes], signer: Signer
) -> tuple[bytes, ...]:
    """Tell the books where the slots of accounts begin that were there before; returns the hashes.

    Raises:
        GatewayError: The network gave no usable answer.
        NotSubmittedError: A transaction had no effect.
        StellarError: The signer has no key of an account.
    """
    signed = []
    for account in accounts:
        view, latest = gateway.account(account), gateway.latest_ledger()
        if view is None:
            raise NotSubmittedError(f"channel {format_account(account)}: not on the network")
        unsigned = build_anchor(
            opening_hash(terms.network_id, account),
            account,
            sequence=view.sequence + 1,
            bounds=Bounds(
                max_ledger_sequence=latest.sequence + WINDOW_LEDGERS,
                max_time_s=latest.close_time_s + WINDOW_S,
            ),
            fee_bid_stroops=FEE_BID_STROOPS,
            passphrase=passphrase,
        )
        signed.append(sign_envelope(unsigned, own_demands(account), signer))
    Transacting(gateway, passphrase).follow(signed)
    return tuple(envelope.tx_hash for envelope in signed)


def fund_channels(
    gateway: Gateway,
    passphrase: str,
    accounts: Sequence[bytes],
    funder_seed: bytes,
    *,
    least_stroops: int,
) -> dict[bytes, int]:
    """Bring accounts up to a least amount of XLM; returns what each was given.

    Raises:
        GatewayError: The network gave no usable answer.
        NotSubmittedError: A transaction had no effect.
    """
    funder, given = public_key_of(funder_seed), dict[bytes, int]()
    for account in accounts:
        view = gateway.account(account)
        if view is not None and view.balances.get(NATIVE, 0) < least_stroops:
            given[account] = least_stroops - view.balances.get(NATIVE, 0)
    payments = [asset_payment(funder, account, NATIVE, n) for account, n in given.items()]
    if payments:
        Transacting(gateway, passphrase).apply_all([(payments, [funder_seed])])
    return given


def retire_channel(
    sessions: SessionFactory,
    gateway: Gateway,
    passphrase: str,
    terms: Terms,
    channel_seed: bytes,
    *,
    destination: bytes,
) -> bytes:
    """Merge an earlier terms' channel away once its slots are decided; returns the hash.

    Raises:
        GatewayError: The network gave no usable answer.
        NotSubmittedError: The terms still name it, it has open slots, or the merge had no effect.
    """
    account = public_key_of(channel_seed)
    if account in terms.channel_accounts:
        raise NotSubmittedError(f"channel {format_account(account)}: still in the terms in force")
    with sessions() as session:
        undecided = store.load_batches(session, terms.broadcaster_account, undecided=True)
    numbers = [b.leaf.batch_number for b in undecided if b.leaf.channel_account == account]
    if numbers:
        raise NotSubmittedError(
            f"channel {format_account(account)}: got open batches {numbers}, want them decided"
        )
    merge = AccountMerge(destination=format_account(destination), source=format_account(account))
    return Transacting(gateway, passphrase).apply_all([([merge], [channel_seed])])[0]
