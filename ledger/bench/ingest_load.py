"""What the bench of ingest uploads: an operator's papers, and bundles signed ahead of time.

Groups of a thousand viewers, each served by ten payees an epoch: every payee sends one bundle with
one receipt of each viewer of its group, the viewers' entitlements and its binding, as the engine
would. A later round is the same viewers with other payees, as in the next minutes of an event. Not
here: who takes them in (`ingest_parts`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from ledger.audit.trust import format_trust
from ledger.bench.signature_loop import SignatureLoop
from ledger.bench.synthetic_epoch import key_of, make_epoch, seed_of
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.bundle import BundleKind, make_bundle, parse_bundle, sign_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.receipt import RECEIPT, Receipt
from ledger.evidence.terms import Terms, sign_terms

PAYEES_PER_VIEWER = 10
_EPOCH_LENGTH_S = 1 << 24
"""One epoch for all of the bench: nothing is sealed meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Papers:
    """What the operator's processes read."""

    terms: Signed[Terms]
    environment: dict[str, str]
    """Settings of the processes, but for the database and the network."""


def write_papers(folder: Path, genesis_s: int) -> Papers:
    """Write terms, bindings, trust and the log's key for an operator whose first epoch lasts."""
    epoch = make_epoch()
    value = replace(epoch.terms.value, genesis_s=genesis_s, epoch_length_s=_EPOCH_LENGTH_S)
    terms = sign_terms(value, seed_of("issuing"))
    # The worker serves the epochs and the money of the trust file's broadcaster: of nobody here.
    trust = replace(epoch.trust, broadcaster_account=key_of("nobody"))
    files = {
        "TERMS_FILE": terms.raw,
        "BINDING_FILE": epoch.issuing_binding,
        "ACTIVATION_FILE": epoch.activation.raw,
        "TRUST_FILE": format_trust(trust).encode(),
        "LOG_KEY_FILE": epoch.log_seed.hex().encode(),
    }
    environment = {"SWARMLEDGER_NETWORK_PASSPHRASE": epoch.trust.network_passphrase}
    for name, content in files.items():
        path = folder / name.lower()
        path.touch(mode=0o600)
        path.write_bytes(content)
        environment[f"SWARMLEDGER_{name}"] = str(path)
    for name in ("KEYS_DIR", "LOG_DIR", "AUDIT_DIR"):
        (folder / name.lower()).mkdir()
        environment[f"SWARMLEDGER_{name}"] = str(folder / name.lower())
    return Papers(terms=terms, environment=environment)


def sign_bundles(
    terms: Signed[Terms], *, receipts: int, per_bundle: int, first_group: int, round_number: int
) -> Iterator[bytes]:
    """Yield signed payee bundles, group by group.

    Args:
        terms: The entitlements' terms.
        receipts: In all; a multiple of ten times `per_bundle`.
        per_bundle: Receipts of one bundle; as many viewers has a group.
        first_group: Number of the first group of viewers.
        round_number: Of the same viewers; each has its own payees.
    """
    for group in range(first_group, first_group + receipts // (PAYEES_PER_VIEWER * per_bundle)):
        viewers = [f"viewer {group}.{number}" for number in range(per_bundle)]
        entitlements = [entitle_viewer(terms, viewer) for viewer in viewers]
        for number in range(PAYEES_PER_VIEWER):
            payee = f"payee {group}.{round_number}.{number}"
            signed = [
                sign_receipt(terms.value, viewer, entitlement.digest, payee)
                for viewer, entitlement in zip(viewers, entitlements, strict=True)
            ]
            bundle = make_bundle(
                network_id=terms.value.network_id,
                submitter_key=key_of(payee),
                broadcaster_account=terms.value.broadcaster_account,
                epoch=0,
                kind=BundleKind.PAYEE,
                number=0,
                bindings=[bind_payee(terms.value, payee)],
                entitlements=entitlements,
                receipts=signed,
                heartbeats=[],
            )
            yield sign_bundle(bundle, seed_of(payee)).raw


class Yardsticks:
    """Loops of C over the signatures of some bundles: what verifying one of a kind takes."""

    def __init__(self, folder: Path) -> None:
        """Compile the loop in a scratch folder."""
        self._receipts = SignatureLoop(folder)
        self._entitlements = SignatureLoop(folder)
        self._bundles = SignatureLoop(folder)

    def verify(self, raw: bytes) -> None:
        """Verify all signatures of a bundle, those of its bindings left out."""
        bundle = parse_bundle(raw).value
        signers = [one.value.issuing_key for one in bundle.entitlements]
        sessions = {one.digest: one.value.session_key for one in bundle.entitlements}
        keys = [sessions[one.value.entitlement_digest] for one in bundle.receipts]
        rows, given = bundle.receipts, bundle.entitlements
        self._receipts.verify(rows.buffer, rows.start, RECEIPT.size, keys)
        self._entitlements.verify(given.buffer, given.start, ENTITLEMENT.size, signers)
        self._bundles.verify(raw, 0, len(raw), [bundle.submitter_key])

    @property
    def receipt_s(self) -> float:
        """Processor seconds of verifying one receipt, on average."""
        return self._receipts.cpu_s / self._receipts.signatures

    @property
    def entitlement_s(self) -> float:
        """The same of one entitlement."""
        return self._entitlements.cpu_s / self._entitlements.signatures

    @property
    def bundle_s(self) -> float:
        """The same of one bundle's own signature, over all of its bytes."""
        return self._bundles.cpu_s / self._bundles.signatures


def entitle_viewer(terms: Signed[Terms], viewer: str) -> Signed[Entitlement]:
    """Return a viewer's entitlement without caps."""
    value = terms.value
    entitlement = Entitlement(
        network_id=value.network_id,
        broadcaster_account=value.broadcaster_account,
        issuing_key=value.issuing_key,
        terms_digest=terms.digest,
        content_id=sha256(b"synthetic content").digest(),
        session_key=key_of(viewer),
        payer_account=value.broadcaster_account,
        serial=sha256(viewer.encode()).digest()[:16],
        assignment_seed=bytes(32),
        not_before_s=value.genesis_s,
        not_after_s=value.genesis_s + 7_200,
        max_bytes=0,
        max_media_ms=0,
        max_rate_kbps=0,
        assignment_policy=0,
        country="",
    )
    return ENTITLEMENT.sign(entitlement, seed_of("issuing"))


def sign_receipt(
    terms: Terms, viewer: str, entitlement_digest: bytes, payee: str
) -> Signed[Receipt]:
    """Return a viewer's receipt for a payee."""
    root = sha256(f"{viewer} {payee}".encode()).digest()
    receipt = Receipt(
        network_id=terms.network_id,
        flags=0,
        entitlement_digest=entitlement_digest,
        payee_key=key_of(payee),
        epoch=0,
        nonce=0,
        sequence=1 + root[3],
        bytes_total=1_000_000 + int.from_bytes(root[:3], "little"),
        media_ms_total=300_000,
        credit_root=root,
    )
    return RECEIPT.sign(receipt, seed_of(viewer))


def bind_payee(terms: Terms, payee: str) -> Signed[Binding]:
    """Return the binding of a payee's session key to its account."""
    account = f"{payee} account"
    binding = Binding(
        network_id=terms.network_id,
        account=key_of(account),
        key=key_of(payee),
        role=Role.SESSION,
        first_epoch=0,
        last_epoch=10_000,
        serial=1,
    )
    return BINDING.sign(binding, seed_of(account), seed_of(payee))
