"""A network in a file: what a restart finds, and what a killed process loses."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from devnet_bench import PASSPHRASE, START, Bench
from stellar_sdk import Asset, ChangeTrust, Keypair, Payment

from ledger.devnet.entries import account_key
from ledger.devnet.network import Network, Settings
from ledger.devnet.queue import Status
from ledger.devnet.state import Header
from ledger.devnet.state_file import StateFile, StateFileError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.sqlite"


def busy_bench(file: StateFile) -> Bench:
    """A network with history: a success, a failure in a ledger, a fee bump, a deleted entry."""
    bench = Bench(state=file)
    payer, other, issuer = bench.keys
    usd = Asset("USD", issuer.public_key)
    bench.submit(bench.tx(payer, ChangeTrust(usd)))
    bench.submit(bench.tx(other, Payment(payer.public_key, usd, "1")))
    bench.submit(bench.bump(payer, bench.tx(issuer, fee=100), 200))
    bench.close()
    bench.submit(bench.tx(payer, ChangeTrust(usd, "0"), sequence=bench.first + 1))
    bench.close()
    return bench


def reopened(path: Path, **settings: Any) -> Network:
    with StateFile(path) as file:
        return Network(Settings(passphrase=PASSPHRASE, **settings), START + 10_000, file)


def test_restart_finds_entries_headers_and_transactions(path: Path) -> None:
    with StateFile(path) as file:
        old = busy_bench(file).network
    new = reopened(path)
    assert new.world.entries == old.world.entries
    assert (new.header, new.header_hash) == (old.header, old.header_hash)
    assert [c.hash for c in new.ledgers] == [c.hash for c in old.ledgers]
    assert [c.header for c in new.ledgers] == [c.header for c in old.ledgers]
    assert len(new.records) == len(old.records) == 5
    for mine, theirs in zip(new.records, old.records, strict=True):
        assert (mine.token, mine.tx, mine.result) == (theirs.token, theirs.tx, theirs.result)
        assert mine.accounts == theirs.accounts
        assert new.record(mine.tx.hash) is mine
        inner = mine.tx.inner
        assert inner is None or new.record(inner.hash) is mine
    key = Keypair.from_public_key(old.root.public_key).raw_public_key()
    assert [r.token for r in new.records_of(key)] == [r.token for r in old.records_of(key)]


def test_network_goes_on_from_the_file_as_it_would_have_in_memory(path: Path) -> None:
    with StateFile(path) as file:
        busy_bench(file)
    with StateFile(path) as file:
        network = Network(Settings(passphrase=PASSPHRASE), START, file)
        in_file, in_memory = network.close_ledger(START + 999), Bench()
    assert in_file.header.sequence == 5
    assert in_file.header.previous_hash == network.ledgers[-2].hash
    assert in_memory.network.header.sequence == 2
    assert reopened(path).header == in_file.header


def test_queue_is_lost_and_what_is_frozen_stays(path: Path) -> None:
    with StateFile(path) as file:
        bench = busy_bench(file)
        payer, frozen = bench.keys[:2]
        waiting = bench.tx(payer, sequence=bench.first + 2)
        assert bench.submit(waiting)[0] is Status.PENDING
        bench.network.freeze(account_key(frozen.raw_public_key()))
        bench.network.bypass_freeze(waiting.hash)
    new = reopened(path)
    assert len(new.queue) == 0
    assert new.header.frozen == {account_key(frozen.raw_public_key())}
    assert new.header.freeze_bypass == {waiting.hash}


def test_settings_of_the_file_stand(path: Path) -> None:
    with StateFile(path) as file:
        Network(Settings(passphrase=PASSPHRASE, protocol=19, base_fee=200), START, file)
    new = reopened(path, protocol=27)
    assert (new.settings.protocol, new.settings.base_fee, new.header.protocol) == (19, 200, 19)


def test_another_network_file_or_owner_is_refused(path: Path, tmp_path: Path) -> None:
    with StateFile(path) as file:
        Network(Settings(passphrase="another ; 2026"), START, file)
        with pytest.raises(StateFileError, match="locked"):
            StateFile(path)
    with pytest.raises(StateFileError, match="got the network 'another ; 2026'"):
        reopened(path)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE meta (name TEXT, value TEXT)")
    db.close()
    with pytest.raises(StateFileError, match="another database"):
        StateFile(foreign)
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(StateFileError):
        StateFile(tmp_path / "text")


def test_failed_write_halts_the_network_and_the_file_keeps_the_last_close(path: Path) -> None:
    with StateFile(path) as file:
        bench = busy_bench(file)
        last = bench.network.header
        file.close()
        for _ in range(2):
            with pytest.raises(StateFileError):
                bench.close()
        assert bench.network.header == last
    assert reopened(path).header == last


def test_header_survives_its_own_encoding() -> None:
    header = Header(sequence=7, close_time=START, upgrades=(b"1234",), fee_pool=5, id_pool=6)
    assert Header.decode(header.encode()) == header


def start(path: Path, tmp_path: Path, number: int) -> tuple[subprocess.Popen[bytes], str]:
    ready = tmp_path / f"ready{number}.json"
    command = [sys.executable, "-c", "from ledger.devnet.command import main; main()", "serve"]
    command += ["--passphrase", PASSPHRASE, "--ready-file", str(ready), "--state", str(path)]
    process = subprocess.Popen([*command, "--close-seconds", "0.05"])
    while not ready.exists():
        assert process.poll() is None, "the devnet ended before it was ready"
        time.sleep(0.02)
    return process, str(json.loads(ready.read_text())["url"])


@pytest.mark.process
def test_killed_process_loses_no_closed_ledger(path: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    for number in range(3):
        process, url = start(path, tmp_path, number)
        try:
            with httpx.Client(base_url=url, timeout=20) as http:
                for known, ledger in told:
                    found = http.get(f"/transactions/{known}").json()
                    assert found["ledger"] == ledger
                for _ in range(5):
                    address = Keypair.random().public_key
                    answer = http.get("/friendbot", params={"addr": address}).json()
                    told.append((answer["hash"], answer["ledger"]))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
    network = reopened(path)
    assert len(told) == 15
    for older, newer in pairwise(network.ledgers):
        assert newer.header.previous_hash == older.hash == older.header.hash()
    held = [network.account(key[8:]) for key in network.world.entries if key[3] == 0]
    assert sum(a.balance for a in held if a) + network.header.fee_pool == 10**18
