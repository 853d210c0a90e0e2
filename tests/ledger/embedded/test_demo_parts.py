"""Parts of the demo: rates, CDN, content, identities."""

import asyncio
import io
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ledger.embedded.cdn import Cdn, parse_range, sum_access_log
from ledger.embedded.content import check_content, make_content
from ledger.embedded.errors import DemoError
from ledger.embedded.rates import TOTAL_MAX_BYTES_PER_S, plan_rates
from ledger.embedded.summary import (
    AuditSummary,
    ByteFigures,
    EpochSummary,
    MoneyFigures,
    Payout,
    Summary,
    TamperTest,
    identities,
    require_identities,
)

HONEST = Summary(
    content_bytes=1_000,
    wanted_bytes=2_000,
    viewers=2,
    seeders=1,
    bytes=ByteFigures(
        delivered_p2p=1_300,
        delivered_cdn=600,
        receipted_p2p=1_300,
        receipted_cdn=600,
        receipted_seeders=800,
        receipted_viewers=500,
        credited_p2p=1_300,
        credited_cdn=600,
        uncredited=0,
        billed_p2p=1_300,
        billed_cdn=600,
        unattested=60,
        ambiguous=40,
        cdn_log_body=700,
    ),
    money=MoneyFigures(
        asset="EURT",
        deposited_stroops=10_000,
        charged_stroops=130,
        unspent_stroops=9_870,
        paid_stroops=110,
        fees_stroops=13,
        carried_stroops=7,
        suspense_stroops=0,
        billed_stroops=130,
        escrow_balance_stroops=9_885,
        payout_balance_stroops=5,
        network_paid_stroops=110,
    ),
    epochs=[],
    payouts=[Payout(account="G", stroops=110, tx="t")],
    audit=AuditSummary(verdict="proven", steps=21),
    tamper_test=TamperTest(verdict="disproven", failed_step="file", offset=1),
    closing={},
    seconds={},
    peak_memory_bytes=0,
)


def test_an_honest_summary_has_no_broken_identity():
    assert len(require_identities(HONEST)) == len(list(identities(HONEST)))


@pytest.mark.parametrize(
    "field",
    [name for name in ByteFigures.__dataclass_fields__ if name != "cdn_log_body"],
)
def test_any_byte_figure_that_is_off_by_one_breaks_an_identity(field):
    changed = replace(HONEST.bytes, **{field: getattr(HONEST.bytes, field) + 1})
    with pytest.raises(DemoError, match=r"difference -?1\)"):
        require_identities(replace(HONEST, bytes=changed))


@pytest.mark.parametrize(
    "field", [name for name in MoneyFigures.__dataclass_fields__ if name != "asset"]
)
def test_any_amount_that_is_off_by_one_stroop_breaks_an_identity(field):
    changed = replace(HONEST.money, **{field: getattr(HONEST.money, field) + 1})
    with pytest.raises(DemoError, match=r"difference -?1\)"):
        require_identities(replace(HONEST, money=changed))


def test_bytes_that_nobody_wanted_break_an_identity():
    with pytest.raises(DemoError, match="wanted by the viewers"):
        require_identities(replace(HONEST, wanted_bytes=2_001))


def test_traffic_in_one_epoch_is_too_little_for_64_blocks():
    epoch = EpochSummary(
        epoch=0,
        root="",
        anchor_tx="",
        audit_file="",
        receipts=1,
        bytes_p2p=1,
        bytes_cdn=0,
        verdict="proven",
    )
    size = replace(HONEST.bytes, ambiguous=2 * 64 * 16_384 - 1_960)
    wanted = 2 * 64 * 16_384
    large = replace(
        HONEST, content_bytes=64 * 16_384, wanted_bytes=wanted, bytes=size, epochs=[epoch]
    )
    with pytest.raises(DemoError, match="want at least two"):
        require_identities(large)
    require_identities(replace(large, epochs=[epoch, epoch]))


@pytest.mark.parametrize("content_bytes", [1, 100_000, 64 << 20, 5 << 30])
@pytest.mark.parametrize(("viewers", "seeders"), [(1, 1), (5, 3), (50, 1)])
def test_rates_leave_work_for_every_source(content_bytes, viewers, seeders):
    rates = plan_rates(content_bytes, viewers, seeders)
    demand = rates.viewer_down * viewers
    assert demand <= max(TOTAL_MAX_BYTES_PER_S, 24_576 * viewers)
    if content_bytes >= 64 << 20 and viewers > 1:
        assert rates.cdn + rates.seeder_up * seeders < demand


@pytest.mark.parametrize(
    ("header", "want"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-5", (95, 100)),
    ],
)
def test_ranges_are_read(header, want):
    assert parse_range(header, 100) == want


@pytest.mark.parametrize(
    "header", ["bytes=100-", "bytes=9-3", "bytes=a-b", "bytes=0-1,5-6", "items=0-1", "bytes=-", ""]
)
def test_ranges_that_cannot_be_served_are_refused(header):
    with pytest.raises(ValueError, match=r"range|invalid literal"):
        parse_range(header, 100)


def ask(cdn: Cdn, path: str, **headers: str) -> httpx.Response:
    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(cdn.application())
        async with httpx.AsyncClient(transport=transport, base_url="http://cdn") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(get())


def test_the_cdn_serves_its_content_and_nothing_beside_it(tmp_path: Path):
    content = tmp_path / "show"
    content.mkdir()
    (content / "part.bin").write_bytes(bytes(range(256)))
    (tmp_path / "secret.txt").write_text("secret")
    log = io.StringIO()
    cdn = Cdn(content, bytes_per_second=0, access_log=log)
    whole = ask(cdn, "/show/part.bin")
    assert (whole.status_code, whole.content) == (200, bytes(range(256)))
    part = ask(cdn, "/show/part.bin", range="bytes=10-19")
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert part.headers["content-range"] == "bytes 10-19/256"
    for outside in ("/secret.txt", "/show/../secret.txt", "/show/%2e%2e/secret.txt", "/show"):
        assert ask(cdn, outside).status_code == 404
    assert ask(cdn, "/show/part.bin", range="bytes=500-").status_code == 416
    path = tmp_path / "access.log"
    path.write_text(log.getvalue())
    assert sum_access_log(path) == {"requests": 7, "body_bytes": 266, "aborted_requests": 0}


def test_made_content_is_the_same_every_time(tmp_path: Path):
    one = make_content(tmp_path / "one.bin", 3_000_001)
    other = make_content(tmp_path / "other.bin", 3_000_001)
    assert one.path.read_bytes() == other.path.read_bytes()
    assert one.size_bytes == 3_000_001


def test_a_folder_is_listed_with_its_subfolders(tmp_path: Path):
    (tmp_path / "show" / "deep").mkdir(parents=True)
    for name in ("show/b", "show/deep/a"):
        (tmp_path / name).write_bytes(b"xy")
    content = check_content(tmp_path / "show")
    assert [str(file) for file in content.files] == ["show/b", "show/deep/a"]
    assert content.size_bytes == 4
