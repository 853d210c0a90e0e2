"""`swarmledger reconcile` end to end: logs and an invoice in, report and exit status out."""

import json
from pathlib import Path

import pytest
from cdn_logs import Delivery, write_log
from simulated_operator import (
    Operator,
    make_entitlement,
    make_heartbeats,
    make_receipt,
    make_terms,
    make_viewer_bundle,
)
from typer.testing import CliRunner

from ledger.audit.trust import format_trust
from ledger.evidence.terms import CdnTerms
from ledger.reports.reconcile_command import app

pytestmark = pytest.mark.postgres
CDN = "cdn.example"
FILM = b"\x07" * 32
GENESIS_S = 1_767_225_600 + 3_600  # 2026-01-01 01:00 UTC
SIGNED = 7_000


class Clerk:
    """A broadcaster's clerk with audit files, a trust file and an empty database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runner = CliRunner()
        key = make_terms().cdns[0].key
        cdn = CdnTerms(
            key=key, account=bytes(32), price_stroops=0, price_quantity_bytes=1, host=CDN
        )
        operator = Operator(terms=make_terms(genesis_s=GENESIS_S, cdns=(cdn,)))
        operator.trust = type(operator.trust)(
            **{
                name: getattr(operator.trust, name)
                for name in operator.trust.__dataclass_fields__
                if name != "genesis_s"
            },
            genesis_s=GENESIS_S,
        )
        operator.set_up(10**9)
        ann = make_entitlement(operator, "ann", content_id=FILM, not_after_s=2**32)
        beats = make_heartbeats(operator, ann, "ann", 0, 5)
        receipt = make_receipt(ann, "ann", "cdn", 0, SIGNED)
        bundle = make_viewer_bundle("ann", 0, [ann], [receipt], heartbeats=beats)
        self.sid = beats[0].value.session_id.hex()
        (folder / "audit").mkdir()
        (folder / "audit" / "epoch-0.audit").write_bytes(operator.close([bundle]))
        (folder / "trust.json").write_text(format_trust(operator.trust))
        (folder / "contents.toml").write_text(f'[contents]\n"/film/" = "{FILM.hex()}"\n')

    def log(self, name: str, *bodies: int, sid: str | None = None, extra: bytes = b"") -> Path:
        deliveries = [
            Delivery(
                request_id=f"{name}{place}", body=body, headers=100,
                sid=self.sid if sid is None else sid, at_ms=GENESIS_S * 1000 + place,
            )
            for place, body in enumerate(bodies)
        ]  # fmt: skip
        path = self.folder / name
        path.write_bytes(write_log("nginx", deliveries) + extra)
        return path

    def invoice(self, quantity: str, number: str = "1") -> Path:
        path = self.folder / f"invoice-{number}.toml"
        path.write_text(
            f'[[invoice]]\ncdn = "{CDN}"\nnumber = "{number}"\nfirst_day = 2026-01-01\n'
            f'last_day = 2026-01-01\nquantity = "{quantity}"\nunit = "B"\n'
        )
        return path

    def run(self, *arguments: object, status: int = 0) -> str:
        result = self.runner.invoke(
            app, [str(a) for a in arguments] + ["--trust", str(self.folder / "trust.json")]
        )
        assert result.exit_code == status, result.output
        return result.stdout

    def take_in(self, *files: Path, status: int = 0, **options: object) -> dict:
        named = {"--cdn": CDN, "--format": "nginx", "--contents": self.folder / "contents.toml"}
        named |= {f"--{name}": value for name, value in options.items()}
        flat = [part for pair in named.items() for part in pair]
        output = self.run("import", *files, *flat, "--json", status=status)
        return json.loads(output) if output else {}

    def report(self, *options: object, status: int = 0) -> dict:
        output = self.run(
            "report", "--audit", self.folder / "audit", "--json", *options, status=status
        )
        return json.loads(output)


@pytest.fixture
def clerk(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clerk:
    monkeypatch.setenv("DATABASE_URL", database_url)
    return Clerk(tmp_path)


def test_what_agrees_says_so_and_every_line_is_counted(clerk: Clerk) -> None:
    taken = clerk.take_in(clerk.log("a.log", 3_000, 4_000, extra=b"damaged\n"))
    assert (taken["accepted"], taken["malformed"], taken["lines"]) == (2, 1, 3)
    clerk.run("invoice", clerk.invoice("7200"))
    report = clerk.report()
    [cdn] = report["cdns"]
    assert (cdn["signed_bytes"], cdn["log_body_bytes"], cdn["log_total_bytes"]) == (
        SIGNED, 7_000, 7_200,
    )  # fmt: skip
    assert (cdn["coverage_ppm"], cdn["unexplained_ppm"]) == (1_000_000, 0)
    assert cdn["invoices"][0]["finding"] == "agrees"
    [row] = report["rows"]
    assert (row["content_id"], row["day"]) == (FILM.hex(), "2026-01-01")
    assert row["invoice_share_bytes"] == 7_200


def test_an_inflated_invoice_is_named_with_exit_status_one(clerk: Clerk) -> None:
    clerk.take_in(clerk.log("a.log", 3_000, 4_000))
    clerk.run("invoice", clerk.invoice("7272"))
    page = clerk.folder / "report.html"
    report = clerk.report("--html", page, status=1)
    assert report["named_cdns"] == [CDN]
    assert report["cdns"][0]["invoices"][0]["unexplained_bytes"] == 72
    text = page.read_text()
    for words in ("Ask about: cdn.example", "too high", "7,272", "2026-01-01", "UTC", "<svg"):
        assert words in text, words
    assert "http" not in text.replace("http-equiv", "")
    told = clerk.run("report", "--audit", clerk.folder / "audit", status=1)
    assert "verdict: ask about cdn.example" in told


def test_importing_again_changes_nothing(clerk: Clerk) -> None:
    log = clerk.log("a.log", 3_000, 4_000)
    first = clerk.take_in(log)
    again = clerk.take_in(log)
    assert again["files"][0]["already_imported"]
    assert again["accepted"] == first["accepted"] == 2


def test_lines_after_closing_are_corrections(clerk: Clerk) -> None:
    clerk.take_in(clerk.log("a.log", 3_000))
    clerk.run("close", "--cdn", CDN, "--through", "2026-01-01")
    assert clerk.take_in(clerk.log("b.log", 4_000))["late"] == 1
    [cdn] = clerk.report()["cdns"]
    assert (cdn["late_bytes"], cdn["log_payload_bytes"]) == (4_000, 7_000)
    clerk.run("close", "--cdn", CDN, "--through", "2026-01-01", "--forget")
    assert clerk.report()["cdns"][0]["log_payload_bytes"] == 7_000
    for options in ((), ("--forget",)):
        clerk.run("close", "--cdn", CDN, "--through", "2025-12-31", *options, status=2)


def test_lost_lines_and_strangers_are_causes(clerk: Clerk) -> None:
    clerk.take_in(clerk.log("a.log", 3_000), clerk.log("b.log", 900, sid="f" * 32))
    [cdn] = clerk.report()["cdns"]
    assert cdn["causes"]["lost"] == 4_000
    assert cdn["causes"]["unknown_session"] == 900
    assert cdn["unmatched_ppm"] == 900 * 10**6 // 3_900


def test_an_invoice_without_a_log_cannot_be_told(clerk: Clerk) -> None:
    clerk.run("invoice", clerk.invoice("7200"))
    report = clerk.report(status=2)
    assert report["cdns"][0]["invoices"][0]["finding"] == "no log"


def test_an_invoice_number_is_never_taken_twice(clerk: Clerk) -> None:
    clerk.run("invoice", clerk.invoice("7200"))
    assert "0 of them new" in clerk.run("invoice", clerk.invoice("7200"))
    clerk.run("invoice", clerk.invoice("7300"), status=2)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"format": "nginks"}, "nginks"),
        ({"contents": "/nowhere.toml"}, "nowhere"),
        ({"time": "unix"}, "unix"),
    ],
)
def test_what_cannot_be_read_says_why(clerk: Clerk, options: dict, word: str, capfd) -> None:
    log = clerk.log("a.log", 1)
    result = clerk.runner.invoke(
        app,
        ["import", str(log), "--cdn", CDN, "--format", str(options.get("format", "nginx")),
         "--contents", str(options.get("contents", clerk.folder / "contents.toml")),
         "--time", str(options.get("time", "")), "--trust", str(clerk.folder / "trust.json")],
    )  # fmt: skip
    assert result.exit_code == 2
    assert word in result.stderr


def test_convert_writes_a_cdni_log(clerk: Clerk) -> None:
    log = clerk.log("a.log", 3_000)
    result = clerk.runner.invoke(app, ["convert", str(log), "--cdn", CDN, "--format", "nginx"])
    assert result.exit_code == 0
    assert "#record-type:\tcdni_http_request_v1" in result.stdout
    assert "\t3100\t3000\t" in result.stdout


def test_fields_of_ones_own_are_a_map_in_a_file(clerk: Clerk) -> None:
    field_map = clerk.folder / "mine.toml"
    field_map.write_text(
        'layout = "pipe"\ncolumns = ["at", "code", "sent", "where", "id"]\n'
        '[time]\nfields = ["at"]\nformat = "unix-s"\n[fields]\nrequest_id = "id"\n'
        'status = "code"\nbody_bytes = "sent"\npath = "where"\n'
    )
    log = clerk.folder / "mine.log"
    log.write_text(f"{GENESIS_S}|200|7000|/film/x|r1\n")
    clerk.take_in(log, format=field_map)
    [cdn] = clerk.report()["cdns"]
    # Without a session id the line is matched with what nobody else explains.
    assert cdn["difference_bytes"] == 0
    assert not any(cdn["causes"].values())
    clerk.take_in(clerk.log("a.log", 1), status=2)
