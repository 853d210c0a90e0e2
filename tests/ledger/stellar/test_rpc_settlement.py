"""Settlement over Stellar RPC, and over Horizon and RPC together."""

from collections.abc import Iterator

import pytest
from settlement_scene import PASSPHRASE, Scene

from ledger.books.folding import domain_accounts
from ledger.devnet.control import DevnetControl
from ledger.stellar.facts import ingest_facts
from ledger.stellar.gateway import START
from ledger.stellar.sources import Source, open_source
from ledger.store import settlement_store as store
from ledger.store.settlement_tables import BATCH

pytestmark = [pytest.mark.process, pytest.mark.postgres]


@pytest.fixture
def rpc(scene: Scene) -> Iterator[Source]:
    made = open_source(f"rpc:{scene.devnet.url}/rpc", PASSPHRASE)
    yield made
    made.close()


def test_batches_are_paid_over_rpc_alone(scene: Scene, rpc: Source) -> None:
    group = dict.fromkeys(scene.payees, 71)
    scene.plan(group)
    for _ in range(40):
        scene.devnet.close_ledgers()
        if not scene.settle(rpc).undecided:
            break
    assert scene.paid() == group
    assert set(scene.states()) == {"paid"}


def test_facts_read_over_rpc_are_those_read_over_horizon(scene: Scene, rpc: Source) -> None:
    scene.plan(dict.fromkeys(scene.payees, 73))
    scene.settle_all()
    terms = scene.domain.terms
    for account in domain_accounts(terms):
        pages = [gateway.transactions_of(account, after=START) for gateway in (scene.gateway, rpc)]
        assert pages[0].facts == pages[1].facts
        assert pages[0].as_of_sequence == pages[1].as_of_sequence
    before = scene.gateway.latest_ledger()
    # Going on from Horizon's cursors over RPC, and back again, loses and repeats nothing.
    scene.plan(dict.fromkeys(scene.payees, 79))
    for gateway in (rpc, scene.gateway, rpc, scene.gateway) * 10:
        scene.devnet.close_ledgers()
        if not scene.settle(gateway).undecided:
            break
    ingest_facts(scene.sessions, rpc, terms, margin_ledgers=1)
    with scene.sessions() as session:
        progress = store.fact_progress(session, scene.broadcaster)
    assert progress is not None
    assert progress.sequence > before.sequence
    assert scene.paid() == dict.fromkeys(scene.payees, 73 + 79)


def attempts_made(scene: Scene) -> int:
    """Envelopes of the first batch."""
    with scene.sessions() as session:
        return len(store.load_attempts(session, scene.broadcaster, BATCH, 0))


def test_expired_envelope_is_given_up_only_if_both_sources_exclude_it(
    scene: Scene, rpc: Source
) -> None:
    both = (scene.gateway, rpc)
    scene.devnet.close_ledgers(40)
    scene.plan(dict.fromkeys(scene.payees, 83))
    while attempts_made(scene) == 0:
        scene.devnet.close_ledgers()
        scene.settle(*both, evidence_sources=2)
    with DevnetControl(scene.devnet.url) as control:
        control.lose_queue()
        control.arm("http_503", count=0, path="/transactions_async")
        control.arm("stale_replica", count=0, ledgers=35, path="/rpc/")
    for _ in range(3):
        scene.devnet.close_ledgers(10)
        scene.settle(*both, evidence_sources=2)
    assert attempts_made(scene) == 1  # RPC does not know yet that the bound is over
    scene.devnet.clear_faults()
    for _ in range(40):
        scene.devnet.close_ledgers()
        if not scene.settle(*both, evidence_sources=2).undecided:
            break
    assert scene.paid() == dict.fromkeys(scene.payees, 83)
    assert attempts_made(scene) == 2
