"""Segments of live streams: what an entry says, its torrent's hashes, and the chain."""

from hashlib import sha256

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.encoding import Signed
from ledger.evidence.errors import BadSignatureError, MalformedRecordError
from ledger.evidence.segment import (
    EVIDENCE_MAX,
    FLAG_DISCONTINUITY,
    SEGMENT,
    Fork,
    Link,
    Segment,
    SegmentChain,
    hash_pieces,
    info_of,
)


def chain_of(count: int) -> list[Signed[Segment]]:
    entries: list[Signed[Segment]] = []
    for number in range(count):
        before = entries[-1] if entries else None
        entries.append(builders.segment(number, before=before, data=bytes([number]) * 50_000))
    return entries


def new_chain(**options: int) -> SegmentChain:
    return SegmentChain(builders.stream(), **options)


@given(st.integers(1, 5000), st.integers(0, 1))
def test_round_trip(number: int, flags: int) -> None:
    before = builders.segment(0)
    signed = builders.segment(number, before=before, flags=flags)
    assert SEGMENT.parse(signed.raw) == signed
    assert signed.value.is_discontinuous == bool(flags & FLAG_DISCONTINUITY)


@pytest.mark.parametrize("field", ["size_bytes", "number", "stream_id", "info_hash"])
def test_info_hash_commits_to_every_field_of_the_torrent(field: str) -> None:
    hashes = hash_pieces(bytes(40_000), 16_384)
    other = {
        "size_bytes": 40_001,
        "number": 1,
        "stream_id": builders.digest_of("other stream"),
        "info_hash": builders.digest_of("another torrent"),
    }
    values = {"info_hash": builders.segment().value.info_hash, field: other[field]}
    if field == "number":
        values["previous_digest"] = builders.digest_of("before")
    with pytest.raises(MalformedRecordError, match="hashes"):
        info_of(builders.segment(**values).value, hashes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size_bytes", 0),
        ("size_bytes", (64 << 20) + 1),
        ("piece_bytes", 10_000),
        ("path", "späte.ts"),
        ("path", "a b"),
        ("path", 201 * "a"),
        ("flags", 2),
        ("previous_digest", builders.digest_of("before the first")),
    ],
)
def test_field_out_of_bounds_is_malformed(field: str, value: object) -> None:
    with pytest.raises(MalformedRecordError, match=field):
        builders.segment(**{field: value})


def test_hashes_of_an_entry_are_those_of_its_data_and_no_other() -> None:
    data = bytes(range(256)) * 400
    hashes = hash_pieces(data, 16_384)
    segment = builders.segment(data=data).value
    assert len(hashes) == segment.hashes_bytes == 52 * 7
    assert sha256(info_of(segment, hashes)).digest() == segment.info_hash
    for wrong in (hashes[:-1] + b"\0", b"\0" + hashes[1:], hashes + bytes(52), b""):
        with pytest.raises(MalformedRecordError, match="hashes"):
            info_of(segment, wrong)


@given(st.permutations(range(6)))
def test_entries_link_in_whatever_order_they_come(order: list[int]) -> None:
    chain, entries = new_chain(), chain_of(6)
    assert [chain.take(entries[number]) for number in order] == [Link.NEW] * 6
    assert (chain.oldest, chain.newest, chain.gaps(), chain.forks) == (0, 5, [], [])
    assert chain.take(SEGMENT.parse(entries[3].raw)) is Link.KNOWN


def test_missing_number_shows_as_a_gap_until_it_comes() -> None:
    chain, entries = new_chain(), chain_of(5)
    for number in (1, 2, 4):
        chain.take(entries[number])
    assert chain.gaps() == [3]
    chain.take(entries[3])
    assert chain.gaps() == []


def test_two_entries_with_one_number_are_kept_as_evidence() -> None:
    chain, entries = new_chain(), chain_of(3)
    for entry in entries:
        chain.take(entry)
    other = builders.segment(1, before=entries[0], data=b"another picture")
    assert chain.take(other) is Link.FORKED
    assert chain.forks == [Fork(entries[1], other)]
    assert chain.get(1) == entries[1]


def test_entry_on_another_branch_is_evidence_and_the_stream_goes_on() -> None:
    chain, entries = new_chain(), chain_of(2)
    chain.take(entries[0])
    chain.take(entries[1])
    branch = builders.segment(1, before=entries[0], data=b"the other branch")
    follower = builders.segment(2, before=branch)
    assert chain.take(follower) is Link.FORKED
    assert chain.forks == [Fork(entries[1], follower)]
    assert chain.newest == 2


def test_evidence_of_a_fork_does_not_grow_without_bound() -> None:
    chain, first = new_chain(), builders.segment()
    chain.take(first)
    for count in range(EVIDENCE_MAX + 5):
        chain.take(builders.segment(data=b"other %d" % count))
    assert len(chain.forks) == EVIDENCE_MAX


def test_entry_signed_by_another_key_is_refused() -> None:
    chain = new_chain()
    with pytest.raises(BadSignatureError):
        chain.take(builders.segment(signer="viewer"))
    assert chain.newest == -1


def test_forged_entry_with_a_known_number_is_no_evidence() -> None:
    chain = new_chain()
    chain.take(builders.segment())
    with pytest.raises(BadSignatureError):
        chain.take(builders.segment(data=b"forged", signer="viewer"))
    assert chain.forks == []


def test_entry_of_another_stream_is_refused() -> None:
    with pytest.raises(MalformedRecordError, match="stream_id"):
        new_chain().take(builders.segment(stream_id=builders.digest_of("other stream")))


def test_window_forgets_the_oldest_and_takes_none_before_it() -> None:
    chain, entries = new_chain(window=3), chain_of(6)
    for entry in entries:
        chain.take(entry)
    assert (chain.oldest, chain.newest) == (3, 5)
    assert chain.take(entries[0]) is Link.TOO_OLD
