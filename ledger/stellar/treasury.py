"""Treasury: which keys sign for which of the domain's accounts, as wanted and as the chain has it.

Escrow and payout accounts belong to N settlers of whom M must agree: weight 1 each, all thresholds
M, the account's own key 0. Channel, anchor and fee accounts are the operator's: one key of weight M
signs alone, and M settlers can go on without it. A signature that is not needed makes a transaction
fail, so `choose_keys` walks through the network's own order of checks. Not here: who holds seeds
(`ledger.stellar.signing`), and how settlers' signatures come together (`gathering`).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.audit.address import format_account, parse_account
from ledger.evidence.terms import Terms
from ledger.stellar.errors import TreasuryError
from ledger.stellar.gateway import AccountState, EntryKey, Gateway
from ledger.stellar.signing import Demand, Threshold

SETTLERS_MAX: Final = 18
"""Most settlers: an envelope has 20 signatures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerSet:
    """Who signs for an account."""

    weights: Mapping[bytes, int]
    """Key → weight, 1 to 255; the account's own key among them unless its weight is 0."""

    thresholds: tuple[int, int, int]
    """Low, medium, high; 0 takes any one signature."""

    foreign: frozenset[str] = frozenset()
    """Signers of other kinds, such as hashes, as the network writes them; we want none."""

    def need(self, threshold: Threshold) -> int:
        """Return the least sum of weights that reaches a threshold, ≥ 1."""
        return max(1, self.thresholds[threshold])


def signer_set_of(state: AccountState) -> SignerSet:
    """Return who signs for an account, out of its ledger entry."""
    weights = {
        parse_account(text): weight
        for text, weight in state.signers.items()
        if text.startswith("G") and weight
    }
    foreign = frozenset(text for text in state.signers if not text.startswith("G"))
    return SignerSet(weights=weights, thresholds=state.thresholds, foreign=foreign)


def read_signers(gateway: Gateway, accounts: Collection[bytes]) -> dict[bytes, SignerSet]:
    """Return who signs for accounts now; accounts that do not exist are left out.

    Raises:
        GatewayError: No usable answer.
    """
    found = gateway.entries([EntryKey(account=account) for account in sorted(accounts)]).entries
    return {
        key.account: signer_set_of(state)
        for key, state in found.items()
        if isinstance(state, AccountState)
    }


def choose_keys(
    signers: Mapping[bytes, SignerSet], demands: Sequence[Demand], available: Iterable[bytes]
) -> tuple[bytes, ...] | None:
    """Return the keys that sign: none of them could be left out, and none is in the way.

    Args:
        signers: Account → who signs for it.
        demands: In the order in which the network checks them.
        available: Keys that can sign.

    Returns:
        In ascending order; None if the available keys do not reach the demands.
    """
    chosen = sorted(set(available))
    if not _meets(signers, demands, chosen):
        return None
    # From the largest key down, so that of equal settlers the first ones sign.
    for key in reversed(chosen.copy()):
        fewer = [other for other in chosen if other != key]
        if _meets(signers, demands, fewer):
            chosen = fewer
    return tuple(chosen)


def _meets(
    signers: Mapping[bytes, SignerSet], demands: Sequence[Demand], keys: Sequence[bytes]
) -> bool:
    """Tell whether keys reach every demand; more of them never reach less."""
    for demand in demands:
        who = signers.get(demand.account)
        if who is None:
            return False
        if sum(who.weights.get(key, 0) for key in keys) < who.need(demand.threshold):
            return False
    return bool(keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Treasury:
    """What the treasury's accounts should look like."""

    settlers: tuple[bytes, ...]
    """Settlers' keys, ascending; at least the threshold, at most `SETTLERS_MAX`."""

    threshold: int
    """How many settlers must agree, ≥ 1."""

    cold: tuple[bytes, ...]
    """Escrow and payout accounts: settlers only."""

    hot: Mapping[bytes, bytes]
    """Channel, anchor and fee accounts → the operator's key for each."""

    def __post_init__(self) -> None:
        if tuple(sorted(set(self.settlers))) != self.settlers:
            raise TreasuryError("settlers: got another order or one twice, want ascending keys")
        if not 1 <= self.threshold <= len(self.settlers) <= SETTLERS_MAX:
            raise TreasuryError(
                f"settlers: got {self.threshold} of {len(self.settlers)}, "
                f"want 1 or more of at most {SETTLERS_MAX}"
            )
        if set(self.settlers) & (set(self.hot.values()) | set(self.cold) | set(self.hot)):
            raise TreasuryError("settlers: got a key that is also an account's or the operator's")

    @property
    def accounts(self) -> tuple[bytes, ...]:
        """Every account, cold ones first."""
        return (*self.cold, *self.hot)

    def wanted(self, account: bytes) -> SignerSet:
        """Return who should sign for one of the accounts."""
        weights = dict.fromkeys(self.settlers, 1)
        if account in self.hot:
            weights[self.hot[account]] = self.threshold
        needs = (self.threshold, self.threshold, self.threshold)
        return SignerSet(weights=weights, thresholds=needs)


def treasury_of(
    terms: Terms,
    settlers: Iterable[bytes],
    threshold: int,
    operator_keys: Mapping[bytes, bytes] | None = None,
) -> Treasury:
    """Return the treasury of a broadcaster's terms.

    Args:
        terms: Whose accounts.
        settlers: Settlers' keys, in any order.
        threshold: How many must agree.
        operator_keys: Account → the operator's key, where it is not the account's own.
    """
    fee = () if terms.fee_account == bytes(32) else (terms.fee_account,)
    return treasury_of_accounts(
        (terms.escrow_account, terms.payout_account),
        (*terms.channel_accounts, terms.anchor_account, *fee),
        settlers=settlers,
        threshold=threshold,
        operator_keys=operator_keys,
    )


def treasury_of_accounts(
    cold: Sequence[bytes],
    hot: Sequence[bytes],
    *,
    settlers: Iterable[bytes],
    threshold: int,
    operator_keys: Mapping[bytes, bytes] | None = None,
) -> Treasury:
    """Return the treasury of accounts.

    Args:
        cold: Escrow and payout account.
        hot: Channel, anchor and fee accounts.
        settlers: Settlers' keys, in any order.
        threshold: How many must agree.
        operator_keys: Hot account → the operator's key, where it is not the account's own.

    Raises:
        TreasuryError: They cannot be.
    """
    operator_keys = operator_keys or {}
    if operator_keys.keys() - set(hot):
        raise TreasuryError("operator keys: got one of no channel, anchor or fee account")
    return Treasury(
        settlers=tuple(sorted(set(settlers))),
        threshold=threshold,
        cold=tuple(cold),
        hot={account: operator_keys.get(account, account) for account in hot},
    )


def describe_differences(
    treasury: Treasury, signers: Mapping[bytes, SignerSet]
) -> dict[bytes, tuple[str, ...]]:
    """Return account → what is other than wanted, in words; accounts as wanted are left out."""
    differences: dict[bytes, tuple[str, ...]] = {}
    for account in treasury.accounts:
        found = signers.get(account)
        lines = (
            ("not on the network",)
            if found is None
            else _differences(treasury.wanted(account), found)
        )
        if lines:
            differences[account] = lines
    return differences


def _differences(wanted: SignerSet, found: SignerSet) -> tuple[str, ...]:
    lines = [
        f"signer {format_account(key)}: got weight {found.weights.get(key, 0)}, "
        f"want {wanted.weights.get(key, 0)}"
        for key in sorted(wanted.weights.keys() | found.weights.keys())
        if found.weights.get(key, 0) != wanted.weights.get(key, 0)
    ]
    lines += [f"signer {text}: got it, want none" for text in sorted(found.foreign)]
    if found.thresholds != wanted.thresholds:
        lines.append(f"thresholds: got {found.thresholds}, want {wanted.thresholds}")
    return tuple(lines)


def settlers_of(account: bytes, signers: SignerSet) -> tuple[tuple[bytes, ...], int]:
    """Return the settlers of a cold account and how many must agree.

    An account that its own key signs for has no settlers.
    """
    if account in signers.weights:
        return (), signers.need(Threshold.MEDIUM)
    return tuple(sorted(signers.weights)), signers.need(Threshold.MEDIUM)
