"""Replay: every epoch computed again from evidence, and held against what the log says of it.

The log fixes which bundles stand in a seal, in which order, with which codes; the last network
ledger; terms and contract; the closing state's root and the payouts. What is computed from the
evidence must agree in all of that. Salts are the operator's and may be lost with it, so salted
fields alone are not compared; state roots use none (DESIGN: Fine print 6), so an identical state is
an identical root.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from contracts.registry import RELEASED_DIGESTS, Rule, load_standard
from ledger.audit.stellar_xdr import read_transaction
from ledger.books.bundle_check import BundleCheck
from ledger.books.epoch import EpochInputs, Result, Seal, compute_epoch, seal_epoch
from ledger.books.folding import domain_accounts
from ledger.books.gathering import gather_checks
from ledger.books.lanes import LaneCount
from ledger.books.state import State, genesis_state
from ledger.books.transactions import NetworkFact, format_fact
from ledger.evidence.encoding import RecordCode, Signed
from ledger.evidence.instruction import Instruction
from ledger.evidence.leaf import (
    ACTIVATION,
    BUNDLE_LEAF,
    CORRECTION_LEAF,
    RESULT_LEAF,
    SEAL_LEAF,
    Activation,
    PayoutLeaf,
    ResultLeaf,
    SealLeaf,
    code_of_leaf,
)
from ledger.evidence.merkle import root_hash
from ledger.evidence.terms import Terms
from ledger.evidence.tile_proofs import TileReader
from ledger.publiclog.epoch_document import EpochLeaves, read_epoch_leaves
from ledger.rebuilding.checking import BundleChecker
from ledger.rebuilding.errors import EvidenceMissingError, RebuildError
from ledger.rebuilding.evidence import Evidence
from ledger.stellar.participants import takes_part

NO_SALT: Final = bytes(32)
"""Stands for salt keys that are lost; nothing that is compared depends on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuiltEpoch:
    """An epoch as it was, by the log's own word."""

    number: int
    found: EpochLeaves
    """Its leaves in the log."""

    terms: Signed[Terms]
    inputs: EpochInputs
    seal: Seal
    result: Result

    @property
    def closing(self) -> State:
        """The state after it."""
        return self.result.closing

    @property
    def payouts(self) -> tuple[PayoutLeaf, ...]:
        """The batches it planned."""
        return self.result.payouts


class Replay:
    """Computes the epochs of one log, oldest first."""

    def __init__(
        self,
        reader: TileReader,
        evidence: Evidence,
        facts: Sequence[NetworkFact],
        network_id: bytes,
        checker: BundleChecker | None = None,
    ) -> None:
        """Hold what is replayed.

        Args:
            reader: The log's files, proven under a signed checkpoint.
            evidence: What parties and public brought.
            facts: All transactions of the settlement's accounts, in chain order.
            network_id: SHA-256 of the network's passphrase; 32 bytes.
            checker: What checks bundles; None: this process does.
        """
        self._reader, self._evidence, self._facts = reader, evidence, facts
        self._network_id = network_id
        self._activations: list[Signed[Activation]] = []
        self._counts: dict[int, Mapping[bytes, LaneCount]] = {}
        self._checker = BundleChecker() if checker is None else checker

    def epochs(self, first_epoch: int) -> Iterator[RebuiltEpoch]:
        """Yield every computed epoch of the log.

        Raises:
            EvidenceMissingError: The log names evidence that nobody brought.
            RebuildError: Something came out otherwise than the log says.
            EvidenceError: A file of the log is missing or malformed.
        """
        opening = genesis_state(self._network_id, self._evidence.broadcaster, first_epoch)
        number = first_epoch
        while True:
            found = read_epoch_leaves(self._reader, number)
            if found is None:
                return
            rebuilt = self._rebuild(number, found, opening)
            yield rebuilt
            opening, number = rebuilt.closing, number + 1

    def _rebuild(self, number: int, found: EpochLeaves, opening: State) -> RebuiltEpoch:
        log = _LoggedEpoch(number, found)
        terms = self._evidence.terms.get(log.seal.terms_digest)
        if terms is None:
            raise EvidenceMissingError(number, "terms", log.seal.terms_digest)
        self._activations += log.activations
        inputs = self._inputs(log, terms, opening)
        seal = seal_epoch(inputs)
        _compare_leaves(number, "seal", seal.leaves, found.leaves)
        result = compute_epoch(inputs, seal)
        _compare_leaves(number, "result", (*seal.leaves, *result.leaves), found.leaves)
        if len(seal.leaves) + len(result.leaves) != len(found.leaves):
            raise RebuildError(f"epoch {number}: got other leaves than the log's, want the same")
        lanes = seal.judgement.lanes
        self._counts[number] = {
            lane.lane_digest: lane.count for lane in lanes if lane.epoch == number
        }
        self._counts.pop(number - terms.value.correction_epochs - 1, None)
        return RebuiltEpoch(
            number=number, found=found, terms=terms, inputs=inputs, seal=seal, result=result
        )

    def _inputs(self, log: "_LoggedEpoch", terms: Signed[Terms], opening: State) -> EpochInputs:
        rule = rule_of_digest(log.seal.rules_digest)
        facts = self._facts_until(opening.head.last_ledger_sequence, log)
        checks = gather_checks(self._checks(log, terms))
        late = {
            lane: epoch
            for lane, epoch in checks.lanes_before(log.number).items()
            if lane not in opening.corrected_lanes
        }
        return EpochInputs(
            terms=terms,
            opening=opening,
            rule=rule,
            activations=log.activations,
            checks=checks,
            counted_before={
                lane: self._counts[epoch][lane]
                for lane, epoch in late.items()
                if lane in self._counts.get(epoch, {})
            },
            facts=facts,
            transactions=tuple(read_transaction(fact) for fact in facts),
            last_ledger_sequence=log.seal.last_ledger_sequence,
            last_ledger_close_s=log.seal.last_ledger_close_s,
            salt_key=NO_SALT,
            instructions=self._instructions(log),
            dao_key=self._dao_key(log),
        )

    def _facts_until(self, after: int, log: "_LoggedEpoch") -> tuple[NetworkFact, ...]:
        last = log.seal.last_ledger_sequence
        seen = tuple(fact for fact in self._facts if after < fact.ledger_sequence <= last)
        for facts in self._readings(seen):
            is_counted = len(facts) == log.seal.fact_count
            if is_counted and root_hash(list(map(format_fact, facts))) == log.seal.facts_root:
                return facts
        raise RebuildError(
            f"epoch {log.number}: got {len(seen)} transactions of our accounts on the chain, "
            f"want the {log.seal.fact_count} that were sealed"
        )

    def _readings(self, seen: tuple[NetworkFact, ...]) -> Iterator[tuple[NetworkFact, ...]]:
        """What the operator may have read by then: accounts of later terms had a life before."""
        yield seen
        known: set[bytes] = set()
        for signed in sorted(self._evidence.terms.values(), key=lambda one: one.value.first_epoch):
            known |= domain_accounts(signed.value)
            yield tuple(
                fact
                for fact in seen
                if any(takes_part(account, fact.envelope, b"") for account in sorted(known))
            )

    def _checks(self, log: "_LoggedEpoch", terms: Signed[Terms]) -> list[BundleCheck]:
        issued_through = self._evidence.issued_through(terms.value.issuing_key)
        raws: list[bytes] = []
        for digest in log.bundle_digests:
            raw = self._evidence.bundles.get(digest)
            if raw is None:
                raise EvidenceMissingError(log.number, "bundle", digest)
            raws.append(raw)
        return list(self._checker.check(raws, terms, log.number, issued_through))

    def _instructions(self, log: "_LoggedEpoch") -> tuple[Signed[Instruction], ...]:
        found = self._evidence.instructions_of(log.number)
        if len(found) != log.seal.instruction_count:
            raise RebuildError(
                f"epoch {log.number}: got {len(found)} instructions, "
                f"want the {log.seal.instruction_count} that were sealed"
            )
        return found

    def _dao_key(self, log: "_LoggedEpoch") -> bytes:
        """The DAO key of the newest activation that has begun."""
        begun = [one.value for one in self._activations if one.value.first_epoch <= log.number]
        if not begun:
            raise RebuildError(f"epoch {log.number}: got no activation in the log, want one")
        return max(begun, key=lambda activation: activation.first_epoch).dao_key


class _LoggedEpoch:
    """An epoch's leaves by kind."""

    def __init__(self, number: int, found: EpochLeaves) -> None:
        self.number = number
        by_kind: dict[RecordCode, list[bytes]] = {}
        for leaf in found.leaves:
            by_kind.setdefault(code_of_leaf(leaf), []).append(leaf)
        seals = by_kind.get(RecordCode.LEAF_SEAL, [])
        if len(seals) != 1:
            raise RebuildError(f"epoch {number}: got {len(seals)} seal leaves, want one")
        self.seal: SealLeaf = SEAL_LEAF.parse_body(seals[0])
        self.activations = tuple(
            ACTIVATION.parse(leaf) for leaf in by_kind.get(RecordCode.LEAF_ACTIVATION, [])
        )
        self.bundle_digests = [
            BUNDLE_LEAF.parse_body(leaf).bundle_digest
            for leaf in by_kind.get(RecordCode.LEAF_BUNDLE, [])
        ]


def rule_of_digest(digest: bytes) -> Rule:
    """Return the released standard rule with this digest.

    Raises:
        RebuildError: There is none.
    """
    for name, released in RELEASED_DIGESTS.items():
        if bytes.fromhex(released) == digest:
            return load_standard(name)
    raise RebuildError(f"rule {digest.hex()}: got none of this digest, want a released rule")


def _compare_leaves(
    number: int, what: str, computed: Sequence[bytes], logged: Sequence[bytes]
) -> None:
    """Hold computed leaves against the log's first ones, all but their salted fields."""
    for place, (got, want) in enumerate(zip(computed, logged, strict=False)):
        if got != want and _unsalted(got) != _unsalted(want):
            raise RebuildError(
                f"epoch {number}: {what}: leaf {place} came out otherwise than in the log"
            )


def _unsalted(leaf: bytes) -> object:
    """What a leaf says apart from salted commitments and the root over salted lines."""
    code = code_of_leaf(leaf)
    if code == RecordCode.LEAF_BUNDLE:
        return replace(BUNDLE_LEAF.parse_body(leaf), submitter_commitment=NO_SALT)
    if code == RecordCode.LEAF_CORRECTION:
        return replace(CORRECTION_LEAF.parse_body(leaf), lane_commitment=NO_SALT)
    if code == RecordCode.LEAF_SEAL:
        return replace(SEAL_LEAF.parse_body(leaf), salt_key_commitment=NO_SALT)
    if code == RecordCode.LEAF_RESULT:
        result: ResultLeaf = RESULT_LEAF.parse_body(leaf)
        return replace(result, sum_tree_hash=NO_SALT)
    return leaf
