"""A large epoch made from nothing, always the same: what sealing and verifying are measured on.

Groups of viewers each receive from ten payees of their own; every payee sends one bundle with one
receipt of each viewer of its group, the viewers' entitlements and its binding, as the engine would.
All signatures are real. Signing a million receipts takes about two minutes, so bundles are kept in
a scratch folder and made once.

Not here: a database, a network; the transactions of the operator's accounts are written down here
as the network would record them.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

from contracts.registry import load_standard
from ledger.audit.stellar_xdr import read_transaction
from ledger.audit.trust import Trust, TrustedKey
from ledger.books.epoch import EpochInputs
from ledger.books.judgement import BundleCheck, BundleCode, ReceiptCode
from ledger.books.state import genesis_state
from ledger.books.transactions import NetworkFact
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.bundle import BUNDLE_HEAD, BundleKind, parse_bundle
from ledger.evidence.checkpoint import Checkpoint, body_hash
from ledger.evidence.encoding import TAG_SIZE, RecordCode, Signed, format_tag
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.keys import KEY_SIZE, SIGNATURE_SIZE, network_id_of, public_key_of, sign
from ledger.evidence.leaf import ACTIVATION, EVIDENCE_DAO_KEY, Activation
from ledger.evidence.receipt import RECEIPT, lane_digest_of
from ledger.evidence.terms import Terms, sign_terms

PAYEES_PER_VIEWER = 10
_NETWORK_NAME = "swarmledger synthetic network"
_NETWORK = network_id_of(_NETWORK_NAME)
_ORIGIN = "log.example/synthetic"
_EPOCH_LENGTH_S = 300
_GENESIS_S = 1_000_000
_CLOSE_S = _GENESIS_S + _EPOCH_LENGTH_S - 1
_DEPOSIT_STROOPS = 10**15
_KEY_END = SIGNATURE_SIZE + TAG_SIZE + KEY_SIZE
_RECEIPT_FIELDS = struct.Struct("<32s32sIIQQQ32s")
_ACCOUNTS = ("channel 0", "channel 1", "escrow", "payout", "anchor")


def seed_of(name: str) -> bytes:
    """Return the private seed of a named party of synthetic epochs; protects nothing."""
    return sha256(f"swarmledger synthetic party {name}".encode()).digest()


def key_of(name: str) -> bytes:
    """Return the public key of a named party."""
    return public_key_of(seed_of(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticEpoch:
    """The parts of an epoch around its bundles."""

    terms: Signed[Terms]
    issuing_binding: bytes
    activation: Signed[Activation]
    trust: Trust
    facts: tuple[NetworkFact, ...]
    log_seed: bytes = field(repr=False)
    salt_key: bytes

    def inputs(self, checks: Sequence[BundleCheck]) -> EpochInputs:
        """Return the epoch's inputs with these checked bundles, in bundle order."""
        return EpochInputs(
            terms=self.terms,
            opening=genesis_state(_NETWORK, key_of("broadcaster"), 0),
            rule=load_standard("traffic"),
            activations=(self.activation,),
            checks=checks,
            counted_before={},
            facts=self.facts,
            transactions=tuple(read_transaction(fact) for fact in self.facts),
            last_ledger_sequence=100,
            last_ledger_close_s=_CLOSE_S,
            salt_key=self.salt_key,
            instructions=(),
            dao_key=self.activation.value.dao_key,
        )

    def anchor(self, checkpoint: Checkpoint) -> NetworkFact:
        """Return the transaction that anchors a checkpoint."""
        nothing_set = _words(0, 5) + _words(*[0] * 9)
        return _fact(101, "anchor", [nothing_set], [5], memo=body_hash(checkpoint))


def make_epoch() -> SyntheticEpoch:
    """Return the parts of the synthetic epoch that do not depend on its size."""
    rule = load_standard("traffic")
    terms = sign_terms(_terms(rule.digest), seed_of("issuing"))
    binding = _bind("broadcaster", "issuing", Role.ISSUING)
    activation = Activation(
        network_id=_NETWORK,
        broadcaster_account=key_of("broadcaster"),
        rules_digest=rule.digest,
        first_epoch=0,
        evidence_kind=EVIDENCE_DAO_KEY,
        dao_key=key_of("dao"),
    )
    trust = Trust(
        network_passphrase=_NETWORK_NAME,
        log_origin=_ORIGIN,
        log_keys=(TrustedKey(key=key_of("log"), first_epoch=0),),
        dao_keys=(TrustedKey(key=key_of("dao"), first_epoch=0),),
        broadcaster_account=key_of("broadcaster"),
        genesis_s=_GENESIS_S,
        epoch_length_s=_EPOCH_LENGTH_S,
        grace_s=5,
        first_epoch=0,
    )
    return SyntheticEpoch(
        terms=terms,
        issuing_binding=binding.raw,
        activation=ACTIVATION.sign(activation, seed_of("dao")),
        trust=trust,
        facts=_facts(),
        log_seed=seed_of("log"),
        salt_key=sha256(b"synthetic salt key").digest(),
    )


def make_bundles(epoch: SyntheticEpoch, receipts: int, per_bundle: int) -> Iterator[bytes]:
    """Yield signed payee bundles with so many receipts in all, group by group.

    Args:
        epoch: Whose terms the entitlements are given under.
        receipts: A multiple of `PAYEES_PER_VIEWER * per_bundle`.
        per_bundle: Receipts of one bundle; as many viewers has a group.
    """
    for group in range(receipts // (PAYEES_PER_VIEWER * per_bundle)):
        viewers = [f"viewer {group}.{number}" for number in range(per_bundle)]
        payees = [f"payee {group}.{number}" for number in range(PAYEES_PER_VIEWER)]
        entitlements = [_entitlement(epoch.terms, viewer) for viewer in viewers]
        raw_entitlements = b"".join(
            entitlement.raw for entitlement in sorted(entitlements, key=lambda one: one.digest)
        )
        signed: dict[str, list[tuple[bytes, bytes]]] = {payee: [] for payee in payees}
        for viewer, entitlement in zip(viewers, entitlements, strict=True):
            for payee in payees:
                signed[payee].append(_receipt(viewer, entitlement.digest, payee))
        for payee in payees:
            rows = sorted(signed[payee])
            yield _bundle(payee, raw_entitlements, len(entitlements), [raw for _, raw in rows])


def write_bundles(path: Path, bundles: Iterator[bytes]) -> None:
    """Write bundles one after the other, each with its length in front; complete or not at all."""
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        for raw in bundles:
            file.write(len(raw).to_bytes(4, "little"))
            file.write(raw)
    draft.replace(path)


class BundleFile:
    """The bundles of a file that `write_bundles` wrote, in the seal's order, read on demand."""

    def __init__(self, path: Path) -> None:
        """Open the file and find the bundles in it."""
        self._file = path.open("rb")
        places: list[tuple[bytes, int, int]] = []
        while length := self._file.read(4):
            size, at = int.from_bytes(length, "little"), self._file.tell()
            frame = self._file.read(_KEY_END)
            # All bundles are of one broadcaster, epoch, kind and number: their senders order them.
            places.append((frame[_KEY_END - KEY_SIZE :], at, size))
            self._file.seek(at + size)
        self._places = sorted(places)

    def __len__(self) -> int:
        return len(self._places)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def load(self, index: int) -> BundleCheck:
        """Return a bundle with the verdict that a worker gave on it."""
        _, at, size = self._places[index]
        self._file.seek(at)
        return judged(self._file.read(size))


def judged(raw: bytes) -> BundleCheck:
    """Return the verdict that a worker gives on a bundle of `make_bundles`."""
    signed = parse_bundle(raw)
    bundle = signed.value
    return BundleCheck(
        raw=raw,
        bundle=signed,
        code=BundleCode.ACCEPTED,
        receipt_codes=(ReceiptCode.COUNTED,) * bundle.receipt_count,
        payee_account=bundle.bindings[0].value.account,
    )


def _terms(rules_digest: bytes) -> Terms:
    return Terms(
        network_id=_NETWORK,
        broadcaster_account=key_of("broadcaster"),
        issuing_key=key_of("issuing"),
        log_key=key_of("log"),
        log_origin=_ORIGIN,
        collector_url="http://127.0.0.1:8080",
        asset_code="EURT",
        asset_issuer=key_of("issuer"),
        escrow_account=key_of("escrow"),
        payout_account=key_of("payout"),
        anchor_account=key_of("anchor"),
        rules_digest=rules_digest,
        price_version=1,
        price_stroops=10_000_000,
        price_quantity_bytes=102_400 << 20,
        fee_ppm=100_000,
        genesis_s=_GENESIS_S,
        epoch_length_s=_EPOCH_LENGTH_S,
        grace_s=5,
        correction_epochs=4,
        first_epoch=0,
        last_epoch=1000,
        payout_threshold_stroops=1,
        fee_bid_stroops=100,
        attempt_window_ledgers=20,
        attempt_window_s=100,
        batch_payments=100,
        fee_account=bytes(32),
        fee_bid_max_stroops=100,
        challenge_window_s=0,
        cash_out_least_stroops=1,
        address_delay_s=0,
        suspense_refund_s=604_800,
        channel_accounts=tuple(sorted((key_of("channel 0"), key_of("channel 1")))),
        cdns=(),
    )


def _bind(account: str, name: str, role: Role) -> Signed[Binding]:
    binding = Binding(
        network_id=_NETWORK,
        account=key_of(account),
        key=key_of(name),
        role=role,
        first_epoch=0,
        last_epoch=10_000,
        serial=1,
    )
    return BINDING.sign(binding, seed_of(account), seed_of(name))


def _entitlement(terms: Signed[Terms], viewer: str) -> Signed[Entitlement]:
    entitlement = Entitlement(
        network_id=_NETWORK,
        broadcaster_account=key_of("broadcaster"),
        issuing_key=key_of("issuing"),
        terms_digest=terms.digest,
        content_id=sha256(b"synthetic content").digest(),
        session_key=key_of(viewer),
        payer_account=key_of("broadcaster"),
        serial=sha256(viewer.encode()).digest()[:16],
        assignment_seed=bytes(32),
        not_before_s=_GENESIS_S,
        not_after_s=_GENESIS_S + 7200,
        max_bytes=0,
        max_media_ms=0,
        max_rate_kbps=0,
        assignment_policy=0,
        country="",
    )
    return ENTITLEMENT.sign(entitlement, seed_of("issuing"))


def _receipt(viewer: str, entitlement_digest: bytes, payee: str) -> tuple[bytes, bytes]:
    """Return lane digest and signed bytes of a receipt."""
    payee_key = key_of(payee)
    root = sha256(f"{viewer} {payee}".encode()).digest()
    bytes_total = 1_000_000 + int.from_bytes(root[:3], "little")
    fields = _RECEIPT_FIELDS.pack(
        entitlement_digest, payee_key, 0, 0, 1 + root[3], bytes_total, 300_000, root
    )
    body = format_tag(RecordCode.RECEIPT, _NETWORK) + fields
    raw = sign(seed_of(viewer), body) + body
    if len(raw) != RECEIPT.size:
        raise AssertionError("synthetic receipts and the record's layout differ")
    return lane_digest_of(entitlement_digest, payee_key, 0, 0), raw


def _bundle(
    payee: str, raw_entitlements: bytes, entitlement_count: int, receipts: list[bytes]
) -> bytes:
    head = SimpleNamespace(
        submitter_key=key_of(payee),
        broadcaster_account=key_of("broadcaster"),
        epoch=0,
        kind=BundleKind.PAYEE,
        number=0,
        binding_count=1,
        entitlement_count=entitlement_count,
        receipt_count=len(receipts),
        heartbeat_count=0,
    )
    binding = _bind(f"{payee} account", payee, Role.SESSION).raw
    frame = format_tag(RecordCode.BUNDLE, _NETWORK) + BUNDLE_HEAD.pack(head)
    body = b"".join([frame, binding, raw_entitlements, *receipts])
    return sign(seed_of(payee), body) + body


def _facts() -> tuple[NetworkFact, ...]:
    """Accounts are created and the broadcaster deposits, all before the epoch ends."""
    creations = [_words(0, 0, 0) + key_of(name) + (10**9).to_bytes(8, "big") for name in _ACCOUNTS]
    asset = _words(1) + b"EURT" + _words(0) + key_of("issuer")
    payment = _words(0, 1, 0) + key_of("escrow") + asset + _DEPOSIT_STROOPS.to_bytes(8, "big")
    return (
        _fact(11, "funder", creations, [0] * len(creations)),
        _fact(12, "broadcaster", [payment], [1]),
    )


def _fact(
    ledger: int, source: str, operations: list[bytes], kinds: list[int], *, memo: bytes = b""
) -> NetworkFact:
    """Return a transaction that succeeded: TransactionEnvelope and TransactionResult XDR."""
    envelope = [_words(2, 0), key_of(source), _words(100), (7).to_bytes(8, "big"), _words(0)]
    envelope += [_words(3), memo] if memo else [_words(0)]
    envelope += [_words(len(operations)), *operations, _words(0, 0)]
    fee_and_code = [(100).to_bytes(8, "big"), _words(0, len(kinds))]
    result = [*fee_and_code, *(_words(0, kind, 0) for kind in kinds), _words(0)]
    return NetworkFact(
        network_id=_NETWORK,
        ledger_sequence=ledger,
        close_time_s=_GENESIS_S + 7 if ledger <= 100 else _CLOSE_S + 20,
        apply_order=1,
        envelope=b"".join(envelope),
        result=b"".join(result),
    )


def _words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)
