"""A third party's tool accepts the books, and refuses them after a change of one stroop."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from reported_history import reported_figures

from ledger.evidence.units import format_stroops, parse_stroops
from ledger.reports.beancount import commodity_of, format_beancount

BEAN_CHECK = Path(sys.executable).parent / "bean-check"


def bean_check(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "books.beancount"
    path.write_text(text)
    return subprocess.run(
        [str(BEAN_CHECK), "--no-cache", str(path)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def books() -> str:
    return format_beancount(reported_figures())


@pytest.mark.process
def test_bean_check_accepts_the_export(books, tmp_path):
    result = bean_check(books, tmp_path)
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "")


@pytest.mark.process
@pytest.mark.parametrize("asset", ["EURT", "XLM"])
@pytest.mark.parametrize("kind", ["posting", "balance assertion"])
@pytest.mark.parametrize("change_stroops", [1, -1])
def test_bean_check_refuses_a_change_of_one_stroop(books, tmp_path, kind, asset, change_stroops):
    start = r"^  \S+  " if kind == "posting" else r"^\S+ balance \S+  "
    places = list(
        re.finditer(rf"{start}(-?[0-9]+\.[0-9]{{7}})(?=.* {asset}$)", books, re.MULTILINE)
    )
    place = random.Random(asset + kind).choice(places)
    changed = format_stroops(parse_stroops(place.group(1)) + change_stroops)
    result = bean_check(books[: place.start(1)] + changed + books[place.end(1) :], tmp_path)
    assert result.returncode != 0


def test_every_amount_has_seven_decimals(books):
    amounts = re.findall(r"(-?[0-9.]+) (?:EURT|XLM)$", books, re.MULTILINE)
    assert len(amounts) > 20
    assert [amount for amount in amounts if not re.fullmatch(r"-?[0-9]+\.[0-9]{7}", amount)] == []


def test_balances_are_the_closing_states(books):
    closing = reported_figures()[-1].closing
    asserted = dict(re.findall(r"balance (\S+)  (\S+) ~ 0.0000000 EURT", books))
    assert asserted["Assets:Escrow"] == f"{closing.head.escrow_stroops / 10**7:.7f}"
    assert asserted["Liabilities:Fees"] == f"{-closing.head.fees_stroops / 10**7:.7f}"


@pytest.mark.parametrize(
    ("code", "name"), [("eurT", "EURT"), ("9USD", "A9USD"), ("X", "AX"), ("USDC", "USDC")]
)
def test_commodities_are_names_that_the_tool_takes(code, name):
    assert commodity_of(code) == name
