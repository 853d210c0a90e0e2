"""Epoch: sealed inputs to leaves, balances, statements and payouts, in the one defined order.

`seal_epoch` fixes the inputs: it judges receipts and makes the leaves up to the seal leaf.
`compute_epoch` is a pure function of sealed inputs and opening state: fold what the chain did, run
the contract, accrue, plan payouts, and check every view against every other. Worker and verifier
run these same functions. Corrections: a lane of an earlier epoch pays what it counts for now minus
what it counted for before.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from contracts.registry import Rule
from ledger.books.charges import Settlement, run_contract
from ledger.books.deposits import cover_of, forget_small_offers
from ledger.books.draft import Draft
from ledger.books.errors import require_equal
from ledger.books.folding import fold_transactions
from ledger.books.gathering import BundleHead, GatheredChecks, gather_checks
from ledger.books.instructing import (
    INSTRUCTIONS_MAX,
    InstructionCode,
    apply_instructions,
    forget_accounts,
    judge_instructions,
    rulings_of,
)
from ledger.books.journal import Account, Book, EntryKind, JournalEntry, Posting, sum_postings
from ledger.books.judgement import BundleCheck, Judgement, LaneCount, ReceiptCode
from ledger.books.lane_judgement import Codes, Cover, codes_root_of, judge_lanes
from ledger.books.lanes import JudgedLane, LanePayee
from ledger.books.payouts import plan_payouts
from ledger.books.refunding import forget_dust
from ledger.books.slots import reserve_stroops
from ledger.books.standing import CarryReason, Standing, maturity_s
from ledger.books.state import CorrectedLane, PayeeBalance, State, state_root
from ledger.books.statements import StatementLine, salt_of_line, sum_tree_of
from ledger.books.transactions import AppliedTransaction, NetworkFact, format_fact
from ledger.evidence.encoding import RecordCode, Signed
from ledger.evidence.instruction import Instruction, order_of_instruction
from ledger.evidence.leaf import (
    BUNDLE_LEAF,
    CORRECTION_LEAF,
    RESULT_LEAF,
    SEAL_LEAF,
    Activation,
    BundleLeaf,
    CorrectionLeaf,
    PayoutLeaf,
    ResultLeaf,
    SealLeaf,
    commit_to,
    commit_to_salt_key,
    format_payout_leaf,
)
from ledger.evidence.merkle import root_hash
from ledger.evidence.sumtree import SumRoot
from ledger.evidence.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochInputs:
    """Everything an epoch's leaves are computed from."""

    terms: Signed[Terms]
    """Terms in force."""

    opening: State
    """Closing state of the epoch before."""

    rule: Rule
    """Contract in force."""

    activations: tuple[Signed[Activation], ...]
    """Activations that begin with this epoch; first in the log."""

    checks: Sequence[BundleCheck]
    """Bundles promised for this seal, checked; in `bundle_order`. Where they are too many for the
    memory, they are `GatheredChecks`."""

    counted_before: Mapping[bytes, LaneCount]
    """For lanes of earlier epochs in these bundles: what they counted for in their own seal."""

    facts: tuple[NetworkFact, ...]
    """Transactions of our accounts in this epoch's network ledgers, in chain order."""

    transactions: tuple[AppliedTransaction, ...]
    """The same, as the books read them."""

    last_ledger_sequence: int
    """Last network ledger that closed before the epoch's end."""

    last_ledger_close_s: int
    """Its close time."""

    salt_key: bytes
    """Key of the epoch's salts; stored before the seal; 32 bytes."""

    instructions: tuple[Signed[Instruction], ...]
    """Instructions that came before the seal, in `order_of_instruction`; whether each holds is
    computed."""

    dao_key: bytes
    """DAO key that activated the contract in force, hence may rule; 32 bytes."""

    @property
    def epoch(self) -> int:
        """The epoch to seal."""
        return self.opening.head.next_epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """The inputs, final."""

    judgement: Judgement
    corrections: tuple[CorrectionLeaf, ...]
    """By ascending lane digest."""

    leaves: tuple[bytes, ...]
    """Activations, bundle leaves, corrections, seal leaf."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the epoch came to."""

    settlement: Settlement
    """Per lane and per payee, as the contract returned it."""

    entries: tuple[JournalEntry, ...]
    """Journal of the epoch."""

    lines: tuple[StatementLine, ...]
    """By ascending subject."""

    sum_root: SumRoot
    """Root of the sum tree over the lines."""

    closing: State
    """Opening state of the next epoch."""

    result_leaf: ResultLeaf
    payouts: tuple[PayoutLeaf, ...]
    instruction_codes: tuple[InstructionCode, ...]
    """What became of each instruction, in the seal's order."""

    leaves: tuple[bytes, ...]
    """Result leaf, then payout leaves."""


_EXPECTED = frozenset(
    (
        CarryReason.NOTHING_OWED,
        CarryReason.PLANNED,
        CarryReason.BELOW_THRESHOLD,
        CarryReason.IN_CHALLENGE,
        CarryReason.UNDECIDED,
    )
)
"""Reasons that a payee's earlier line has said already, or that its next one will."""


def bundle_order(check: BundleCheck) -> tuple[bytes, bytes]:
    """Sort key of bundles in a seal: the bundle's key, then its digest."""
    if check.bundle is None:
        raise ValueError("bundle: got one that does not parse, want only framed ones in a seal")
    return check.bundle.value.key, check.bundle.digest


def seal_epoch(inputs: EpochInputs) -> Seal:
    """Judge the inputs and make the epoch's leaves up to its seal leaf.

    Raises:
        ValueError: Bundles are not in `bundle_order`, facts not in chain order, or instructions not
            in theirs: our own error.
    """
    gathered = gather_checks(inputs.checks)
    if not gathered.are_ordered():
        raise ValueError("checks: not in bundle order")
    orders = [fact.order for fact in inputs.facts]
    if sorted(set(orders)) != orders or len(inputs.facts) != len(inputs.transactions):
        raise ValueError("facts: not in chain order, or transactions missing")
    places = [order_of_instruction(signed) for signed in inputs.instructions]
    if sorted(set(places)) != places or len(places) > INSTRUCTIONS_MAX:
        raise ValueError("instructions: not in their order, or too many")
    judgement = judge_lanes(
        gathered,
        terms=inputs.terms.value,
        void_from=inputs.opening.void_from,
        counted_before=_counts_so_far(inputs),
        cover=Cover(
            free_stroops=free_cover(inputs),
            running=inputs.opening.cap_use,
        ),
    )
    corrections = tuple(
        _correction_leaf(inputs, lane) for lane in judgement.lanes.corrections(inputs.epoch)
    )
    leaves = [activation.raw for activation in inputs.activations]
    leaves.extend(_bundle_leaves(inputs, gathered, judgement))
    leaves.extend(CORRECTION_LEAF.format_body(correction) for correction in corrections)
    leaves.append(SEAL_LEAF.format_body(_seal_leaf(inputs, len(corrections))))
    return Seal(judgement=judgement, corrections=corrections, leaves=tuple(leaves))


def free_cover(inputs: EpochInputs) -> int:
    """Return what receipts of a seal may cost together; below 1: none of them counts."""
    terms = inputs.terms.value
    cover_stroops = cover_of(inputs.opening, terms, inputs.transactions)
    return cover_stroops - 2 * reserve_stroops(terms)


def _counts_so_far(inputs: EpochInputs) -> dict[bytes, LaneCount]:
    """What lanes of earlier epochs counted for: a correction kept in the state is the newest."""
    counts = dict(inputs.counted_before)
    for digest, lane in inputs.opening.corrected_lanes.items():
        counts[digest] = LaneCount(sequence=lane.sequence, bytes_total=lane.bytes_total)
    return counts


def _bundle_leaves(
    inputs: EpochInputs, gathered: GatheredChecks, judgement: Judgement
) -> list[bytes]:
    return [
        BUNDLE_LEAF.format_body(_bundle_leaf(inputs, head, codes, bytes_counted))
        for head, codes, bytes_counted in zip(
            gathered.heads, judgement.codes, judgement.bytes_counted, strict=True
        )
    ]


def _bundle_leaf(
    inputs: EpochInputs, head: BundleHead, codes: Codes, bytes_counted: int
) -> BundleLeaf:
    counted = codes.count(ReceiptCode.COUNTED)
    return BundleLeaf(
        network_id=inputs.terms.value.network_id,
        epoch=head.epoch,
        sealing_epoch=inputs.epoch,
        bundle_digest=head.digest,
        submitter_commitment=commit_to(inputs.salt_key, RecordCode.LEAF_BUNDLE, head.submitter_key),
        code=int(head.code),
        receipts_counted=counted,
        receipts_refused=len(codes) - counted,
        bytes_counted=bytes_counted,
        codes_root=codes_root_of(codes),
    )


def _correction_leaf(inputs: EpochInputs, lane: JudgedLane) -> CorrectionLeaf:
    return CorrectionLeaf(
        network_id=inputs.terms.value.network_id,
        epoch=lane.epoch,
        sealing_epoch=inputs.epoch,
        lane_commitment=commit_to(inputs.salt_key, RecordCode.LEAF_CORRECTION, lane.lane_digest),
        bytes_before=lane.bytes_before,
        bytes_after=lane.count.bytes_total,
    )


def _seal_leaf(inputs: EpochInputs, correction_count: int) -> SealLeaf:
    return SealLeaf(
        network_id=inputs.terms.value.network_id,
        epoch=inputs.epoch,
        terms_digest=inputs.terms.digest,
        rules_digest=inputs.rule.digest,
        opening_state_root=state_root(inputs.opening),
        last_ledger_sequence=inputs.last_ledger_sequence,
        last_ledger_close_s=inputs.last_ledger_close_s,
        facts_root=root_hash([format_fact(fact) for fact in inputs.facts]),
        fact_count=len(inputs.facts),
        bundle_count=len(inputs.checks),
        correction_count=correction_count,
        salt_key_commitment=commit_to_salt_key(inputs.salt_key),
        instructions_root=root_hash([signed.raw for signed in inputs.instructions]),
        instruction_count=len(inputs.instructions),
    )


def begin_books(inputs: EpochInputs) -> tuple[Draft, list[InstructionCode]]:
    """Book what the network did in an epoch, under the rulings that hold.

    Returns:
        The draft that the rest of the computation goes on with, and the code of each instruction
        as far as it stands by itself.

    Raises:
        UnknownTransactionError: A transaction nobody planned moved money, and none rules on it.
    """
    terms = inputs.terms.value
    draft = Draft.of(inputs.opening)
    draft.head = replace(
        draft.head,
        last_ledger_sequence=inputs.last_ledger_sequence,
        last_ledger_close_s=inputs.last_ledger_close_s,
    )
    codes = judge_instructions(inputs.instructions, terms, dao_key=inputs.dao_key)
    rulings = rulings_of(inputs.instructions, codes)
    fold_transactions(draft, terms, inputs.transactions, rulings)
    return draft, codes


def compute_epoch(inputs: EpochInputs, seal: Seal) -> Result:
    """Compute what a sealed epoch comes to.

    Raises:
        BooksError: A transaction nobody planned moved money, or two views of a number differ.
        ContractError: The contract failed or returned what its interface forbids.
    """
    terms = inputs.terms.value
    draft, codes = begin_books(inputs)
    settlement = run_contract(inputs.rule, terms, seal.judgement.lanes, inputs.opening)
    draft.cap_use = dict(settlement.cap_use)
    draft.cumulative = dict(settlement.cumulative)
    postings = _accrue(draft, terms, settlement)
    booked = {transaction.tx_hash for transaction in inputs.transactions}
    apply_instructions(draft, terms, inputs.instructions, codes, booked)
    payouts = tuple(plan_payouts(draft, terms))
    lines = _lines(inputs, settlement, draft)
    sum_root = sum_tree_of(lines).root()
    if postings:
        draft.book(
            EntryKind.ACCRUAL, terms.epoch_end_s(inputs.epoch), sum_root.hash, tuple(postings)
        )
    _note_lanes(draft, inputs, seal)
    _forget(draft, terms, inputs.epoch)
    closing = draft.finish()
    _check_views(inputs.opening, closing, tuple(draft.entries), lines, settlement)
    result_leaf = _result_leaf(inputs, seal, settlement, sum_root, closing, len(payouts))
    leaves = (
        RESULT_LEAF.format_body(result_leaf),
        *(format_payout_leaf(payout) for payout in payouts),
    )
    return Result(
        settlement=settlement,
        entries=tuple(draft.entries),
        lines=lines,
        sum_root=sum_root,
        closing=closing,
        result_leaf=result_leaf,
        payouts=payouts,
        instruction_codes=tuple(codes),
        leaves=leaves,
    )


def _accrue(draft: Draft, terms: Terms, settlement: Settlement) -> list[Posting]:
    """Charge for every payee; what it earns may be paid once the challenge window is over."""
    due_s = maturity_s(
        ended_s=terms.epoch_end_s(draft.epoch),
        window_s=terms.challenge_window_s,
        genesis_s=terms.genesis_s,
    )
    postings: list[Posting] = []
    for charge in settlement.charges:
        postings.extend(draft.accrue(charge.payee, charge.charge_stroops, charge.fee_stroops))
        earned_stroops = charge.charge_stroops - charge.fee_stroops
        if terms.challenge_window_s and earned_stroops:
            draft.hold_back(charge.payee, earned_stroops, due_s)
    return postings


def _lines(inputs: EpochInputs, settlement: Settlement, draft: Draft) -> tuple[StatementLine, ...]:
    """One line for every party of the epoch.

    That is: whoever delivered, was charged for, was paid or gave instructions in it, or is kept
    waiting for another reason than an amount that is too small or too young.
    """
    bytes_by_subject: dict[bytes, list[int]] = defaultdict(lambda: [0, 0])
    for payee, credited_bytes in _credited_by_payee(settlement).items():
        bytes_by_subject[payee.subject][payee.is_cdn] += credited_bytes
    money_by_subject: dict[bytes, list[int]] = defaultdict(lambda: [0, 0])
    for charge in settlement.charges:
        money_by_subject[charge.payee][0] += charge.charge_stroops
        money_by_subject[charge.payee][1] += charge.fee_stroops
    paid = {
        account
        for account, balance in draft.payees.items()
        if balance.paid_stroops != _opening_balance(inputs, account).paid_stroops
    }
    lines: list[StatementLine] = []
    instructed = {
        account
        for account, standing in draft.standing.items()
        if standing != inputs.opening.standing.get(account)
    }
    held = {account for account, reason in draft.reasons.items() if reason not in _EXPECTED}
    for subject in sorted({*bytes_by_subject, *money_by_subject, *paid, *instructed, *held}):
        before = _opening_balance(inputs, subject)
        after = draft.payees.get(subject, PayeeBalance())
        bytes_p2p, bytes_cdn = bytes_by_subject[subject]
        charge_stroops, fee_stroops = money_by_subject[subject]
        standing = draft.standing.get(subject, Standing())
        line = StatementLine(
            subject=subject,
            salt=salt_of_line(inputs.salt_key, subject),
            bytes_p2p=bytes_p2p,
            bytes_cdn=bytes_cdn,
            charge_stroops=charge_stroops,
            fee_stroops=fee_stroops,
            opening_stroops=before.owed_stroops,
            paid_stroops=after.paid_stroops - before.paid_stroops,
            closing_stroops=after.owed_stroops,
            reason=draft.reasons.get(subject, CarryReason.NOTHING_OWED),
            pay_to=standing.pay_to,
            next_pay_to=standing.next_pay_to,
            next_from_s=standing.next_from_s,
        )
        lines.append(line)
    return tuple(lines)


def _credited_by_payee(settlement: Settlement) -> dict[LanePayee, int]:
    credited: dict[LanePayee, int] = defaultdict(int)
    payees, outcomes = settlement.lanes.payees, settlement.outcomes
    for payee, credited_bytes in zip(payees, outcomes.credited_bytes, strict=True):
        credited[payee] += credited_bytes
    return credited


def _opening_balance(inputs: EpochInputs, account: bytes) -> PayeeBalance:
    return inputs.opening.payees.get(account, PayeeBalance())


def _note_lanes(draft: Draft, inputs: EpochInputs, seal: Seal) -> None:
    for lane in seal.judgement.lanes.corrections(inputs.epoch):
        draft.corrected_lanes[lane.lane_digest] = CorrectedLane(
            epoch=lane.epoch,
            sequence=lane.count.sequence,
            bytes_total=lane.count.bytes_total,
        )
    for entitlement, first_epoch in seal.judgement.voided:
        known = draft.void_from.get(entitlement, first_epoch)
        draft.void_from[entitlement] = min(known, first_epoch)


def _forget(draft: Draft, terms: Terms, epoch: int) -> None:
    """Drop what no receipt can touch any more, so that the state does not grow for ever."""
    oldest = epoch + 1 - terms.correction_epochs
    draft.corrected_lanes = {
        digest: lane for digest, lane in draft.corrected_lanes.items() if lane.epoch >= oldest
    }
    draft.cap_use = {
        entitlement: use for entitlement, use in draft.cap_use.items() if use.last_epoch >= oldest
    }
    forget_dust(draft)
    forget_small_offers(draft)
    forget_accounts(draft, terms)


def _check_views(
    opening: State,
    closing: State,
    entries: tuple[JournalEntry, ...],
    lines: tuple[StatementLine, ...],
    settlement: Settlement,
) -> None:
    """Contract, statements, journal and state are four views of the same numbers."""
    charged = sum(charge.charge_stroops for charge in settlement.charges)
    credited = sum(settlement.outcomes.credited_bytes)
    require_equal("Σ statement charges", got=sum(x.charge_stroops for x in lines), want=charged)
    require_equal("Σ statement bytes", got=sum(x.bytes_credited for x in lines), want=credited)
    require_equal(
        "Σ payee balances that moved",
        got=sum(line.closing_stroops - line.opening_stroops for line in lines),
        want=closing.carried_stroops - opening.carried_stroops,
    )
    change = sum_postings(entries)
    for account, before, after in (
        (Account.ESCROW, opening.head.escrow_stroops, closing.head.escrow_stroops),
        (Account.PAYOUT, opening.head.payout_stroops, closing.head.payout_stroops),
        (Account.FEES, -opening.head.fees_stroops, -closing.head.fees_stroops),
        (Account.SUSPENSE, -opening.head.suspense_stroops, -closing.head.suspense_stroops),
        (Account.UNSPENT, -opening.unspent_stroops, -closing.unspent_stroops),
        (Account.PAYEE, -opening.carried_stroops, -closing.carried_stroops),
    ):
        journal = sum(
            amount
            for (kind, _, book), amount in change.items()
            if kind == account and book == Book.PRICED
        )
        require_equal(f"journal of {account.name}", got=journal, want=after - before)
    require_equal(
        "escrow + payout balances",
        got=closing.head.escrow_stroops + closing.head.payout_stroops,
        want=closing.unspent_stroops
        + closing.head.fees_stroops
        + closing.carried_stroops
        + closing.head.suspense_stroops,
    )


def _result_leaf(
    inputs: EpochInputs,
    seal: Seal,
    settlement: Settlement,
    sum_root: SumRoot,
    closing: State,
    payout_count: int,
) -> ResultLeaf:
    credited = [0, 0]
    for payee, credited_bytes in _credited_by_payee(settlement).items():
        credited[payee.is_cdn] += credited_bytes
    return ResultLeaf(
        network_id=inputs.terms.value.network_id,
        epoch=inputs.epoch,
        rules_digest=inputs.rule.digest,
        lane_count=len(seal.judgement.lanes),
        lane_root=seal.judgement.lanes.root(),
        bytes_p2p_credited=credited[0],
        bytes_cdn_credited=credited[1],
        bytes_uncredited=sum(settlement.outcomes.uncredited_bytes),
        charged_stroops=sum(charge.charge_stroops for charge in settlement.charges),
        fee_stroops=sum(charge.fee_stroops for charge in settlement.charges),
        sum_tree_hash=sum_root.hash,
        sum_tree_bytes=sum_root.total_bytes,
        sum_tree_stroops=sum_root.total_stroops,
        payout_count=payout_count,
        closing_state_root=state_root(closing),
    )
