"""Traps that other accounting systems fell into, one named test each.

Each was found in the code or the tracker of a running system: Tribler (1, 13), Theta (2), Fleek
(3), Storj (4, 5, 6), the Graph's TAP (7, 8, 10), Livepeer (9), Althea (11), a Stellar channel (12).
The parts' own tests cover most from other sides; here each stands alone. Traps 10, 11 and 13 need a
server, a database or a swarm and stand with those tests: `pytest -k trap` runs all thirteen.
"""

from dataclasses import replace
from hashlib import sha512

import pytest
from nacl import bindings
from simulated_operator import (
    ASSET,
    EPOCH_S,
    NETWORK,
    Operator,
    address,
    key,
    make_binding,
    make_entitlement,
    make_heartbeats,
    make_payee_bundle,
    make_receipt,
    make_terms,
    make_viewer_bundle,
    seed,
)

from ledger.audit.verify import Verdict, verify_audit_file
from ledger.books.codes import ReceiptCode
from ledger.books.errors import UnknownTransactionError
from ledger.config import Settings
from ledger.evidence.binding import BINDING, is_valid_binding
from ledger.evidence.bundle import is_signed_by_submitter, parse_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT
from ledger.evidence.errors import InclusionError, MalformedError
from ledger.evidence.heartbeat import HEARTBEAT
from ledger.evidence.instruction import REFUND, REFUND_ALL, Refund
from ledger.evidence.keys import verify
from ledger.evidence.leaf import PAYOUT_REFUND, PayoutLeaf
from ledger.evidence.merkle import check_inclusion, leaf_hash, prove_inclusion, root_hash
from ledger.evidence.receipt import RECEIPT

TOTAL = 999_983
EMPTY_SIGNATURES = [b"", b"\0" * 32, b"\0" * 63, b"\0" * 64, b"\xff" * 64]


def payee_bundle(operator: Operator, *receipts, viewers=("ann",), number: int = 0) -> bytes:
    entitlements = [make_entitlement(operator, viewer) for viewer in viewers]
    return make_payee_bundle("seeder", operator.epoch, entitlements, list(receipts), number)


def receipt(operator: Operator, total: int = TOTAL, **changes: object):
    return make_receipt(
        make_entitlement(operator, "ann"), "ann", "seeder", operator.epoch, total, **changes
    )


def owed_to_seeder(operator: Operator) -> int:
    balance = operator.state.payees.get(key("seeder account"))
    return 0 if balance is None else balance.owed_stroops


@pytest.mark.parametrize("signature", EMPTY_SIGNATURES, ids=len)
def test_trap_01_empty_short_and_zero_signatures_are_rejected_at_every_entry_point(signature):
    operator = Operator()
    entitlement = make_entitlement(operator, "ann")
    signed = make_receipt(entitlement, "ann", "seeder", 0, TOTAL)
    beat = make_heartbeats(operator, entitlement, "ann", 0, 1)[0]
    raw = make_payee_bundle("seeder", 0, [entitlement], [signed])
    binding = make_binding("seeder", "seeder account")
    assert not verify(key("ann"), signed.body, signature)
    for form, record, signer in [
        (RECEIPT, signed, "ann"),
        (ENTITLEMENT, entitlement, "issuing"),
        (HEARTBEAT, beat, "ann"),
    ]:
        forged = signature + record.body
        try:
            parsed = form.parse(forged)
        except MalformedError:
            continue
        assert not form.is_signed_by(parsed, key(signer))
    for forged, parse, accepts in [
        (signature + raw[64:], parse_bundle, is_signed_by_submitter),
        (signature + binding.raw[64:], BINDING.parse, is_valid_binding),
    ]:
        try:
            parsed = parse(forged)
        except MalformedError:
            continue
        assert not accepts(parsed)
    if len(signature) == 64:
        for bad in (
            make_forged_receipt(signed, signature),
            make_forged_receipt(signed, b"\1" * 64),
        ):
            check = operator.check(make_payee_bundle("seeder", 0, [entitlement], [bad]))
            assert check.receipt_codes == (ReceiptCode.BAD_SIGNATURE,)


def make_forged_receipt(signed: Signed, signature: bytes) -> Signed:
    return RECEIPT.parse(signature + signed.body)


def test_trap_02_overspending_and_contradiction_are_sanctioned_by_the_code_that_says_so():
    operator = Operator()
    operator.set_up(50_000_000_000)
    capped = make_entitlement(operator, "bob", max_bytes=1_000)
    lies = [receipt(operator, TOTAL, sequence=1), receipt(operator, 500_009, sequence=2)]
    over = make_receipt(capped, "bob", "seeder", 0, TOTAL)
    entitlements = [make_entitlement(operator, "ann"), capped]
    operator.close([make_payee_bundle("seeder", 0, entitlements, [*lies, over])])
    credited = sum(outcome.credited_bytes for outcome in operator.result.settlement.outcomes)
    assert credited == 500_009 + 1_000
    assert operator.result.result_leaf.bytes_uncredited == TOTAL - 1_000
    bundle = payee_bundle(operator, receipt(operator))
    next_epoch = replace(operator.state)
    operator.close([bundle])
    assert operator.seal.judgement.codes == ((ReceiptCode.ENTITLEMENT_VOID,),)
    # With the sanction's record taken out, the same receipt counts: nothing else refused it.
    operator.state = replace(next_epoch, void_from={})
    operator.close([bundle])
    assert operator.seal.judgement.codes == ((ReceiptCode.COUNTED,),)


def test_trap_03_a_proof_altered_in_any_byte_is_rejected():
    leaves = [b"leaf %d" % number for number in range(11)]
    hashes = [leaf_hash(leaf) for leaf in leaves]
    root, proof = root_hash(leaves), prove_inclusion(hashes, 6)
    check_inclusion(hashes[6], 6, 11, proof, root)
    altered = [
        [*proof[:place], node[:at] + bytes([node[at] ^ 1]) + node[at + 1 :], *proof[place + 1 :]]
        for place, node in enumerate(proof)
        for at in range(32)
    ]
    for wrong in [*altered, proof[:-1], [*proof, proof[0]], proof[::-1], []]:
        with pytest.raises(InclusionError):
            check_inclusion(hashes[6], 6, 11, wrong, root)


def test_trap_04_a_late_receipt_becomes_a_correction_and_the_rest_is_unaffected():
    operator = Operator()
    operator.set_up(50_000_000_000)
    early = receipt(operator, 500_009)
    operator.close([payee_bundle(operator, early)])
    before = owed_to_seeder(operator)
    ann, bob = (make_entitlement(operator, viewer) for viewer in ("ann", "bob"))
    late = make_payee_bundle(
        "seeder", 0, [ann], [make_receipt(ann, "ann", "seeder", 0, TOTAL, sequence=2)], 1
    )
    own = make_payee_bundle("seeder", 1, [bob], [make_receipt(bob, "bob", "seeder", 1, 700_001)])
    data = operator.close([late, own])
    assert {code for codes in operator.seal.judgement.codes for code in codes} == {
        ReceiptCode.COUNTED
    }
    (correction,) = operator.seal.corrections
    assert (correction.epoch, correction.bytes_before, correction.bytes_after) == (
        0,
        500_009,
        TOTAL,
    )
    added = sum(outcome.credited_bytes for outcome in operator.result.settlement.outcomes)
    assert added == TOTAL - 500_009 + 700_001
    assert owed_to_seeder(operator) > before
    assert verify_audit_file(data, operator.trust).verdict == Verdict.PROVEN


def test_trap_05_an_entitlement_without_receipts_pays_nothing():
    operator = Operator()
    operator.set_up(50_000_000_000)
    promised = make_entitlement(operator, "ann", max_bytes=1 << 40)
    operator.close([make_payee_bundle("seeder", 0, [promised], [])])
    assert operator.result.settlement.charges == ()
    assert operator.result.result_leaf.charged_stroops == 0
    assert owed_to_seeder(operator) == 0


@pytest.mark.parametrize("payee", ["broadcaster", "log", "issuing", "dao", "cdn"])
def test_trap_06_nobody_is_trusted_so_much_that_its_signatures_are_not_checked(payee):
    """Whoever is paid, and whatever the operator configures: an unsigned receipt is refused."""
    operator = Operator()
    ann = make_entitlement(operator, "ann")
    forged = make_forged_receipt(make_receipt(ann, "ann", payee, 0, TOTAL), b"\0" * 64)
    make = make_viewer_bundle if payee == "cdn" else make_payee_bundle
    submitter = "ann" if payee == "cdn" else payee
    check = operator.check(make(submitter, 0, [ann], [forged]))
    assert check.receipt_codes == (ReceiptCode.BAD_SIGNATURE,)


def test_trap_06_no_setting_can_switch_a_check_off():
    switches = {name for name, field in Settings.model_fields.items() if field.annotation is bool}
    words = ("verif", "signature", "trusted", "skip", "insecure", "unsafe")
    named = {name for name in Settings.model_fields if any(word in name for word in words)}
    # A new switch is looked at by whoever adds it here: this one is about log lines.
    assert (switches, named) == ({"api_log_addresses"}, set())


def sign_again(body: bytes, private_seed: bytes, nonce: bytes) -> bytes:
    """Another valid signature of the same message: Ed25519 with a nonce of our choosing."""
    secret = bytearray(sha512(private_seed).digest()[:32])
    secret[0] &= 248
    secret[31] = (secret[31] & 127) | 64
    scalar = bindings.crypto_core_ed25519_scalar_reduce(bytes(secret) + bytes(32))
    r = bindings.crypto_core_ed25519_scalar_reduce(sha512(nonce).digest())
    point = bindings.crypto_scalarmult_ed25519_base_noclamp(r)
    public = bindings.crypto_scalarmult_ed25519_base_noclamp(scalar)
    k = bindings.crypto_core_ed25519_scalar_reduce(sha512(point + public + body).digest())
    s = bindings.crypto_core_ed25519_scalar_add(
        r, bindings.crypto_core_ed25519_scalar_mul(k, scalar)
    )
    return point + s


def test_trap_07_the_same_receipt_signed_again_is_no_second_receipt():
    operator = Operator()
    operator.set_up(50_000_000_000)
    signed = receipt(operator)
    again = make_forged_receipt(signed, sign_again(signed.body, seed("ann"), b"other nonce"))
    assert again.raw != signed.raw
    assert RECEIPT.is_signed_by(again, key("ann"))
    bundles = [payee_bundle(operator, signed), payee_bundle(operator, again, number=1)]
    operator.close(bundles)
    codes = sorted(code for codes in operator.seal.judgement.codes for code in codes)
    assert codes == [ReceiptCode.COUNTED, ReceiptCode.DUPLICATE]
    assert operator.result.result_leaf.bytes_p2p_credited == TOTAL
    # And the order of the group added to S, which lenient verifiers take for a new signature.
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(signed.raw[32:64], "little") + order
    malleated = make_forged_receipt(signed, signed.raw[:32] + s.to_bytes(32, "little"))
    assert not RECEIPT.is_signed_by(malleated, key("ann"))


def test_trap_08_a_receipt_a_day_late_still_counts():
    """Hourly epochs, a bundle that comes 24 of them later: a correction, not a refusal."""
    operator = Operator(terms=make_terms(epoch_length_s=3_600, correction_epochs=48))
    operator.trust = replace(operator.trust, epoch_length_s=3_600)
    operator.set_up(50_000_000_000)
    late = payee_bundle(operator, receipt(operator))
    for _ in range(24):
        operator.close()
    data = operator.close([late])
    assert operator.seal.judgement.codes == ((ReceiptCode.COUNTED,),)
    assert operator.result.result_leaf.bytes_p2p_credited == TOTAL
    assert verify_audit_file(data, operator.trust).verdict == Verdict.PROVEN


def test_trap_09_a_claim_is_consumed_by_the_ledgers_proof_of_payment_and_by_nothing_else():
    operator = Operator()
    operator.set_up(50_000_000_000)
    operator.close([payee_bundle(operator, receipt(operator))])
    owed = owed_to_seeder(operator)
    planned = list(operator.result.payouts)
    assert owed > 0
    # Planned, perhaps sent, perhaps answered: no transaction on the ledger, so still owed.
    operator.close()
    assert owed_to_seeder(operator) == owed
    # A transaction that the ledger refused pays nothing either; its sum is planned anew.
    operator.apply_payout(planned.pop(0), code=-1)
    operator.close()
    assert owed_to_seeder(operator) == owed
    planned.extend(operator.result.payouts)
    funding = [leaf for leaf in planned if leaf.source_account == key("escrow")]
    for leaf in [*funding, *(leaf for leaf in planned if leaf not in funding)]:
        operator.apply_payout(leaf)
    operator.close()
    assert owed_to_seeder(operator) == 0
    assert operator.state.payees[key("seeder account")].paid_stroops == owed


def test_trap_12_money_leaves_the_escrow_by_a_plan_or_the_books_stop():
    """A refund while dues are open would be such a transaction: nothing is sealed over it."""
    operator = Operator()
    operator.set_up(50_000_000_000)
    operator.close([payee_bundle(operator, receipt(operator))])
    refund = operator.builder("broadcaster", 10).append_payment_op(
        address("broadcaster"), ASSET, "1", source=address("escrow")
    )
    operator.fact(refund, "broadcaster", "escrow")
    with pytest.raises(UnknownTransactionError, match="want a planned batch"):
        operator.close()


@pytest.mark.parametrize(
    ("correction_epochs", "challenge_epochs", "due_epoch"), [(4, 0, 5), (1, 4, 4)]
)
def test_trap_12_a_refund_waits_until_nothing_open_can_cost_it(
    correction_epochs: int, challenge_epochs: int, due_epoch: int
) -> None:
    """What an epoch was open to when the broadcaster asked is paid in full, and what still may be.

    The refund waits for the longer of the correction window and the challenge window.
    """
    terms = make_terms(
        correction_epochs=correction_epochs, challenge_window_s=challenge_epochs * EPOCH_S
    )
    operator = Operator(terms=terms)
    operator.set_up(50_000_000_000)
    ann = make_entitlement(operator, "ann", max_bytes=3 * TOTAL)
    wish = Refund(
        network_id=NETWORK,
        broadcaster_account=key("broadcaster"),
        serial=1,
        amount_stroops=REFUND_ALL,
    )
    operator.instructions.append(REFUND.sign(wish, seed("broadcaster")))
    operator.close([payee_bundle_under(ann, operator.epoch, TOTAL)])
    while operator.epoch <= due_epoch:
        assert refunds_of(operator) == [], f"epoch {operator.epoch - 1}"
        for leaf in operator.result.payouts:
            operator.apply_payout(leaf)
        late = operator.epoch == correction_epochs
        operator.close([payee_bundle_under(ann, 0, 2 * TOTAL, number=1)] if late else [])
        assert not late or operator.result.result_leaf.bytes_p2p_credited == TOTAL
    assert len(refunds_of(operator)) == 1
    for leaf in operator.result.payouts:
        operator.apply_payout(leaf)
    # The entitlement is not over yet: its last byte is still covered.
    operator.close([payee_bundle_under(ann, operator.epoch, TOTAL)])
    assert operator.result.result_leaf.bytes_p2p_credited == TOTAL
    assert operator.state.head.refunded_stroops > 0


def payee_bundle_under(entitlement: Signed, epoch: int, total: int, number: int = 0) -> bytes:
    signed = make_receipt(entitlement, "ann", "seeder", epoch, total, sequence=number + 1)
    return make_payee_bundle("seeder", epoch, [entitlement], [signed], number)


def refunds_of(operator: Operator) -> list[PayoutLeaf]:
    return [leaf for leaf in operator.result.payouts if leaf.kind == PAYOUT_REFUND]
