"""Bundle check: one bundle judged alone, whatever else was sent.

Frame, signatures, entitlements, bindings: the verdict never changes, so a worker computes it once,
on arrival. Every receipt gets exactly one stable code. Not here: receipts of a lane as a set
(`lane_judgement`), caps and the payable rule (the contract).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ledger.books.codes import BundleCode, ReceiptCode
from ledger.evidence.binding import Binding, Role, is_valid_binding
from ledger.evidence.bundle import Bundle, BundleKind, is_signed_by_submitter, parse_bundle
from ledger.evidence.encoding import ZERO_KEY, Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement, EntitlementRows
from ledger.evidence.errors import MalformedError
from ledger.evidence.keys import SIGNATURE_SIZE, verify_rows
from ledger.evidence.receipt import FLAG_CDN, RECEIPT
from ledger.evidence.recent import RecentSet
from ledger.evidence.record_rows import part_struct
from ledger.evidence.terms import Terms

EPOCH_MAX = (1 << 32) - 1
"""Highest epoch number."""

_ENTITLEMENT_PART = part_struct(
    ENTITLEMENT,
    "network_id",
    "broadcaster_account",
    "issuing_key",
    "terms_digest",
    "session_key",
    "payer_account",
    "not_before_s",
    "not_after_s",
)
_RECEIPT_PART = part_struct(
    RECEIPT, "flags", "network_id", "entitlement_digest", "payee_key", "epoch"
)
_UNKNOWN = (ZERO_KEY, ReceiptCode.UNKNOWN_ENTITLEMENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleCheck:
    """The verdict on one bundle alone."""

    raw: bytes
    """The bundle as it came."""

    bundle: Signed[Bundle] | None
    """Parsed, unless malformed."""

    code: BundleCode
    """0 when its receipts are judged one by one."""

    receipt_codes: tuple[ReceiptCode, ...]
    """One per receipt, in the bundle's order; COUNTED means: not refused so far."""

    payee_account: bytes
    """Account bound to a payee bundle's submitter in the bundle's epoch; zeros if none."""


def check_bundle(
    raw: bytes,
    terms: Signed[Terms],
    sealing_epoch: int,
    *,
    issued_through: int = EPOCH_MAX,
    known: RecentSet[bytes] | None = None,
) -> BundleCheck:
    """Judge one bundle alone.

    Args:
        raw: The bytes as they came; at most `BUNDLE_SIZE_MAX`.
        terms: Valid terms of the broadcaster.
        sealing_epoch: Epoch in whose seal the bundle stands.
        issued_through: Last epoch in which the terms' issuing key acts; entitlements count for
            nothing in later ones.
        known: Entitlements whose signatures were found good before, and that grows with those
            found good now; it changes no verdict. None: every signature is verified.

    Returns:
        A verdict; hostile bytes never raise.
    """
    try:
        signed = parse_bundle(raw)
    except MalformedError:
        return _refused(raw, None, BundleCode.MALFORMED)
    bundle = signed.value
    if bundle.network_id != terms.value.network_id:
        return _refused(raw, signed, BundleCode.WRONG_NETWORK)
    if bundle.broadcaster_account != terms.value.broadcaster_account:
        return _refused(raw, signed, BundleCode.WRONG_BROADCASTER)
    oldest = max(terms.value.first_epoch, sealing_epoch - terms.value.correction_epochs)
    if not oldest <= bundle.epoch <= sealing_epoch:
        return _refused(raw, signed, BundleCode.TOO_LATE)
    if not is_signed_by_submitter(signed):
        return _refused(raw, signed, BundleCode.BAD_SIGNATURE)
    account = _bound_account(bundle, bundle.bindings)
    entitlements = _judge_entitlements(bundle, terms, issued_through, known)
    codes = _judge_receipts(bundle, terms.value, account, entitlements)
    return BundleCheck(
        raw=raw,
        bundle=signed,
        code=BundleCode.ACCEPTED,
        receipt_codes=codes,
        payee_account=account,
    )


def set_aside(check: BundleCheck) -> BundleCheck:
    """Return the verdict on a framed bundle that stopped workers repeatedly: refused as poison.

    Raises:
        ValueError: The bundle does not parse, so it can stand in no seal.
    """
    if check.bundle is None:
        raise ValueError("bundle: got one that does not parse, want a framed one")
    return _refused(check.raw, check.bundle, BundleCode.POISON)


def _refused(raw: bytes, signed: Signed[Bundle] | None, code: BundleCode) -> BundleCheck:
    count = signed.value.receipt_count if signed else 0
    return BundleCheck(
        raw=raw,
        bundle=signed,
        code=code,
        receipt_codes=(ReceiptCode.BUNDLE_REFUSED,) * count,
        payee_account=ZERO_KEY,
    )


def _bound_account(bundle: Bundle, bindings: Iterable[Signed[Binding]]) -> bytes:
    """Return the account the submitter acts for in the bundle's epoch; zeros if none."""
    newest: Binding | None = None
    for signed in bindings:
        binding = signed.value
        if (
            binding.key == bundle.submitter_key
            and binding.role == Role.SESSION
            and binding.network_id == bundle.network_id
            and (newest is None or binding.serial > newest.serial)
            and is_valid_binding(signed)
        ):
            newest = binding
    if newest is None or not newest.covers(Role.SESSION, bundle.epoch):
        return ZERO_KEY
    return newest.account


def entitlement_codes(
    bundle: Bundle, terms: Signed[Terms], issued_through: int = EPOCH_MAX
) -> dict[bytes, tuple[Entitlement, ReceiptCode]]:
    """Return a bundle's entitlements with their verdicts, by digest.

    Args:
        bundle: Of the broadcaster of the terms.
        terms: Valid terms.
        issued_through: Last epoch in which the terms' issuing key acts.

    Returns:
        The code is `COUNTED`, `BAD_ENTITLEMENT`, `ENTITLEMENT_NOT_VALID` or `ISSUING_KEY_REVOKED`
        for the bundle's epoch.
    """
    verdicts = _judge_entitlements(bundle, terms, issued_through, None)
    return {
        digest: (signed.value, verdicts[digest][1])
        for digest, signed in zip(bundle.entitlements.digests(), bundle.entitlements, strict=True)
    }


def _judge_entitlements(
    bundle: Bundle,
    terms: Signed[Terms],
    issued_through: int,
    known: RecentSet[bytes] | None,
) -> dict[bytes, tuple[bytes, ReceiptCode]]:
    """Return (session key, code) of each entitlement, by digest."""
    entitlements = bundle.entitlements
    rows = list(entitlements.rows(_ENTITLEMENT_PART))
    are_given = _are_given(entitlements, rows, terms, known)
    start_s = terms.value.epoch_start_s(bundle.epoch)
    end_s = terms.value.epoch_end_s(bundle.epoch)
    is_revoked = bundle.epoch > issued_through
    verdicts: dict[bytes, tuple[bytes, ReceiptCode]] = {}
    counted = ReceiptCode.COUNTED
    for digest, row, is_given in zip(entitlements.digests(), rows, are_given, strict=True):
        _, _, _, _, session_key, _, not_before_s, not_after_s = row
        code = counted
        if not is_given:
            code = ReceiptCode.BAD_ENTITLEMENT
        elif not_after_s < start_s or not_before_s >= end_s:
            code = ReceiptCode.ENTITLEMENT_NOT_VALID
        elif is_revoked:
            code = ReceiptCode.ISSUING_KEY_REVOKED
        verdicts[digest] = session_key, code
    return verdicts


def _are_given(
    entitlements: EntitlementRows,
    rows: Sequence[tuple[Any, ...]],
    terms: Signed[Terms],
    known: RecentSet[bytes] | None,
) -> list[bool]:
    """Tell of each entitlement whether the terms' issuing key gave it, under these terms."""
    account, issuing_key = terms.value.broadcaster_account, terms.value.issuing_key
    frame = (terms.value.network_id, account, issuing_key, terms.digest)
    fits = [row[:4] == frame and row[5] == account for row in rows]
    buffer, start, size = entitlements.buffer, entitlements.start, ENTITLEMENT.size
    if known is None:
        keys = [issuing_key if fit else None for fit in fits]
        return verify_rows(buffer, start, size, keys)
    # By all that the verdict hangs on: what was signed, which names its signer, and the signature.
    places = range(start, start + size * len(rows), size)
    names = [
        buffer[at : at + SIGNATURE_SIZE] + digest
        for at, digest in zip(places, entitlements.digests(), strict=True)
    ]
    are_known = known.recall(names)
    if all(are_known):
        return fits
    keys = [
        issuing_key if fit and not seen else None for fit, seen in zip(fits, are_known, strict=True)
    ]
    are_signed = verify_rows(buffer, start, size, keys)
    for name, is_signed in zip(names, are_signed, strict=True):
        if is_signed:
            known.add(name)
    return [
        fit and (seen or is_signed)
        for fit, seen, is_signed in zip(fits, are_known, are_signed, strict=True)
    ]


def _judge_receipts(
    bundle: Bundle,
    terms: Terms,
    payee_account: bytes,
    entitlements: Mapping[bytes, tuple[bytes, ReceiptCode]],
) -> tuple[ReceiptCode, ...]:
    """Return each receipt's first code that applies; cheap checks first, signatures last."""
    counted = ReceiptCode.COUNTED
    is_viewers, is_bound = bundle.kind == BundleKind.VIEWER, payee_account != ZERO_KEY
    cdn_keys = {cdn.key for cdn in terms.cdns}
    network_id, epoch, submitter_key = bundle.network_id, bundle.epoch, bundle.submitter_key
    codes: list[ReceiptCode] = []
    keys: list[bytes | None] = []
    for flags, network, entitlement, payee_key, in_epoch in bundle.receipts.rows(_RECEIPT_PART):
        is_cdn = flags & FLAG_CDN
        if is_viewers:
            is_payee, is_payable = is_cdn and payee_key in cdn_keys, True
        else:
            is_payee, is_payable = not is_cdn and payee_key == submitter_key, is_bound
        session_key, code = entitlements.get(entitlement, _UNKNOWN)
        if network != network_id:
            code = ReceiptCode.WRONG_NETWORK
        elif in_epoch != epoch:
            code = ReceiptCode.WRONG_EPOCH
        elif not is_payee:
            code = ReceiptCode.WRONG_PAYEE
        elif not is_payable:
            code = ReceiptCode.UNBOUND_PAYEE
        elif code is counted:
            if payee_key == session_key:
                code = ReceiptCode.OWN_PAYEE
            elif is_viewers and session_key != submitter_key:
                code = ReceiptCode.WRONG_SESSION
        codes.append(code)
        keys.append(session_key if code is counted else None)
    rows = bundle.receipts
    are_signed = verify_rows(rows.buffer, rows.start, RECEIPT.size, keys)
    if all(are_signed):
        return tuple(codes)
    return tuple(
        ReceiptCode.BAD_SIGNATURE if code is counted and not is_signed else code
        for code, is_signed in zip(codes, are_signed, strict=True)
    )
