"""A settler: recomputes what the operator wants to pay, and signs that or nothing.

It believes its own trust file and its own sources of the chain. The operator's audit files are
proven one after the other from the log's first epoch on; their network facts must be what the chain
says; what then stands among an epoch's payout leaves is built into an envelope here, and signed if
its hash is the one that was asked for. Everything is refused as long as a file does not hold, or a
transaction of our accounts stands on the chain that no plan explains. That one slot takes one
transaction makes signing twice, or for several attempts, harmless. Not here: the way to the
operator (`settler_client`), the process (`settler_command`).
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ledger.audit.case import Case
from ledger.audit.command import FileSource
from ledger.audit.stellar_xdr import read_transaction
from ledger.audit.trust import Trust
from ledger.audit.verify import Report, Verdict, examine_audit_file
from ledger.books.folding import domain_accounts
from ledger.books.transactions import NetworkFact, parse_fact
from ledger.evidence.checkpoint import Checkpoint, body_hash
from ledger.evidence.leaf import PAYOUT_FUNDING, PayoutLeaf
from ledger.evidence.terms import Terms
from ledger.stellar.burn_rules import build_burn, may_be_burned
from ledger.stellar.cancel_orders import has_order
from ledger.stellar.cosigning import Purpose, Reason, Wanted
from ledger.stellar.envelopes import build_payout, payout_bounds, unsigned_transaction
from ledger.stellar.errors import GatewayError, StellarError
from ledger.stellar.gateway import NetworkLedger
from ledger.stellar.settler_chain import OwnChain, Plans
from ledger.stellar.settler_records import SettlerFolder, VerifiedEpoch
from ledger.stellar.signing import KeyHolder, KeySignature, UnsignedTransaction
from ledger.stellar.treasury import read_signers

WINDOWS_AHEAD: Final = 3
"""How many attempt windows ahead of now an attempt may end."""

_FAULTS_OF_FILES: Final = frozenset(
    {Reason.AUDIT_DISPROVEN, Reason.LOG_FORKED, Reason.FACTS_DIFFER}
)

FetchAudit = Callable[[int, Path], bool]
"""Puts an epoch's audit file to a path; False if there is none yet. Raises SettlerError."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Why something is not signed."""

    reason: Reason
    detail: str


class RefusedError(Exception):
    """A settler does not sign."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.finding = Finding(reason=reason, detail=detail)


class Settler:
    """One settler of one broadcaster; not for several threads."""

    def __init__(
        self,
        *,
        trust: Trust,
        key: bytes,
        holder: KeyHolder,
        chain: OwnChain,
        folder: SettlerFolder,
        fetch_audit: FetchAudit,
        orders: Collection[Path] = (),
    ) -> None:
        """Go on after the newest verified epoch.

        Args:
            trust: The settler's own trust file.
            key: The settler's public key.
            holder: Who signs with it.
            chain: The settler's own sources.
            folder: Its files.
            fetch_audit: Where audit files come from.
            orders: Folders, beside its own, with orders to cancel batches.

        Raises:
            SettlerError: A file in the folder is not ours.
            ValueError: The holder does not hold the key, or a source is of another network.
        """
        if key not in holder.keys:
            raise ValueError(f"key: got {key.hex()}, want one that is held")
        if chain.first.network_id != trust.network_id:
            raise ValueError("gateway: got another network than the trust file's")
        self._trust = trust
        self._key = key
        self._holder = holder
        self._chain = chain
        self._folder = folder
        self._fetch_audit = fetch_audit
        self._orders = (folder.orders, *orders)
        self._epochs = folder.load_epochs(trust.first_epoch)
        self._halt: Finding | None = None
        """Why everything is refused, by what was seen in the last look."""

    @property
    def key(self) -> bytes:
        """The settler's public key; 32 bytes."""
        return self._key

    @property
    def holder(self) -> KeyHolder:
        """Who signs with the settler's key."""
        return self._holder

    @property
    def next_epoch(self) -> int:
        """The first epoch that is not verified."""
        return self._trust.first_epoch + len(self._epochs)

    @property
    def halt(self) -> Finding | None:
        """Why everything is refused; None while it is not."""
        return self._halt

    @property
    def payouts(self) -> tuple[tuple[PayoutLeaf, Terms], ...]:
        """Every proven batch with the terms that its attempts' bounds come from."""
        if not self._epochs:
            return ()
        terms = self._epochs[-1].terms
        return tuple((leaf, terms) for epoch in self._epochs for leaf in epoch.payouts)

    def look(self) -> None:
        """Verify what is new of log and chain; raises nothing: what is wrong halts the signing."""
        try:
            self._halt = None
            while self._advance():
                pass
            self._watch_chain()
        except RefusedError as refused:
            self._halt = refused.finding
        except StellarError as error:
            self._halt = Finding(reason=Reason.SOURCES_SILENT, detail=str(error))
        if self._halt is not None and self._halt.reason != Reason.SOURCES_SILENT:
            _log.error("settler: refuses everything: %s: %s", self._halt.reason, self._halt.detail)

    def sign(self, wanted: Wanted) -> KeySignature:
        """Return the signature of a transaction that was asked for, if it is the one to be signed.

        Raises:
            RefusedError: It is not.
            StellarError: The key's holder gave no usable answer.
        """
        if self._halt is not None:
            raise RefusedError(self._halt.reason, self._halt.detail)
        leaf = self._find_leaf(wanted)
        try:
            transaction = self._require_transaction(wanted, leaf)
        except GatewayError as error:
            raise RefusedError(Reason.SOURCES_SILENT, str(error)) from error
        return KeySignature(key=self._key, signature=self._holder.sign(transaction, self._key))

    def _find_leaf(self, wanted: Wanted) -> PayoutLeaf:
        if wanted.epoch >= self.next_epoch:
            raise RefusedError(
                Reason.EPOCH_UNVERIFIED, f"verified up to epoch {self.next_epoch - 1}"
            )
        index = wanted.epoch - self._trust.first_epoch
        leaves = self._epochs[index].payouts if index >= 0 else ()
        leaf = next((one for one in leaves if one.batch_number == wanted.batch_number), None)
        if leaf is None:
            raise RefusedError(
                Reason.LEAF_UNKNOWN,
                f"epoch {wanted.epoch} plans {len(leaves)} batches, none with number "
                f"{wanted.batch_number}",
            )
        return leaf

    def _require_transaction(self, wanted: Wanted, leaf: PayoutLeaf) -> UnsignedTransaction:
        """Build what the leaf says and compare; look at slot, signers and bounds on the chain."""
        terms = self._epochs[-1].terms
        transaction = self._require_hash(wanted, leaf, terms)
        sequence = self._chain.sequence_of(leaf.channel_account)
        is_channel = any(leaf.channel_account in one.channel_accounts for one in self._all_terms())
        if not is_channel or sequence is None or sequence >= leaf.channel_sequence:
            raise RefusedError(
                Reason.SLOT_TAKEN,
                f"channel {leaf.channel_account.hex()}: got sequence {sequence}, "
                f"want less than {leaf.channel_sequence}",
            )
        is_burn = wanted.purpose == Purpose.BURN
        self._require_own(leaf.channel_account if is_burn else leaf.source_account)
        self._require_bounds(leaf, wanted.attempt, terms)
        if is_burn:
            self._require_burnable(leaf, terms)
        return transaction

    def _require_hash(self, wanted: Wanted, leaf: PayoutLeaf, terms: Terms) -> UnsignedTransaction:
        passphrase, attempt = self._trust.network_passphrase, wanted.attempt
        if wanted.purpose == Purpose.BURN:
            # Whether the payees are paid one by one afterwards is the operator's choice.
            planned = [
                build_burn(leaf, attempt, terms, passphrase, isolates=isolates)
                for isolates in (False, True)
            ]
        else:
            planned = [build_payout(leaf, attempt, terms, passphrase)]
        transactions = [unsigned_transaction(one) for one in planned]
        for transaction in transactions:
            if transaction.tx_hash == wanted.tx_hash:
                return transaction
        raise RefusedError(
            Reason.HASH_DIFFERS,
            f"{wanted.purpose} {leaf.batch_number}, attempt {attempt}: got "
            f"{wanted.tx_hash.hex()}, want {transactions[0].tx_hash.hex()}",
        )

    def _require_own(self, account: bytes) -> None:
        signers = read_signers(self._chain.first, [account])
        if account not in signers or self._key not in signers[account].weights:
            raise RefusedError(
                Reason.SIGNERS_DIFFER, f"account {account.hex()}: not signed for by us"
            )

    def _require_burnable(self, leaf: PayoutLeaf, terms: Terms) -> None:
        """Raise while the batch is to be waited for, by our own sources and without an order."""
        if self.is_cancelled(leaf):
            return
        since, closed = self.payable_since(leaf), self._chain.newest()[0]
        if since is None or not may_be_burned(leaf, terms, payable_since=since, closed=closed):
            what = "its turn has not come" if since is None else "its first attempt is not over"
            raise RefusedError(Reason.BURN_EARLY, f"batch {leaf.batch_number}: {what}")

    def is_cancelled(self, leaf: PayoutLeaf) -> bool:
        """Tell whether the DAO or the operator ordered that a batch is not waited for."""
        return has_order(self._orders, self._trust, leaf, epoch=self.next_epoch)

    def payable_since(self, leaf: PayoutLeaf) -> NetworkLedger | None:
        """Return the ledger since which a batch could be paid; None if it cannot be paid yet.

        Its epoch's anchor, the slot before it and the funding before it stand in a ledger by then.
        What no source remembers was long ago.

        Raises:
            GatewayError: No usable answer.
        """
        epoch = self._epochs[leaf.epoch - self._trust.first_epoch]
        reference = NetworkLedger(
            sequence=leaf.reference_ledger_sequence, close_time_s=leaf.reference_close_s
        )
        points = [
            reference,
            self._chain.applied(epoch.anchor_tx),
            self._chain.opened(leaf.channel_account, leaf.channel_sequence),
        ]
        before = [one for one, _terms in self.payouts if one.batch_number < leaf.batch_number]
        fundings = [one for one in before if one.kind == PAYOUT_FUNDING]
        if leaf.kind != PAYOUT_FUNDING and fundings:
            last = fundings[-1]
            slot = (last.channel_account, last.channel_sequence)
            points.append(self._chain.used(slot, since=last.reference_ledger_sequence))
        found = [point for point in points if point is not None]
        return max(found, key=_sequence) if len(found) == len(points) else None

    def _require_bounds(self, leaf: PayoutLeaf, attempt: int, terms: Terms) -> None:
        bounds = payout_bounds(leaf, terms, attempt)
        oldest, newest = self._chain.newest()
        if not bounds.leaves_room(newest, ledgers=1, seconds=0):
            raise RefusedError(
                Reason.BOUNDS_OVER,
                f"attempt {attempt} ends before network ledger {bounds.max_ledger_sequence}, "
                f"the newest is {newest.sequence}",
            )
        windows = WINDOWS_AHEAD
        far = replace(
            bounds,
            max_ledger_sequence=oldest.sequence + windows * terms.attempt_window_ledgers,
            max_time_s=oldest.close_time_s + windows * terms.attempt_window_s,
        )
        if bounds.max_ledger_sequence > far.max_ledger_sequence and (
            bounds.max_time_s > far.max_time_s
        ):
            raise RefusedError(
                Reason.BOUNDS_FAR, f"attempt {attempt} could be applied {windows} windows from now"
            )

    def _advance(self) -> bool:
        """Verify the next epoch's audit file, if there is one; tells whether it did."""
        path = self._folder.audit / f"epoch-{self.next_epoch}.audit"
        if not path.exists() and not self._fetch_audit(self.next_epoch, path):
            return False
        with path.open("rb") as file:
            report, case = examine_audit_file(FileSource(file), self._trust)
        try:
            found = self._require_proven(report, case)
        except RefusedError as refused:
            if refused.finding.reason in _FAULTS_OF_FILES:
                # The operator may give a better one; this one stays to be looked at.
                path.replace(path.with_suffix(".refused"))
            raise
        if found is None:
            return False
        self._folder.save_epoch(found)
        self._epochs.append(found)
        _log.info("settler: epoch %d verified: %d batches", found.epoch, len(found.payouts))
        return True

    def _require_proven(self, report: Report, case: Case | None) -> VerifiedEpoch | None:
        """Return what a file proves; None while our sources are behind it."""
        number = self.next_epoch
        checkpoint = report.checkpoint
        if report.verdict != Verdict.PROVEN or case is None or checkpoint is None:
            step = report.failed_step
            detail = "" if step is None else f"step {step.name}: {step.detail}"
            raise RefusedError(Reason.AUDIT_DISPROVEN, f"file of epoch {number}: {detail}")
        if report.epoch != number:
            raise RefusedError(
                Reason.AUDIT_DISPROVEN, f"file: got epoch {report.epoch}, want {number}"
            )
        before = self._epochs[-1].checkpoint if self._epochs else None
        if report.previous_checkpoint != before:
            raise RefusedError(
                Reason.LOG_FORKED,
                f"log before epoch {number}: got {_size(report.previous_checkpoint)} leaves, "
                f"want {_size(before)} with the root that was proven before",
            )
        if case.terms is None or case.seal_leaf is None or case.result is None:
            raise AssertionError("a proven file has terms, a seal and a result")
        last = case.seal_leaf.last_ledger_sequence
        if self._chain.complete_through() < last:
            return None
        self._require_facts(case, case.terms.value, last)
        anchor = parse_fact(case.contents.anchor)
        found = VerifiedEpoch(
            epoch=number,
            checkpoint=checkpoint,
            body_hash=body_hash(checkpoint),
            anchor_tx=self._require_anchor(anchor, number),
            last_ledger_sequence=last,
            signed_terms=case.terms.raw,
            payouts=tuple(case.result.payouts),
        )
        if self._epochs:
            # What came before the log's first seal is set-up: a person made it.
            self._keep_unexplained(case.facts)
        return found

    def _require_facts(self, case: Case, terms: Terms, last: int) -> None:
        after = self._epochs[-1].last_ledger_sequence if self._epochs else 0
        # Channels that newer terms no longer name may have open slots, and are retired later.
        accounts = domain_accounts(terms).union(*map(domain_accounts, self._all_terms()))
        own = self._chain.facts(accounts, after=after, through=last)
        # A transaction of an account that only later terms name is true, and harms nobody.
        lacking, more = set(own) - set(case.facts), set(case.facts) - set(own)
        if not lacking and all(
            self._chain.has(fact, read_transaction(fact).tx_hash) for fact in more
        ):
            return
        differing = sorted({fact.order for fact in lacking | more})
        raise RefusedError(
            Reason.FACTS_DIFFER,
            f"network ledgers {after + 1} to {last}: got {len(case.facts)} transactions in the "
            f"file of epoch {case.epoch}, want {len(own)}; first difference at {differing[0]}",
        )

    def _require_anchor(self, anchor: NetworkFact, epoch: int) -> bytes:
        tx_hash = read_transaction(anchor).tx_hash
        if not self._chain.has(anchor, tx_hash):
            raise RefusedError(
                Reason.ANCHOR_MISSING,
                f"anchor of epoch {epoch}: {tx_hash.hex()} is not on the chain",
            )
        return tx_hash

    def _all_terms(self) -> list[Terms]:
        """Return the terms of the verified epochs, each once."""
        return [epoch.terms for epoch in {one.signed_terms: one for one in self._epochs}.values()]

    def _plans(self) -> Plans:
        terms = self._all_terms()
        return Plans(
            accounts=frozenset[bytes]().union(*map(domain_accounts, terms)),
            batches={
                (leaf.channel_account, leaf.channel_sequence): leaf
                for epoch in self._epochs
                for leaf in epoch.payouts
            },
            anchors=frozenset(epoch.body_hash for epoch in self._epochs),
            anchor_accounts=frozenset(one.anchor_account for one in terms),
            accepted=self._folder.load_accepted(),
        )

    def _keep_unexplained(self, facts: tuple[NetworkFact, ...]) -> None:
        """Keep, until a person looks, what stands in a proven epoch and in no plan."""
        plans = self._plans()
        strange = [fact for fact in facts if not plans.explains(fact)]
        self._folder.add_unexplained(
            {
                read_transaction(fact).tx_hash: f"network ledger {fact.ledger_sequence}"
                for fact in strange
            }
        )

    def _watch_chain(self) -> None:
        """Refuse everything while a transaction of ours is not explained."""
        kept = self._folder.load_unexplained()
        if kept:
            tx_hash, where = next(iter(kept.items()))
            raise RefusedError(
                Reason.UNKNOWN_TRANSACTION,
                f"{tx_hash.hex()} in {where}; a person must look and accept it",
            )
        if not self._epochs:
            return
        plans = self._plans()
        newer = self._chain.newer_facts(plans.accounts, after=self._epochs[-1].last_ledger_sequence)
        anchors_left = self._epochs_due()
        for fact in newer:
            if plans.explains(fact):
                continue
            if anchors_left and plans.may_be_an_anchor(fact):
                anchors_left -= 1
            else:
                raise RefusedError(
                    Reason.UNKNOWN_TRANSACTION,
                    f"place {fact.order} in network ledger {fact.ledger_sequence}, and no epoch "
                    f"up to {self.next_epoch - 1} plans it",
                )

    def _epochs_due(self) -> int:
        """Return how many epochs may be anchored by now and not proven here yet."""
        terms = self._epochs[-1].terms
        now_s = self._chain.newest()[1].close_time_s
        return max(0, terms.epoch_at(now_s) - self._epochs[-1].epoch - 1)


def _sequence(ledger: NetworkLedger) -> int:
    return ledger.sequence


def _size(checkpoint: Checkpoint | None) -> int:
    return 0 if checkpoint is None else checkpoint.tree_size
