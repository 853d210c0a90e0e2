"""Items of a large section are found by one reading and read again on demand."""

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_operator import Operator, make_entitlement, make_payee_bundle, make_receipt

from ledger.audit.command import FileSource
from ledger.audit.errors import UndecidableError
from ledger.audit.file import parse_audit_file, read_audit_file
from ledger.audit.source import MemorySource, SourceItems, find_items
from ledger.audit.verify import Verdict, verify_audit_file
from ledger.evidence.errors import MalformedRecordError


def section_of(items: list[bytes]) -> bytes:
    parts = [len(items).to_bytes(4, "little")]
    parts += [len(item).to_bytes(4, "little") + item for item in items]
    return b"".join(parts)


def find(data: bytes, offset: int = 0) -> tuple[SourceItems, bytes]:
    source = MemorySource(data)
    size = len(data) - offset
    return find_items(source, offset, size, what="items", count_max=9, item_max=50)


@given(items=st.lists(st.binary(max_size=50), max_size=9), before=st.binary(max_size=5))
def test_items_are_found_as_they_were_written(items: list[bytes], before: bytes) -> None:
    section = section_of(items)
    found, digest = find(before + section, len(before))
    assert found == tuple(items) == tuple(found) == found[:]
    assert digest == sha256(section).digest()


@given(items=st.lists(st.binary(max_size=9), max_size=5), data=st.data())
def test_other_bytes_are_malformed(items: list[bytes], data: st.DataObject) -> None:
    section = section_of(items)
    end = data.draw(st.integers(0, len(section) - 1))
    with pytest.raises(MalformedRecordError):
        find(section[:end])
    with pytest.raises(MalformedRecordError):
        find(section + b"\0")


@pytest.mark.parametrize("items", [[b""] * 10, [bytes(51)]], ids=["too many", "too long"])
def test_more_than_there_may_be_is_malformed(items: list[bytes]) -> None:
    with pytest.raises(MalformedRecordError, match="want at most"):
        find(section_of(items))


@pytest.fixture
def file(tmp_path: Path) -> tuple[Operator, Path]:
    operator = Operator()
    operator.set_up(10**12)
    ann = make_entitlement(operator, "ann")
    receipt = make_receipt(ann, "ann", "seeder", 0, 7_919)
    path = tmp_path / "epoch-0.audit"
    path.write_bytes(operator.close([make_payee_bundle("seeder", 0, [ann], [receipt])]))
    return operator, path


def test_file_on_disk_is_what_it_is_in_memory(file: tuple[Operator, Path]) -> None:
    operator, path = file
    with path.open("rb") as opened:
        source = FileSource(opened)
        assert read_audit_file(source).contents == parse_audit_file(path.read_bytes()).contents
        assert verify_audit_file(source, operator.trust).verdict == Verdict.PROVEN


def test_bundles_of_a_file_are_read_when_they_are_looked_at(file: tuple[Operator, Path]) -> None:
    _, path = file
    with path.open("rb") as opened:
        bundles = read_audit_file(FileSource(opened)).contents.bundles
        assert isinstance(bundles, SourceItems)
        path.write_bytes(bytes(path.stat().st_size))
        assert bundles[0] == bytes(len(bundles[0]))


def test_file_that_shrinks_while_it_is_read_is_undecided(file: tuple[Operator, Path]) -> None:
    operator, path = file
    with path.open("rb") as opened:
        source = FileSource(opened)
        path.write_bytes(b"")
        with pytest.raises(UndecidableError, match="changed while it was read"):
            verify_audit_file(source, operator.trust)
