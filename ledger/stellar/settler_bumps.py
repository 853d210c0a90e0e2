"""Fee bumps by settlers: M of them raise the bid of what they send without the operator.

The fee account has the settlers as signers of weight 1, so M signatures are enough for a fee bump's
outer transaction. Its hash covers the inner envelope with its signatures and the bid, so bids are
rungs of a fixed ladder, ten times the one before up to the terms' greatest, and each settler signs
every rung up to the one that it holds to be due: what the slowest of M thinks due has M signatures.
What a day of bumps has cost each settler reads from its own sources, and counts what it has signed
and nobody has charged yet: beyond the day's cap it signs no more.
"""

from dataclasses import dataclass
from typing import Final

from ledger.evidence.leaf import PayoutLeaf
from ledger.evidence.terms import Terms
from ledger.stellar.cosigning import Reason
from ledger.stellar.envelopes import SignedEnvelope
from ledger.stellar.fee_bumps import build_bump, bump_fee
from ledger.stellar.gateway import NetworkLedger, SubmitAnswer, SubmitStatus
from ledger.stellar.settler import RefusedError, Settler
from ledger.stellar.settler_chain import OwnChain, Slot, fee_payer
from ledger.stellar.settler_records import SettlerFolder, SignedBump
from ledger.stellar.signing import KeySignature, UnsignedTransaction
from ledger.stellar.treasury import read_signers

RUNG_FACTOR: Final = 10
"""A node replaces what it holds for a bid at least this many times as high."""

WAIT_LEDGERS: Final = 2
"""Ledgers that something waits under one bid before the next one is due."""

CHARGED_PERCENTILE: Final = 90
DAY_S: Final = 86_400
DAY_MAX_STROOPS: Final = 1_000_000_000
"""Most that bumps may cost in a day of ledger time, if the settler is not told otherwise."""


def rungs_of(bid_stroops: int, terms: Terms) -> tuple[int, ...]:
    """Return the bids per operation that may follow one, rising; none without a fee account."""
    found: list[int] = []
    if terms.fee_account == bytes(32):
        return ()
    while (found[-1] if found else bid_stroops) < terms.fee_bid_max_stroops:
        last = found[-1] if found else bid_stroops
        found.append(min(RUNG_FACTOR * last, terms.fee_bid_max_stroops))
    return tuple(found)


def fee_charged(result: bytes) -> int:
    """Return what a transaction cost, off its TransactionResult; 0 if that is cut off."""
    return int.from_bytes(result[:8], "big") if len(result) >= 8 else 0


@dataclass(slots=True)
class _Waiting:
    """How long a slot's envelope has waited, and how many rungs are due."""

    since_sequence: int
    rungs_due: int = 0


class SettlerBumps:
    """One settler's fee bumps; `due` says which bids, `sign` signs one."""

    def __init__(
        self,
        settler: Settler,
        chain: OwnChain,
        folder: SettlerFolder,
        passphrase: str,
        *,
        day_max_stroops: int = DAY_MAX_STROOPS,
    ) -> None:
        """Take parts.

        Args:
            settler: Whose key signs.
            chain: Its own sources.
            folder: Keeps what was signed.
            passphrase: Of the network.
            day_max_stroops: Most that bumps may cost in a day of ledger time, ≥ 0.
        """
        self._settler, self._chain, self._folder = settler, chain, folder
        self._passphrase, self._day_max = passphrase, day_max_stroops
        self._waiting: dict[Slot, _Waiting] = {}

    def due(
        self,
        leaf: PayoutLeaf,
        terms: Terms,
        answer: SubmitAnswer | None,
        now: NetworkLedger,
    ) -> tuple[int, ...]:
        """Return the bids per operation that are due for a batch's payment, rising.

        Args:
            leaf: Of the batch.
            terms: In force.
            answer: What the last submission for its slot came to, if there was one.
            now: The newest closed ledger.

        Raises:
            GatewayError: No usable answer.
        """
        rungs = rungs_of(leaf.fee_bid_stroops, terms)
        slot = (leaf.channel_account, leaf.channel_sequence)
        waiting = self._waiting.setdefault(slot, _Waiting(now.sequence))
        is_refused = answer is not None and answer.code == "txINSUFFICIENT_FEE"
        has_waited = now.sequence - waiting.since_sequence >= WAIT_LEDGERS
        if waiting.rungs_due < len(rungs) and (
            has_waited or (is_refused and not waiting.rungs_due)
        ):
            offered = (leaf.fee_bid_stroops, *rungs)[waiting.rungs_due]
            is_banned = answer is not None and answer.status == SubmitStatus.TRY_AGAIN
            if is_refused or is_banned or self._charged() > offered:
                waiting.rungs_due += 1
                waiting.since_sequence = now.sequence
        return rungs[: waiting.rungs_due]

    def _charged(self) -> int:
        return self._chain.first.fee_statistics().charged_stroops.get(CHARGED_PERCENTILE, 0)

    def sign(
        self,
        leaf: PayoutLeaf,
        terms: Terms,
        inner: SignedEnvelope,
        bid_stroops: int,
    ) -> tuple[UnsignedTransaction, KeySignature]:
        """Return a fee bump around a payment as we assembled it, and this settler's signature.

        Raises:
            RefusedError: The bid is none of the ladder's, the fee account is not signed for by us,
                or the day's cap forbids it.
            GatewayError: No usable answer.
            StellarError: The key's holder gave no usable answer.
        """
        account = terms.fee_account
        if bid_stroops not in rungs_of(leaf.fee_bid_stroops, terms):
            raise RefusedError(Reason.HASH_DIFFERS, f"bid: got {bid_stroops}, want a rung's")
        signers = read_signers(self._chain.first, [account])
        if account not in signers or self._settler.key not in signers[account].weights:
            raise RefusedError(
                Reason.SIGNERS_DIFFER, f"fee account {account.hex()}: not signed for by us"
            )
        fee_stroops = bump_fee(bid_stroops, len(leaf.payments))
        self._require_room(leaf, account, fee_stroops)
        unsigned = build_bump(inner.envelope, account, fee_stroops, self._passphrase)
        signature = self._settler.holder.sign(unsigned, self._settler.key)
        return unsigned, KeySignature(key=self._settler.key, signature=signature)

    def _require_room(self, leaf: PayoutLeaf, account: bytes, fee_stroops: int) -> None:
        """Keep what is about to be signed, unless it and all else may cost more than the cap."""
        slot = (leaf.channel_account, leaf.channel_sequence)
        now = self._chain.newest()[1]
        kept = [one for one in self._folder.load_bumps() if self._is_open(one.slot)]
        mine = SignedBump(slot=slot, fee_stroops=fee_stroops)
        # A slot takes one transaction: its dearest bump is what it may still cost.
        costs = {slot: 0}
        for bump in (*kept, mine):
            costs[bump.slot] = max(costs.get(bump.slot, 0), bump.fee_stroops)
        spent_stroops = self._spent(account, now) + sum(costs.values())
        if spent_stroops > self._day_max:
            raise RefusedError(
                Reason.FEES_SPENT,
                f"fee account: bumps of a day may cost {spent_stroops} stroops, "
                f"want no more than {self._day_max}",
            )
        if mine not in kept:
            self._folder.save_bumps([*kept, mine])

    def _is_open(self, slot: Slot) -> bool:
        taken = self._chain.sequence_of(slot[0])
        return taken is not None and taken < slot[1]

    def _spent(self, account: bytes, now: NetworkLedger) -> int:
        """Return what the fee account was charged in the last day, as the chain tells."""
        after = self._chain.sequence_before(now.close_time_s - DAY_S)
        facts = self._chain.newer_facts([account], after=after)
        return sum(
            fee_charged(fact.result) for fact in facts if account in fee_payer(fact.envelope)
        )
