"""Worked values that are no records: digests, leaves of trees, salts, proofs and texts."""

import book_builders
import builders

from contracts.registry import load_standard
from engine_plugin.channel_keys import derive_sealers
from engine_plugin.receipt_steps import ReceiptBases
from engine_plugin.wire import (
    HELLO,
    ConnectionPorts,
    format_acknowledgement,
    format_connections,
    format_frame,
)
from ledger.audit.address import format_account
from ledger.books.judgement import LaneCount, codes_root_of, format_lane_entry
from ledger.books.state import state_root
from ledger.books.statements import sum_tree_of
from ledger.evidence.checkpoint import Checkpoint, body_hash, format_checkpoint, sign_checkpoint
from ledger.evidence.encoding import RecordCode
from ledger.evidence.keys import agree_secret
from ledger.evidence.leaf import commit_to, commit_to_salt_key, derive_salt
from ledger.evidence.merkle import HashTree, RootBuilder
from ledger.evidence.note import VerifierKey, format_note, format_verifier_key
from ledger.evidence.receipt import format_credit
from ledger.evidence.sumtree import format_sum_proof, hash_line
from ledger.evidence.tile import format_entry_bundle, format_tile
from ledger.evidence.tlog_proof import TlogProof, format_tlog_proof

ORIGIN = "log.example.net/broadcaster"
LEAVES = [bytes([number]) for number in range(5)]
SALT_KEY = builders.digest_of(f"salt key {builders.EPOCH}")


def log_tree() -> HashTree:
    tree = HashTree()
    for leaf in LEAVES:
        tree.append(leaf)
    return tree


def checkpoint() -> Checkpoint:
    return Checkpoint(origin=ORIGIN, tree_size=len(LEAVES), root_hash=log_tree().root())


def log_key() -> VerifierKey:
    return VerifierKey(name=ORIGIN, public_key=builders.key_of("log"))


def credit_builder() -> RootBuilder:
    """The root over the credits of three blocks."""
    builder = RootBuilder()
    for piece, offset, length in ((0, 0, 16_384), (0, 16_384, 16_384), (1, 0, 1000)):
        builder.append(format_credit(builders.digest_of("content"), piece, offset, length))
    return builder


def channel_values() -> dict[str, bytes]:
    """Frames of one channel: the viewer dialled, claims a connection and steps a receipt on."""
    viewer, seeder = builders.hello(), builders.seeder_hello()
    secret = agree_secret(builders.digest_of("viewer secret"), seeder.exchange_key)
    assert secret is not None
    sealers = derive_sealers(secret, HELLO.sign(viewer).raw, HELLO.sign(seeder).raw)
    bases = ReceiptBases()
    bases.format(builders.receipt(sequence=1))
    second = builders.receipt(sequence=2, bytes_total=5 << 20)
    code, step = bases.format(second)
    ports = format_connections([ConnectionPorts(40_001, 6881)])
    answer = format_acknowledgement(second.digest, 0, 3 << 20)
    claimed, answered = RecordCode.CONNECTIONS, RecordCode.ACKNOWLEDGEMENT_STEP
    return {
        "channel-secret": secret,
        "frame-connections": format_frame(claimed, ports, sealers.dialler.seal(claimed, ports)),
        "frame-receipt-step": format_frame(code, step),
        "frame-acknowledgement": format_frame(
            answered, answer, sealers.answerer.seal(answered, answer)
        ),
    }


def evidence_values() -> dict[str, bytes]:
    receipt = builders.receipt().value
    seeder = builders.key_of("seeder")
    return channel_values() | {
        "lane-digest": receipt.lane_digest,
        "credit-leaf": format_credit(builders.digest_of("content"), 1, 16_384, 1000),
        "credit-root": credit_builder().root(),
        "root-builder-state": credit_builder().export_state(),
        "salt": derive_salt(SALT_KEY, RecordCode.LEAF_BUNDLE, seeder),
        "commitment": commit_to(SALT_KEY, RecordCode.LEAF_BUNDLE, seeder),
        "salt-key-commitment": commit_to_salt_key(SALT_KEY),
        "rule-digest": load_standard("traffic").digest,
    }


def log_values() -> dict[str, bytes]:
    note = sign_checkpoint(checkpoint(), builders.seed_of("log"))
    tree = log_tree()
    proof = TlogProof(leaf_index=3, hashes=tuple(tree.prove_inclusion(3)), note=note)
    return {
        "checkpoint-text": format_checkpoint(checkpoint()).encode(),
        "checkpoint-note": format_note(note),
        "checkpoint-hash": body_hash(checkpoint()),
        "log-vkey": format_verifier_key(log_key()).encode(),
        "inclusion-proof": b"".join(tree.prove_inclusion(3)),
        "consistency-proof": b"".join(tree.prove_consistency(3)),
        "tile": format_tile([tree.root(1)]),
        "entry-bundle": format_entry_bundle(LEAVES),
        "tlog-proof": format_tlog_proof(proof),
    }


def book_values() -> dict[str, bytes]:
    lines = book_builders.statement_lines()
    tree = sum_tree_of(lines)
    root = tree.root()
    return {
        "lane-entry": format_lane_entry(
            builders.receipt().value.lane_digest, LaneCount(sequence=9, bytes_total=65_536)
        ),
        "codes-root": codes_root_of([0, 1, 13]),
        "state-root": state_root(book_builders.full_state()),
        "sum-leaf-hash": hash_line(tree.lines[0]).hash,
        "sum-root": root.hash,
        "sum-proof": format_sum_proof(tree.prove_line(builders.key_of("seeder account"))),
        "account-text": format_account(builders.key_of("broadcaster")).encode(),
    }


DERIVED = evidence_values() | log_values() | book_values()
