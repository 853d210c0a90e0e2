"""Checking many bundles: one after the other, or in several processes.

A bundle is checked alone, so the verdicts are the same whatever the number of processes. Not here:
the check (`ledger.books.bundle_check`).
"""

import os
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from multiprocessing import Pool
from multiprocessing.pool import Pool as RunningPool
from types import TracebackType
from typing import Final, Self

from ledger.books.bundle_check import BundleCheck, check_bundle
from ledger.books.codes import BundleCode, ReceiptCode
from ledger.evidence.bundle import parse_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.recent import RecentSet
from ledger.evidence.terms import Terms, parse_terms

CHUNK: Final = 64
"""Bundles that a process is given at once."""

_ENTITLEMENTS_REMEMBERED: Final = 1 << 18
_CODES: Final = {int(code): code for code in ReceiptCode}
_KNOWN: Final[RecentSet[bytes]] = RecentSet(_ENTITLEMENTS_REMEMBERED)
"""Entitlements whose signatures this process has found good."""

_terms_of = lru_cache(maxsize=16)(parse_terms)

Task = tuple[Sequence[bytes], bytes, int, int]
"""Bundles, signed terms, sealing epoch, last epoch of the issuing key."""

Verdict = tuple[int, bytes, bytes]
"""Bundle code, receipt codes (u16 little-endian each), account of the payee."""


class BundleChecker:
    """Checks bundles with so many processes; a context manager."""

    def __init__(self, jobs: int = 1) -> None:
        """Start nothing yet.

        Args:
            jobs: Processes, ≥ 1; with one the caller's own does it.
        """
        self._jobs = jobs
        self._pool: RunningPool | None = None

    def __enter__(self) -> Self:
        if self._jobs > 1:
            self._pool = Pool(self._jobs)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()
            self._pool = None

    def check(
        self, bundles: Sequence[bytes], terms: Signed[Terms], epoch: int, issued_through: int
    ) -> Iterator[BundleCheck]:
        """Yield the check of each bundle, in order.

        Args:
            bundles: As they were sent.
            terms: In force.
            epoch: That seals them.
            issued_through: Last epoch in which the terms' issuing key acts.
        """
        if self._pool is None or len(bundles) <= CHUNK:
            for raw in bundles:
                yield check_bundle(raw, terms, epoch, issued_through=issued_through, known=_KNOWN)
            return
        tasks = (
            (bundles[at : at + CHUNK], terms.raw, epoch, issued_through)
            for at in range(0, len(bundles), CHUNK)
        )
        place = 0
        for verdicts in self._pool.imap(_judge, tasks):
            for verdict in verdicts:
                yield _check_of(bundles[place], verdict)
                place += 1


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def _judge(task: Task) -> list[Verdict]:
    raws, terms, epoch, issued_through = task
    signed = _terms_of(terms)
    checks = (
        check_bundle(raw, signed, epoch, issued_through=issued_through, known=_KNOWN)
        for raw in raws
    )
    return [
        (
            int(check.code),
            struct.pack(f"<{len(check.receipt_codes)}H", *check.receipt_codes),
            check.payee_account,
        )
        for check in checks
    ]


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
