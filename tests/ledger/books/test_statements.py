"""Statements: a line whose balance does not add up cannot be made."""

from dataclasses import replace

import book_builders
import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.books.errors import ConservationError
from ledger.books.statements import (
    STATEMENT_LAYOUT,
    StatementLine,
    format_statements,
    parse_statements,
    salt_of_line,
    sum_line_of,
    sum_tree_of,
)
from ledger.evidence.encoding import RecordCode
from ledger.evidence.leaf import derive_salt
from ledger.evidence.sumtree import check_line

amounts = st.integers(0, 2**60)


@given(st.lists(st.tuples(amounts, amounts, amounts, amounts, amounts), max_size=5))
def test_round_trip_and_tree(rows: list[tuple[int, int, int, int, int]]) -> None:
    lines = [
        StatementLine(
            subject=bytes([place]) * 32,
            salt=bytes(32),
            bytes_p2p=p2p // 16,
            bytes_cdn=cdn // 16,
            charge_stroops=(charge + fee) // 16,
            fee_stroops=fee // 16,
            opening_stroops=opening,
            paid_stroops=opening // 2,
            closing_stroops=opening - opening // 2 + (charge + fee) // 16 - fee // 16,
        )
        for place, (p2p, cdn, charge, fee, opening) in enumerate(rows)
    ]
    assert parse_statements(format_statements(lines)) == lines
    tree = sum_tree_of(lines)
    root = tree.root()
    assert root.total_bytes == sum(line.bytes_credited for line in lines)
    assert root.total_stroops == sum(line.charge_stroops for line in lines)
    for line in lines:
        check_line(sum_line_of(line), tree.prove_line(line.subject), root)


@pytest.mark.parametrize(
    "field", ["charge_stroops", "fee_stroops", "opening_stroops", "paid_stroops", "closing_stroops"]
)
def test_line_that_does_not_add_up_cannot_be_made(field: str) -> None:
    line = book_builders.statement_lines()[0]
    with pytest.raises(ConservationError):
        replace(line, **{field: getattr(line, field) + 1})


def test_bytes_that_do_not_add_up_do_not_parse() -> None:
    data = bytearray(format_statements(book_builders.statement_lines()))
    data[-8 - 74] ^= 1
    with pytest.raises(ConservationError):
        parse_statements(bytes(data))


def test_count_that_lies_is_malformed() -> None:
    data = format_statements(book_builders.statement_lines())
    assert len(data) == 4 + 2 * STATEMENT_LAYOUT.size


def test_salt_is_of_the_epoch_and_the_subject() -> None:
    subject = builders.key_of("seeder account")
    key = builders.digest_of("salt key")
    assert salt_of_line(key, subject) == derive_salt(key, RecordCode.LEAF_RESULT, subject)
    assert salt_of_line(key, subject) != salt_of_line(key, builders.key_of("viewer account"))
