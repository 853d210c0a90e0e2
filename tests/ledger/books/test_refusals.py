"""Refusals: for every code the field that disagrees, what it holds and what was wanted."""

from dataclasses import replace

import builders
import pytest

from ledger.books.bundle_check import BundleCheck, check_bundle, set_aside
from ledger.books.codes import BundleCode, ReceiptCode
from ledger.books.lane_judgement import ENTITLEMENT_BYTES_MAX
from ledger.books.refusals import Disagreement, RefusalReader
from ledger.evidence.bundle import Bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT
from ledger.evidence.keys import network_id_of
from ledger.evidence.receipt import RECEIPT

EPOCH = builders.EPOCH
TERMS = builders.signed_terms()
OTHER_NETWORK = network_id_of("another network")
VIEWER, SEEDER = builders.key_of("viewer").hex(), builders.key_of("seeder").hex()


def reader(**changes: object) -> RefusalReader:
    values: dict[str, object] = {
        "terms": TERMS,
        "sealing_epoch": EPOCH,
        "issued_through": EPOCH,
        "void_from": {},
        "equivocations": (),
    }
    return RefusalReader(**{**values, **changes})


def explain(
    bundle: Signed[Bundle], code: ReceiptCode, *, final: bool = False, **changes: object
) -> Disagreement:
    """Why the bundle's first receipt was refused; its own check says so unless `final`."""
    made = reader(**changes)
    check = check_bundle(bundle.raw, TERMS, EPOCH, issued_through=made.issued_through)
    assert final or check.receipt_codes[0] == code
    return made.explain_receipt(check, 0, code)


def says(found: Disagreement, field: str, got: str, want: str) -> None:
    assert (found.field, found.got) == (field, got)
    assert want in found.want


def payee_bundle(**receipt: object) -> Signed[Bundle]:
    return builders.payee_bundle([builders.receipt(**receipt)])


def under(**entitlement: object) -> Signed[Bundle]:
    given = builders.entitlement(**entitlement)
    receipt = builders.receipt(entitlement_digest=given.digest)
    return builders.payee_bundle([receipt], entitlements=[given])


def test_receipts_frame():
    found = explain(payee_bundle(network_id=OTHER_NETWORK), ReceiptCode.WRONG_NETWORK)
    says(found, "receipt.network_id", OTHER_NETWORK.hex(), builders.NETWORK_ID.hex())
    found = explain(payee_bundle(epoch=EPOCH - 1), ReceiptCode.WRONG_EPOCH)
    says(found, "receipt.epoch", str(EPOCH - 1), str(EPOCH))
    found = explain(payee_bundle(payee_key=bytes(31) + b"x"), ReceiptCode.WRONG_PAYEE)
    says(found, "receipt.payee_key", (bytes(31) + b"x").hex(), SEEDER)
    viewers = builders.viewer_bundle([builders.receipt("seeder")])
    found = explain(viewers, ReceiptCode.WRONG_PAYEE)
    says(found, "receipt.payee_key", f"{SEEDER} as a peer", builders.key_of("cdn").hex())
    unbound = builders.payee_bundle([builders.receipt()], bindings=[])
    found = explain(unbound, ReceiptCode.UNBOUND_PAYEE)
    says(found, "bundle.bindings", "none that is valid", f"one of {SEEDER} to an account")


def test_its_entitlement():
    found = explain(payee_bundle(entitlement_digest=bytes(32)), ReceiptCode.UNKNOWN_ENTITLEMENT)
    says(found, "receipt.entitlement_digest", bytes(32).hex(), "an entitlement of the bundle")
    start_s, end_s = TERMS.value.epoch_start_s(EPOCH), TERMS.value.epoch_end_s(EPOCH)
    early = under(not_before_s=3, not_after_s=5)
    found = explain(early, ReceiptCode.ENTITLEMENT_NOT_VALID)
    says(found, "entitlement.not_before_s", "3 to 5", f"{start_s} to {end_s}")
    found = explain(payee_bundle(), ReceiptCode.ISSUING_KEY_REVOKED, issued_through=EPOCH - 1)
    says(found, "receipt.epoch", str(EPOCH), f"at most {EPOCH - 1}")
    own = under(session_key=builders.key_of("seeder"))
    found = explain(own, ReceiptCode.OWN_PAYEE)
    says(found, "receipt.payee_key", SEEDER, "another key")
    given = builders.entitlement("x")
    cdn = builders.receipt("cdn", entitlement_digest=given.digest)
    viewers = builders.viewer_bundle([cdn], entitlements=[given])
    found = explain(viewers, ReceiptCode.WRONG_SESSION)
    says(found, "entitlement.session_key", builders.key_of("x").hex(), VIEWER)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("network_id", OTHER_NETWORK),
        ("broadcaster_account", bytes(32)),
        ("payer_account", bytes(32)),
        ("terms_digest", bytes(32)),
        ("issuing_key", builders.key_of("x")),
    ],
)
def test_field_of_an_entitlement_that_is_not_the_terms(field, value):
    found = explain(under(**{field: value}), ReceiptCode.BAD_ENTITLEMENT)
    assert (found.field, found.got) == (f"entitlement.{field}", value.hex())
    assert len(found.want) == 64


def test_signatures():
    given = ENTITLEMENT.parse(bytes(64) + builders.entitlement().body)
    forged = builders.payee_bundle([builders.receipt()], entitlements=[given])
    found = explain(forged, ReceiptCode.BAD_ENTITLEMENT)
    says(found, "entitlement.signature", "one that is not valid", TERMS.value.issuing_key.hex())
    unsigned = RECEIPT.parse(bytes(64) + builders.receipt().body)
    found = explain(builders.payee_bundle([unsigned]), ReceiptCode.BAD_SIGNATURE)
    says(found, "receipt.signature", "one that is not valid", VIEWER)


def test_lanes():
    void = {builders.entitlement().digest: 3}
    found = explain(payee_bundle(), ReceiptCode.ENTITLEMENT_VOID, final=True, void_from=void)
    says(found, "receipt.epoch", str(EPOCH), "below 3")
    found = explain(payee_bundle(bytes_total=2**50), ReceiptCode.TOO_MUCH, final=True)
    says(found, "receipt.bytes_total", str(2**50), f"at most {ENTITLEMENT_BYTES_MAX}")
    first = builders.receipt(sequence=4, bytes_total=900)
    second = builders.receipt(sequence=4, bytes_total=700)
    found = explain(
        builders.payee_bundle([first]),
        ReceiptCode.EQUIVOCATION,
        final=True,
        equivocations=[(first.raw, second.raw)],
    )
    says(found, "receipt", found.got, "sequence 4, 700 bytes")
    assert "sequence 4, 900 bytes" in found.got


def bundle_reason(check: BundleCheck, **changes: object) -> Disagreement:
    return reader(**changes).explain_bundle(check)


def test_bundles():
    bundle = payee_bundle()
    late = check_bundle(bundle.raw, TERMS, EPOCH + 1_000)
    found = bundle_reason(late, sealing_epoch=EPOCH + 1_000)
    oldest = EPOCH + 1_000 - TERMS.value.correction_epochs
    says(found, "bundle.epoch", str(EPOCH), f"{oldest} to {EPOCH + 1_000}")
    unsigned = check_bundle(bytes(64) + bundle.body, TERMS, EPOCH)
    says(bundle_reason(unsigned), "bundle.signature", "one that is not valid", SEEDER)
    terms = builders.signed_terms(network_id=OTHER_NETWORK)
    found = bundle_reason(check_bundle(bundle.raw, terms, EPOCH), terms=terms)
    says(found, "bundle.network_id", builders.NETWORK_ID.hex(), OTHER_NETWORK.hex())
    terms = builders.signed_terms(broadcaster_account=bytes(32))
    found = bundle_reason(check_bundle(bundle.raw, terms, EPOCH), terms=terms)
    says(found, "bundle.broadcaster_account", builders.key_of("broadcaster").hex(), "00" * 32)
    poison = set_aside(check_bundle(bundle.raw, TERMS, EPOCH))
    says(bundle_reason(poison), "bundle", "one that stops workers", "one that can be judged")


def test_what_was_not_refused_has_no_reason():
    check = check_bundle(payee_bundle().raw, TERMS, EPOCH)
    with pytest.raises(ValueError, match="want one that refuses"):
        reader().explain_receipt(check, 0, ReceiptCode.COUNTED)
    with pytest.raises(ValueError, match="want a framed, refused one"):
        reader().explain_bundle(check)
    nothing = replace(check, bundle=None, code=BundleCode.MALFORMED)
    with pytest.raises(ValueError, match="framed"):
        reader().explain_bundle(nothing)
    with pytest.raises(ValueError, match="framed"):
        reader().explain_receipt(nothing, 0, ReceiptCode.TOO_MUCH)
