"""Every record of FORMATS.md as a sample with its parser and printer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import book_builders
import builders
import instruction_builders

from engine_plugin.live.gossip import PEERS
from engine_plugin.wire import HELLO, PROOF_OF_KEY
from ledger.books.journal import format_journal, parse_journal
from ledger.books.state import format_state, parse_state
from ledger.books.statements import format_statements, parse_statements
from ledger.books.transactions import format_fact, parse_fact
from ledger.evidence.binding import BINDING
from ledger.evidence.bundle import format_bundle_body, parse_bundle
from ledger.evidence.clock import CLOCK
from ledger.evidence.encoding import RecordCode, RecordType, Signed
from ledger.evidence.entitlement import ENTITLEMENT
from ledger.evidence.heartbeat import HEARTBEAT
from ledger.evidence.instruction import PAYEE_INSTRUCTION, READINESS, REFUND, RULING
from ledger.evidence.leaf import (
    ACTIVATION,
    BUNDLE_LEAF,
    CORRECTION_LEAF,
    RESULT_LEAF,
    SEAL_LEAF,
    format_payout_leaf,
    parse_payout_leaf,
)
from ledger.evidence.promise import PROMISE
from ledger.evidence.provisional import PROVISIONAL
from ledger.evidence.receipt import RECEIPT
from ledger.evidence.relay import RELAY_FETCH, format_relay_body, parse_relay
from ledger.evidence.segment import SEGMENT
from ledger.evidence.stream import format_stream_body, parse_stream
from ledger.evidence.terms import format_terms_body, parse_terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One record as bytes, and how it is read and printed."""

    name: str
    raw: bytes
    parse: Callable[[bytes], Any]
    """Raw bytes to a record; for signed records to a `Signed`."""

    format: Callable[[Any], bytes]
    """What `parse` returned, printed anew (signatures are taken over)."""

    signers: tuple[bytes, ...] = ()
    """Public keys in the order of the signatures."""

    code: RecordCode | None = None
    """Type byte, for records with a domain tag."""

    @property
    def tag_at(self) -> int:
        """Offset of the domain tag."""
        return 64 * len(self.signers)


def _fixed(name: str, kind: RecordType[Any], signed: Signed[Any], *signers: str) -> Sample:
    return Sample(
        name=name,
        raw=signed.raw,
        parse=kind.parse,
        format=lambda parsed: b"".join(parsed.signatures) + kind.format_body(parsed.value),
        signers=tuple(builders.key_of(signer) for signer in signers),
        code=kind.code,
    )


def _leaf(name: str, kind: RecordType[Any], value: Any) -> Sample:
    return Sample(
        name=name,
        raw=kind.format_body(value),
        parse=kind.parse_body,
        format=kind.format_body,
        code=kind.code,
    )


def _long(
    name: str,
    code: RecordCode,
    signed: Signed[Any],
    parse: Callable[[bytes], Signed[Any]],
    format_body: Callable[[Any], bytes],
    signer: str,
) -> Sample:
    return Sample(
        name=name,
        raw=signed.raw,
        parse=parse,
        format=lambda parsed: parsed.signatures[0] + format_body(parsed.value),
        signers=(builders.key_of(signer),),
        code=code,
    )


def _evidence() -> list[Sample]:
    bundle = builders.payee_bundle([builders.receipt()])
    views = builders.viewer_bundle(
        [builders.receipt("cdn", bytes_total=5_000_000)], heartbeats=[builders.heartbeat()]
    )
    bundles = (RecordCode.BUNDLE, parse_bundle, format_bundle_body)
    return [
        _long(
            "terms",
            RecordCode.TERMS,
            builders.signed_terms(),
            parse_terms,
            format_terms_body,
            "issuing",
        ),
        _fixed("binding", BINDING, builders.binding("seeder"), "seeder account", "seeder"),
        _fixed("entitlement", ENTITLEMENT, builders.entitlement(), "issuing"),
        _fixed("receipt", RECEIPT, builders.receipt(), "viewer"),
        _fixed("receipt-cdn", RECEIPT, builders.receipt("cdn"), "viewer"),
        _fixed("heartbeat", HEARTBEAT, builders.heartbeat(), "viewer"),
        _long("bundle-payee", bundles[0], bundle, *bundles[1:], "seeder"),
        _long("bundle-viewer", bundles[0], views, *bundles[1:], "viewer"),
        _fixed("promise", PROMISE, builders.promise(), "log"),
        _fixed("clock", CLOCK, builders.clock(), "log"),
        _fixed("provisional", PROVISIONAL, builders.provisional(), "seeder"),
    ]


def _instructions() -> list[Sample]:
    made = instruction_builders
    account = "seeder account"
    return [
        _fixed("pay-to", PAYEE_INSTRUCTION, made.pay_to(), account, made.SECOND),
        _fixed("refund", REFUND, made.refund(), "broadcaster"),
        _fixed("readiness", READINESS, made.readiness(), "log"),
        _fixed("ruling", RULING, made.ruling(), "dao"),
    ]


def _live() -> list[Sample]:
    return [
        _long(
            "stream",
            RecordCode.STREAM,
            builders.signed_stream(),
            parse_stream,
            format_stream_body,
            "issuing",
        ),
        _fixed("segment", SEGMENT, builders.segment(), "index"),
        _leaf("peers", PEERS, builders.peers()),
    ]


def _leaves() -> list[Sample]:
    payout = (format_payout_leaf, parse_payout_leaf)
    return [
        _leaf("leaf-bundle", BUNDLE_LEAF, builders.bundle_leaf()),
        _leaf("leaf-correction", CORRECTION_LEAF, builders.correction_leaf()),
        _leaf("leaf-seal", SEAL_LEAF, builders.seal_leaf()),
        _leaf("leaf-result", RESULT_LEAF, builders.result_leaf()),
        _fixed("leaf-activation", ACTIVATION, builders.activation(), "dao"),
        *(
            Sample(
                name=name,
                raw=payout[0](leaf),
                parse=payout[1],
                format=payout[0],
                code=RecordCode.LEAF_PAYOUT,
            )
            for name, leaf in (
                ("leaf-payout", builders.payout_leaf()),
                ("leaf-funding", builders.funding_leaf()),
            )
        ),
    ]


def _side_channel() -> list[Sample]:
    return [
        _leaf("hello", HELLO, builders.hello()),
        _fixed("proof-of-key", PROOF_OF_KEY, builders.proof_of_key(), "viewer"),
    ]


def _books() -> list[Sample]:
    state = book_builders.full_state()
    return [
        Sample(
            name="state",
            raw=format_state(state),
            parse=parse_state,
            format=format_state,
            code=RecordCode.STATE,
        ),
        Sample(
            name="fact",
            raw=format_fact(book_builders.fact()),
            parse=parse_fact,
            format=format_fact,
            code=RecordCode.FACT,
        ),
        Sample(
            name="journal",
            raw=format_journal(book_builders.journal()),
            parse=parse_journal,
            format=format_journal,
        ),
        Sample(
            name="statements",
            raw=format_statements(book_builders.statement_lines()),
            parse=parse_statements,
            format=format_statements,
        ),
    ]


def _relay() -> list[Sample]:
    return [
        _long(
            "relay",
            RecordCode.RELAY,
            builders.relay_frame(),
            parse_relay,
            format_relay_body,
            "viewer",
        ),
        _fixed("relay-fetch", RELAY_FETCH, builders.relay_fetch(), "seeder"),
    ]


SAMPLES = [
    *_evidence(),
    *_instructions(),
    *_live(),
    *_leaves(),
    *_side_channel(),
    *_relay(),
    *_books(),
]
BY_NAME = {sample.name: sample for sample in SAMPLES}
SIGNED = [sample for sample in SAMPLES if sample.signers]
TAGGED = [sample for sample in SAMPLES if sample.code is not None]
