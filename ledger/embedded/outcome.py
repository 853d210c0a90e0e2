"""Outcome of a demo: the independent audit, the tamper test, the reports, and the summary.

The verifier and the report maker run as commands on the files in the output folder, as an outsider
would run them; figures are then read back from what they wrote.
"""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ledger.audit.address import format_account
from ledger.embedded.cdn import sum_access_log
from ledger.embedded.errors import DemoError
from ledger.embedded.evidence_files import ClosedEpoch, Receipted, sum_receipted
from ledger.embedded.papers import Papers
from ledger.embedded.processes import Supervisor
from ledger.embedded.screen import Screen
from ledger.embedded.summary import (
    AuditSummary,
    ByteFigures,
    MoneyFigures,
    Payout,
    Summary,
    TamperTest,
    format_summary,
    require_identities,
)
from ledger.evidence.units import parse_stroops

PROVEN, DISPROVEN = "proven", "disproven"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the run left behind."""

    content_bytes: int
    wanted_bytes: int
    """What all viewers together must have received."""

    content_id: str
    viewers: int
    seeders: int
    seeder_keys: frozenset[bytes]
    """Session keys of the seeders; every other peer is a viewer."""

    viewer_states: Sequence[Mapping[str, Any]]
    """Per viewer: byte classes of its journal, its spool, its last event."""

    epochs: Sequence[ClosedEpoch]
    papers: Papers
    network: Mapping[str, Any]
    """Balances and payments on the devnet's ledger."""

    private: Path
    """Scratch folder."""

    log_dir: Path
    """The public log's files, one folder a broadcaster."""

    out: Path
    """Output folder."""

    peak_memory_bytes: int = 0


def summarise(
    outcome: Outcome, supervisor: Supervisor, screen: Screen, seconds: Mapping[str, float]
) -> Summary:
    """Audit, report, check every identity, and write `summary.json`.

    Raises:
        DemoError: The audit does not prove, the tampering goes unnoticed, or an identity is broken.
    """
    epochs = _publish(outcome)
    outcome = replace(outcome, epochs=epochs)
    reports = _audit(outcome, supervisor)
    screen.stage(f"an independent verifier proved {len(reports)} epochs without the database")
    tamper_test = _tamper(outcome, supervisor)
    screen.stage(f"one flipped byte: {tamper_test.verdict} at step “{tamper_test.failed_step}”")
    _report(outcome, supervisor)
    screen.stage("bill, statements and books written")
    summary = _summary(outcome, reports, tamper_test, seconds)
    summary = replace(
        summary,
        identities=require_identities(summary),
        peak_memory_bytes=supervisor.peak_memory_bytes,
    )
    (outcome.out / "summary.json").write_text(format_summary(summary), encoding="utf-8")
    return summary


def _publish(outcome: Outcome) -> list[ClosedEpoch]:
    """Copy audit files, trust file, log and verifier key into the output folder."""
    moved: list[ClosedEpoch] = []
    for epoch in outcome.epochs:
        path = outcome.out / epoch.path.name
        shutil.copyfile(epoch.path, path)
        moved.append(replace(epoch, path=path))
    shutil.copyfile(outcome.papers.trust_file, outcome.out / "trust.json")
    shutil.copytree(outcome.log_dir, outcome.out / "log")
    vkey = outcome.papers.vkey + "\n"
    broadcaster = format_account(outcome.papers.terms.value.broadcaster_account)
    for folder in (outcome.out / "log", outcome.out / "log" / broadcaster):
        (folder / "log.vkey").write_text(vkey, encoding="utf-8")
    return moved


def _audit(outcome: Outcome, supervisor: Supervisor) -> list[dict[str, Any]]:
    paths = [str(epoch.path) for epoch in outcome.epochs]
    trust = str(outcome.out / "trust.json")
    reports: list[dict[str, Any]] = json.loads(
        supervisor.run(
            "verify", ["audit", "verify", *paths, "--trust", trust, "--json"], expected=(0, 1, 2)
        )
    )
    for report in reports:
        if report["verdict"] != PROVEN:
            step = report["steps"][-1]
            raise DemoError(
                f"epoch {report['epoch']}: {report['verdict']} at step {step['name']}: "
                f"{step['detail']}"
            )
    return reports


def _tamper(outcome: Outcome, supervisor: Supervisor) -> TamperTest:
    """Flip one byte in the middle of a copy of the busiest file; the verifier must notice."""
    busiest = max(outcome.epochs, key=lambda epoch: epoch.receipt_count)
    data = bytearray(busiest.path.read_bytes())
    offset = len(data) // 2
    data[offset] ^= 0x01
    copy = outcome.private / "tampered.audit"
    copy.write_bytes(data)
    trust = str(outcome.out / "trust.json")
    answer = supervisor.run(
        "verify-tampered",
        ["audit", "verify", str(copy), "--trust", trust, "--json"],
        expected=(0, 1, 2),
    )
    report = json.loads(answer)[0]
    if report["verdict"] != DISPROVEN:
        raise DemoError(f"tampered copy: got {report['verdict']}, want {DISPROVEN}")
    return TamperTest(verdict=report["verdict"], failed_step=report["failed_step"], offset=offset)


def _report(outcome: Outcome, supervisor: Supervisor) -> None:
    log = outcome.private / "cdn-log.json"
    cdn = outcome.papers.terms.value.cdns[0]
    sums = sum_access_log(outcome.private / "cdn-access.log")
    row = {"cdn": cdn.host, "content_id": outcome.content_id, **sums}
    log.write_text(json.dumps([row]), encoding="utf-8")
    arguments = ["report", "make", "--audit", str(outcome.out), "--out", str(outcome.out)]
    arguments += ["--trust", str(outcome.out / "trust.json"), "--cdn-log", str(log)]
    arguments += ["--catalogue", str(outcome.private / "catalogue.json"), "--json"]
    supervisor.run("report", arguments)


def _summary(
    outcome: Outcome,
    reports: Sequence[Mapping[str, Any]],
    tamper_test: TamperTest,
    seconds: Mapping[str, float],
) -> Summary:
    last = outcome.epochs[-1]
    verdicts = {report["epoch"]: str(report["verdict"]) for report in reports}
    bill = _read_bill(outcome.out / "bill.csv")
    return Summary(
        content_bytes=outcome.content_bytes,
        wanted_bytes=outcome.wanted_bytes,
        viewers=outcome.viewers,
        seeders=outcome.seeders,
        bytes=_byte_figures(outcome, bill),
        money=_money_figures(outcome, bill),
        epochs=[epoch.summarise(verdicts[epoch.epoch]) for epoch in outcome.epochs],
        payouts=[
            Payout(account=payment["account"], stroops=payment["stroops"], tx=payment["tx"])
            for payment in outcome.network["payments"]
        ],
        audit=AuditSummary(verdict=PROVEN, steps=sum(len(report["steps"]) for report in reports)),
        tamper_test=tamper_test,
        closing={
            "epoch": last.epoch,
            "unsent_bundles": sum(state["spool"]["unsent"] for state in outcome.viewer_states),
            "undecided_batches": len(last.closing.batches),
            "carried_stroops": last.closing.carried_stroops,
        },
        seconds=dict(seconds),
        peak_memory_bytes=outcome.peak_memory_bytes,
    )


def _byte_figures(outcome: Outcome, bill: Mapping[str, int]) -> ByteFigures:
    receipted = sum_receipted(outcome.epochs)
    served = _served(outcome, receipted)
    results = [epoch.result for epoch in outcome.epochs]

    def delivered(kind: str) -> int:
        return sum(int(state["bytes"][kind]) for state in outcome.viewer_states)

    return ByteFigures(
        delivered_p2p=delivered("p2p_attested"),
        delivered_cdn=delivered("cdn"),
        receipted_p2p=served["seeders"] + served["viewers"],
        receipted_cdn=served["cdn"],
        receipted_seeders=served["seeders"],
        receipted_viewers=served["viewers"],
        credited_p2p=sum(result.bytes_p2p_credited for result in results),
        credited_cdn=sum(result.bytes_cdn_credited for result in results),
        uncredited=sum(result.bytes_uncredited for result in results),
        billed_p2p=bill["p2p"],
        billed_cdn=bill["cdn"],
        unattested=delivered("p2p_unattested"),
        ambiguous=delivered("ambiguous"),
        cdn_log_body=sum_access_log(outcome.private / "cdn-access.log")["body_bytes"],
    )


def _served(outcome: Outcome, receipted: Mapping[bytes, Receipted]) -> dict[str, int]:
    """Split receipted bytes by who served: seeders, viewers, CDN."""
    served = {"seeders": 0, "viewers": 0, "cdn": 0}
    for key, sums in receipted.items():
        role = "seeders" if key in outcome.seeder_keys else "viewers"
        served["cdn" if sums.is_cdn else role] += sums.bytes_total
    return served


def _money_figures(outcome: Outcome, bill: Mapping[str, int]) -> MoneyFigures:
    closing = outcome.epochs[-1].closing
    network = outcome.network
    return MoneyFigures(
        asset=outcome.papers.terms.value.asset_code,
        deposited_stroops=closing.head.deposited_stroops,
        charged_stroops=closing.head.charged_stroops,
        unspent_stroops=closing.unspent_stroops,
        paid_stroops=closing.paid_stroops,
        fees_stroops=closing.head.fees_stroops,
        carried_stroops=closing.carried_stroops,
        suspense_stroops=closing.head.suspense_stroops,
        billed_stroops=bill["stroops"],
        escrow_balance_stroops=network["escrow_stroops"],
        payout_balance_stroops=network["payout_stroops"],
        network_paid_stroops=sum(payment["stroops"] for payment in network["payments"]),
    )


def _read_bill(path: Path) -> dict[str, int]:
    """Sum bill.csv with the standard library's reader, not with the code that wrote it."""
    sums = {"p2p": 0, "cdn": 0, "stroops": 0}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            sums[row["source"]] += int(row["bytes"])
            sums["stroops"] += parse_stroops(row["amount"])
    return sums
