"""The bill adds up in every direction, to the books, and says the same as its CSV."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reported_history import FILM, NEWS, reported_figures, reported_files
from simulated_operator import (
    Operator,
    make_entitlement,
    make_payee_bundle,
    make_receipt,
    make_terms,
)

from ledger.books.errors import ConservationError
from ledger.books.judgement import ReceiptCode
from ledger.evidence.leaf import RESULT_LEAF
from ledger.evidence.units import charge_for
from ledger.reports.bill import NothingToReportError, make_bill
from ledger.reports.bill_csv import (
    SOURCE_CDN,
    SOURCE_P2P,
    BillCsvError,
    BillRow,
    disarm_cell,
    format_bill_csv,
    read_bill_csv,
)
from ledger.reports.figures import UnprovenFileError, read_figures
from ledger.reports.inputs import CdnLogRow

GOLDEN = Path(__file__).parent / "golden" / "bill.csv"
TITLES = {NEWS: "Evening News", FILM: "=1+1 the film, “uncut”"}


@pytest.fixture(scope="module")
def bill():
    _, trust = reported_files()
    return make_bill(reported_figures(), trust, titles=TITLES)


def test_csv_is_the_golden_file(bill):
    assert format_bill_csv(bill.rows) == GOLDEN.read_text()


def test_csv_sums_to_the_result_leaves_of_the_log(bill):
    rows = read_bill_csv(format_bill_csv(bill.rows))
    for epoch in reported_figures():
        leaf = RESULT_LEAF.parse_body(epoch.result_place.leaf)
        mine = [row for row in rows if row.epoch == epoch.epoch]
        by_source = {
            source: sum(row.bytes_credited for row in mine if row.source == source)
            for source in (SOURCE_P2P, SOURCE_CDN)
        }
        assert by_source[SOURCE_P2P] == leaf.bytes_p2p_credited
        assert by_source[SOURCE_CDN] == leaf.bytes_cdn_credited
        assert sum(row.charge_stroops for row in mine) == leaf.charged_stroops
    assert bill.charge_stroops == sum(row.charge_stroops for row in rows) > 0


def test_contents_epochs_and_rows_add_up_to_the_totals(bill):
    for parts in (bill.contents, bill.epochs):
        assert sum(part.bytes_p2p for part in parts) == bill.bytes_p2p
        assert sum(part.bytes_cdn for part in parts) == bill.bytes_cdn
        assert sum(part.charge_stroops for part in parts) == bill.charge_stroops
    assert bill.movements.paid_stroops == bill.closing.paid_stroops
    assert bill.charge_stroops == bill.closing.paid_stroops + bill.fee_stroops
    assert bill.closing.carried_stroops == 0


def test_cdn_bytes_stand_on_the_bill_though_the_contract_charges_nothing(bill):
    own = [row for row in bill.rows if row.cdn == "cdn.example"]
    assert [(row.bytes_credited, row.charge_stroops, row.price_stroops) for row in own] == [
        (299_999_999, 0, 0)
    ] * 2


def test_each_cdn_has_its_own_price_and_charge(bill):
    paid = [row for row in bill.rows if row.cdn == "paid.example:8443"]
    total = sum(row.bytes_credited for row in paid)
    assert {row.price_stroops for row in paid} == {300_000}
    assert sum(row.charge_stroops for row in paid) == charge_for(300_000, 10**9, total)


def test_uncredited_bytes_are_stated_with_their_reason_and_refusals_with_their_code(bill):
    [line] = bill.uncredited
    assert (line.content_id, line.carrier, line.bytes_uncredited) == (FILM, "P2P", 500_000_000)
    assert "cap" in line.reason
    assert bill.receipt_codes == {ReceiptCode.COUNTED: 12, ReceiptCode.BAD_SIGNATURE: 2}


def test_media_time_counts_what_a_session_stated_anew_in_each_epoch(bill):
    media_ms = {content.content_id: content.media_ms for content in bill.contents}
    assert media_ms == {NEWS: 122_000, FILM: 0}
    assert [epoch.media_ms.get(NEWS, 0) for epoch in reported_figures()] == [61_000] * 2 + [0] * 3


def test_a_bill_of_later_epochs_opens_where_the_earlier_one_closed():
    _, trust = reported_files()
    figures = reported_figures()
    earlier, later = make_bill(figures[:1], trust), make_bill(figures[1:], trust)
    assert later.opening == earlier.closing
    assert earlier.number != later.number
    whole = make_bill(figures, trust)
    assert earlier.charge_stroops + later.charge_stroops == whole.charge_stroops


def test_a_bill_whose_lines_do_not_add_up_to_the_books_is_not_made():
    _, trust = reported_files()
    first, *rest = reported_figures()
    line = first.bill_lines[0]
    wrong = replace(line, charge_stroops=line.charge_stroops + 1)
    figures = [replace(first, bill_lines=(wrong, *first.bill_lines[1:])), *rest]
    with pytest.raises(ConservationError, match="charged by the books"):
        make_bill(figures, trust)


def test_a_payout_missing_from_the_network_facts_is_noticed():
    _, trust = reported_files()
    figures = list(reported_figures())
    entries = [entry for entry in figures[1].entries if entry.kind.name != "PAYMENT"]
    figures[1] = replace(figures[1], entries=tuple(entries))
    with pytest.raises(ConservationError, match="payouts on the network"):
        make_bill(figures, trust)


def test_charges_above_the_deposit_are_due(bill):
    assert bill.due_stroops == 0
    owing = replace(bill, closing=replace(bill.closing, unspent_stroops=-5))
    assert owing.due_stroops == 5


def test_no_epoch_is_no_bill():
    _, trust = reported_files()
    with pytest.raises(NothingToReportError):
        make_bill([], trust)


def test_a_damaged_file_or_a_gap_makes_no_figures():
    files, trust = reported_files()
    damaged = bytearray(files[1])
    damaged[-1] ^= 1
    with pytest.raises(UnprovenFileError, match="file failed"):
        read_figures([files[0], bytes(damaged)], trust)
    with pytest.raises(UnprovenFileError, match="consecutive"):
        read_figures([files[0], files[2]], trust)


def test_an_epoch_without_traffic_has_a_bill_of_nothing():
    operator = Operator()
    operator.set_up(10)
    figures = read_figures([operator.close([])], operator.trust)
    bill = make_bill(figures, operator.trust)
    assert (bill.rows, bill.contents, bill.charge_stroops) == ((), (), 0)
    assert read_bill_csv(format_bill_csv(bill.rows)) == []


def test_cdn_log_stands_beside_the_signed_bytes_and_changes_nothing(bill):
    _, trust = reported_files()
    log = [
        CdnLogRow(
            cdn="cdn.example",
            content_id=FILM,
            requests=9,
            body_bytes=600_000_100,
            aborted_requests=1,
        ),
        CdnLogRow(
            cdn="other.example", content_id=NEWS, requests=1, body_bytes=7, aborted_requests=0
        ),
    ]
    with_log = make_bill(reported_figures(), trust, titles=TITLES, cdn_log=log)
    assert with_log.rows == bill.rows
    compared = {
        (row.cdn, row.content_id): (row.bytes_signed, row.difference_bytes)
        for row in with_log.cdn_comparisons
    }
    assert compared == {
        ("cdn.example", FILM): (599_999_998, 102),
        ("other.example", NEWS): (0, 7),
        ("paid.example:8443", FILM): (399_999_998, -399_999_998),
    }


def test_a_payees_charge_is_split_over_its_contents_by_largest_remainder():
    operator = Operator(terms=make_terms(price_stroops=11, price_quantity_bytes=3))
    operator.set_up(10**6)
    contents = [bytes([number]) * 32 for number in (1, 2, 3)]
    entitlements = [
        make_entitlement(operator, f"viewer {number}", content_id=content)
        for number, content in enumerate(contents)
    ]
    receipts = [
        make_receipt(entitlement, f"viewer {number}", "seeder", 0, amount_bytes)
        for number, (entitlement, amount_bytes) in enumerate(
            zip(entitlements, (1, 1, 2), strict=True)
        )
    ]
    data = operator.close([make_payee_bundle("seeder", 0, entitlements, receipts)])
    [figures] = read_figures([data], operator.trust)
    # ⌊11 × 4 ÷ 3⌋ = 14 = 3.5 + 3.5 + 7: the odd stroop goes to the first of two equal remainders.
    assert [line.charge_stroops for line in figures.bill_lines] == [4, 3, 7]


rows = st.builds(
    BillRow,
    epoch=st.integers(0, 2**32 - 1),
    period_start_s=st.integers(0, 4_000_000_000),
    period_end_s=st.integers(0, 4_000_000_000),
    content_id=st.binary(min_size=32, max_size=32),
    content=st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20),
    source=st.just(SOURCE_CDN),
    bytes_credited=st.integers(0, 2**63 - 1),
    price_stroops=st.integers(0, 2**63 - 1),
    price_quantity_bytes=st.integers(1, 2**63 - 1),
    charge_stroops=st.integers(0, 2**63 - 1),
    currency=st.sampled_from(["EURT", "9X", "XLM"]),
    cdn=st.sampled_from(["cdn.example", "=cdn", "'quoted", "a,b"]),
)


@given(st.lists(rows, max_size=4))
def test_any_rows_read_back_as_they_were_written(some):
    assert read_bill_csv(format_bill_csv(some)) == some


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "＝1", "'x"])
def test_text_that_could_be_a_formula_is_disarmed(text):
    assert disarm_cell(text) == f"'{text}"
    assert disarm_cell("plain =1") == "plain =1"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.3000000", "0.3"),
        ("0.3000000", "0.30000000"),
        ("0.3000000", "-0.3000000"),
        ("3000000019,", "03000000019,"),
        ("3000000019,", "3000000018,"),
        ("3.000000019", "3.00000002"),
        (",p2p,", ",peer,"),
        (",p2p,", ",cdn,"),
        ("2026-01-01T00:00:00Z", "2026-01-01 00:00:00"),
        ("epoch,", "Epoch,"),
        ("amount,currency", "currency,amount"),
        ("'=1+1", "=1+1"),
        ("\n", "\r\n"),
        ("EURT,\n", "EURT\n"),
        ("EURT,\n", "EURT,,\n"),
        ("1000000000,0.3", "9223372036854775808,0.3"),
        ("19fba0", "19FBA0"),
        ("19fba0", "19fba"),
        ("Evening News", '"Evening News"'),
    ],
)
def test_the_reader_refuses_every_other_spelling(old, new):
    text = GOLDEN.read_text()
    assert old in text
    with pytest.raises(BillCsvError):
        read_bill_csv(text.replace(old, new, 1))


@pytest.mark.parametrize("text", ["", "x", '"', GOLDEN.read_text().rstrip("\n")])
def test_the_reader_refuses_what_is_no_bill(text):
    with pytest.raises(BillCsvError):
        read_bill_csv(text)
