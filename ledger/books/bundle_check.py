"""Bundle check: one bundle judged alone, whatever else was sent.

Frame, signatures, entitlements, bindings: the verdict never changes, so a worker computes it once,
on arrival. Every receipt gets exactly one stable code. Not here: receipts of a lane as a set
(`lane_judgement`), caps and the payable rule (the contract).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ledger.books.codes import BundleCode, ReceiptCode
from ledger.evidence.binding import Binding, Role, is_valid_binding
from ledger.evidence.bundle import Bundle, BundleKind, is_signed_by_submitter, parse_bundle
from ledger.evidence.encoding import ZERO_KEY, Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.errors import MalformedError
from ledger.evidence.receipt import RECEIPT, Receipt
from ledger.evidence.terms import Terms

EPOCH_MAX = (1 << 32) - 1
"""Highest epoch number."""


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
) -> BundleCheck:
    """Judge one bundle alone.

    Args:
        raw: The bytes as they came; at most `BUNDLE_SIZE_MAX`.
        terms: Valid terms of the broadcaster.
        sealing_epoch: Epoch in whose seal the bundle stands.
        issued_through: Last epoch in which the terms' issuing key acts; entitlements count for
            nothing in later ones.

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
    entitlements = entitlement_codes(bundle, terms, issued_through)
    context = _BundleContext(bundle, terms, account, entitlements)
    codes = tuple(_check_receipt(receipt, context) for receipt in bundle.receipts)
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


@dataclass(frozen=True, slots=True)
class _BundleContext:
    bundle: Bundle
    terms: Signed[Terms]
    payee_account: bytes
    entitlements: Mapping[bytes, tuple[Entitlement, ReceiptCode]]


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
    start_s = terms.value.epoch_start_s(bundle.epoch)
    end_s = terms.value.epoch_end_s(bundle.epoch)
    verdicts: dict[bytes, tuple[Entitlement, ReceiptCode]] = {}
    for signed in bundle.entitlements:
        entitlement = signed.value
        code = ReceiptCode.COUNTED
        if (
            entitlement.network_id != terms.value.network_id
            or entitlement.broadcaster_account != terms.value.broadcaster_account
            or entitlement.payer_account != terms.value.broadcaster_account
            or entitlement.terms_digest != terms.digest
            or entitlement.issuing_key != terms.value.issuing_key
            or not ENTITLEMENT.is_signed_by(signed, terms.value.issuing_key)
        ):
            code = ReceiptCode.BAD_ENTITLEMENT
        elif entitlement.not_after_s < start_s or entitlement.not_before_s >= end_s:
            code = ReceiptCode.ENTITLEMENT_NOT_VALID
        elif bundle.epoch > issued_through:
            code = ReceiptCode.ISSUING_KEY_REVOKED
        verdicts[signed.digest] = (entitlement, code)
    return verdicts


def _check_receipt(signed: Signed[Receipt], context: _BundleContext) -> ReceiptCode:
    """Return the first code that applies; cheap checks first, the signature last."""
    receipt, bundle = signed.value, context.bundle
    if receipt.network_id != bundle.network_id:
        return ReceiptCode.WRONG_NETWORK
    if receipt.epoch != bundle.epoch:
        return ReceiptCode.WRONG_EPOCH
    payee_code = _check_payee(receipt, context)
    if payee_code != ReceiptCode.COUNTED:
        return payee_code
    if receipt.entitlement_digest not in context.entitlements:
        return ReceiptCode.UNKNOWN_ENTITLEMENT
    entitlement, code = context.entitlements[receipt.entitlement_digest]
    if code != ReceiptCode.COUNTED:
        return code
    if entitlement.session_key == receipt.payee_key:
        return ReceiptCode.OWN_PAYEE
    if bundle.kind == BundleKind.VIEWER and entitlement.session_key != bundle.submitter_key:
        return ReceiptCode.WRONG_SESSION
    if not RECEIPT.is_signed_by(signed, entitlement.session_key):
        return ReceiptCode.BAD_SIGNATURE
    return ReceiptCode.COUNTED


def _check_payee(receipt: Receipt, context: _BundleContext) -> ReceiptCode:
    bundle = context.bundle
    if bundle.kind == BundleKind.VIEWER:
        known = receipt.is_cdn and context.terms.value.cdn_of(receipt.payee_key) is not None
        return ReceiptCode.COUNTED if known else ReceiptCode.WRONG_PAYEE
    if receipt.is_cdn or receipt.payee_key != bundle.submitter_key:
        return ReceiptCode.WRONG_PAYEE
    bound = context.payee_account != ZERO_KEY
    return ReceiptCode.COUNTED if bound else ReceiptCode.UNBOUND_PAYEE
