"""An operator in memory for tests of the audit: real keys, real records, real XDR, no database.

It closes epochs with the production functions and composes their audit files; tests then ask the
verifier. Network facts are envelopes built and signed by stellar-sdk with result XDR.
"""

from dataclasses import dataclass, field, replace
from hashlib import sha256

from stellar_sdk import Account, Asset, Keypair, StrKey, TransactionBuilder, xdr

from contracts.registry import Rule, load_standard
from ledger.audit.compose import LogView, Notes, compose_contents
from ledger.audit.counts import prove_counts
from ledger.audit.file import AuditContents, build_audit_file
from ledger.audit.stellar_xdr import read_transaction
from ledger.audit.trust import Trust, TrustedKey
from ledger.books.epoch import EpochInputs, Result, Seal, bundle_order, compute_epoch, seal_epoch
from ledger.books.judgement import BundleCheck, check_bundle, format_lane_entry
from ledger.books.state import State, genesis_state
from ledger.books.transactions import NetworkFact
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.bundle import BundleKind, make_bundle, sign_bundle
from ledger.evidence.checkpoint import Checkpoint, body_hash, sign_checkpoint
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.heartbeat import HEARTBEAT, Heartbeat
from ledger.evidence.instruction import order_of_instruction
from ledger.evidence.keys import network_id_of, public_key_of
from ledger.evidence.leaf import ACTIVATION, EVIDENCE_DAO_KEY, Activation, PayoutLeaf
from ledger.evidence.merkle import root_hash
from ledger.evidence.note import format_note
from ledger.evidence.receipt import FLAG_CDN, RECEIPT, Receipt
from ledger.evidence.terms import CdnTerms, Terms, sign_terms

PASSPHRASE = "simulated network ; tests"
NETWORK = network_id_of(PASSPHRASE)
ORIGIN = "log.example/broadcaster"
GENESIS_S = 1_000_000
EPOCH_S = 15


def seed(name: str) -> bytes:
    """A fixed private seed for a named party."""
    return sha256(f"test seed {name}".encode()).digest()


def key(name: str) -> bytes:
    """The public key of a named party."""
    return public_key_of(seed(name))


def address(name: str) -> str:
    return StrKey.encode_ed25519_public_key(key(name))


def keypair(name: str) -> Keypair:
    return Keypair.from_raw_ed25519_seed(seed(name))


ASSET = Asset("EURT", address("issuer"))


def make_terms(**changes: object) -> Terms:
    values: dict[str, object] = {
        "network_id": NETWORK,
        "broadcaster_account": key("broadcaster"),
        "issuing_key": key("issuing"),
        "log_key": key("log"),
        "log_origin": ORIGIN,
        "collector_url": "http://127.0.0.1:8080",
        "asset_code": "EURT",
        "asset_issuer": key("issuer"),
        "escrow_account": key("escrow"),
        "payout_account": key("payout"),
        "anchor_account": key("anchor"),
        "rules_digest": load_standard("traffic").digest,
        "price_version": 1,
        "price_stroops": 10_000_019,
        "price_quantity_bytes": 1_000_003,
        "fee_ppm": 100_000,
        "genesis_s": GENESIS_S,
        "epoch_length_s": EPOCH_S,
        "grace_s": 5,
        "correction_epochs": 4,
        "first_epoch": 0,
        "last_epoch": 1000,
        "payout_threshold_stroops": 1,
        "fee_bid_stroops": 100,
        "attempt_window_ledgers": 20,
        "attempt_window_s": 40,
        "batch_payments": 2,
        "fee_account": bytes(32),
        "fee_bid_max_stroops": 100,
        "challenge_window_s": 0,
        "cash_out_least_stroops": 1,
        "address_delay_s": 0,
        "suspense_refund_s": 604_800,
        "channel_accounts": tuple(sorted((key("channel 0"), key("channel 1")))),
        "cdns": (
            CdnTerms(
                key=key("cdn"),
                account=bytes(32),
                price_stroops=0,
                price_quantity_bytes=1,
                host="cdn.example",
            ),
        ),
    }
    return Terms(**{**values, **changes})


@dataclass
class Operator:
    """Closes epochs of one broadcaster."""

    terms: Terms = field(default_factory=make_terms)
    leaves: list[bytes] = field(default_factory=list)
    entries_by_epoch: dict[int, list[bytes]] = field(default_factory=dict)
    result_index_by_epoch: dict[int, int] = field(default_factory=dict)
    checkpoint: bytes = b""
    ledger_sequence: int = 10
    pending: list[NetworkFact] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.signed_terms = sign_terms(self.terms, seed("issuing"))
        self.state: State = genesis_state(NETWORK, self.terms.broadcaster_account, 0)
        self.rule = load_standard("traffic")
        self.trust = Trust(
            network_passphrase=PASSPHRASE,
            log_origin=ORIGIN,
            log_keys=(TrustedKey(key=key("log"), first_epoch=0),),
            dao_keys=(TrustedKey(key=key("dao"), first_epoch=0),),
            broadcaster_account=key("broadcaster"),
            genesis_s=GENESIS_S,
            epoch_length_s=EPOCH_S,
            grace_s=5,
            first_epoch=0,
        )
        binding = Binding(
            network_id=NETWORK,
            account=key("broadcaster"),
            key=key("issuing"),
            role=Role.ISSUING,
            first_epoch=0,
            last_epoch=10_000,
            serial=1,
        )
        self.issuing_binding = BINDING.sign(binding, seed("broadcaster"), seed("issuing")).raw
        activation = Activation(
            network_id=NETWORK,
            broadcaster_account=key("broadcaster"),
            rules_digest=self.rule.digest,
            first_epoch=0,
            evidence_kind=EVIDENCE_DAO_KEY,
            dao_key=key("dao"),
        )
        self.activation = ACTIVATION.sign(activation, seed("dao"))
        self.begun = {0: [self.activation]}
        self.instructions: list = []
        self.contents: AuditContents | None = None
        self.inputs: EpochInputs | None = None
        self.seal: Seal | None = None
        self.result: Result | None = None

    @property
    def epoch(self) -> int:
        return self.state.head.next_epoch

    def activate(self, rule: Rule) -> None:
        """From the current epoch on another rule decides, under new terms that name it."""
        self.rule = rule
        self.terms = replace(self.terms, rules_digest=rule.digest)
        self.signed_terms = sign_terms(self.terms, seed("issuing"))
        value = replace(self.activation.value, rules_digest=rule.digest, first_epoch=self.epoch)
        self.activation = ACTIVATION.sign(value, seed("dao"))
        self.begun.setdefault(self.epoch, []).append(self.activation)

    def fact(self, builder: TransactionBuilder, *signers: str, code: int = 0) -> NetworkFact:
        """Apply a transaction in a network ledger of the current epoch."""
        envelope = builder.build()
        for signer in signers:
            envelope.sign(keypair(signer))
        operations = envelope.transaction.operations
        self.ledger_sequence += 1
        fact = NetworkFact(
            network_id=NETWORK,
            ledger_sequence=self.ledger_sequence,
            close_time_s=self.terms.epoch_start_s(self.epoch) + 7,
            apply_order=1,
            envelope=envelope.to_xdr_object().to_xdr_bytes(),
            result=_result(operations, code),
        )
        self.pending.append(fact)
        return fact

    def builder(self, source: str, sequence: int) -> TransactionBuilder:
        account = Account(address(source), sequence - 1)
        return TransactionBuilder(account, PASSPHRASE, base_fee=100).add_time_bounds(0, 0)

    def set_up(self, deposit_stroops: int) -> None:
        """Create the channels and deposit into escrow."""
        builder = self.builder("funder", 5)
        for channel in ("channel 0", "channel 1", "escrow", "payout", "anchor"):
            builder.append_create_account_op(address(channel), "100")
        self.fact(builder, "funder")
        deposit = self.builder("broadcaster", 9).append_payment_op(
            address("escrow"), ASSET, _decimal(deposit_stroops)
        )
        self.fact(deposit, "broadcaster")

    def apply_payout(self, leaf: PayoutLeaf, *, code: int = 0) -> NetworkFact:
        """Apply a planned batch on the network."""
        names = ("channel 0", "channel 1")
        channel = next(name for name in names if key(name) == leaf.channel_account)
        source = "escrow" if leaf.source_account == key("escrow") else "payout"
        builder = self.builder(channel, leaf.channel_sequence)
        for payment in leaf.payments:
            builder.append_payment_op(
                StrKey.encode_ed25519_public_key(payment.account),
                ASSET,
                _decimal(payment.amount_stroops),
                source=address(source),
            )
        return self.fact(builder, channel, source, code=code)

    def check(self, raw: bytes) -> BundleCheck:
        """The verdict on a bundle in the current epoch's seal."""
        return check_bundle(raw, self.signed_terms, self.epoch)

    def last_ledger_close_s(self) -> int:
        """Close time of the current epoch's last network ledger."""
        return self.terms.epoch_end_s(self.epoch) - 1

    def close(self, bundles: list[bytes] = ()) -> bytes:  # type: ignore[assignment]
        """Close the current epoch and return its audit file."""
        epoch = self.epoch
        checks = sorted((self.check(raw) for raw in bundles), key=bundle_order)
        facts = tuple(self.pending)
        instructions = tuple(sorted(self.instructions, key=order_of_instruction))
        self.pending, self.instructions = [], []
        self.ledger_sequence += 1
        late = {
            receipt.value.lane_digest: receipt.value.epoch
            for check in checks
            for receipt, code in zip(check.bundle.value.receipts, check.receipt_codes, strict=True)
            if code == 0
            and receipt.value.epoch < epoch
            and receipt.value.lane_digest not in self.state.corrected_lanes
        }
        counted_before = self._counted(late)
        inputs = EpochInputs(
            terms=self.signed_terms,
            opening=self.state,
            rule=self.rule,
            activations=tuple(self.begun.get(epoch, ())),
            checks=tuple(checks),
            counted_before=counted_before,
            facts=facts,
            transactions=tuple(read_transaction(fact) for fact in facts),
            last_ledger_sequence=self.ledger_sequence,
            last_ledger_close_s=self.last_ledger_close_s(),
            salt_key=seed(f"salt {epoch}"),
            instructions=instructions,
            dao_key=self.activation.value.dao_key,
        )
        seal = seal_epoch(inputs)
        result = compute_epoch(inputs, seal)
        return self._publish(inputs, seal, result, late)

    def _counted(self, late: dict[bytes, int]) -> dict:
        counts = {}
        for digest, epoch in late.items():
            for entry in self.entries_by_epoch.get(epoch, []):
                if entry[:32] == digest:
                    from ledger.audit.counts import read_lane_entry

                    counts[digest] = read_lane_entry(entry)[1]
        return counts

    def _publish(
        self, inputs: EpochInputs, seal: Seal, result: Result, late: dict[bytes, int]
    ) -> bytes:
        epoch = inputs.epoch
        first = len(self.leaves)
        self.leaves += [*seal.leaves, *result.leaves]
        self.result_index_by_epoch[epoch] = first + len(seal.leaves)
        self.entries_by_epoch[epoch] = [
            format_lane_entry(lane.lane_digest, lane.count) for lane in seal.judgement.lanes
        ]
        checkpoint = Checkpoint(
            origin=ORIGIN, tree_size=len(self.leaves), root_hash=root_hash(self.leaves)
        )
        note = format_note(sign_checkpoint(checkpoint, seed("log")))
        log = LogView(
            leaves=list(self.leaves),
            first_leaf_index=first,
            activation_index=self.leaves.index(self.activation.raw),
            previous_result_index=self.result_index_by_epoch.get(epoch - 1),
        )
        counts = [
            piece
            for lane_epoch in sorted(set(late.values()))
            for piece in prove_counts(
                [digest for digest, of_epoch in late.items() if of_epoch == lane_epoch],
                self.entries_by_epoch[lane_epoch],
                log.prove(self.result_index_by_epoch[lane_epoch]),
            )
        ]
        self.state = result.closing
        anchor_tx = (
            self.builder("anchor", 100 + epoch)
            .add_hash_memo(body_hash(checkpoint))
            .append_set_options_op()
        )
        anchor = self.fact(anchor_tx, "anchor")
        notes = Notes(
            trust_digest=self.trust.digest,
            issuing_binding=self.issuing_binding,
            previous_checkpoint=self.checkpoint,
            checkpoint=note,
        )
        self.contents = compose_contents(
            inputs=inputs,
            seal=seal,
            result=result,
            log=log,
            notes=notes,
            counts=counts,
            anchor=anchor,
        )
        self.checkpoint = note
        self.inputs, self.seal, self.result = inputs, seal, result
        return build_audit_file(self.contents, seed("log"))


def _decimal(stroops: int) -> str:
    return f"{stroops // 10**7}.{stroops % 10**7:07d}"


def _result(operations: list, code: int) -> bytes:
    """Result XDR: success, or failure of every operation with "underfunded"-like codes."""
    results = []
    for operation in operations:
        kind = operation.to_xdr_object().body.type
        name = kind.name.lower().replace("_", " ").title().replace(" ", "")
        names = {
            "CreateAccount": ("create_account_result", xdr.CreateAccountResult),
            "Payment": ("payment_result", xdr.PaymentResult),
            "SetOptions": ("set_options_result", xdr.SetOptionsResult),
        }
        field_name, result_type = names[name]
        code_type = getattr(xdr, f"{result_type.__name__}Code")
        inner = result_type(code=code_type(0 if code == 0 else -5))
        tr = xdr.OperationResultTr(type=kind, **{field_name: inner})
        results.append(xdr.OperationResult(code=xdr.OperationResultCode.opINNER, tr=tr))
    body = xdr.TransactionResultResult(code=xdr.TransactionResultCode(code), results=results)
    result = xdr.TransactionResult(
        fee_charged=xdr.Int64(100 * len(operations)),
        result=body,
        ext=xdr.TransactionResultExt(0),
    )
    return result.to_xdr_bytes()


def make_entitlement(operator: Operator, viewer: str, **changes: object):
    values: dict[str, object] = {
        "network_id": NETWORK,
        "broadcaster_account": key("broadcaster"),
        "issuing_key": key("issuing"),
        "terms_digest": operator.signed_terms.digest,
        "content_id": sha256(b"content").digest(),
        "session_key": key(viewer),
        "payer_account": key("broadcaster"),
        "serial": sha256(viewer.encode()).digest()[:16],
        "assignment_seed": bytes(32),
        "not_before_s": 0,
        "not_after_s": GENESIS_S + 100_000,
        "max_bytes": 0,
        "max_media_ms": 0,
        "max_rate_kbps": 0,
        "assignment_policy": 0,
        "country": "",
    }
    return ENTITLEMENT.sign(Entitlement(**{**values, **changes}), seed("issuing"))


def make_binding(name: str, account: str):
    binding = Binding(
        network_id=NETWORK,
        account=key(account),
        key=key(name),
        role=Role.SESSION,
        first_epoch=0,
        last_epoch=10_000,
        serial=1,
    )
    return BINDING.sign(binding, seed(account), seed(name))


def make_receipt(entitlement, viewer: str, payee: str, epoch: int, total: int, **changes: object):
    values: dict[str, object] = {
        "network_id": NETWORK,
        "flags": FLAG_CDN if payee == "cdn" else 0,
        "entitlement_digest": entitlement.digest,
        "payee_key": key(payee),
        "epoch": epoch,
        "nonce": 0,
        "sequence": 1,
        "bytes_total": total,
        "media_ms_total": 0,
        "credit_root": sha256(b"credits").digest(),
    }
    return RECEIPT.sign(Receipt(**{**values, **changes}), seed(viewer))


def make_heartbeats(operator: Operator, entitlement, viewer: str, epoch: int, count: int):
    """A chain of one playback: a second of media every second from the epoch's begin."""
    chain: list = []
    for number in range(count):
        beat = Heartbeat(
            network_id=NETWORK,
            entitlement_digest=entitlement.digest,
            session_id=sha256(viewer.encode()).digest()[:16],
            sequence_number=number,
            timestamp_ms=operator.signed_terms.value.epoch_start_s(epoch) * 1000 + number * 1000,
            state="p",
            media_ms_total=number * 1000,
            bytes_p2p_total=number * 100_000,
            bytes_cdn_total=0,
            previous_digest=chain[-1].digest if chain else bytes(32),
        )
        chain.append(HEARTBEAT.sign(beat, seed(viewer)))
    return chain


def make_payee_bundle(payee: str, epoch: int, entitlements, receipts, number: int = 0) -> bytes:
    bundle = make_bundle(
        network_id=NETWORK,
        submitter_key=key(payee),
        broadcaster_account=key("broadcaster"),
        epoch=epoch,
        kind=BundleKind.PAYEE,
        number=number,
        bindings=[make_binding(payee, f"{payee} account")],
        entitlements=entitlements,
        receipts=receipts,
        heartbeats=[],
    )
    return sign_bundle(bundle, seed(payee)).raw


def make_viewer_bundle(
    viewer: str, epoch: int, entitlements, receipts, number: int = 0, heartbeats=()
) -> bytes:
    bundle = make_bundle(
        network_id=NETWORK,
        submitter_key=key(viewer),
        broadcaster_account=key("broadcaster"),
        epoch=epoch,
        kind=BundleKind.VIEWER,
        number=number,
        bindings=[],
        entitlements=entitlements,
        receipts=receipts,
        heartbeats=list(heartbeats),
    )
    return sign_bundle(bundle, seed(viewer)).raw
