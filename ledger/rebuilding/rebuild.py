"""Rebuilding: a mirror, spools, papers and a chain are read, every epoch computed, all compared.

The mirror is verified first, every leaf of it; then its epochs are replayed (`replay`) and each
closing state root and payout is compared with the log's. What comes out is what the dead operator
had: books, slots, and of each slot whether the chain has taken it. Not here: writing it into a
database (`restore`), signing what is open (`ledger.stellar.settler_together`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger.audit.stellar_xdr import read_transaction
from ledger.audit.trust import Trust
from ledger.books.folding import domain_accounts
from ledger.books.state import State, state_root
from ledger.books.transactions import NetworkFact
from ledger.evidence.checkpoint import Checkpoint, body_hash
from ledger.evidence.instruction_list import instruction_list_path, parse_instruction_list
from ledger.evidence.leaf import PAYOUT_FUNDING, PayoutLeaf
from ledger.evidence.tile_proofs import TileReader
from ledger.publiclog.folder import MirrorFolder
from ledger.publiclog.log_keys import keys_of_trust
from ledger.publiclog.sealed_instructions import seal_with_instructions
from ledger.publiclog.verification import VerifiedLog, verify_folder
from ledger.rebuilding.chain import read_facts
from ledger.rebuilding.checking import BundleChecker
from ledger.rebuilding.errors import RebuildError
from ledger.rebuilding.evidence import Evidence, find_spools
from ledger.rebuilding.replay import RebuiltEpoch, Replay
from ledger.stellar.gateway import Gateway

Slot = tuple[bytes, int]
"""Channel account and sequence number."""

Tell = Callable[[int, int, str], None]
"""Takes how many epochs are done, of how many, and what was done last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchored:
    """Where an epoch's checkpoint stands on the chain."""

    checkpoint: Checkpoint
    """The log's head after the epoch."""

    tx_hash: bytes
    """Of the transaction that anchored it."""

    fact: NetworkFact


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What the chain says of slots and anchors, through its newest ledger."""

    facts: tuple[NetworkFact, ...]
    """Every transaction of the domain's accounts, in chain order."""

    taken: frozenset[Slot]
    """Source account and sequence of every transaction that used its sequence number up."""

    memos: dict[tuple[bytes, bytes], tuple[bytes, NetworkFact]]
    """Source account and memo hash → hash and fact of its first success with that memo."""

    def is_taken(self, leaf: PayoutLeaf) -> bool:
        """Whether the chain has a transaction in a batch's slot."""
        return (leaf.channel_account, leaf.channel_sequence) in self.taken

    def find_anchor(self, accounts: Iterable[bytes], checkpoint: Checkpoint) -> Anchored | None:
        """Return where one of the anchor accounts anchored a checkpoint; None: nowhere yet."""
        memo = body_hash(checkpoint)
        for account in accounts:
            if (account, memo) in self.memos:
                tx_hash, fact = self.memos[account, memo]
                return Anchored(checkpoint=checkpoint, tx_hash=tx_hash, fact=fact)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What was rebuilt, in numbers, and the last state."""

    first_epoch: int
    epochs: int
    bundles: int
    batches: int
    payouts: int
    """Payments to payees that were planned; funding is none."""

    planned_stroops: int
    """Their sum."""

    open_batches: int
    """Planned batches, funding included, whose slot the chain has not taken."""

    open_stroops: int
    """What payees are to get by open batches."""

    unanchored: int
    """Epochs at the end whose checkpoint is not on the chain."""

    closing: State
    """The state after the last epoch."""

    @property
    def state_root(self) -> bytes:
        """Hash of that state, as the last result in the log has it."""
        return state_root(self.closing)

    @property
    def last_epoch(self) -> int:
        """The last computed epoch."""
        return self.first_epoch + self.epochs - 1


class Rebuilding:
    """One rebuild: evidence gathered, chain read, mirror verified; `run` computes."""

    def __init__(
        self, mirror: Path, trust: Trust, evidence: Evidence, facts: tuple[NetworkFact, ...]
    ) -> None:
        """Verify the mirror and read its instructions.

        Args:
            mirror: Folder that `swarmledger log mirror` made.
            trust: The reader's own trust file.
            evidence: Bundles, terms and bindings; instructions are read here, out of the mirror.
            facts: All transactions of the settlement's accounts, in chain order.

        Raises:
            DisprovenError: The mirror is not what was signed.
            UndecidableError: It holds no checkpoint that can be believed.
            EvidenceError: A file in it is malformed.
        """
        self.trust, self.evidence = trust, evidence
        self.keys = keys_of_trust(trust)
        self.folder = MirrorFolder(mirror)
        self.log: VerifiedLog = verify_folder(mirror, self.keys)
        self.reader = TileReader(self.log.tree_size, self.folder.source.read)
        self._read_instructions()
        self.survey = survey_chain(facts)

    def run(
        self, take: Sequence[Callable[[RebuiltEpoch], None]], tell: Tell, *, jobs: int = 1
    ) -> Rebuilt:
        """Compute every epoch, hand it on, and sum up.

        Args:
            take: Each is called with every epoch, oldest first.
            tell: Told after every epoch.
            jobs: Processes that check bundles.

        Raises:
            RebuildError: Evidence is missing, or something came out otherwise than the log says.
            BooksError: An epoch's books cannot be computed.
            EvidenceError: A file is malformed.
        """
        first, last = self.log.first_epoch, self.log.last_epoch
        if first is None or last is None:
            raise RebuildError("log: got no epoch, want one or more")
        if first != self.trust.first_epoch:
            raise RebuildError(f"log: got first epoch {first}, want {self.trust.first_epoch}")
        counts = {"bundles": 0, "batches": 0, "payouts": 0, "planned": 0, "open": 0, "owed": 0}
        unanchored, closing = 0, None
        with BundleChecker(jobs) as checker:
            for rebuilt in self._replay(checker).epochs(first):
                for one in take:
                    one(rebuilt)
                self._count(counts, rebuilt)
                unanchored = 0 if self.find_anchor(rebuilt) else unanchored + 1
                closing = rebuilt.closing
                tell(rebuilt.number - first + 1, last - first + 1, f"epoch {rebuilt.number}")
        if closing is None or closing.head.next_epoch != last + 1:
            raise RebuildError(f"log: got no result of epoch {last}, want one")
        return Rebuilt(
            first_epoch=first,
            epochs=last - first + 1,
            bundles=counts["bundles"],
            batches=counts["batches"],
            payouts=counts["payouts"],
            planned_stroops=counts["planned"],
            open_batches=counts["open"],
            open_stroops=counts["owed"],
            unanchored=unanchored,
            closing=closing,
        )

    def find_anchor(self, rebuilt: RebuiltEpoch) -> Anchored | None:
        """Return where an epoch is anchored; None while it is not.

        New terms may have named another anchor account meanwhile.
        """
        accounts = {signed.value.anchor_account for signed in self.evidence.terms.values()}
        return self.survey.find_anchor(sorted(accounts), self.checkpoint_after(rebuilt))

    def _replay(self, checker: BundleChecker) -> Replay:
        facts, network_id = self.survey.facts, self.trust.network_id
        return Replay(self.reader, self.evidence, facts, network_id, checker)

    def checkpoint_after(self, rebuilt: RebuiltEpoch) -> Checkpoint:
        """Return the log's head after an epoch, whether or not its note was kept."""
        size = rebuilt.found.first_index + len(rebuilt.found.leaves)
        return Checkpoint(
            origin=rebuilt.terms.value.log_origin,
            tree_size=size,
            root_hash=self.reader.root(size),
        )

    def _count(self, counts: dict[str, int], rebuilt: RebuiltEpoch) -> None:
        counts["bundles"] += len(rebuilt.inputs.checks)
        counts["batches"] += len(rebuilt.payouts)
        for leaf in rebuilt.payouts:
            is_open = not self.survey.is_taken(leaf)
            counts["open"] += is_open
            if leaf.kind != PAYOUT_FUNDING:
                counts["payouts"] += len(leaf.payments)
                counts["planned"] += leaf.total_stroops
                counts["owed"] += leaf.total_stroops if is_open else 0

    def _read_instructions(self) -> None:
        for index in range(self.log.tree_size):
            for seal in seal_with_instructions(self.reader.leaf(index)):
                content = self.folder.source.read(instruction_list_path(seal.epoch))
                self.evidence.add_instructions(seal.epoch, parse_instruction_list(content or b""))


def read_domain_facts(gateways: Sequence[Gateway], evidence: Evidence) -> tuple[NetworkFact, ...]:
    """Return every transaction of the accounts that any of the terms name, in chain order.

    Raises:
        GatewayError: A source gave no usable answer.
        RebuildError: Sources contradict each other.
    """
    accounts = {
        account for signed in evidence.terms.values() for account in domain_accounts(signed.value)
    }
    return read_facts(gateways, accounts)


def survey_chain(facts: tuple[NetworkFact, ...]) -> Survey:
    """Return what facts say of slots and anchors."""
    taken: set[Slot] = set()
    memos: dict[tuple[bytes, bytes], tuple[bytes, NetworkFact]] = {}
    for fact in facts:
        transaction = read_transaction(fact)
        account = transaction.source_account
        if transaction.is_sequence_consumed:
            taken.add((account, transaction.sequence))
        if transaction.succeeded:
            memos.setdefault((account, transaction.memo_hash), (transaction.tx_hash, fact))
    return Survey(facts=facts, taken=frozenset(taken), memos=memos)


def gather_evidence(
    broadcaster: bytes,
    *,
    spools: Sequence[Path],
    terms: Sequence[Path],
    bindings: Sequence[Path],
) -> Evidence:
    """Read what parties and public brought.

    Args:
        broadcaster: Account key of whose books; 32 bytes.
        spools: Folders in which engines' spools are looked for.
        terms: Files of signed terms.
        bindings: Files of issuing keys' bindings.

    Raises:
        UndecidableError: A spool is none.
        EvidenceError: A paper is malformed or wrongly signed.
        RebuildError: A paper is another broadcaster's.
        OSError: A file cannot be read.
    """
    evidence = Evidence(broadcaster=broadcaster)
    for path in terms:
        evidence.add_terms(path.read_bytes())
    for path in bindings:
        evidence.add_binding(path.read_bytes())
    for path in find_spools(spools):
        evidence.add_spool(path)
    return evidence
