"""Renders the blocks of FORMATS.md that the code decides: tables of layouts, codes, examples.

A block stands between `<!-- kind: name -->` and `<!-- end -->`. Everything outside of blocks is
written by hand. Meanings come from the notes under the fields of the dataclasses, so there is one
place to edit.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import audit_samples
import derived_values
import records
from format_notes import CODE_NOTES

from engine_plugin.live.gossip import PEERS, Peers
from engine_plugin.wire import (
    ACKNOWLEDGEMENT_STEP,
    HELLO,
    PROOF_OF_KEY,
    RECEIPT_STEP,
    AcknowledgementStep,
    Hello,
    ProofOfKey,
    ReceiptStep,
    ReceiptVerdict,
)
from ledger.audit.file import AUDIT_LAYOUTS, Section
from ledger.audit.trust import TRUST_HEAD, Trust, format_trust
from ledger.books import journal, standing, state
from ledger.books.instructing import InstructionCode
from ledger.books.judgement import BundleCode, ReceiptCode
from ledger.books.state_layouts import STATE_LAYOUTS, RowKind
from ledger.books.statements import STATEMENT_LAYOUT, StatementLine
from ledger.books.transactions import FACT_HEAD, NetworkFact
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.bundle import BUNDLE_HEAD, Bundle, BundleKind
from ledger.evidence.clock import CLOCK, Clock
from ledger.evidence.encoding import TAG_SIZE, Layout, RecordCode, RecordType
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.heartbeat import HEARTBEAT, Heartbeat
from ledger.evidence.instruction import (
    PAYEE_INSTRUCTION,
    READINESS,
    REFUND,
    RULING,
    Booking,
    PayeeInstruction,
    PayeeWish,
    Readiness,
    ReadinessNote,
    Refund,
    Ruling,
)
from ledger.evidence.leaf import (
    ACTIVATION,
    BUNDLE_LEAF,
    CORRECTION_LEAF,
    PAYOUT_HEAD,
    PAYOUT_PAYMENT,
    RESULT_LEAF,
    SEAL_LEAF,
    Activation,
    BundleLeaf,
    CorrectionLeaf,
    Payment,
    PayoutLeaf,
    ResultLeaf,
    SealLeaf,
)
from ledger.evidence.promise import PROMISE, Promise
from ledger.evidence.provisional import PROVISIONAL, Provisional
from ledger.evidence.receipt import RECEIPT, Receipt
from ledger.evidence.relay import RELAY_FETCH, RELAY_HEAD, RelayFetch, RelayFrame
from ledger.evidence.segment import SEGMENT, Segment
from ledger.evidence.stream import STREAM_LAYOUTS, Container, Stream, StreamUrl
from ledger.evidence.terms import TERMS_LAYOUTS, CdnTerms, Terms

BLOCK = re.compile(r"<!-- (\w+): ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)
NETWORK_ID_NOTE = "see *Domain tag*"

Row = tuple[str, str, str, str]
"""Offset, size, field and kind, meaning."""


def notes_of(kind: type) -> dict[str, str]:
    """The string under each field or member of a class, in one line without a full stop."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    notes: dict[str, str] = {}
    name = ""
    for node in tree.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                pass
            case ast.Expr(value=ast.Constant(value=str(note))) if name:
                notes[name] = " ".join(note.split()).rstrip(".")
            case ast.FunctionDef(name=called):
                notes.setdefault(called, (ast.get_docstring(node) or "").rstrip("."))
                name = ""
    return notes


@dataclass(frozen=True, slots=True)
class Table:
    """What a layout table is made from."""

    layout: Layout
    note_class: type | None
    signers: tuple[str, ...] = ()
    code: RecordCode | None = None
    flags: str = ""
    first: tuple[Row, ...] = ()
    """Rows before the layout, sizes as digits."""

    notes: dict[str, str] = field(default_factory=dict)
    """Meanings that no field note has."""

    tail: tuple[tuple[str, str, str], ...] = ()
    """Rows after the layout: size, field and kind, meaning; offsets only while sizes are fixed."""

    def rows(self) -> Iterator[Row]:
        """Rows of the table, in the order of the bytes."""
        at = 0
        for size, name, meaning in self._heads():
            yield str(at), size, name, meaning
            at += int(size)
        known = notes_of(self.note_class) if self.note_class else {}
        known |= self.notes
        for offset, item in self.layout.offsets():
            meaning = known[item.name]
            yield str(at + offset), str(item.size), f"`{item.name}` {item.kind}", meaning
        offset_text = str(at + self.layout.size)
        for size, name, meaning in self.tail:
            yield offset_text, size, name, meaning
            fixed = offset_text.isdigit() and size.isdigit()
            offset_text = str(int(offset_text) + int(size)) if fixed else "…"

    def _heads(self) -> Iterator[tuple[str, str, str]]:
        for signer in self.signers:
            yield "64", "signature", f"by {signer}, over everything from the tag on"
        if self.code is not None:
            flags = f", flags {self.flags}" if self.flags else ""
            yield str(TAG_SIZE), "tag", f"type {int(self.code)}{flags}; {NETWORK_ID_NOTE}"
        for _, size, name, meaning in self.first:
            yield size, name, meaning


def of_record(kind: RecordType[Any], note_class: type, *signers: str, flags: str = "") -> Table:
    assert len(signers) == kind.signers
    return Table(kind.layout, note_class, signers, kind.code, flags)


def state_row(kind: RowKind, note_class: type | None, /, **notes: str) -> Table:
    first = (("0", "1", "row kind u8", f"{int(kind)}"),)
    return Table(STATE_LAYOUTS[kind], note_class, first=first, notes=notes)


_PAYMENT_TAIL = "40 × n"
TABLES: dict[str, Table] = {
    "terms": Table(
        TERMS_LAYOUTS[0],
        Terms,
        ("the issuing key",),
        RecordCode.TERMS,
        tail=(
            ("1", "channel count u8", "1 to 16"),
            ("1", "CDN count u8", "0 to 16"),
            ("32 × channels", "channel accounts", "strictly ascending"),
            ("144 × CDNs", "CDN entries", "strictly ascending by key"),
        ),
    ),
    "terms-cdn": Table(TERMS_LAYOUTS[1], CdnTerms),
    "binding": of_record(BINDING, Binding, "the account", "the key"),
    "entitlement": of_record(ENTITLEMENT, Entitlement, "the issuing key"),
    "receipt": of_record(RECEIPT, Receipt, "the session key", flags="bit 0: CDN"),
    "heartbeat": of_record(
        HEARTBEAT, Heartbeat, "the session key", flags="bit 0: estimated from the reading pace"
    ),
    "bundle": Table(
        BUNDLE_HEAD,
        Bundle,
        ("the submitter",),
        RecordCode.BUNDLE,
        tail=(
            (f"{BINDING.size} × n", "bindings", "ascending by body"),
            (f"{ENTITLEMENT.size} × n", "entitlements", "ascending by digest"),
            (f"{RECEIPT.size} × n", "receipts", "ascending by lane digest, sequence, body"),
            (f"{HEARTBEAT.size} × n", "heartbeats", "ascending by session id, number, body"),
        ),
    ),
    "promise": of_record(PROMISE, Promise, "the log key"),
    "provisional": of_record(PROVISIONAL, Provisional, "the body's `submitter_key`"),
    "payee-instruction": of_record(
        PAYEE_INSTRUCTION,
        PayeeInstruction,
        "the account",
        "the account to pay to; zeros for a cash-out",
    ),
    "refund": of_record(REFUND, Refund, "the broadcaster's account"),
    "readiness": of_record(READINESS, ReadinessNote, "the log key"),
    "ruling": of_record(RULING, Ruling, "the DAO key"),
    "clock": of_record(CLOCK, Clock, "the log key"),
    "stream": Table(
        STREAM_LAYOUTS[0],
        Stream,
        ("the issuing key",),
        RecordCode.STREAM,
        tail=(
            ("1", "index URL count u8", "0 to 4"),
            ("1", "CDN URL count u8", "0 to 8"),
            ("200 × n", "`index_urls`", "in the broadcaster's order"),
            ("200 × n", "`cdn_urls`", "in the broadcaster's order"),
        ),
    ),
    "stream-url": Table(STREAM_LAYOUTS[1], StreamUrl),
    "segment": of_record(SEGMENT, Segment, "the index key", flags="bit 0: discontinuity"),
    "peers": of_record(PEERS, Peers),
    "hello": of_record(HELLO, Hello),
    "proof-of-key": of_record(PROOF_OF_KEY, ProofOfKey, "the session key of its hello"),
    "receipt-step": Table(RECEIPT_STEP, ReceiptStep),
    "acknowledgement-step": Table(ACKNOWLEDGEMENT_STEP, AcknowledgementStep),
    "relay": Table(
        RELAY_HEAD,
        RelayFrame,
        ("the session key `from_key`",),
        RecordCode.RELAY,
        tail=(
            ("4", "`payload` length", "u32: 40 to 65,536"),
            ("length", "`payload`", "sealed between the two keys"),
        ),
    ),
    "relay-fetch": of_record(RELAY_FETCH, RelayFetch, "the session key `key`"),
    "leaf-activation": of_record(ACTIVATION, Activation, "the DAO key"),
    "leaf-bundle": of_record(BUNDLE_LEAF, BundleLeaf),
    "leaf-correction": of_record(CORRECTION_LEAF, CorrectionLeaf),
    "leaf-seal": of_record(SEAL_LEAF, SealLeaf),
    "leaf-result": of_record(RESULT_LEAF, ResultLeaf),
    "leaf-payout": Table(
        PAYOUT_HEAD,
        PayoutLeaf,
        code=RecordCode.LEAF_PAYOUT,
        tail=(
            ("2", "payment count u16", "1 to 100"),
            (_PAYMENT_TAIL, "payments", "in the envelope's order"),
        ),
    ),
    "payment": Table(PAYOUT_PAYMENT, Payment),
    "state-head": state_row(RowKind.HEAD, state.Head),
    "state-cap-use": state_row(
        RowKind.CAP_USE,
        state.CapUse,
        entitlement="Entitlement digest",
        credited_bytes="Bytes credited so far, all payees and epochs",
        media_ms="Longest media time its receipts have stated",
    ),
    "state-void": state_row(
        RowKind.VOID,
        None,
        entitlement="Entitlement digest",
        first_epoch="First epoch in which it is void",
    ),
    "state-cumulative": state_row(
        RowKind.CUMULATIVE,
        None,
        payer="Account that is charged",
        payee="Account that earns",
        source="0 peers, 1 CDN",
        price_version="Price version of the terms",
        bytes_total="Bytes charged since the first epoch",
        charge_stroops="Charges since the first epoch, fee included",
        fee_stroops="Fees since the first epoch",
    ),
    "state-payee": state_row(RowKind.PAYEE, state.PayeeBalance, account="Account of the payee"),
    "state-batch": state_row(
        RowKind.BATCH,
        None,
        number="Batch number",
        kind="As in the payout leaf",
        channel_account="Account of its slot",
        channel_sequence="Sequence number of its slot",
        leaf_hash="Memo of its transactions: the RFC 6962 hash of its payout leaf",
    ),
    "state-batch-payment": state_row(
        RowKind.BATCH_PAYMENT,
        None,
        number="Batch number",
        place="Place in the batch, from 0",
        account="Destination",
        amount_stroops="Amount, ≥ 1",
        payee="Who is owed it: the destination, or who is paid there",
    ),
    "state-channel": state_row(
        RowKind.CHANNEL,
        None,
        account="Channel account",
        next_sequence="Sequence number of its next slot",
    ),
    "state-corrected-lane": state_row(
        RowKind.CORRECTED_LANE,
        None,
        lane_digest="The lane",
        epoch="Epoch of the lane",
        sequence="Sequence of the receipt that counts now",
        bytes_total="What it counts for now",
    ),
    "state-xlm": state_row(
        RowKind.XLM,
        None,
        account="Account of the settlement domain",
        received_stroops="XLM received since the first epoch",
        spent_stroops="XLM sent or burned as fees since the first epoch",
    ),
    "state-suspense": state_row(
        RowKind.SUSPENSE,
        state.SuspenseDeposit,
        tx_hash="Transaction that brought it",
        operation="Place of its operation, from 0",
        in_payout="1: it lies in the payout account; 0: in escrow",
    ),
    "state-claimable": state_row(
        RowKind.CLAIMABLE,
        state.ClaimableDeposit,
        balance_id="Id of the claimable balance, without its type",
        is_known="1: it is the broadcaster's; 0: it will stand in suspense",
    ),
    "state-maturing": state_row(
        RowKind.MATURING,
        None,
        account="Account of the payee",
        due_s="Network time from which the amount may be paid",
        amount_stroops="Part of what is owed",
    ),
    "state-standing": state_row(
        RowKind.STANDING,
        standing.Standing,
        account="Account of the payee",
        cash_out_open="1: it asked to be paid below the threshold, and was not yet",
    ),
    "state-seen-account": state_row(
        RowKind.SEEN_ACCOUNT, standing.SeenAccount, account="Account that would be paid"
    ),
    "state-refund": state_row(RowKind.REFUND, standing.RefundRequest),
    "fact": Table(
        FACT_HEAD,
        NetworkFact,
        code=RecordCode.FACT,
        tail=(
            ("4", "envelope length u32", "at most 1 MiB"),
            ("n", "envelope", "TransactionEnvelope XDR as it was submitted"),
            ("4", "result length u32", "at most 1 MiB"),
            ("n", "result", "TransactionResult XDR"),
        ),
    ),
    "journal-entry": Table(
        journal.JOURNAL_LAYOUTS[0],
        journal.JournalEntry,
        notes={"kind": "An entry kind", "posting_count": "Postings that follow"},
        tail=(("44 × n", "postings", "sum to zero in every book"),),
    ),
    "journal-posting": Table(
        journal.JOURNAL_LAYOUTS[1],
        journal.Posting,
        notes={
            "account": "An account of the chart",
            "book": "1 the priced asset, 2 XLM",
            "is_credit": "0 debit, 1 credit (only beside an amount)",
            "amount_stroops": "Absolute amount",
        },
    ),
    "statement-line": Table(STATEMENT_LAYOUT, StatementLine),
    "trust": Table(
        TRUST_HEAD,
        Trust,
        code=RecordCode.TRUST,
        tail=(
            ("4", "origin length u32", ""),
            ("n", "log origin", "UTF-8"),
            ("4", "log key count u32", ""),
            ("36 × n", "log keys", "key 32 bytes, first epoch u32; by rising epoch"),
            ("4", "DAO key count u32", ""),
            ("36 × n", "DAO keys", "key 32 bytes, first epoch u32; by rising epoch"),
        ),
    ),
    "audit-head": Table(
        AUDIT_LAYOUTS[0],
        None,
        ("the log key",),
        RecordCode.AUDIT_FILE,
        notes={"broadcaster_account": "Whose log; 32 bytes", "epoch": "The epoch it is about"},
        tail=(
            ("2", "section count u16", f"{len(Section)}"),
            (f"{AUDIT_LAYOUTS[1].size} × {len(Section)}", "digest table", "one entry per section"),
            ("Σ sizes", "sections", "in order, without gaps"),
        ),
    ),
    "audit-entry": Table(
        AUDIT_LAYOUTS[1],
        None,
        notes={
            "section": "Number of the section",
            "size": "Bytes of the section",
            "digest": "SHA-256 of the section's bytes",
        },
    ),
}

CODES: dict[str, type[IntEnum]] = {
    "RecordCode": RecordCode,
    "BundleCode": BundleCode,
    "ReceiptCode": ReceiptCode,
    "ReceiptVerdict": ReceiptVerdict,
    "Container": Container,
    "Role": Role,
    "BundleKind": BundleKind,
    "RowKind": RowKind,
    "PayeeWish": PayeeWish,
    "InstructionCode": InstructionCode,
    "CarryReason": standing.CarryReason,
    "Readiness": Readiness,
    "Booking": Booking,
    "Account": journal.Account,
    "EntryKind": journal.EntryKind,
    "Book": journal.Book,
    "Section": Section,
}


def render_layout(name: str) -> str:
    rows = ["| offset | size | field | meaning |", "|---:|---:|---|---|"]
    rows += [f"| {' | '.join(row)} |" for row in TABLES[name].rows()]
    return "\n".join(rows) + "\n"


def render_codes(name: str) -> str:
    notes = notes_of(CODES[name])
    rows = ["| number | name | meaning |", "|---:|---|---|"]
    for member in CODES[name]:
        note = notes.get(member.name) or CODE_NOTES[name][member.name]
        rows.append(f"| {int(member)} | `{member.name}` | {note} |")
    return "\n".join(rows) + "\n"


def _hex_block(data: bytes) -> str:
    text = data.hex()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "```hex\n" + "\n".join(lines) + "\n```\n"


def render_example(name: str) -> str:
    return _hex_block(records.BY_NAME[name].raw)


def render_value(name: str) -> str:
    return _hex_block(derived_values.DERIVED[name])


def render_text(name: str) -> str:
    text = {"trust": format_trust(audit_samples.trust())}
    content = text.get(name) or derived_values.DERIVED[name].decode()
    return "```text\n" + content.rstrip("\n") + "\n```\n"


def render_audit(name: str) -> str:
    sizes = {"head": 64 + TAG_SIZE + AUDIT_LAYOUTS[0].size + 2}
    sizes["table"] = sizes["head"] + AUDIT_LAYOUTS[1].size * len(Section)
    return _hex_block(audit_samples.audit_file()[: sizes[name]])


RENDERERS: dict[str, Callable[[str], str]] = {
    "layout": render_layout,
    "codes": render_codes,
    "example": render_example,
    "value": render_value,
    "text": render_text,
    "audit": render_audit,
}


def render_document(text: str) -> str:
    """The document with every block as the code has it now."""

    def block(match: re.Match[str]) -> str:
        kind, name, _ = match.groups()
        return f"<!-- {kind}: {name} -->\n{RENDERERS[kind](name)}<!-- end -->"

    return BLOCK.sub(block, text)


def blocks_of(text: str) -> list[tuple[str, str, str]]:
    """Kind, name and content of every block."""
    return [(match[1], match[2], match[3]) for match in BLOCK.finditer(text)]
