"""Pages stand alone, escape what they print, say what a clerk needs, and can be read by all."""

import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reported_history import FILM, NEWS, reported_figures, reported_files

import ledger.reports
from ledger.audit.address import format_account
from ledger.evidence.note import encode_base64
from ledger.evidence.units import format_stroops
from ledger.reports import wording
from ledger.reports.bill import make_bill
from ledger.reports.inputs import CdnLogRow
from ledger.reports.pages import ROWS_SHOWN_MAX, bill_commands, render_bill, render_statement
from ledger.reports.statement import make_statements

HOSTILE = "<script>alert(1)</script>\" onload='x' {{ 7*7 }} & </style>"
CSS = (Path(ledger.reports.__file__).parent / "templates" / "page.css").read_text()


def make_full_bill(**changes):
    _, trust = reported_files()
    log = [
        CdnLogRow(
            cdn="cdn.example",
            content_id=FILM,
            requests=812,
            body_bytes=604_100_000,
            aborted_requests=3,
        )
    ]
    bill = make_bill(
        reported_figures(), trust, titles={NEWS: "Evening News", FILM: HOSTILE}, cdn_log=log
    )
    return replace(bill, **changes)


@pytest.fixture(scope="module")
def bill():
    return make_full_bill()


@pytest.fixture(scope="module")
def bill_page(bill):
    return render_bill(bill)


@pytest.fixture(scope="module")
def statements():
    return make_statements(reported_figures())


@pytest.fixture(scope="module")
def all_pages(bill_page, statements):
    return [bill_page, *(render_statement(statement) for statement in statements)]


class Reader(HTMLParser):
    """Collects tags with attributes, and the visible text; checks that tags nest."""

    VOID = frozenset({"meta", "br", "rect", "line"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def test_pages_ask_for_nothing_and_run_nothing(all_pages):
    for page in all_pages:
        reader = Reader(page)
        tags = {tag for tag, _ in reader.tags}
        assert not tags & {
            "script",
            "link",
            "img",
            "iframe",
            "object",
            "embed",
            "base",
            "form",
            "a",
        }
        for tag, attributes in reader.tags:
            assert not [name for name in attributes if name.startswith("on")], tag
            assert not {"src", "href", "xlink:href", "srcset", "style"} & set(attributes), tag
            fill = attributes.get("fill") or ""
            assert "url(" not in fill or fill.startswith("url(#")
        assert not re.search(r"https?://|//[a-z]|@import|url\((?!#)|javascript:", page)


def test_hostile_titles_are_text(bill_page):
    assert HOSTILE in " ".join(Reader(bill_page).texts)
    assert "<script" not in bill_page
    assert "49" not in re.findall(r"<bdi[^>]*>(.*?)</bdi>", bill_page)[0]


def test_ids_are_unique_and_references_lead_somewhere(all_pages):
    for page in all_pages:
        tags = Reader(page).tags
        ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        wanted = re.findall(r"url\(#([^)]+)\)", page)
        for _, attributes in tags:
            wanted += (attributes.get("aria-labelledby") or "").split()
        assert set(wanted) <= set(ids)


def test_bill_has_every_part(bill, bill_page):
    text = Reader(bill_page).text
    terms = bill.terms
    for account in (
        terms.broadcaster_account,
        terms.escrow_account,
        terms.payout_account,
        terms.anchor_account,
        terms.asset_issuer,
    ):
        assert format_account(account) in text
    for part in (
        bill.number,
        "2026-01-01 00:00:00 UTC",
        "2026-01-01 00:01:15 UTC",
        terms.log_origin,
        "10.900 GB",
        "10.151 GiB",
        "91.60 %",
        wording.format_amount(bill.charge_stroops),
        "0.1000000 EURT per GB (1,000,000,000 bytes)",
        "0.0300000 EURT per GB (1,000,000,000 bytes)",
        "cdn.example: billed by the CDN itself",
        "10 % (100,000 ppm) is taken from the payees",
        "not reported",
        "over the cap of the viewer's entitlement",
        "500,000,000",
        "bad signature (code 10)",
        "604,100,000",
        "+4,100,002",
        "never made equal",
        "Deposited 100.0000000 = charged 1.1019999 + unspent 98.8980001",
        "Charged 1.1019999 = paid 0.9918000 + fees 0.1101999 + carried 0.0000000",
        encode_base64(bill.epochs[-1].root_hash),
        bill.checkpoint_hash.hex(),
        bill.trust.network_passphrase,
        "How to verify this bill",
    ):
        assert part in text, part
    for epoch in bill.epochs:
        assert epoch.anchor_tx.hex() in text
    for movement in bill.movements.all:
        assert movement.tx_hash.hex() in text
    for command in bill_commands(bill).values():
        assert re.sub(r"\s+", " ", command) in text


def test_figures_in_the_table_of_contents_add_up_as_printed(bill_page):
    table = next(
        part for part in bill_page.split("<table") if "Credited traffic of the period" in part
    )
    body, foot = table.split("<tfoot")
    for label in ("P2P, GB", "CDN, GB", "Amount, EURT"):
        pattern = rf'data-label="{label}"><span>([0-9.,]+)</span>'
        cells = [re.sub(r"[.,]", "", value) for value in re.findall(pattern, body)]
        [total] = re.findall(pattern, foot)
        assert len(cells) == 2
        assert sum(map(int, cells)) == int(re.sub(r"[.,]", "", total))


def test_amounts_always_have_seven_decimals(all_pages):
    for page in all_pages:
        for label in ("Amount, EURT", "Charge", "Fee", "Paid", "Closing", "Opening", "At its end"):
            for value in re.findall(rf'data-label="{label}"><span>([^<]*)</span>', page):
                assert re.fullmatch(r"−?[0-9,]+\.[0-9]{7}", value), value


def test_chart_has_words_for_those_who_do_not_see_it(bill_page):
    reader = Reader(bill_page)
    charts = [attributes for tag, attributes in reader.tags if attributes.get("role") == "img"]
    assert [attributes["class"] for attributes in charts] == ["wide", "narrow"]
    assert "Epoch 1: 5.200 GB P2P, 0.500 GB CDN" in reader.text
    assert "P2P (solid)" in reader.text
    assert bill_page.count("-stripes)") >= 4


def test_every_table_keeps_its_roles_and_headers(all_pages):
    for page in all_pages:
        tags = Reader(page).tags
        roles = {"table": "table", "tr": "row", "td": "cell", "tbody": "rowgroup"}
        for tag, attributes in tags:
            if tag in roles:
                assert attributes.get("role") == roles[tag]
            if tag == "th":
                assert attributes.get("scope") in {"row", "col"}
            if tag == "td" and "colspan" not in attributes and attributes.get("data-label") is None:
                assert len(attributes) == 1
        assert ("html", {"lang": "en"}) in tags


def test_the_anchor_command_prints_the_memo_that_the_anchor_carries(bill):
    output = subprocess.run(
        ["bash", "-c", bill_commands(bill)["anchor"]], capture_output=True, text=True, check=True
    ).stdout
    assert output.split()[0] == bill.checkpoint_hash.hex()
    assert reported_figures()[-1].anchor.memo_hash == bill.checkpoint_hash


def test_the_anchor_command_quotes_a_hostile_origin(bill):
    text = "log'; echo pwned; '\n1\nroot\n"
    command = bill_commands(replace(bill, checkpoint_text=text))["anchor"].partition(" | ")[0]
    output = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert output.stdout == text


def test_long_periods_are_cut_and_say_where_the_rest_is(bill):
    epochs = tuple(replace(bill.epochs[0], epoch=number) for number in range(3 * ROWS_SHOWN_MAX))
    page = render_bill(replace(bill, epochs=epochs, last_epoch=len(epochs) - 1))
    assert page.count('class="whole">Epoch ') == 2 * ROWS_SHOWN_MAX
    assert "all lines are in bill.csv" in page
    assert "epoch-*.audit" in page


def test_a_bill_of_nothing_is_a_page(bill):
    epochs = tuple(replace(e, bytes_p2p=0, bytes_cdn=0, charge_stroops=0) for e in bill.epochs)
    page = render_bill(
        replace(
            bill,
            epochs=epochs,
            rows=(),
            contents=(),
            bytes_p2p=0,
            bytes_cdn=0,
            media_ms=0,
            charge_stroops=0,
            uncredited=(),
            cdn_comparisons=(),
            has_cdn_log=False,
        )
    )
    assert "No traffic was credited in this period." in page
    assert "no CDN log was given to this report" in Reader(page).text


def test_statement_pages_show_lines_payouts_and_how_to_check(statements):
    for statement in statements:
        text = Reader(render_statement(statement)).text
        assert f"{statement.name}.proof.json" in text
        for payout in statement.payouts:
            assert payout.tx_hash.hex() in text
            assert format_stroops(payout.amount_stroops) in text
        if statement.is_cdn_key:
            assert "billed by the CDN itself" in text
            assert statement.subject.hex() in text
        else:
            assert format_account(statement.subject) in text


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2.1's contrast ratio of two colours."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


COLOURS = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", CSS))


@pytest.mark.parametrize("background", ["paper", "band"])
@pytest.mark.parametrize("text", ["ink", "quiet", "accent"])
def test_text_has_the_contrast_of_wcag_aa(text, background):
    assert contrast(COLOURS[text], COLOURS[background]) >= 4.5


@pytest.mark.parametrize("shape", ["p2p", "cdn", "edge"])
def test_shapes_that_carry_meaning_stand_out_from_the_paper(shape):
    assert contrast(COLOURS[shape], COLOURS["paper"]) >= 3


def test_the_style_uses_no_colour_outside_the_palette(bill_page):
    outside = CSS.partition("}")[2]
    assert not re.search(r"#[0-9a-f]{3,8}\b|rgb|hsl", outside)
    drawn = set(re.findall(r'(?:fill|stroke)="(#[^"]+)"', bill_page))
    assert drawn <= set(COLOURS.values())


def test_style_is_made_for_paper_and_for_small_screens():
    assert "@page { size: A4" in CSS
    assert "@media print" in CSS
    assert "@media screen and (max-width:" in CSS
