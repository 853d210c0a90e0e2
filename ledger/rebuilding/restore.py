"""Restoring: what was rebuilt, written into an empty database, so that production code goes on.

Everything takes the way it took the first time, through the store's own functions, in one
transaction: papers, epochs, bundles with their verdicts, seals, results, checkpoints, plans. Leaves
come from the mirror, byte for byte. Batches stay planned; the first settlement tick reads the
chain and decides them by the rules it always uses, and anchors likewise.

What cannot come back: salts, so nobody gets an old line's proof again who did not keep it; audit
files of restored epochs, which say the salts (whoever has one keeps it); the collector's promises;
workers' marks on verdicts. Old epochs are proven by their signed checkpoints, so each must have
been kept by the mirror. New epochs need new terms with a new log key.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from ledger.books.folding import domain_accounts
from ledger.books.gathering import gather_checks
from ledger.books.refusals import RefusalReader
from ledger.evidence.encoding import RecordCode, Signed
from ledger.evidence.leaf import RESULT_LEAF, Activation, ResultLeaf, code_of_leaf
from ledger.evidence.merkle import RootBuilder
from ledger.publiclog.log_keys import SignedHead
from ledger.rebuilding.errors import RebuildError
from ledger.rebuilding.rebuild import Rebuilding
from ledger.rebuilding.replay import RebuiltEpoch
from ledger.stellar.facts import stored_fact
from ledger.stellar.gateway import START
from ledger.store import settlement_store
from ledger.store.bundle_store import (
    ids_in_seal,
    insert_bundle,
    store_final_codes,
    store_verdicts,
)
from ledger.store.engine import Session, make_session_factory, open_engine
from ledger.store.epoch_store import (
    Epoch,
    EpochState,
    begin_sealing,
    find_epoch,
    mark_settled,
    open_epochs,
    store_audit_digest,
    store_checkpoint,
    store_result,
    store_seal,
)
from ledger.store.instruction_store import restore_instructions, store_instruction_codes
from ledger.store.settlement_states import SettlementState
from ledger.store.settlement_store import LedgerPoint
from ledger.store.shard_store import (
    Registration,
    Shard,
    add_issuing_binding,
    issued_through,
    list_shards,
    register,
)
from ledger.store.totals_store import store_content_totals

NO_FILE: Final = bytes(32)
"""Digest that says of an audit file: gone with the operator, not to be written again."""

_NO_MARK: Final = bytes(32)
_ROWS_AT_ONCE: Final = 1_000


class Restoring:
    """Writes rebuilt epochs into one database, oldest first; the caller commits."""

    def __init__(self, session: Session, rebuilding: Rebuilding) -> None:
        """Read the checkpoints that the mirror kept.

        Raises:
            RebuildError: The database knows a broadcaster already.
            UndecidableError: A kept checkpoint cannot be believed.
        """
        if list_shards(session):
            raise RebuildError("database: got one with a broadcaster, want an empty one")
        self._session, self._rebuilding = session, rebuilding
        folder, keys = rebuilding.folder, rebuilding.keys
        heads = list(folder.kept(keys))
        newest = folder.head(keys)
        heads += [] if newest is None else [newest]
        self._heads: dict[int, SignedHead] = {head.checkpoint.tree_size: head for head in heads}
        self._log = RootBuilder()
        self._activation: Signed[Activation] | None = None
        self._shard: Shard | None = None
        self._last: RebuiltEpoch | None = None

    def take(self, rebuilt: RebuiltEpoch) -> None:
        """Write one epoch.

        Raises:
            RebuildError: The mirror kept no checkpoint after it.
            StoreError: The store refuses it: our own error.
        """
        session = self._session
        shard = self._register(rebuilt)
        open_epochs(session, shard, first=rebuilt.number, last=rebuilt.number)
        self._put_bundles(shard, rebuilt)
        restore_instructions(session, shard, rebuilt.number, rebuilt.inputs.instructions)
        self._put_seal(shard, rebuilt)
        self._put_result(shard, rebuilt)
        self._put_plans(shard, rebuilt)
        self._last = rebuilt

    def finish(self) -> None:
        """Write facts, and how far they are complete.

        Raises:
            RebuildError: No epoch was taken.
        """
        if self._last is None or self._shard is None:
            raise RebuildError("log: got no epoch, want one or more")
        session, account = self._session, self._shard.account
        last = self._last.inputs
        facts = [
            stored_fact(fact)
            for fact in self._rebuilding.survey.facts
            if fact.ledger_sequence <= last.last_ledger_sequence
        ]
        for at in range(0, len(facts), _ROWS_AT_ONCE):
            settlement_store.insert_facts(session, account, facts[at : at + _ROWS_AT_ONCE])
        # From the chain's beginning: the first tick reads all of it again and compares.
        for signed in self._rebuilding.evidence.terms.values():
            settlement_store.save_cursors(
                session, account, dict.fromkeys(sorted(domain_accounts(signed.value)), START)
            )
        settlement_store.save_progress(session, account, _last_ledger(self._last))

    def _register(self, rebuilt: RebuiltEpoch) -> Shard:
        for activation in rebuilt.inputs.activations:
            self._activation = activation
        if self._activation is None:
            raise RebuildError(f"epoch {rebuilt.number}: got no activation in the log, want one")
        bindings = sorted(
            self._rebuilding.evidence.bindings,
            key=lambda one: (one.value.key, one.value.serial),
        )
        issuing = rebuilt.terms.value.issuing_key
        own = next((one for one in bindings if one.value.key == issuing), None)
        if own is None:
            raise RebuildError(f"issuing key {issuing.hex()}: got no binding, want one")
        is_new = self._shard is None
        is_changed = self._last is None or self._last.terms.digest != rebuilt.terms.digest
        if is_new or is_changed or rebuilt.inputs.activations:
            registration = Registration(
                terms=rebuilt.terms, binding=own, activation=self._activation
            )
            self._shard = register(self._session, registration)
        if self._shard is None:
            raise AssertionError("register returns a shard")
        if is_new:
            # Before any bundle: a newer binding may not change an epoch that has some.
            for binding in bindings:
                add_issuing_binding(self._session, self._shard, binding)
        return self._shard

    def _put_bundles(self, shard: Shard, rebuilt: RebuiltEpoch) -> None:
        session = self._session
        promises = self._rebuilding.evidence.promises
        checks = list(rebuilt.inputs.checks)
        for check in checks:
            if check.bundle is None:
                raise AssertionError("only framed bundles stand in a seal")
            promise = promises.get(check.bundle.digest, b"")
            insert_bundle(
                session, shard, check.bundle, sealing_epoch=rebuilt.number, promise=promise
            )
        ids = ids_in_seal(session, shard, rebuilt.number)
        store_verdicts(
            session,
            [
                (ids[check.bundle.digest], check, _NO_MARK)
                for check in checks
                if check.bundle is not None
            ],
        )

    def _put_seal(self, shard: Shard, rebuilt: RebuiltEpoch) -> None:
        session, number = self._session, rebuilt.number
        begin_sealing(session, shard, number)
        judgement = rebuilt.seal.judgement
        reader = RefusalReader(
            terms=rebuilt.terms,
            sealing_epoch=number,
            issued_through=issued_through(session, shard, rebuilt.terms.value, number),
            void_from=rebuilt.inputs.opening.void_from,
            equivocations=judgement.equivocations,
        )
        checks = gather_checks(rebuilt.inputs.checks)
        store_final_codes(session, shard, number, checks, judgement.codes, reader)
        count = len(rebuilt.seal.leaves)
        store_seal(
            session,
            shard,
            self._epoch(shard, number),
            replace(rebuilt.seal, leaves=rebuilt.found.leaves[:count]),
            last_ledger_sequence=rebuilt.inputs.last_ledger_sequence,
            last_ledger_close_s=rebuilt.inputs.last_ledger_close_s,
        )
        store_content_totals(session, shard, number, judgement.lanes)

    def _put_result(self, shard: Shard, rebuilt: RebuiltEpoch) -> None:
        session, number = self._session, rebuilt.number
        leaf = _result_leaf(rebuilt)
        result = replace(
            rebuilt.result,
            leaves=rebuilt.found.leaves[len(rebuilt.seal.leaves) :],
            result_leaf=leaf,
            sum_root=replace(rebuilt.result.sum_root, hash=leaf.sum_tree_hash),
        )
        store_result(session, shard, self._epoch(shard, number), result)
        store_instruction_codes(
            session, shard, rebuilt.inputs.instructions, result.instruction_codes
        )

    def _put_plans(self, shard: Shard, rebuilt: RebuiltEpoch) -> None:
        session, number = self._session, rebuilt.number
        for leaf in rebuilt.found.leaves:
            self._log.append(leaf)
        head = self._heads.get(self._log.size)
        if head is None:
            raise RebuildError(
                f"epoch {number}: the mirror kept no checkpoint of {self._log.size} leaves, want "
                "it in its folder `kept`; another mirror may have it"
            )
        self._rebuilding.keys.require_key_of(head, number)
        stored = store_checkpoint(
            session,
            shard,
            number,
            head.checkpoint,
            note=head.note,
            frontier=self._log.export_state(),
        )
        settlement_store.plan_batches(session, shard.account, rebuilt.payouts)
        settlement_store.plan_anchor(session, shard.account, number, stored.body_hash)
        settlement_store.save_epoch_ledger(session, shard.account, number, _last_ledger(rebuilt))
        store_audit_digest(session, shard, number, NO_FILE)
        anchored = self._rebuilding.find_anchor(rebuilt)
        planned = settlement_store.load_anchor(session, shard.account, number)
        if anchored is not None and planned is not None:
            settlement_store.move_anchor(
                session,
                shard.account,
                planned,
                SettlementState.PAID,
                tx_hash=anchored.tx_hash,
            )
            mark_settled(session, shard, number)

    def _epoch(self, shard: Shard, number: int) -> Epoch:
        epoch = find_epoch(self._session, shard, number)
        if epoch is None or epoch.state == EpochState.OPEN:
            raise AssertionError("an epoch that is being restored has a row")
        return epoch


def _last_ledger(rebuilt: RebuiltEpoch) -> LedgerPoint:
    return LedgerPoint(
        sequence=rebuilt.inputs.last_ledger_sequence,
        close_time_s=rebuilt.inputs.last_ledger_close_s,
    )


def _result_leaf(rebuilt: RebuiltEpoch) -> ResultLeaf:
    return next(
        RESULT_LEAF.parse_body(leaf)
        for leaf in rebuilt.found.leaves
        if code_of_leaf(leaf) == RecordCode.LEAF_RESULT
    )


@contextmanager
def open_restoring(database_url: str, rebuilding: Rebuilding) -> Iterator[Restoring]:
    """Restore into a database in one transaction: all of it, or nothing after an error.

    Args:
        database_url: Of a database with the schema in place and no broadcaster in it.
        rebuilding: What is restored.

    Raises:
        RebuildError: The database knows a broadcaster already.
        DatabaseUnavailableError: It does not answer.
    """
    engine = open_engine(database_url)
    try:
        with make_session_factory(engine).begin() as session:
            yield Restoring(session, rebuilding)
    finally:
        engine.dispose()
