"""The bench of the verifier: what it takes for an epoch, as a multiple of its signatures alone.

The yardstick is a loop of C over every signature that the verifier must verify, each once: of
receipts, of distinct entitlements, of bindings and bundles. Half of it runs before the verifier and
half after, so that a drift of the machine's speed hits both alike.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ledger.audit.command import FileSource
from ledger.audit.file import read_audit_file
from ledger.bench.child import run_child
from ledger.bench.errors import BenchError
from ledger.bench.report import Series, describe_machine
from ledger.bench.seal import MILLION, EpochSize, prepare_audit_file
from ledger.bench.sealing_run import AUDIT, TRUST
from ledger.bench.signature_loop import SignatureLoop
from ledger.evidence.bundle import parse_bundle
from ledger.evidence.entitlement import ENTITLEMENT
from ledger.evidence.receipt import RECEIPT
from ledger.evidence.record_rows import part_struct

_ENTITLEMENT_PART = part_struct(ENTITLEMENT, "issuing_key", "session_key")
_RECEIPT_PART = part_struct(RECEIPT, "entitlement_digest")


def run_verify_bench(
    size: EpochSize, runs: int, jobs: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Verify a synthetic epoch's audit file so many times; returns the report.

    Raises:
        BenchError: A run failed, or the file was not proven.
    """
    home = prepare_audit_file(size, tell)
    program = [sys.executable, "-m", "ledger.audit.command", str(home / AUDIT)]
    program += ["--trust", str(home / TRUST), "--jobs", str(jobs), "--json"]
    series = Series()
    for run in range(runs):
        yardstick = _Yardstick(home / AUDIT, home)
        yardstick.run_half(0)
        ended = run_child(program, home / "verify.log")
        yardstick.run_half(1)
        yardstick.close()
        loop = yardstick.loop
        verdict = json.loads(ended.output)[0]["verdict"]
        if verdict != "proven":
            raise BenchError(f"verifier: got {verdict}, want proven")
        scale = MILLION / size.receipts
        series.add("cpu_ratio", ended.cpu_s / loop.cpu_s)
        series.add("cpu_s_per_million", ended.cpu_s * scale)
        series.add("raw_cpu_s_per_million", loop.cpu_s * scale)
        series.add("raw_verify_per_s", loop.signatures / loop.cpu_s)
        series.add("signatures_per_receipt", loop.signatures / size.receipts)
        series.add("wall_s", ended.wall_s)
        series.add("peak_mib", ended.peak_mib)
        tell(f"run {run + 1}: {ended.cpu_s / loop.cpu_s:.2f} times its signatures alone")
    return {
        "bench": "verify",
        "parameters": {
            "receipts": size.receipts,
            "per_bundle": size.per_bundle,
            "runs": runs,
            "jobs": jobs,
            "file_mib": round((home / AUDIT).stat().st_size / 2**20, 1),
        },
        "figures": series.medians(),
        "spreads": series.spreads(),
        "machine": describe_machine(),
    }


class _Yardstick:
    """Every signature of an audit file's bundles, for the loop of C."""

    def __init__(self, audit: Path, folder: Path) -> None:
        self.loop = SignatureLoop(folder)
        self._seen: set[bytes] = set()
        self._file = audit.open("rb")
        self._bundles = read_audit_file(FileSource(self._file)).contents.bundles

    def close(self) -> None:
        self._file.close()

    def run_half(self, half: int) -> None:
        """Verify the first half of the bundles (0) or the second (1)."""
        middle = len(self._bundles) // 2
        places = range(middle) if half == 0 else range(middle, len(self._bundles))
        for place in places:
            self._verify(self._bundles[place])

    def _verify(self, raw: bytes) -> None:
        bundle = parse_bundle(raw).value
        self.loop.verify(raw, 0, len(raw), [bundle.submitter_key])
        for binding in bundle.bindings:
            signers = (binding.value.account, binding.value.key)
            for signature, key in zip(binding.signatures, signers, strict=True):
                signed = signature + binding.body
                self.loop.verify(signed, 0, len(signed), [key])
        session_keys: dict[bytes, bytes] = {}
        entitlements = bundle.entitlements
        parts = entitlements.rows(_ENTITLEMENT_PART)
        for place, digest in enumerate(entitlements.digests()):
            issuing_key, session_keys[digest] = next(parts)
            if digest not in self._seen:
                self._seen.add(digest)
                self.loop.verify(entitlements.raw(place), 0, ENTITLEMENT.size, [issuing_key])
        receipts = bundle.receipts
        keys = [session_keys[digest] for (digest,) in receipts.rows(_RECEIPT_PART)]
        self.loop.verify(receipts.buffer, receipts.start, RECEIPT.size, keys)
