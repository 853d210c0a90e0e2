"""Ledger entries: nothing is lost between their XDR and the records."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.devnet.entries import TrustLine, decode_entry
from ledger.devnet.state import Header, Overlay, World
from ledger.devnet.vectors import read_lines
from ledger.devnet.wire import XdrError

CASES = Path(__file__).parents[2] / "vectors" / "stellar" / "cases.jsonl.gz"


@pytest.fixture(scope="module")
def entries() -> dict[bytes, bytes]:
    cases = [case for case in read_lines(CASES)[1:] if case["post"] != "unchanged"]
    items = [item for case in cases for item in case["pre"] + case["post"]]
    return {base64.b64decode(item["entry"]): base64.b64decode(item["key"]) for item in items}


def test_recorded_entries_are_printed_back_identically(entries: dict[bytes, bytes]) -> None:
    for raw, key in entries.items():
        entry = decode_entry(raw)
        assert entry.encode() == raw
        assert entry.clone().encode() == raw
        assert entry.body.key() == key


def test_entry_with_a_byte_too_many_or_too_few_is_refused(entries: dict[bytes, bytes]) -> None:
    for raw in list(entries)[:20]:
        with pytest.raises(XdrError):
            decode_entry(raw + bytes(4))
        with pytest.raises(XdrError):
            decode_entry(raw[:-4])


names = st.binary(min_size=32, max_size=32)


@given(st.lists(st.tuples(names, st.booleans(), st.booleans()), max_size=8))
def test_overlay_shows_and_commits_what_was_done_in_it(
    steps: list[tuple[bytes, bool, bool]],
) -> None:
    asset = b"\0\0\0\1USD\0\0\0\0\0" + bytes(32)
    world, wanted = World(), dict[bytes, int]()
    for number, (owner, keep, delete) in enumerate(steps, start=1):
        overlay = Overlay(world, Header(sequence=number, close_time=number))
        line = overlay.trustline(owner, asset)
        if line is None:
            line = TrustLine(account=owner, asset=asset, limit=number)
            overlay.create(line)
        line.balance = number
        if delete:
            overlay.erase(line.key())
        assert (overlay.find(line.key()) is None) is delete
        if keep:
            overlay.commit()
            wanted.pop(owner, None)
            if not delete:
                wanted[owner] = number
    entries = {key: decode_entry(raw) for key, raw in world.entries.items()}
    found = {key[8:40]: entry.modified for key, entry in entries.items()}
    assert found == wanted
    assert all(key in world.owned(key[:40]) for key in entries)
