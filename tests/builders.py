"""Builders of evidence for tests: named parties with fixed seeds, and defaults for every field.

Every builder returns the same bytes each time it is called with the same arguments, so the golden
files can be made with them. A test names only the fields that it is about.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from contracts.registry import load_standard
from engine_plugin.identity import make_peer_id
from engine_plugin.live.gossip import Peers, make_peers
from engine_plugin.wire import (
    HELLO,
    PROOF_OF_KEY,
    ChannelRole,
    Endpoint,
    Hello,
    ProofOfKey,
    pack_address,
)
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.bundle import Bundle, BundleKind, make_bundle, sign_bundle
from ledger.evidence.clock import CLOCK, Clock
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.heartbeat import HEARTBEAT, Heartbeat
from ledger.evidence.keys import exchange_key_of, network_id_of, public_key_of
from ledger.evidence.leaf import (
    ACTIVATION,
    EVIDENCE_DAO_KEY,
    PAYOUT_FUNDING,
    PAYOUT_PAYMENTS,
    Activation,
    BundleLeaf,
    CorrectionLeaf,
    Payment,
    PayoutLeaf,
    ResultLeaf,
    SealLeaf,
)
from ledger.evidence.merkle import EMPTY_ROOT, root_hash
from ledger.evidence.promise import PROMISE, Promise
from ledger.evidence.provisional import PROVISIONAL, Provisional
from ledger.evidence.receipt import FLAG_CDN, RECEIPT, Receipt, format_credit
from ledger.evidence.relay import RELAY_FETCH, RelayFetch, RelayFrame, sign_relay
from ledger.evidence.segment import SEGMENT, Segment, format_info, hash_pieces, segment_name
from ledger.evidence.stream import Container, Stream, sign_stream
from ledger.evidence.terms import CdnTerms, Terms, sign_terms

NETWORK_ID = network_id_of("swarmledger tests")
GENESIS_S = 1_800_000_000
EPOCH_LENGTH_S = 15
EPOCH = 7
TRAFFIC = load_standard("traffic")
NATIVE = ("XLM", bytes(32))


def seed_of(name: str) -> bytes:
    """Private seed of a named party; never used outside tests."""
    return sha256(f"swarmledger test party {name}".encode()).digest()


def key_of(name: str) -> bytes:
    """Public key of a named party, whether it stands for an account or a session."""
    return public_key_of(seed_of(name))


def digest_of(name: str) -> bytes:
    """Any 32 bytes that a name stands for."""
    return sha256(f"swarmledger test digest {name}".encode()).digest()


def cdn(**changes: Any) -> CdnTerms:
    values: dict[str, Any] = {
        "key": key_of("cdn"),
        "account": bytes(32),
        "price_stroops": 0,
        "price_quantity_bytes": 1,
        "host": "cdn.example.net",
    }
    return CdnTerms(**values | changes)


def terms(**changes: Any) -> Terms:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "broadcaster_account": key_of("broadcaster"),
        "issuing_key": key_of("issuing"),
        "log_key": key_of("log"),
        "log_origin": "log.example.net/broadcaster",
        "collector_url": "https://collector.example.net",
        "asset_code": "XAB",
        "asset_issuer": key_of("issuer"),
        "escrow_account": key_of("escrow"),
        "payout_account": key_of("payout"),
        "anchor_account": key_of("anchor"),
        "rules_digest": TRAFFIC.digest,
        "price_version": 1,
        "price_stroops": 10_000_000,
        "price_quantity_bytes": 102_400 << 20,
        "fee_ppm": 100_000,
        "genesis_s": GENESIS_S,
        "epoch_length_s": EPOCH_LENGTH_S,
        "grace_s": 5,
        "correction_epochs": 3,
        "first_epoch": 0,
        "last_epoch": 1_000_000,
        "payout_threshold_stroops": 1,
        "fee_bid_stroops": 100,
        "attempt_window_ledgers": 12,
        "attempt_window_s": 60,
        "batch_payments": 100,
        "fee_account": bytes(32),
        "fee_bid_max_stroops": 100,
        "challenge_window_s": 0,
        "cash_out_least_stroops": 1,
        "address_delay_s": 0,
        "suspense_refund_s": 604_800,
        "channel_accounts": tuple(sorted((key_of("channel 0"), key_of("channel 1")))),
        "cdns": (cdn(),),
    }
    return Terms(**values | changes)


def signed_terms(**changes: Any) -> Signed[Terms]:
    return sign_terms(terms(**changes), seed_of("issuing"))


def binding(name: str, account: str | None = None, **changes: Any) -> Signed[Binding]:
    """Bind the session key `name` to the account `name account`, or to another's."""
    account = account or f"{name} account"
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "account": key_of(account),
        "key": key_of(name),
        "role": Role.SESSION,
        "first_epoch": 0,
        "last_epoch": 1_000_000,
        "serial": 1,
    }
    return BINDING.sign(Binding(**values | changes), seed_of(account), seed_of(name))


def entitlement(viewer: str = "viewer", **changes: Any) -> Signed[Entitlement]:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "broadcaster_account": key_of("broadcaster"),
        "issuing_key": key_of("issuing"),
        "content_id": digest_of("content"),
        "session_key": key_of(viewer),
        "payer_account": key_of("broadcaster"),
        "serial": digest_of(f"serial {viewer}")[:16],
        "assignment_seed": bytes(32),
        "not_before_s": GENESIS_S,
        "not_after_s": GENESIS_S + 3600,
        "max_bytes": 0,
        "max_media_ms": 0,
        "max_rate_kbps": 0,
        "assignment_policy": 0,
        "country": "",
    }
    values |= changes
    if "terms_digest" not in values:
        values["terms_digest"] = signed_terms().digest
    return ENTITLEMENT.sign(Entitlement(**values), seed_of("issuing"))


def receipt(
    payee: str = "seeder",
    viewer: str = "viewer",
    *,
    under: Signed[Entitlement] | None = None,
    **changes: Any,
) -> Signed[Receipt]:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "flags": FLAG_CDN if payee.startswith("cdn") else 0,
        "entitlement_digest": (under or entitlement(viewer)).digest,
        "payee_key": key_of(payee),
        "epoch": EPOCH,
        "nonce": 1,
        "sequence": 1,
        "bytes_total": 16_384,
        "media_ms_total": 0,
        "credit_root": root_hash([format_credit(digest_of("content"), 0, 0, 16_384)]),
    }
    return RECEIPT.sign(Receipt(**values | changes), seed_of(viewer))


def heartbeat(viewer: str = "viewer", **changes: Any) -> Signed[Heartbeat]:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "entitlement_digest": entitlement(viewer).digest,
        "session_id": digest_of("playback")[:16],
        "sequence_number": 0,
        "timestamp_ms": (GENESIS_S + EPOCH * EPOCH_LENGTH_S) * 1000,
        "state": "p",
        "media_ms_total": 0,
        "bytes_p2p_total": 16_384,
        "bytes_cdn_total": 0,
        "previous_digest": bytes(32),
    }
    return HEARTBEAT.sign(Heartbeat(**values | changes), seed_of(viewer))


def stream(**changes: Any) -> Stream:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "broadcaster_account": key_of("broadcaster"),
        "issuing_key": key_of("issuing"),
        "stream_id": digest_of("stream"),
        "index_key": key_of("index"),
        "serial": 1,
        "started_at_ms": GENESIS_S * 1000,
        "segment_ms": 1000,
        "piece_bytes": 16_384,
        "window_segments": 30,
        "container": Container.MPEG_TS,
        "title": "Harbour camera",
        "index_urls": ("https://live.example.net/harbour",),
        "cdn_urls": ("https://cdn.example.net/harbour/",),
    }
    return Stream(**values | changes)


def signed_stream(**changes: Any) -> Signed[Stream]:
    return sign_stream(stream(**changes), seed_of("issuing"))


def segment(
    number: int = 0,
    *,
    data: bytes = bytes(40_000),
    before: Signed[Segment] | None = None,
    signer: str = "index",
    **changes: Any,
) -> Signed[Segment]:
    """A segment of the default stream; `before` is the entry it is chained to."""
    stream_id = changes.get("stream_id", digest_of("stream"))
    name = segment_name(stream_id, number)
    info = format_info(name, len(data), 16_384, hash_pieces(data, 16_384))
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "stream_id": stream_id,
        "number": number,
        "info_hash": sha256(info).digest(),
        "piece_bytes": 16_384,
        "size_bytes": len(data),
        "media_start_ms": 1000 * number,
        "media_ms": 1000,
        "cut_at_ms": GENESIS_S * 1000 + 1000 * (number + 1),
        "path": f"{number}.ts",
        "previous_digest": bytes(32) if before is None else before.digest,
    }
    return SEGMENT.sign(Segment(**values | changes), seed_of(signer))


def peers() -> Peers:
    return make_peers(
        NETWORK_ID,
        digest_of("stream"),
        [Endpoint("192.0.2.7", 6881), Endpoint("2001:db8::7", 6882)],
    )


def payee_bundle(
    receipts: Sequence[Signed[Receipt]],
    payee: str = "seeder",
    *,
    entitlements: Sequence[Signed[Entitlement]] | None = None,
    bindings: Sequence[Signed[Binding]] | None = None,
    **changes: Any,
) -> Signed[Bundle]:
    """A payee's bundle; without other arguments it brings what the default receipts need."""
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "submitter_key": key_of(payee),
        "broadcaster_account": key_of("broadcaster"),
        "epoch": EPOCH,
        "kind": BundleKind.PAYEE,
        "number": 0,
        "bindings": [binding(payee)] if bindings is None else list(bindings),
        "entitlements": [entitlement()] if entitlements is None else list(entitlements),
        "receipts": list(receipts),
        "heartbeats": [],
    }
    return sign_bundle(make_bundle(**values | changes), seed_of(payee))


def viewer_bundle(
    receipts: Sequence[Signed[Receipt]],
    viewer: str = "viewer",
    *,
    entitlements: Sequence[Signed[Entitlement]] | None = None,
    heartbeats: Sequence[Signed[Heartbeat]] = (),
    **changes: Any,
) -> Signed[Bundle]:
    """A viewer's bundle: CDN receipts and heartbeats."""
    return payee_bundle(
        receipts,
        viewer,
        entitlements=[entitlement(viewer)] if entitlements is None else entitlements,
        bindings=[],
        kind=BundleKind.VIEWER,
        heartbeats=list(heartbeats),
        **changes,
    )


def promise(**changes: Any) -> Signed[Promise]:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "bundle_digest": payee_bundle([receipt()]).digest,
        "submitter_key": key_of("seeder"),
        "broadcaster_account": key_of("broadcaster"),
        "epoch": EPOCH,
        "sealing_epoch": EPOCH,
        "ledger_sequence": 1234,
        "close_time_s": GENESIS_S + (EPOCH + 1) * EPOCH_LENGTH_S + 2,
    }
    return PROMISE.sign(Promise(**values | changes), seed_of("log"))


def clock(**changes: Any) -> Signed[Clock]:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "nonce": digest_of("question")[:16],
        "ledger_sequence": 1234,
        "close_time_s": GENESIS_S + EPOCH * EPOCH_LENGTH_S,
        "age_ms": 250,
        "genesis_s": GENESIS_S,
        "epoch_length_s": EPOCH_LENGTH_S,
        "grace_s": 5,
    }
    return CLOCK.sign(Clock(**values | changes), seed_of("log"))


def bundle_leaf(**changes: Any) -> BundleLeaf:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "epoch": EPOCH,
        "sealing_epoch": EPOCH,
        "bundle_digest": payee_bundle([receipt()]).digest,
        "submitter_commitment": digest_of("submitter commitment"),
        "code": 0,
        "receipts_counted": 1,
        "receipts_refused": 0,
        "bytes_counted": 16_384,
        "codes_root": root_hash([bytes(2)]),
    }
    return BundleLeaf(**values | changes)


def correction_leaf(**changes: Any) -> CorrectionLeaf:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "epoch": EPOCH - 1,
        "sealing_epoch": EPOCH,
        "lane_commitment": digest_of("lane commitment"),
        "bytes_before": 16_384,
        "bytes_after": 65_536,
    }
    return CorrectionLeaf(**values | changes)


def seal_leaf(**changes: Any) -> SealLeaf:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "epoch": EPOCH,
        "terms_digest": signed_terms().digest,
        "rules_digest": TRAFFIC.digest,
        "opening_state_root": digest_of("opening state"),
        "last_ledger_sequence": 1233,
        "last_ledger_close_s": GENESIS_S + (EPOCH + 1) * EPOCH_LENGTH_S - 1,
        "facts_root": EMPTY_ROOT,
        "fact_count": 0,
        "bundle_count": 1,
        "correction_count": 1,
        "salt_key_commitment": digest_of("salt key commitment"),
        "instructions_root": EMPTY_ROOT,
        "instruction_count": 0,
    }
    return SealLeaf(**values | changes)


def result_leaf(**changes: Any) -> ResultLeaf:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "epoch": EPOCH,
        "rules_digest": TRAFFIC.digest,
        "lane_count": 2,
        "lane_root": digest_of("lane root"),
        "bytes_p2p_credited": 300_000_000_000,
        "bytes_cdn_credited": 5_000_000,
        "bytes_uncredited": 0,
        "charged_stroops": 27_939_677,
        "fee_stroops": 2_793_967,
        "sum_tree_hash": digest_of("sum tree"),
        "sum_tree_bytes": 300_005_000_000,
        "sum_tree_stroops": 27_939_677,
        "payout_count": 2,
        "closing_state_root": digest_of("closing state"),
    }
    return ResultLeaf(**values | changes)


def payout_leaf(**changes: Any) -> PayoutLeaf:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "epoch": EPOCH,
        "batch_number": 3,
        "kind": PAYOUT_PAYMENTS,
        "channel_account": key_of("channel 0"),
        "channel_sequence": (1200 << 32) + 1,
        "reference_ledger_sequence": 1233,
        "reference_close_s": GENESIS_S + (EPOCH + 1) * EPOCH_LENGTH_S - 1,
        "fee_bid_stroops": 100,
        "asset_code": "XAB",
        "asset_issuer": key_of("issuer"),
        "source_account": key_of("payout"),
        "payments": (
            Payment(account=key_of("seeder account"), amount_stroops=25_145_710),
            Payment(account=key_of("viewer account"), amount_stroops=1),
        ),
    }
    return PayoutLeaf(**values | changes)


def activation(**changes: Any) -> Signed[Activation]:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "broadcaster_account": key_of("broadcaster"),
        "rules_digest": TRAFFIC.digest,
        "first_epoch": 0,
        "evidence_kind": EVIDENCE_DAO_KEY,
        "dao_key": key_of("dao"),
    }
    return ACTIVATION.sign(Activation(**values | changes), seed_of("dao"))


def funding_leaf(**changes: Any) -> PayoutLeaf:
    values: dict[str, Any] = {
        "batch_number": 2,
        "kind": PAYOUT_FUNDING,
        "source_account": key_of("escrow"),
        "payments": (Payment(account=key_of("payout"), amount_stroops=25_145_711),),
    }
    return payout_leaf(**values | changes)


def peer_id_of(name: str) -> bytes:
    """BitTorrent peer-id that commits to a party's session key."""
    return make_peer_id(key_of(name), digest_of(f"{name} session")[:16])


def hello(**changes: Any) -> Hello:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "key": key_of("viewer"),
        "exchange_key": exchange_key_of(digest_of("viewer secret")),
        "peer_id": peer_id_of("viewer"),
        "session_id": digest_of("viewer session")[:16],
        "broadcaster_account": key_of("broadcaster"),
        "listen_address": pack_address("127.0.1.5"),
        "listen_port": 6881,
        "role": ChannelRole.DIALLER,
    }
    return Hello(**values | changes)


def seeder_hello() -> Hello:
    return hello(
        key=key_of("seeder"),
        exchange_key=exchange_key_of(digest_of("seeder secret")),
        peer_id=peer_id_of("seeder"),
        session_id=digest_of("seeder session")[:16],
        listen_address=pack_address("2001:db8::7"),
        role=ChannelRole.ANSWERER,
    )


def proof_of_key(**changes: Any) -> Signed[ProofOfKey]:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "own_hello": HELLO.sign(hello()).digest,
        "peer_hello": HELLO.sign(seeder_hello()).digest,
        "own_address": pack_address("127.0.1.5"),
        "peer_address": pack_address("2001:db8::7"),
    }
    return PROOF_OF_KEY.sign(ProofOfKey(**values | changes), seed_of("viewer"))


def relay_frame(**changes: Any) -> Signed[RelayFrame]:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "from_key": key_of("viewer"),
        "to_key": key_of("seeder"),
        "channel_id": digest_of("relayed channel")[:16],
        "sequence": 3,
        "payload": digest_of("nonce")[:24] + digest_of("sealed") + digest_of("to the end"),
    }
    return sign_relay(RelayFrame(**values | changes), seed_of("viewer"))


def relay_fetch(**changes: Any) -> Signed[RelayFetch]:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "key": key_of("seeder"),
        "ledger_ms": (GENESIS_S + EPOCH * EPOCH_LENGTH_S) * 1000 + 250,
        "acknowledged": 41,
    }
    return RELAY_FETCH.sign(RelayFetch(**values | changes), seed_of("seeder"))


def provisional(**changes: Any) -> Signed[Provisional]:
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "taken_ms": (GENESIS_S + EPOCH * EPOCH_LENGTH_S) * 1000 + 250,
        "body_digest": sha256(b"the body of a report").digest(),
    }
    return PROVISIONAL.sign(Provisional(**values | changes), seed_of("seeder"))
