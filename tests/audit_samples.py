"""An audit file and a trust file of few bytes, for the format document and the golden files.

The sections hold real records of the builders, but not those of one epoch: this file parses and
proves nothing.
"""

import book_builders
import builders
import instruction_builders

from ledger.audit.file import (
    AuditContents,
    BundleCodes,
    LogProof,
    ProvenLeaf,
    build_audit_file,
)
from ledger.audit.trust import Trust, TrustedKey
from ledger.books.judgement import BundleCode, ReceiptCode
from ledger.books.state import format_state
from ledger.books.transactions import format_fact
from ledger.evidence.leaf import RESULT_LEAF, SEAL_LEAF
from ledger.evidence.merkle import RootBuilder

PASSPHRASE = "swarmledger tests"


def trust() -> Trust:
    return Trust(
        network_passphrase=PASSPHRASE,
        log_origin="log.example.net/broadcaster",
        log_keys=(
            TrustedKey(key=builders.key_of("log"), first_epoch=0),
            TrustedKey(key=builders.key_of("log 2"), first_epoch=500),
        ),
        dao_keys=(TrustedKey(key=builders.key_of("dao"), first_epoch=0),),
        broadcaster_account=builders.key_of("broadcaster"),
        genesis_s=builders.GENESIS_S,
        epoch_length_s=builders.EPOCH_LENGTH_S,
        grace_s=5,
        first_epoch=0,
    )


def audit_contents() -> AuditContents:
    activation = ProvenLeaf(
        leaf=builders.activation().raw, proof=LogProof(leaf_index=0, hashes=(bytes(32),))
    )
    frontier = RootBuilder()
    frontier.append(activation.leaf)
    return AuditContents(
        network_id=builders.NETWORK_ID,
        broadcaster_account=builders.key_of("broadcaster"),
        epoch=builders.EPOCH,
        trust_digest=trust().digest,
        terms=builders.signed_terms().raw,
        issuing_binding=b"",
        rule=b'"""A rule."""\n',
        activation=activation,
        previous_checkpoint=b"",
        frontier=frontier.export_state(),
        previous_result=None,
        leaves=(
            SEAL_LEAF.format_body(builders.seal_leaf()),
            RESULT_LEAF.format_body(builders.result_leaf()),
        ),
        checkpoint=b"",
        bundles=(builders.payee_bundle([builders.receipt()]).raw,),
        codes=(
            BundleCodes(
                bundle_code=BundleCode.ACCEPTED, receipt_codes=(ReceiptCode.UNBOUND_PAYEE,)
            ),
        ),
        counts=(),
        salt_key=builders.digest_of(f"salt key {builders.EPOCH}"),
        opening_state=format_state(book_builders.genesis(builders.EPOCH)),
        facts=(format_fact(book_builders.fact()),),
        journal=bytes(4),
        statements=bytes(4),
        closing_state=format_state(book_builders.genesis(builders.EPOCH + 1)),
        anchor=b"",
        instructions=(instruction_builders.cash_out().raw,),
    )


def audit_file() -> bytes:
    return build_audit_file(audit_contents(), builders.seed_of("log"))
