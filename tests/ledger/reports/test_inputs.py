"""Optional inputs are read strictly: other forms are refused with field, got and want."""

import json

import pytest

from ledger.reports.inputs import (
    TITLE_LENGTH_MAX,
    ReportInputError,
    parse_catalogue,
    parse_cdn_log,
)

ID = "ab" * 32
ROW = {
    "cdn": "cdn.example",
    "content_id": ID,
    "requests": 2,
    "body_bytes": 3,
    "aborted_requests": 0,
}


def test_catalogue_gives_titles_by_content():
    assert parse_catalogue(json.dumps({ID: "Ünïcode ✓ مرحبا"})) == {
        bytes.fromhex(ID): "Ünïcode ✓ مرحبا"
    }


@pytest.mark.parametrize(
    "document",
    [
        [],
        {ID[:-1]: "short id"},
        {ID.upper(): "upper case"},
        {ID: ""},
        {ID: " spaced "},
        {ID: 7},
        {ID: "x" * (TITLE_LENGTH_MAX + 1)},
        {ID: "line\nfeed"},
        {ID: "nul\0"},
        {ID: "paid \u202e000,1"},
        {ID: "half \ud800"},
    ],
)
def test_catalogue_refuses(document):
    with pytest.raises(ReportInputError, match=r"got .* want"):
        parse_catalogue(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, f'{{"{ID}": "a", "{ID}": "b"}}'])
def test_text_that_is_no_json_object_is_refused(text):
    with pytest.raises(ReportInputError):
        parse_catalogue(text)


def test_cdn_log_rows_come_in_order_of_cdn_and_content():
    rows = parse_cdn_log(json.dumps([ROW, {**ROW, "cdn": "a.example"}]))
    assert [(row.cdn, row.body_bytes) for row in rows] == [("a.example", 3), ("cdn.example", 3)]


@pytest.mark.parametrize(
    "document",
    [
        {},
        [{}],
        [{**ROW, "more": 1}],
        [{**ROW, "body_bytes": -1}],
        [{**ROW, "body_bytes": 1.5}],
        [{**ROW, "requests": True}],
        [{**ROW, "requests": 2**63}],
        [{**ROW, "content_id": "x"}],
        [{**ROW, "cdn": ""}],
        [ROW, ROW],
    ],
)
def test_cdn_log_refuses(document):
    with pytest.raises(ReportInputError, match=r"got .* want"):
        parse_cdn_log(json.dumps(document))
