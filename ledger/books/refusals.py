"""Refusals: which field of a refused bundle or receipt disagrees, what it holds, what was wanted.

The code of a refusal is stable and in the log; this is for the person who asks why. It is found
again from the sealed inputs when a seal stores its refusals, so that judging carries none of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ledger.books.bundle_check import BundleCheck
from ledger.books.codes import BundleCode, ReceiptCode
from ledger.books.lane_judgement import ENTITLEMENT_BYTES_MAX
from ledger.evidence.bundle import Bundle, BundleKind
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.keys import SIGNATURE_SIZE
from ledger.evidence.receipt import RECEIPT, Receipt
from ledger.evidence.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Why something was refused, in the form "field: got X, want Y"."""

    field: str
    got: str
    want: str


@dataclass(frozen=True, kw_only=True)
class RefusalReader:
    """Explains the refusals of one seal."""

    terms: Signed[Terms]
    """In force in the seal."""

    sealing_epoch: int
    issued_through: int
    """Last epoch in which the terms' issuing key acts."""

    void_from: Mapping[bytes, int]
    """Entitlement digest → first epoch in which it is void, before the seal."""

    equivocations: Sequence[tuple[bytes, bytes]]
    """The seal's pairs of contradicting receipts."""

    @cached_property
    def _rivals(self) -> Mapping[bytes, Receipt]:
        """Body → another receipt that contradicts it."""
        rivals: dict[bytes, Receipt] = {}
        for first, second in self.equivocations:
            rivals.setdefault(first[SIGNATURE_SIZE:], RECEIPT.parse(second).value)
            rivals.setdefault(second[SIGNATURE_SIZE:], RECEIPT.parse(first).value)
        return rivals

    def explain_bundle(self, check: BundleCheck) -> Disagreement:
        """Return why a framed bundle was refused whole.

        Raises:
            ValueError: It was not, or it has no frame.
        """
        if check.bundle is None or check.code == BundleCode.ACCEPTED:
            raise ValueError(f"bundle: got code {int(check.code)}, want a framed, refused one")
        bundle, terms = check.bundle.value, self.terms.value
        if check.code == BundleCode.TOO_LATE:
            oldest = max(terms.first_epoch, self.sealing_epoch - terms.correction_epochs)
            want = f"{oldest} to {self.sealing_epoch}"
            return Disagreement(field="bundle.epoch", got=str(bundle.epoch), want=want)
        reasons = {
            BundleCode.BAD_SIGNATURE: (
                "bundle.signature",
                "one that is not valid",
                f"the signature of {bundle.submitter_key.hex()}",
            ),
            BundleCode.WRONG_NETWORK: (
                "bundle.network_id",
                bundle.network_id.hex(),
                terms.network_id.hex(),
            ),
            BundleCode.WRONG_BROADCASTER: (
                "bundle.broadcaster_account",
                bundle.broadcaster_account.hex(),
                terms.broadcaster_account.hex(),
            ),
            BundleCode.POISON: ("bundle", "one that stops workers", "one that can be judged"),
        }
        field, got, want = reasons[check.code]
        return Disagreement(field=field, got=got, want=want)

    def explain_receipt(self, check: BundleCheck, place: int, code: ReceiptCode) -> Disagreement:
        """Return why a receipt of an accepted bundle was refused.

        Args:
            check: Of its bundle.
            place: Of the receipt in it, from 0.
            code: Its final code.

        Raises:
            ValueError: The code refuses nothing, or the bundle has no frame.
        """
        if check.bundle is None:
            raise ValueError("bundle: got one that does not parse, want a framed one")
        bundle = check.bundle.value
        signed = bundle.receipts[place]
        if code in _FRAME_CODES:
            return _explain_frame(bundle, signed.value, code, self.terms.value)
        digests = bundle.entitlements.digests()
        if signed.value.entitlement_digest not in digests:
            return Disagreement(
                field="receipt.entitlement_digest",
                got=signed.value.entitlement_digest.hex(),
                want="an entitlement of the bundle",
            )
        entitlement = bundle.entitlements[digests.index(signed.value.entitlement_digest)].value
        if code in _ENTITLEMENT_CODES:
            return self._explain_entitlement(bundle, entitlement, code)
        if code == ReceiptCode.WRONG_SESSION:
            return Disagreement(
                field="entitlement.session_key",
                got=entitlement.session_key.hex(),
                want=bundle.submitter_key.hex(),
            )
        return self._explain_lane(signed, entitlement, code)

    def _explain_entitlement(
        self, bundle: Bundle, entitlement: Entitlement, code: ReceiptCode
    ) -> Disagreement:
        terms = self.terms.value
        if code == ReceiptCode.ENTITLEMENT_NOT_VALID:
            start_s, end_s = terms.epoch_start_s(bundle.epoch), terms.epoch_end_s(bundle.epoch)
            return Disagreement(
                field="entitlement.not_before_s",
                got=f"{entitlement.not_before_s} to {entitlement.not_after_s}",
                want=f"a time that meets {start_s} to {end_s}",
            )
        if code == ReceiptCode.ISSUING_KEY_REVOKED:
            want = f"at most {self.issued_through}, the last one of the issuing key"
            return Disagreement(field="receipt.epoch", got=str(bundle.epoch), want=want)
        wanted = {
            "network_id": terms.network_id,
            "broadcaster_account": terms.broadcaster_account,
            "payer_account": terms.broadcaster_account,
            "terms_digest": self.terms.digest,
            "issuing_key": terms.issuing_key,
        }
        for field, value in wanted.items():
            got = getattr(entitlement, field)
            if got != value:
                return Disagreement(field=f"entitlement.{field}", got=got.hex(), want=value.hex())
        return Disagreement(
            field="entitlement.signature",
            got="one that is not valid",
            want=f"the signature of {terms.issuing_key.hex()}",
        )

    def _explain_lane(
        self, signed: Signed[Receipt], entitlement: Entitlement, code: ReceiptCode
    ) -> Disagreement:
        receipt = signed.value
        if code == ReceiptCode.BAD_SIGNATURE:
            return Disagreement(
                field="receipt.signature",
                got="one that is not valid",
                want=f"the signature of {entitlement.session_key.hex()}",
            )
        if code == ReceiptCode.ENTITLEMENT_VOID:
            first = self.void_from.get(receipt.entitlement_digest)
            want = f"below {first}, from which the entitlement is void"
            return Disagreement(field="receipt.epoch", got=str(receipt.epoch), want=want)
        if code == ReceiptCode.TOO_MUCH:
            want = f"at most {ENTITLEMENT_BYTES_MAX} with the entitlement's smaller lanes"
            return Disagreement(
                field="receipt.bytes_total", got=str(receipt.bytes_total), want=want
            )
        if code == ReceiptCode.NOT_COVERED:
            want = "what the broadcaster's deposits cover beside smaller claims"
            return Disagreement(
                field="receipt.bytes_total", got=str(receipt.bytes_total), want=want
            )
        if code == ReceiptCode.EQUIVOCATION:
            rival = self._rivals.get(signed.body)
            want = "one that no other contradicts" if rival is None else _claim_of(rival)
            return Disagreement(field="receipt", got=_claim_of(receipt), want=want)
        raise ValueError(f"code: got {int(code)}, want one that refuses a receipt")


_FRAME_CODES = frozenset(
    {
        ReceiptCode.WRONG_NETWORK,
        ReceiptCode.WRONG_EPOCH,
        ReceiptCode.WRONG_PAYEE,
        ReceiptCode.UNBOUND_PAYEE,
        ReceiptCode.OWN_PAYEE,
    }
)
_ENTITLEMENT_CODES = frozenset(
    {
        ReceiptCode.BAD_ENTITLEMENT,
        ReceiptCode.ENTITLEMENT_NOT_VALID,
        ReceiptCode.ISSUING_KEY_REVOKED,
    }
)


def _claim_of(receipt: Receipt) -> str:
    return (
        f"sequence {receipt.sequence}, {receipt.bytes_total} bytes, "
        f"{receipt.media_ms_total} ms of media, root {receipt.credit_root.hex()}"
    )


def _explain_frame(
    bundle: Bundle, receipt: Receipt, code: ReceiptCode, terms: Terms
) -> Disagreement:
    submitter = bundle.submitter_key.hex()
    payee = receipt.payee_key.hex()
    if code == ReceiptCode.WRONG_PAYEE:
        if bundle.kind == BundleKind.PAYEE:
            got, want = f"{payee}{' as a CDN' if receipt.is_cdn else ''}", f"{submitter} as a peer"
        else:
            got = f"{payee}{'' if receipt.is_cdn else ' as a peer'}"
            want = " or ".join(cdn.key.hex() for cdn in terms.cdns) or "none: the terms name no CDN"
        return Disagreement(field="receipt.payee_key", got=got, want=want)
    reasons = {
        ReceiptCode.WRONG_NETWORK: (
            "receipt.network_id",
            receipt.network_id.hex(),
            bundle.network_id.hex(),
        ),
        ReceiptCode.WRONG_EPOCH: ("receipt.epoch", str(receipt.epoch), str(bundle.epoch)),
        ReceiptCode.UNBOUND_PAYEE: (
            "bundle.bindings",
            "none that is valid",
            f"one of {submitter} to an account in epoch {bundle.epoch}",
        ),
        ReceiptCode.OWN_PAYEE: ("receipt.payee_key", payee, "another key than the session's"),
    }
    field, got, want = reasons[code]
    return Disagreement(field=field, got=got, want=want)
