"""Facts: all transactions of the domain once, in order, and the last ledger of each epoch."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from settlement_scene import Scene
from stellar_sdk.operation import SetOptions

from ledger.audit.stellar_xdr import read_transaction
from ledger.books.transactions import NetworkFact
from ledger.stellar.domain import deposit
from ledger.stellar.errors import ConflictingFactError, GatewayError
from ledger.stellar.facts import ingest_facts, last_ledger_before
from ledger.stellar.gateway import AccountView, NetworkLedger, TransactionPage
from ledger.stellar.transacting import Transacting
from ledger.store import settlement_store as store
from ledger.store.settlement_store import LedgerPoint


def facts_of(scene: Scene) -> list[tuple[int, int]]:
    with scene.sessions() as session:
        found = store.load_facts(
            session, scene.broadcaster, after_sequence=0, through_sequence=1 << 40
        )
    return [fact.order for fact in found]


@pytest.mark.postgres
@pytest.mark.process
def test_ingested_facts_are_every_transaction_once_and_in_order(scene: Scene) -> None:
    with scene.devnet.closing():
        tx_hash = deposit(
            scene.gateway,
            scene.domain.passphrase,
            scene.keys.broadcaster,
            escrow=scene.made.escrow,
            asset=(scene.made.asset_code, scene.made.issuer),
            amount_stroops=7,
        )
    scene.devnet.close_ledgers(3)
    for _ in range(2):
        ingest_facts(scene.sessions, scene.gateway, scene.domain.terms, margin_ledgers=1)
    with scene.sessions() as session:
        facts = store.load_facts(
            session, scene.broadcaster, after_sequence=0, through_sequence=1 << 40
        )
        progress = store.fact_progress(session, scene.broadcaster)
    read = [read_transaction(fact) for fact in facts]
    # Account creation, trustlines, and two deposits.
    assert len(read) == 4
    assert read[-1].tx_hash == tx_hash
    assert [fact.order for fact in facts] == sorted({fact.order for fact in facts})
    assert progress is not None
    assert progress.sequence == scene.gateway.latest_ledger().sequence - 1


@pytest.mark.postgres
@pytest.mark.process
def test_epoch_ends_at_the_last_ledger_before_its_time(scene: Scene) -> None:
    terms = scene.domain.terms
    scene.devnet.close_ledgers(20)
    ingest_facts(scene.sessions, scene.gateway, terms, margin_ledgers=1)
    with scene.sessions() as session:
        last = store.last_epoch_ledger(session, scene.broadcaster)
        assert last is not None
        points = [store.epoch_ledger(session, scene.broadcaster, e) for e in range(last[0] + 1)]
        assert store.epoch_ledger(session, scene.broadcaster, last[0] + 1) is None
        progress = store.fact_progress(session, scene.broadcaster)
    assert progress is not None
    assert len(points) >= 2
    for epoch, point in enumerate(points):
        assert point is not None
        end_s = terms.epoch_end_s(epoch)
        here, following = (scene.gateway.ledger(point.sequence + more) for more in (0, 1))
        assert here is not None
        assert following is not None
        assert here.close_time_s == point.close_time_s < end_s <= following.close_time_s
        assert point.sequence <= progress.sequence
    assert progress.close_time_s < terms.epoch_end_s(last[0] + 1)


@pytest.mark.postgres
@pytest.mark.process
def test_transaction_that_a_source_hid_is_stored_when_it_shows(scene: Scene) -> None:
    terms = scene.domain.terms
    scene.devnet.arm("hide_transactions", count=0, ledgers=500)
    scene.devnet.close_ledgers(2)
    ingest_facts(scene.sessions, scene.gateway, terms, margin_ledgers=1)
    assert facts_of(scene) == []
    scene.devnet.clear_faults()
    ingest_facts(scene.sessions, scene.gateway, terms, margin_ledgers=1)
    assert len(facts_of(scene)) == 3


@pytest.mark.postgres
@pytest.mark.process
def test_source_that_does_not_answer_stores_nothing(scene: Scene) -> None:
    scene.devnet.arm("drop_answer", path="/accounts", count=1)
    with pytest.raises(GatewayError):
        ingest_facts(scene.sessions, scene.gateway, scene.domain.terms, margin_ledgers=1)
    assert facts_of(scene) == []


@given(gaps=st.lists(st.integers(1, 9), min_size=1, max_size=60), data=st.data())
def test_last_ledger_before_a_time_is_found_from_both_sides(
    gaps: list[int], data: st.DataObject
) -> None:
    times = {}
    at = 1_000
    for sequence, gap in enumerate(gaps, start=1):
        at += gap
        times[sequence] = at
    high = LedgerPoint(sequence=len(gaps), close_time_s=at)
    time_s = data.draw(st.integers(990, at))
    want = max((s for s, t in times.items() if t < time_s), default=0)

    def ledger_of(sequence: int) -> NetworkLedger:
        return NetworkLedger(sequence=sequence, close_time_s=times[sequence])

    found = last_ledger_before(ledger_of, time_s, high=high)
    assert found.sequence == want
    if want:
        low_sequence = data.draw(st.integers(1, want))
        low = LedgerPoint(sequence=low_sequence, close_time_s=times[low_sequence])
        assert last_ledger_before(ledger_of, time_s, high=high, low=low) == found


def test_missing_ledger_is_an_error_and_not_an_answer() -> None:
    with pytest.raises(GatewayError, match="want it in the source's history"):
        last_ledger_before(lambda _: None, 5, high=LedgerPoint(sequence=9, close_time_s=9))


def pay_in(scene: Scene, amount_stroops: int) -> bytes:
    with scene.devnet.closing():
        return deposit(
            scene.gateway,
            scene.domain.passphrase,
            scene.keys.broadcaster,
            escrow=scene.made.escrow,
            asset=(scene.made.asset_code, scene.made.issuer),
            amount_stroops=amount_stroops,
        )


class Forgetful:
    """A source that leaves one transaction out of every list, as if it had never been."""

    def __init__(self, scene: Scene, tx_hash: bytes) -> None:
        self._source = scene.gateway
        self._tx_hash = tx_hash

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def transactions_of(self, account: bytes, *, after: tuple[int, int]) -> TransactionPage:
        page = self._source.transactions_of(account, after=after)
        kept = [fact for fact in page.facts if read_transaction(fact).tx_hash != self._tx_hash]
        return replace(page, facts=tuple(kept))


def stored_hashes(scene: Scene) -> list[bytes]:
    with scene.sessions() as session:
        facts = store.load_facts(
            session, scene.broadcaster, after_sequence=0, through_sequence=1 << 40
        )
    return [read_transaction(fact).tx_hash for fact in facts]


@pytest.mark.postgres
@pytest.mark.process
def test_one_source_alone_can_leave_a_gap(scene: Scene) -> None:
    """It tells later ones, so the cursor is behind the gap; only the balances tell of it then."""
    skipped, later = pay_in(scene, 7), pay_in(scene, 8)
    scene.devnet.close_ledgers(2)
    source = Forgetful(scene, skipped)
    ingest_facts(scene.sessions, source, scene.domain.terms, margin_ledgers=1)
    assert skipped not in stored_hashes(scene)
    assert later in stored_hashes(scene)


@pytest.mark.postgres
@pytest.mark.process
@pytest.mark.parametrize("is_witness", [False, True])
def test_two_sources_have_no_gap_whichever_of_them_skips(scene: Scene, is_witness: bool) -> None:
    skipped, later = pay_in(scene, 7), pay_in(scene, 8)
    scene.devnet.close_ledgers(2)
    sources = [Forgetful(scene, skipped), scene.gateway]
    first, second = sources[::-1] if is_witness else sources
    for _ in range(2):
        ingest_facts(
            scene.sessions, first, scene.domain.terms, margin_ledgers=1, witnesses=[second]
        )
        hashes = stored_hashes(scene)
        assert hashes.count(skipped) == hashes.count(later) == 1
        scene.devnet.close_ledgers()


@pytest.mark.postgres
@pytest.mark.process
def test_nothing_is_complete_beyond_what_all_sources_had_read(scene: Scene) -> None:
    class Behind(Forgetful):
        def transactions_of(self, account: bytes, *, after: tuple[int, int]) -> TransactionPage:
            page = super().transactions_of(account, after=after)
            kept = [fact for fact in page.facts if fact.ledger_sequence <= behind]
            return replace(page, facts=tuple(kept), as_of_sequence=behind, through=(0, 0))

    behind = scene.gateway.latest_ledger().sequence
    later = pay_in(scene, 8)
    scene.devnet.close_ledgers(4)
    witness = Behind(scene, b"")
    for _ in range(2):
        ingest_facts(
            scene.sessions, scene.gateway, scene.domain.terms, margin_ledgers=1, witnesses=[witness]
        )
        with scene.sessions() as session:
            progress = store.fact_progress(session, scene.broadcaster)
            cursors = store.load_cursors(session, scene.broadcaster)
        assert progress is not None
        assert progress.sequence == behind - 1
        assert max(place[0] for place in cursors.values()) <= behind + 1
        assert stored_hashes(scene).count(later) == 1


class Excluding(Forgetful):
    """A source that knows nothing of a transaction, nor of what it did to its own account."""

    def __init__(self, scene: Scene, tx_hash: bytes, *, sequence: int | None = None) -> None:
        super().__init__(scene, tx_hash)
        self._sequence = sequence

    def transaction(self, tx_hash: bytes) -> NetworkFact | None:
        return None if tx_hash == self._tx_hash else self._source.transaction(tx_hash)

    def account(self, account: bytes, **more: Any) -> AccountView | None:
        view = self._source.account(account, **more)
        if view is None or self._sequence is None:
            return view
        return replace(view, sequence=self._sequence)


def act(scene: Scene, seed: bytes) -> tuple[bytes, int]:
    """A transaction of an account of ours; its hash and sequence number."""
    with scene.devnet.closing():
        transacting = Transacting(scene.gateway, scene.domain.passphrase)
        (tx_hash,) = transacting.apply_all([([SetOptions()], [seed])])
    fact = scene.gateway.transaction(tx_hash)
    assert fact is not None
    return tx_hash, read_transaction(fact).sequence


def ingest_from(scene: Scene, first: Any, second: Any) -> tuple[list[bytes], int]:
    """Read two sources; what is stored, and through which ledger it is complete."""
    scene.devnet.close_ledgers(3)
    ingest_facts(scene.sessions, first, scene.domain.terms, margin_ledgers=1, witnesses=[second])
    with scene.sessions() as session:
        progress = store.fact_progress(session, scene.broadcaster)
    assert progress is not None
    return stored_hashes(scene), progress.sequence


@pytest.mark.postgres
@pytest.mark.process
@pytest.mark.parametrize("is_witness", [False, True])
def test_deposit_that_one_source_alone_tells_is_not_booked_and_nothing_after_it_is_complete(
    scene: Scene, is_witness: bool
) -> None:
    invented = pay_in(scene, 7)
    fact = scene.gateway.transaction(invented)
    assert fact is not None
    excluding = Excluding(scene, invented)
    sources = (scene.gateway, excluding) if is_witness else (excluding, scene.gateway)
    for _ in range(2):
        hashes, complete = ingest_from(scene, *sources)
        assert invented not in hashes
        assert complete < fact.ledger_sequence
    hashes, complete = ingest_from(scene, scene.gateway, scene.gateway)
    assert hashes.count(invented) == 1
    assert complete > fact.ledger_sequence


@pytest.mark.postgres
@pytest.mark.process
@pytest.mark.parametrize(("behind", "is_stored"), [(0, True), (1, False)])
def test_success_in_a_slot_is_believed_of_one_source_if_the_other_has_the_slot_used(
    scene: Scene, behind: int, is_stored: bool
) -> None:
    tx_hash, sequence = act(scene, scene.keys.channels[0])
    other = Excluding(scene, tx_hash, sequence=sequence - behind)
    hashes, _ = ingest_from(scene, scene.gateway, other)
    assert (tx_hash in hashes) is is_stored


@pytest.mark.postgres
@pytest.mark.process
def test_two_results_of_one_transaction_stop_everything(scene: Scene) -> None:
    class Another(Excluding):
        def transaction(self, tx_hash: bytes) -> NetworkFact | None:
            fact = self._source.transaction(tx_hash)
            return replace(fact, result=fact.result + b"\0") if fact else None

    other = Another(scene, pay_in(scene, 7))
    with pytest.raises(ConflictingFactError, match="one result"):
        ingest_from(scene, scene.gateway, other)
