"""The check by rows against one by records, written out here: the same code for every receipt."""

from collections.abc import Sequence
from dataclasses import replace

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.books import bundle_check
from ledger.books.bundle_check import check_bundle
from ledger.books.codes import BundleCode, ReceiptCode
from ledger.evidence.bundle import Bundle, BundleKind, parse_bundle, sign_bundle
from ledger.evidence.encoding import ZERO_KEY, Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.keys import network_id_of
from ledger.evidence.receipt import FLAG_CDN, RECEIPT, Receipt
from ledger.evidence.recent import RecentSet
from ledger.evidence.terms import Terms

EPOCH = builders.EPOCH
TERMS = builders.signed_terms()
OTHER_NETWORK = network_id_of("another network")


def entitlement_code(signed: Signed[Entitlement], bundle: Bundle, last: int) -> ReceiptCode:
    value, terms = signed.value, TERMS.value
    given = (
        value.network_id == terms.network_id
        and value.broadcaster_account == terms.broadcaster_account == value.payer_account
        and value.terms_digest == TERMS.digest
        and value.issuing_key == terms.issuing_key
        and ENTITLEMENT.is_signed_by(signed, terms.issuing_key)
    )
    if not given:
        return ReceiptCode.BAD_ENTITLEMENT
    start_s, end_s = terms.epoch_start_s(bundle.epoch), terms.epoch_end_s(bundle.epoch)
    if value.not_after_s < start_s or value.not_before_s >= end_s:
        return ReceiptCode.ENTITLEMENT_NOT_VALID
    return ReceiptCode.ISSUING_KEY_REVOKED if bundle.epoch > last else ReceiptCode.COUNTED


def payee_code(receipt: Receipt, bundle: Bundle, terms: Terms, account: bytes) -> ReceiptCode:
    if bundle.kind == BundleKind.VIEWER:
        known = receipt.is_cdn and terms.cdn_of(receipt.payee_key) is not None
        return ReceiptCode.COUNTED if known else ReceiptCode.WRONG_PAYEE
    if receipt.is_cdn or receipt.payee_key != bundle.submitter_key:
        return ReceiptCode.WRONG_PAYEE
    return ReceiptCode.UNBOUND_PAYEE if account == ZERO_KEY else ReceiptCode.COUNTED


def receipt_code(signed: Signed[Receipt], bundle: Bundle, account: bytes, last: int) -> ReceiptCode:
    receipt = signed.value
    if receipt.network_id != bundle.network_id:
        return ReceiptCode.WRONG_NETWORK
    if receipt.epoch != bundle.epoch:
        return ReceiptCode.WRONG_EPOCH
    code = payee_code(receipt, bundle, TERMS.value, account)
    if code != ReceiptCode.COUNTED:
        return code
    given = {one.digest: one for one in bundle.entitlements}
    if receipt.entitlement_digest not in given:
        return ReceiptCode.UNKNOWN_ENTITLEMENT
    entitlement = given[receipt.entitlement_digest]
    code = entitlement_code(entitlement, bundle, last)
    if code != ReceiptCode.COUNTED:
        return code
    session_key = entitlement.value.session_key
    if session_key == receipt.payee_key:
        return ReceiptCode.OWN_PAYEE
    if bundle.kind == BundleKind.VIEWER and session_key != bundle.submitter_key:
        return ReceiptCode.WRONG_SESSION
    good = RECEIPT.is_signed_by(signed, session_key)
    return ReceiptCode.COUNTED if good else ReceiptCode.BAD_SIGNATURE


def changed_entitlement(change: str, number: int) -> Signed[Entitlement]:
    changes = {
        "network": {"network_id": OTHER_NETWORK},
        "broadcaster": {"broadcaster_account": builders.key_of("x")},
        "payer": {"payer_account": builders.key_of("x")},
        "terms": {"terms_digest": bytes(32)},
        "issuer": {"issuing_key": builders.key_of("x")},
        "early": {"not_before_s": 0, "not_after_s": TERMS.value.epoch_start_s(EPOCH) - 1},
        "late": {"not_before_s": TERMS.value.epoch_end_s(EPOCH), "not_after_s": 2**40},
        "own": {"session_key": builders.key_of("seeder")},
    }.get(change, {})
    signed = builders.entitlement(max_bytes=number, **changes)
    if change == "forged":
        return ENTITLEMENT.parse(bytes(64) + signed.body)
    return signed


ENTITLEMENT_CHANGES = [
    "", "", "", "network", "broadcaster", "payer", "terms", "issuer", "early", "late", "own",
    "forged", "absent",
]  # fmt: skip
RECEIPT_CHANGES = ["", "", "", "network", "epoch", "payee", "cdn", "signer", "forged", "flipped"]


def changed_receipt(change: str, entitlement: Signed[Entitlement], payee: str, number: int):
    value = replace(
        builders.receipt().value,
        entitlement_digest=entitlement.digest,
        payee_key=builders.key_of(payee),
        flags=FLAG_CDN if payee == "cdn" else 0,
        nonce=number,
    )
    if change == "network":
        value = replace(value, network_id=OTHER_NETWORK)
    elif change == "epoch":
        value = replace(value, epoch=EPOCH - 1)
    elif change == "payee":
        value = replace(value, payee_key=builders.key_of("x"))
    elif change == "cdn":
        value = replace(value, flags=value.flags ^ FLAG_CDN)
    signer = "x" if change == "signer" else "viewer"
    signed = RECEIPT.sign(value, builders.seed_of(signer))
    if change == "forged":
        return RECEIPT.parse(bytes(64) + signed.body)
    if change == "flipped":
        return RECEIPT.parse(signed.raw[:10] + bytes([signed.raw[10] ^ 4]) + signed.raw[11:])
    return signed


def make(kind: BundleKind, changes: Sequence[tuple[str, str]], bound: bool) -> Signed[Bundle]:
    payee = "seeder" if kind == BundleKind.PAYEE else "cdn"
    entitlements, receipts = [], []
    for number, (entitlement_change, change) in enumerate(changes):
        entitlement = changed_entitlement(entitlement_change, number)
        if entitlement_change != "absent":
            entitlements.append(entitlement)
        receipts.append(changed_receipt(change, entitlement, payee, number))
    if kind == BundleKind.PAYEE:
        bindings = [builders.binding("seeder")] if bound else []
        return builders.payee_bundle(receipts, entitlements=entitlements, bindings=bindings)
    return builders.viewer_bundle(receipts, entitlements=entitlements)


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(BundleKind),
    changes=st.lists(
        st.tuples(st.sampled_from(ENTITLEMENT_CHANGES), st.sampled_from(RECEIPT_CHANGES)),
        max_size=6,
    ),
    bound=st.booleans(),
    last=st.sampled_from([EPOCH, EPOCH - 1]),
)
def test_rows_are_judged_like_records(kind, changes, bound, last):
    signed = make(kind, changes, bound)
    known: RecentSet[bytes] = RecentSet(100)
    bundle = parse_bundle(signed.raw).value
    for _ in range(2):
        # Once with an empty memory of entitlements, once with what the first time left in it.
        check = check_bundle(signed.raw, TERMS, EPOCH, issued_through=last, known=known)
        assert check.code == BundleCode.ACCEPTED
        assert check.receipt_codes == tuple(
            receipt_code(one, bundle, check.payee_account, last) for one in bundle.receipts
        )
    assert check == check_bundle(signed.raw, TERMS, EPOCH, issued_through=last)


def test_every_kind_of_change_was_judged_at_all():
    found = {
        code
        for kind in BundleKind
        for bound in (True, False)
        for change in RECEIPT_CHANGES
        for entitlement_change in ENTITLEMENT_CHANGES
        for code in check_bundle(
            make(kind, [(entitlement_change, change)], bound).raw, TERMS, EPOCH
        ).receipt_codes
    }
    wanted = {code for code in ReceiptCode if 10 <= code < 24} | {ReceiptCode.COUNTED}
    # A payee bundle's receipts are of any session; a viewer's own payee is no CDN of the terms.
    assert found >= wanted - {ReceiptCode.WRONG_SESSION}


def test_memory_of_one_entitlement_is_no_memory_of_another_or_of_other_bytes():
    known: RecentSet[bytes] = RecentSet(100)
    honest = make(BundleKind.PAYEE, [("", "")], True)
    assert check_bundle(honest.raw, TERMS, EPOCH, known=known).receipt_codes == (0,)
    for change in ("forged", "issuer", "terms"):
        raw = make(BundleKind.PAYEE, [(change, "")], True).raw
        codes = check_bundle(raw, TERMS, EPOCH, known=known).receipt_codes
        assert codes == (ReceiptCode.BAD_ENTITLEMENT,)


def test_remembered_entitlement_is_not_verified_again(monkeypatch):
    known: RecentSet[bytes] = RecentSet(100)
    raw = make(BundleKind.PAYEE, [("", ""), ("", "")], True).raw
    looked: list[int] = []
    real = bundle_check.verify_rows

    def counted(buffer, start, size, keys):
        looked.append(sum(key is not None for key in keys))
        return real(buffer, start, size, keys)

    monkeypatch.setattr(bundle_check, "verify_rows", counted)
    for _ in range(2):
        check_bundle(raw, TERMS, EPOCH, known=known)
    # Entitlements and receipts, then receipts only.
    assert looked == [2, 2, 2]


@pytest.mark.parametrize("flips", range(0, 600, 37))
def test_bundle_with_a_flipped_bit_is_refused_whole(flips):
    signed = make(BundleKind.PAYEE, [("", "")], True)
    raw = bytearray(signed.raw)
    raw[flips % len(raw)] ^= 1
    assert check_bundle(bytes(raw), TERMS, EPOCH).code != BundleCode.ACCEPTED
    resigned = sign_bundle(signed.value, builders.seed_of("seeder"))
    assert check_bundle(resigned.raw, TERMS, EPOCH).code == BundleCode.ACCEPTED
