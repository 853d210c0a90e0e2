"""Statements add up per party, and their proofs hold against the log, and only unchanged."""

import csv
import io
import json

import pytest
from reported_history import OWN_CDN, PAID_CDN, reported_figures, reported_files
from simulated_operator import address, key

from ledger.audit.trust import TrustedKey
from ledger.evidence.errors import EvidenceError, MalformedProofError
from ledger.evidence.units import parse_stroops
from ledger.reports.line_proof import check_line_proofs, format_line_proofs
from ledger.reports.statement import STATEMENT_COLUMNS, format_statement_csv, make_statements


@pytest.fixture(scope="module")
def statements():
    return {statement.name: statement for statement in make_statements(reported_figures())}


def test_there_is_one_statement_per_payee(statements):
    accounts = [address(f"{name} account") for name in ("seeder", "ann", PAID_CDN)]
    assert set(statements) == {
        *(f"statement-{account}" for account in accounts),
        f"statement-cdn-{key(OWN_CDN).hex()[:8]}",
    }


def test_statements_together_are_what_the_broadcaster_was_charged(statements):
    last = reported_figures()[-1].closing
    assert sum(s.charge_stroops for s in statements.values()) == last.head.charged_stroops
    assert sum(s.fee_stroops for s in statements.values()) == last.head.fees_stroops
    assert sum(s.paid_stroops for s in statements.values()) == last.paid_stroops
    assert sum(s.closing_stroops for s in statements.values()) == last.carried_stroops


def test_each_line_follows_on_from_the_one_before(statements):
    for statement in statements.values():
        balance_stroops = statement.opening_stroops
        for entry in statement.lines:
            assert entry.line.opening_stroops == balance_stroops
            balance_stroops += entry.line.accrued_stroops - entry.line.paid_stroops
            assert entry.line.closing_stroops == balance_stroops
        assert statement.closing_stroops == balance_stroops


def test_a_cdn_without_an_account_has_bytes_and_no_money(statements):
    statement = statements[f"statement-cdn-{key(OWN_CDN).hex()[:8]}"]
    assert statement.cdn_host == "cdn.example"
    assert statement.bytes_cdn == 599_999_998
    assert (statement.charge_stroops, statement.paid_stroops, statement.payouts) == (0, 0, ())


def test_csv_has_every_line_with_seven_decimals(statements):
    for statement in statements.values():
        table = list(csv.DictReader(io.StringIO(format_statement_csv(statement))))
        assert len(table) == len(statement.lines)
        assert tuple(table[0]) == STATEMENT_COLUMNS
        assert sum(parse_stroops(row["charge"]) for row in table) == statement.charge_stroops
        assert sum(parse_stroops(row["paid"]) for row in table) == statement.paid_stroops
        for row in table:
            opening, accrued, paid, closing = (
                parse_stroops(row[name]) for name in ("opening", "accrued", "paid", "closing")
            )
            assert opening + accrued - paid == closing


def test_a_later_period_opens_with_what_was_owed():
    figures = reported_figures()
    [first] = [s for s in make_statements(figures[:1]) if s.subject == key("seeder account")]
    [later] = [s for s in make_statements(figures[1:]) if s.subject == key("seeder account")]
    assert first.closing_stroops == later.opening_stroops > 0


def test_every_line_is_proven_to_be_in_the_log(statements):
    _, trust = reported_files()
    for statement in statements.values():
        text = format_line_proofs(reported_figures(), statement.subject)
        checked = check_line_proofs(text, trust)
        assert [(line.epoch, line.credited_bytes, line.charge_stroops) for line in checked] == [
            (entry.epoch, entry.line.bytes_credited, entry.line.charge_stroops)
            for entry in statement.lines
        ]


def changed(path: str, value: object) -> str:
    document = json.loads(format_line_proofs(reported_figures(), key("seeder account")))
    *parents, name = path.split(".")
    place = document
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place[parent]
    place[name] = value(place[name]) if callable(value) else value
    return json.dumps(document)


def flip(text: str) -> str:
    return ("0" if text[-1] != "0" else "1").join((text[:-1], ""))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("subject", key("ann account").hex()),
        ("lines.1.credited_bytes", lambda number: number + 1),
        ("lines.1.charge_stroops", lambda number: number - 1),
        ("lines.1.epoch", 0),
        ("lines.1.epoch", 7),
        ("lines.1.salt", flip),
        ("lines.1.sum_proof", flip),
        ("lines.1.result_leaf", flip),
        ("lines.1.log_proof", lambda text: text.replace("index ", "index 1")),
        ("lines.1.log_proof", lambda text: text.replace("broadcaster", "somebody")),
        ("lines", lambda lines: [lines[0], lines[0]]),
        ("lines", lambda lines: lines[::-1]),
    ],
)
def test_a_changed_proof_is_refused(path, value):
    _, trust = reported_files()
    with pytest.raises(EvidenceError):
        check_line_proofs(changed(path, value), trust)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", "swarmledger-line-proof/2"),
        ("subject", "xyz"),
        ("lines", {}),
        ("lines.0.epoch", "0"),
        ("lines.0.epoch", True),
        ("lines.0.credited_bytes", -1),
        ("lines.0.salt", "AB"),
        ("lines.0.salt", 3),
        ("lines.0.log_proof", None),
        ("lines.0.more", 1),
    ],
)
def test_what_is_no_proof_is_malformed(path, value):
    _, trust = reported_files()
    if path.endswith("more"):
        document = json.loads(format_line_proofs(reported_figures(), key("seeder account")))
        document["lines"][0]["more"] = value
        text = json.dumps(document)
    else:
        text = changed(path, value)
    with pytest.raises(MalformedProofError):
        check_line_proofs(text, trust)


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", "[" * 100_000])
def test_text_that_is_no_document_is_malformed(text):
    _, trust = reported_files()
    with pytest.raises(MalformedProofError):
        check_line_proofs(text, trust)


def test_a_log_key_signs_for_its_own_epochs_only():
    from dataclasses import replace

    _, trust = reported_files()
    text = format_line_proofs(reported_figures(), key("seeder account"))
    rotated = replace(
        trust,
        log_keys=(*trust.log_keys, TrustedKey(key=key("next log key"), first_epoch=1)),
    )
    with pytest.raises(EvidenceError):
        check_line_proofs(text, rotated)
