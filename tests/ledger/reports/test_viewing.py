"""Viewing on the bill: from heartbeats in viewers' bundles, over epochs, each viewer once."""

import re

from simulated_operator import (
    Operator,
    make_entitlement,
    make_heartbeats,
    make_receipt,
    make_viewer_bundle,
)

from ledger.books.reconciliation import SignedKey
from ledger.reports.bill import make_bill
from ledger.reports.figures import read_figures
from ledger.reports.pages import render_bill
from ledger.reports.viewing_csv import format_viewing_csv


def test_bill_shows_minutes_played_and_viewers_at_once() -> None:
    operator = Operator()
    operator.set_up(10**9)
    contents = {name: bytes([place]) * 32 for place, name in enumerate(("ann", "bob"), start=1)}
    files = []
    for epoch in (0, 1):
        bundles = []
        for viewer, content in contents.items():
            entitlement = make_entitlement(operator, viewer, content_id=content, not_after_s=2**32)
            beats = make_heartbeats(operator, entitlement, viewer, epoch, 11)
            receipts = [make_receipt(entitlement, viewer, "cdn", epoch, 1000)]
            bundles.append(
                make_viewer_bundle(viewer, epoch, [entitlement], receipts, heartbeats=beats)
            )
        files.append(operator.close(bundles))
    figures = read_figures(files, operator.trust)
    bill = make_bill(figures, operator.trust)
    assert [(c.playing_ms, c.viewers, c.at_once.viewers) for c in bill.viewing.contents] == [
        (20_000, 1, 1)
    ] * 2
    total = bill.viewing.total
    assert (total.playing_ms, total.viewers, total.at_once.viewers) == (40_000, 2, 2)
    assert total.at_once.at_ms == operator.signed_terms.value.epoch_start_s(0) * 1000
    assert bill.viewing.heartbeats == 44
    rows = format_viewing_csv(bill.viewing).splitlines()
    assert rows[0] == "minute_utc,content_id,content,viewers"
    assert rows[1:] == [
        f"1970-01-12T13:{minute}:00Z,{content.hex()},,1"
        for content in contents.values()
        for minute in (46, 47)
    ]
    page = render_bill(bill)
    assert re.search(r"All contents.*?0\.7.*?>2<.*?>2<", page, re.DOTALL)


def test_signed_cdn_bytes_are_kept_by_session_and_day() -> None:
    operator = Operator()
    operator.set_up(10**9)
    entitlement = make_entitlement(operator, "ann")
    beats = make_heartbeats(operator, entitlement, "ann", 0, 3)
    receipt = make_receipt(entitlement, "ann", "cdn", 0, 777)
    bundle = make_viewer_bundle("ann", 0, [entitlement], [receipt], heartbeats=beats)
    [epoch] = read_figures([operator.close([bundle])], operator.trust)
    [(key, amount_bytes)] = epoch.use.signed_cdn.items()
    content = entitlement.value.content_id
    day = operator.signed_terms.value.epoch_start_s(0) // 86_400
    key_of_session = entitlement.value.session_key
    assert isinstance(key, SignedKey)
    assert (key.content_id, key.session, key.day) == (content, key_of_session, day)
    assert amount_bytes == 777
    assert epoch.use.sessions[beats[0].value.session_id].session == key_of_session
