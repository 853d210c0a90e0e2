"""A worker settles by the terms of what is computed, and not by those that are only announced."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import GENESIS_S, key, seed

from ledger.config import Settings
from ledger.evidence.terms import Terms, sign_terms
from ledger.sealing.judging import make_memory
from ledger.stellar.preflight import Preflight
from ledger.stellar.seed_files import write_secret
from ledger.store.shard_store import parse_registration, register
from worker.process import WorkerParts

pytestmark = pytest.mark.postgres

ACCOUNTS = ("escrow", "payout", "anchor", "channel 0", "channel 1", "channel 2")


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        yield made


@pytest.fixture
def parts(scene: ShardScene, tmp_path: Path) -> WorkerParts:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    for name in ACCOUNTS:
        write_secret(keys / f"{name}.seed", seed(name).hex())
    return WorkerParts(
        settings=Settings(keys_dir=keys, network_passphrase="p"),
        sessions=scene.sessions,
        preflight=Preflight(scene.sessions),
        sealing=scene.sealing,
        trust=scene.operator.trust,
        gateways=[],
        known_entitlements=make_memory(),
    )


def announce(scene: ShardScene, first_epoch: int) -> Terms:
    """Register terms that begin later, with another window, log key and channel."""
    terms = replace(
        scene.operator.terms,
        first_epoch=first_epoch,
        attempt_window_s=400,
        log_key=key("second log"),
        channel_accounts=(key("channel 2"),),
    )
    registration = parse_registration(
        terms=sign_terms(terms, seed("issuing")).raw,
        binding=scene.operator.issuing_binding,
        activation=scene.operator.activation.raw,
    )
    with scene.sessions.begin() as session:
        register(session, registration)
    return terms


def compute(scene: ShardScene, epoch: int) -> None:
    scene.end_epoch(epoch)
    scene.advance()


def test_announced_terms_say_nothing_of_payouts_and_notes_before_they_are_in_force(
    scene: ShardScene, parts: WorkerParts
) -> None:
    now = scene.operator.terms
    scene.deposit(10**9, GENESIS_S + 1)
    scene.sealing = replace(scene.sealing, next_log_seed=seed("second log"), audit=None)
    scene.advance()
    later = announce(scene, 2)
    # Before anything is computed, and after epoch 0.
    assert parts.domain_of(scene.shard).terms == parts.sealing_terms(scene.shard) == now
    compute(scene, 0)
    domain = parts.domain_of(scene.shard)
    assert domain.terms == parts.sealing_terms(scene.shard) == now
    # The accounts that they name are read from their creation on.
    assert domain.reading_terms == later
    # What is noted after epoch 1 is sealed with epoch 2, under the announced log key.
    compute(scene, 1)
    assert parts.domain_of(scene.shard).terms == now
    assert parts.sealing_terms(scene.shard) == later
    compute(scene, 2)
    assert parts.domain_of(scene.shard).terms == later
