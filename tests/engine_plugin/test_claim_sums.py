"""Claims that the journal keeps in memory are those that its file holds, whatever happens."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_plugin.journal import MeterJournal
from engine_plugin.journal_records import MeterBatch, PeerKey, PeerUpdate, Source

KEYS = [bytes([number]) * 32 for number in (7, 8)]
PEERS = [PeerKey(bytes([number]) * 20, f"127.0.0.{number}:6881") for number in (1, 2, 3)]

steps = st.one_of(
    st.tuples(
        st.just("credit"), st.integers(0, 2), st.integers(1, 900), st.sampled_from([None, 5, 6])
    ),
    st.tuples(
        st.just("prove"), st.integers(0, 2), st.integers(0, 1), st.sampled_from([None, 5, 6])
    ),
    st.tuples(st.just("take"), st.integers(0, 3), st.booleans(), st.sampled_from([None, 40, 400])),
    st.tuples(st.just("stamp"), st.integers(5, 6), st.none(), st.none()),
    st.tuples(st.just("close"), st.integers(0, 2), st.none(), st.none()),
    st.tuples(st.just("reopen"), st.none(), st.none(), st.none()),
)


class Book:
    """One journal, and what is done with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs = 0
        self.open()

    def open(self) -> None:
        self.runs += 1
        self.journal = MeterJournal(self.path)
        self.journal._connection.execute("PRAGMA synchronous = OFF")
        self.journal.start_run(
            session_id=bytes([self.runs]) * 16, session_key=b"K" * 32, started_at_ms=1
        )
        self.torrent = self.journal.add_torrent(
            content_id=b"T" * 32, name="film", content_bytes=10**9
        )

    def credit(self, peer: int, length: int, epoch: int | None) -> None:
        update = PeerUpdate(
            torrent=self.torrent,
            peer=PEERS[peer],
            source=Source.P2P,
            blocks=((0, 0, length), (0, 1, 1)),
        )
        self.journal.commit_batch(MeterBatch(peers=(update,)), epoch=epoch)

    def prove(self, peer: int, key: int, epoch: int | None) -> None:
        known = self.journal.proved_key(PEERS[peer])
        self.journal.prove_peer(PEERS[peer], known or KEYS[key], epoch=epoch)

    def take(self, number: int, fails: bool, limit: int | None) -> None:
        claims = self.journal.list_claims()
        with suppress(RuntimeError), self.journal.transaction(touches_claims=False):
            for claim in claims[number : number + 1]:
                self.journal.take_credits(claim, byte_limit=limit)
            if fails:
                raise RuntimeError("crash")

    def stamp(self, epoch: int, _second: None, _third: None) -> None:
        self.journal.stamp_epoch(epoch)

    def close(self, peer: int, _second: None, _third: None) -> None:
        self.journal.close_unproved(PEERS[peer])

    def reopen(self, *_: None) -> None:
        self.journal.close()
        self.open()


@settings(max_examples=60)
@given(script=st.lists(steps, max_size=25))
def test_claims_in_memory_are_those_in_the_file(
    script: list[tuple[str, int, int, int | None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("claims") / "meter.sqlite"
    book = Book(path)
    for name, *values in script:
        getattr(book, name)(*values)
        kept = book.journal.list_claims()
        with book.journal.transaction(touches_claims=False):
            assert kept == book.journal.list_claims(), "what is read within a transaction is new"
    book.journal.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[MeterJournal]:
    book = Book(tmp_path / "meter.sqlite")
    book.prove(0, 0, 5)
    book.credit(0, 100, 5)
    yield book.journal
    book.journal.close()


def test_claims_are_read_once_however_many_credits_come_and_go(journal: MeterJournal) -> None:
    (claim,) = journal.list_claims()
    asked: list[str] = []
    journal._connection.set_trace_callback(asked.append)
    with journal.transaction(touches_claims=False):
        journal.take_credits(claim)
    assert journal.list_claims() == []
    assert not [text for text in asked if "GROUP BY" in text]
