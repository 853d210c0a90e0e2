"""Verification steps 12 to 21: what the evidence comes to, computed anew and compared.

Each function proves one statement about a case and returns what it proved, in words with counts;
it raises when the statement does not hold.
"""

from collections.abc import Callable, Sequence

from ledger.audit.case import Case, proven
from ledger.audit.errors import require, require_same
from ledger.audit.stellar_xdr import read_transaction
from ledger.books.epoch import EpochInputs, compute_epoch, seal_epoch
from ledger.books.errors import require_equal
from ledger.books.journal import format_journal, parse_journal
from ledger.books.state import format_state, parse_state, state_rows
from ledger.books.statements import format_statements, parse_statements
from ledger.books.transactions import parse_fact
from ledger.evidence.checkpoint import body_hash
from ledger.evidence.leaf import parse_payout_leaf
from ledger.evidence.units import format_stroops


def prove_seal(case: Case) -> str:
    """Lanes judged as sets give the stated codes and exactly the leaves up to the seal."""
    contents = case.contents
    seal_leaf = proven(case.seal_leaf)
    inputs = EpochInputs(
        terms=proven(case.terms),
        opening=proven(case.opening),
        rule=proven(case.rule),
        activations=case.activations,
        checks=case.checks,
        counted_before=case.counted_before,
        facts=case.facts,
        transactions=case.transactions,
        last_ledger_sequence=seal_leaf.last_ledger_sequence,
        last_ledger_close_s=seal_leaf.last_ledger_close_s,
        salt_key=contents.salt_key,
        instructions=case.instructions,
        dao_key=proven(case.dao_key),
    )
    seal = seal_epoch(inputs)
    stated = [(entry.bundle_code, entry.receipt_codes) for entry in contents.codes]
    computed = [
        (int(head.code), tuple(codes))
        for head, codes in zip(case.checks.heads, seal.judgement.codes, strict=True)
    ]
    _require_items("codes of bundle", stated, computed)
    _require_items("leaf", contents.leaves[: len(seal.leaves)], seal.leaves)
    case.inputs, case.seal = inputs, seal
    counted = sum(seal.judgement.lanes.numbers.bytes_totals)
    return (
        f"{len(seal.judgement.lanes):,} lanes with {counted:,} bytes, "
        f"{len(seal.judgement.equivocations):,} contradictions, "
        f"{len(seal.corrections):,} corrections"
    )


def _require_items(what: str, stated: Sequence[object], computed: Sequence[object]) -> None:
    for index, (got, want) in enumerate(zip(stated, computed, strict=False)):
        if got != want:
            require_same(f"{what} {index}", got=got, want=want)
    require_same(f"{what}: how many", got=len(stated), want=len(computed))


def _require_bytes(
    what: str, stated: bytes, computed: bytes, items_of: Callable[[bytes], Sequence[object]]
) -> None:
    """Require the computed bytes; where they differ, name the first item that does."""
    if stated != computed:
        _require_items(what, items_of(stated), items_of(computed))
        require_same(f"{what}: bytes", got=stated, want=computed)


def prove_contract(case: Case) -> str:
    """The contract, run by this verifier's own interpreter, returns acceptable results."""
    inputs = proven(case.inputs)
    case.result = compute_epoch(inputs, proven(case.seal))
    leaf = case.result.result_leaf
    return (
        f"{leaf.bytes_p2p_credited:,} P2P and {leaf.bytes_cdn_credited:,} CDN bytes credited, "
        f"{leaf.bytes_uncredited:,} not; charged {format_stroops(leaf.charged_stroops)}, "
        f"fee {format_stroops(leaf.fee_stroops)} "
        f"({case.result.settlement.steps:,} steps)"
    )


def prove_journal(case: Case) -> str:
    """The journal is the computed one, entry by entry, and every entry sums to zero."""
    computed = proven(case.result).entries
    _require_bytes("journal entry", case.contents.journal, format_journal(computed), parse_journal)
    postings = sum(len(entry.postings) for entry in computed)
    return f"{len(computed):,} entries, {postings:,} postings, each entry sums to zero"


def prove_statements(case: Case) -> str:
    """Every party's line is the computed one; opening + accrued - paid = closing in each."""
    computed = proven(case.result).lines
    _require_bytes(
        "statement line",
        case.contents.statements,
        format_statements(computed),
        parse_statements,
    )
    paid = sum(line.paid_stroops for line in computed)
    return f"{len(computed):,} lines; paid in this epoch {format_stroops(paid)}"


def prove_sum_tree(case: Case) -> str:
    """Every line is under the sum tree's root, whose totals are the bytes and money billed."""
    leaf = proven(case.result_leaf)
    root = proven(case.result).sum_root
    require_same("sum tree: root", got=leaf.sum_tree_hash, want=root.hash)
    require_same("sum tree: bytes", got=leaf.sum_tree_bytes, want=root.total_bytes)
    require_same("sum tree: stroops", got=leaf.sum_tree_stroops, want=root.total_stroops)
    return f"{root.total_bytes:,} bytes and {format_stroops(root.total_stroops)} in one root"


def prove_payouts(case: Case) -> str:
    """Payout leaves are the planned batches: slots, bounds, accounts and amounts."""
    contents = case.contents
    result, seal = proven(case.result), proven(case.seal)
    stated = contents.leaves[len(seal.leaves) + 1 :]
    _require_items(
        "payout leaf",
        [parse_payout_leaf(leaf) for leaf in stated],
        result.payouts,
    )
    total = sum(payout.total_stroops for payout in result.payouts)
    return f"{len(result.payouts):,} batches over {format_stroops(total)}"


def prove_result(case: Case) -> str:
    """The result leaf, and with it every leaf of the epoch, is the computed one."""
    contents = case.contents
    result, seal = proven(case.result), proven(case.seal)
    _require_items("leaf", contents.leaves, (*seal.leaves, *result.leaves))
    return f"all {len(contents.leaves):,} leaves computed anew, byte for byte"


def prove_closing_state(case: Case) -> str:
    """The closing state is the computed one."""
    closing = proven(case.result).closing
    _require_bytes(
        "closing state: row",
        case.contents.closing_state,
        format_state(closing),
        lambda data: state_rows(parse_state(data)),
    )
    return (
        f"{len(closing.payees):,} payees, {len(closing.batches):,} undecided batches, "
        f"carried {format_stroops(closing.carried_stroops)}"
    )


def prove_conservation(case: Case) -> str:
    """Nothing appears and nothing vanishes, to the stroop and the byte."""
    closing = proven(case.result).closing
    head = closing.head
    require_equal(
        "charged = paid + fees + carried",
        got=head.charged_stroops,
        want=closing.paid_stroops + head.fees_stroops + closing.carried_stroops,
    )
    require_equal(
        "escrow + payout = unspent + fees + carried + suspense",
        got=head.escrow_stroops + head.payout_stroops,
        want=closing.unspent_stroops
        + head.fees_stroops
        + closing.carried_stroops
        + head.suspense_stroops,
    )
    leaf = proven(case.result).result_leaf
    require_equal(
        "receipted = credited + uncredited bytes",
        got=sum(proven(case.seal).judgement.lanes.bytes_new()),
        want=leaf.bytes_p2p_credited + leaf.bytes_cdn_credited + leaf.bytes_uncredited,
    )
    return f"deposited {format_stroops(head.deposited_stroops)} accounted for to the stroop"


def prove_anchor(case: Case) -> str:
    """A transaction of the anchor account carries the checkpoint's hash, and does nothing else."""
    fact = parse_fact(case.contents.anchor)
    transaction = read_transaction(fact)
    terms = proven(case.terms).value
    require_same("anchor: network", got=fact.network_id, want=case.contents.network_id)
    require_same("anchor: account", got=transaction.source_account, want=terms.anchor_account)
    require(transaction.succeeded, "anchor: result", got="failed", want="success")
    require(
        transaction.does_nothing,
        "anchor: operations",
        got="something done",
        want="one set_options that sets nothing",
    )
    last = proven(case.seal_leaf).last_ledger_sequence
    require(
        fact.ledger_sequence > last,
        "anchor: network ledger",
        got=fact.ledger_sequence,
        want=f"after {last}, which the anchored log names",
    )
    require_same(
        "anchor: memo hash",
        got=transaction.memo_hash,
        want=body_hash(proven(case.checkpoint)),
    )
    return (
        f"transaction {transaction.tx_hash.hex()} in network ledger {fact.ledger_sequence:,} "
        "(as the operator claims it; not checked on the chain)"
    )
