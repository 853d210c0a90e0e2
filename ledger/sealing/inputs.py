"""Reading an epoch's inputs out of the database, the same before the seal and ever after.

What an epoch was computed from never changes once it is sealed, so seal, result and audit file are
functions of what this module returns. Not here: deciding whether an epoch may be sealed
(`transitions`).
"""

from collections.abc import Iterable

from ledger.audit.stellar_xdr import read_transaction
from ledger.books.epoch import EpochInputs, bundle_order
from ledger.books.judgement import BundleCheck, BundleCode, ReceiptCode
from ledger.books.state import State, genesis_state
from ledger.store.bundle_store import load_checks
from ledger.store.engine import Session
from ledger.store.epoch_store import Epoch, counts_before, first_epoch, load_closing_state
from ledger.store.settlement_store import LedgerPoint, load_facts
from ledger.store.shard_store import Shard, activations_of, rule_in_force, terms_in_force


def load_opening_state(session: Session, shard: Shard, epoch: int) -> State | None:
    """Return the state that an epoch opens with; None while the epoch before is not computed."""
    if epoch == first_epoch(session, shard):
        return genesis_state(shard.network_id, shard.account, epoch)
    return load_closing_state(session, shard, epoch - 1)


def load_inputs(
    session: Session, shard: Shard, epoch: Epoch, opening: State, last_ledger: LedgerPoint
) -> EpochInputs:
    """Return everything an epoch's leaves are computed from.

    Args:
        session: In a transaction.
        shard: Whose epoch.
        epoch: Sealing or later: no bundle can enter it any more.
        opening: Closing state of the epoch before.
        last_ledger: Last network ledger that closed before the epoch's end.

    Raises:
        MalformedXdrError: A fact holds an operation that the reader does not know.
        UnknownRulesError: No installed contract is active.
    """
    facts = load_facts(
        session,
        shard.account,
        after_sequence=opening.head.last_ledger_sequence,
        through_sequence=last_ledger.sequence,
    )
    checks = tuple(sorted(load_checks(session, shard, epoch.number), key=bundle_order))
    late = late_lanes(checks, opening, epoch.number)
    return EpochInputs(
        terms=terms_in_force(session, shard, epoch.number),
        opening=opening,
        rule=rule_in_force(session, shard, epoch.number),
        activations=activations_of(session, shard, epoch.number),
        checks=checks,
        counted_before=counts_before(session, shard, epoch.number, late),
        facts=facts,
        transactions=tuple(read_transaction(fact) for fact in facts),
        last_ledger_sequence=last_ledger.sequence,
        last_ledger_close_s=last_ledger.close_time_s,
        salt_key=epoch.salt_key,
    )


def late_lanes(checks: Iterable[BundleCheck], opening: State, epoch: int) -> dict[bytes, int]:
    """Return the lanes of earlier epochs that the state does not know yet, with their epochs."""
    return {
        receipt.value.lane_digest: receipt.value.epoch
        for check in checks
        if check.bundle is not None and check.code == BundleCode.ACCEPTED
        for receipt, code in zip(check.bundle.value.receipts, check.receipt_codes, strict=True)
        if code == ReceiptCode.COUNTED
        and receipt.value.epoch < epoch
        and receipt.value.lane_digest not in opening.corrected_lanes
    }
