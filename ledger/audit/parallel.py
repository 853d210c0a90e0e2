"""Checking bundles in several processes, for auditors with several cores.

Each process reads the bundles it is given from the file itself and answers with their codes. The
verdict is the same whatever the number of processes: a bundle is checked alone. Not here: the check
(`ledger.books.bundle_check`). Of the audit's modules, this one and the command are not pure.
"""

import struct
from collections.abc import Iterator, Sequence
from multiprocessing import Pool
from pathlib import Path

from ledger.audit.case import check_bundles_in_turn
from ledger.audit.source import SourceItems
from ledger.books.bundle_check import BundleCheck, check_bundle
from ledger.books.codes import BundleCode, ReceiptCode
from ledger.evidence.bundle import parse_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.recent import RecentSet
from ledger.evidence.terms import Terms

_CODES = {int(code): code for code in ReceiptCode}
_ENTITLEMENTS_REMEMBERED = 1 << 18

Place = tuple[int, int]
"""Offset and size of a bundle in its file."""

Verdict = tuple[int, bytes, bytes]
"""Bundle code, receipt codes (u16 little-endian each), account of the payee."""


class ParallelChecker:
    """Checks the bundles of one audit file with several processes."""

    def __init__(self, path: Path, jobs: int) -> None:
        """Start nothing yet.

        Args:
            path: The audit file.
            jobs: Processes, ≥ 2.
        """
        self._path = path
        self._jobs = jobs

    def __call__(
        self, bundles: Sequence[bytes], terms: Signed[Terms], epoch: int, issued_through: int
    ) -> Iterator[BundleCheck]:
        """Yield the check of each bundle in order, like `check_bundles_in_turn`."""
        if not isinstance(bundles, SourceItems):
            yield from check_bundles_in_turn(bundles, terms, epoch, issued_through)
            return
        facts = (self._path, terms, epoch, issued_through)
        with Pool(self._jobs, initializer=_Worker.start, initargs=facts) as pool:
            verdicts = pool.imap(_Worker.judge, bundles.places(), chunksize=4)
            for raw, verdict in zip(bundles, verdicts, strict=True):
                yield _check_of(raw, verdict)


class _Worker:
    """What one of the processes holds."""

    running: "_Worker"

    def __init__(self, path: Path, terms: Signed[Terms], epoch: int, issued_through: int) -> None:
        self._file = path.open("rb")
        self._terms = terms
        self._epoch = epoch
        self._issued_through = issued_through
        self._known: RecentSet[bytes] = RecentSet(_ENTITLEMENTS_REMEMBERED)

    @classmethod
    def start(cls, path: Path, terms: Signed[Terms], epoch: int, issued_through: int) -> None:
        """Begin to serve in this process."""
        cls.running = cls(path, terms, epoch, issued_through)

    @classmethod
    def judge(cls, place: Place) -> Verdict:
        """Check a bundle of the file."""
        return cls.running.check(*place)

    def check(self, offset: int, size: int) -> Verdict:
        """Check the bundle at a place of the file."""
        self._file.seek(offset)
        check = check_bundle(
            self._file.read(size),
            self._terms,
            self._epoch,
            issued_through=self._issued_through,
            known=self._known,
        )
        codes = struct.pack(f"<{len(check.receipt_codes)}H", *check.receipt_codes)
        return int(check.code), codes, check.payee_account


def _check_of(raw: bytes, verdict: Verdict) -> BundleCheck:
    code, codes, account = verdict
    numbers = struct.unpack(f"<{len(codes) // 2}H", codes)
    return BundleCheck(
        raw=raw,
        bundle=None if code == BundleCode.MALFORMED else parse_bundle(raw),
        code=BundleCode(code),
        receipt_codes=tuple(map(_CODES.__getitem__, numbers)),
        payee_account=account,
    )
