"""A damaged spool gives back what verifies; a full disk loses nothing that was acknowledged."""

import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from builders import (
    EPOCH,
    binding,
    entitlement,
    key_of,
    receipt,
    seed_of,
    terms,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine_plugin.bundler import Bundler
from engine_plugin.spool import BundleState, Spool, SpoolError
from engine_plugin.spool_salvage import open_spool
from ledger.evidence.bundle import BundleKind, is_signed_by_submitter, parse_bundle
from ledger.evidence.receipt import RECEIPT

LANES = 25


def _fill(path: Path, *, bundles: int = 1) -> None:
    spool = Spool(path)
    spool.add_entitlement(entitlement())
    for nonce in range(LANES):
        signed = receipt(nonce=nonce, sequence=2, bytes_total=1000 + nonce)
        spool.put_receipt(signed, kind=BundleKind.PAYEE, session_key=key_of("viewer"))
    bundler = _bundler(spool)
    for _ in range(bundles):
        bundle = bundler.bundle_epoch(EPOCH, BundleKind.PAYEE)
        assert bundle is not None
        spool.store_promise(bundle.digest, b"promise")
    spool.close()
    # A clean close folds the write-ahead log in, as a stop does.
    assert not path.with_name(path.name + "-wal").exists()


def _bundler(spool: Spool) -> Bundler:
    return Bundler(
        terms=terms(),
        spool=spool,
        session_seed=seed_of("seeder"),
        session_key=key_of("seeder"),
        binding=binding("seeder"),
    )


def _overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def _all_bytes() -> int:
    return sum(1000 + nonce for nonce in range(LANES))


def test_sound_spool_is_opened_as_it_is(tmp_path: Path) -> None:
    _fill(tmp_path / "spool.sqlite")
    spool, salvage = open_spool(tmp_path / "spool.sqlite")
    assert salvage is None
    assert spool.total_bytes() == _all_bytes()
    spool.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spool.sqlite"]


def test_empty_or_missing_file_is_a_new_spool(tmp_path: Path) -> None:
    (tmp_path / "spool.sqlite").touch()
    for name in ("spool.sqlite", "other.sqlite"):
        spool, salvage = open_spool(tmp_path / name)
        assert salvage is None
        spool.close()


def test_spool_without_its_head_gives_back_every_receipt(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    _fill(path)
    before = path.read_bytes()
    _overwrite(path, 0, os.urandom(100))
    damaged = path.read_bytes()
    spool, salvage = open_spool(path)
    assert salvage is not None
    assert (salvage.receipts, salvage.entitlements, salvage.bundles) == (LANES, 1, 0)
    assert spool.total_bytes() == _all_bytes()
    # No bundle is known, so they go into a new one.
    assert len(spool.list_unbundled(EPOCH, BundleKind.PAYEE, 1000)) == LANES
    spool.close()
    assert salvage.aside.read_bytes() == damaged != before


def test_damage_beside_the_bundles_keeps_them_with_their_promise(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    _fill(path)
    # A page of the index is enough for SQLite to call the file damaged.
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'receipt_by_session_key'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    _overwrite(path, (page - 1) * size, bytes(size))
    spool, salvage = open_spool(path)
    assert salvage is not None
    assert (salvage.receipts, salvage.bundles) == (LANES, 1)
    (bundle,) = spool.list_bundles()
    assert (bundle.state, bundle.promise) == (BundleState.SENT, b"promise")
    assert len(parse_bundle(bundle.raw).value.receipts) == LANES
    assert spool.list_unbundled_epochs(BundleKind.PAYEE) == []
    spool.close()


def test_second_damage_is_set_aside_beside_the_first(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    names = []
    for _ in range(2):
        _fill(path)
        _overwrite(path, 0, bytes(100))
        spool, salvage = open_spool(path)
        assert salvage is not None
        names.append(salvage.aside.name)
        spool.close()
        path.unlink()
    assert names == ["spool.sqlite.damaged-1", "spool.sqlite.damaged-2"]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32), spots=st.integers(1, 30))
@example(seed=150, spots=3)
def test_whatever_is_damaged_nothing_forged_comes_back(
    tmp_path: Path, seed: int, spots: int
) -> None:
    folder = tmp_path / f"{seed}-{spots}"
    folder.mkdir(exist_ok=True)
    path = folder / "spool.sqlite"
    _fill(path)
    chance = random.Random(seed)
    size = path.stat().st_size
    for _ in range(spots):
        _overwrite(path, chance.randrange(size), chance.randbytes(chance.choice([1, 100, 5000])))
    spool, salvage = open_spool(path)
    try:
        assert salvage is None or salvage.aside.exists()
        for signed in spool.list_receipts_of(key_of("viewer")):
            assert RECEIPT.is_signed_by(signed, key_of("viewer"))
            assert signed.value.bytes_total == 1000 + signed.value.nonce
        for bundle in spool.list_bundles():
            assert is_signed_by_submitter(parse_bundle(bundle.raw))
    finally:
        spool.close()
        shutil.rmtree(folder)


def test_contradicting_receipts_are_still_evidence_after_a_salvage(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    _fill(path)
    first = receipt(nonce=1, sequence=2, bytes_total=1001)
    second = RECEIPT.sign(replace(first.value, bytes_total=999_999), seed_of("viewer"))
    spool = Spool(path)
    spool.put_equivocation(first, second)
    spool.close()
    _overwrite(path, 0, bytes(100))
    salvaged, salvage = open_spool(path)
    assert salvage is not None
    ((one, other),) = salvaged.list_equivocations()
    assert {one.digest, other.digest} == {first.digest, second.digest}
    salvaged.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk_refuses_without_forgetting_and_goes_on_when_there_is_room(
    small_disk: Path,
) -> None:
    spool = Spool(small_disk / "spool.sqlite")
    spool.add_entitlement(entitlement())
    first = receipt(nonce=1, sequence=1, bytes_total=1)
    spool.put_receipt(first, kind=BundleKind.PAYEE, session_key=key_of("viewer"))
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(2 << 20))
    stored = 1
    try:
        for nonce in range(2, 1000):
            signed = receipt(nonce=nonce, sequence=1, bytes_total=1)
            spool.put_receipt(signed, kind=BundleKind.PAYEE, session_key=key_of("viewer"))
            stored += 1
    except SpoolError as error:
        said = str(error)
    assert "full" in said
    assert spool.total_bytes() == stored
    filler.unlink()
    refused = receipt(nonce=stored + 1, sequence=1, bytes_total=1)
    spool.put_receipt(refused, kind=BundleKind.PAYEE, session_key=key_of("viewer"))
    spool.close()
    again, salvage = open_spool(small_disk / "spool.sqlite")
    assert salvage is None
    assert again.total_bytes() == stored + 1
    again.close()
