"""Vouching: a worker's mark on a verdict, by which a seal knows that a worker found it.

A bundle's signatures are verified once, before the seal, and the verdict is a row. Whoever writes
to the database could write one too, so a worker adds an HMAC under a key derived from the log's
seed, which no database holds. A verdict without a good mark is not believed: the bundle is judged
again. Not here: judging itself (`ledger.books.judgement`).
"""

import hmac
from collections.abc import Iterable, Iterator
from hashlib import sha256

from ledger.books.judgement import BundleCheck, BundleCode, check_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.terms import Terms
from ledger.store.bundle_store import StoredCheck, format_codes
from ledger.store.errors import UnprovenError

_KEY_DOMAIN = b"swarmledger verdicts v1\0"


def vouch_for(log_seed: bytes, check: BundleCheck, sealing_epoch: int) -> bytes:
    """Return the 32-byte mark of a verdict on a bundle of one seal."""
    codes = format_codes(check.receipt_codes)
    message = b"".join(
        [
            sha256(check.raw).digest(),
            sealing_epoch.to_bytes(8, "little"),
            int(check.code).to_bytes(2, "little"),
            check.payee_account,
            codes,
        ]
    )
    return hmac.digest(hmac.digest(log_seed, _KEY_DOMAIN, "sha256"), message, "sha256")


def require_vouched(
    log_seed: bytes,
    stored: Iterable[StoredCheck],
    terms: Signed[Terms],
    sealing_epoch: int,
    *,
    issued_through: int,
) -> Iterator[BundleCheck]:
    """Yield the stored verdicts of a seal, each vouched for or found again just now.

    Raises:
        UnprovenError: A verdict is not what judging the bundle gives: the database was changed by
            hand. Bundles that were set aside count for nothing and pass.
    """
    for one in stored:
        check = one.check
        mark = vouch_for(log_seed, check, sealing_epoch)
        if check.code != BundleCode.POISON and not hmac.compare_digest(one.vouch, mark):
            found = check_bundle(check.raw, terms, sealing_epoch, issued_through=issued_through)
            got = (check.code, check.receipt_codes, check.payee_account)
            if got != (found.code, found.receipt_codes, found.payee_account):
                raise UnprovenError(
                    f"verdict on bundle {sha256(check.raw[64:]).hexdigest()}: got code "
                    f"{int(check.code)} and {len(check.receipt_codes)} receipts' codes that no "
                    f"worker vouches for, want code {int(found.code)} and its own"
                )
        yield check
