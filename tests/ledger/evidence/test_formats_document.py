"""FORMATS.md says what the code does: its tables, codes and examples are compared and parsed.

`SWARMLEDGER_UPDATE_FORMATS=1 pytest tests/ledger/evidence/test_formats_document.py` rewrites the
marked blocks; the words around them are written by hand.
"""

import os
import re
from hashlib import sha256
from pathlib import Path

import audit_samples
import derived_values
import format_document
import pytest
import records

from ledger.audit.file import parse_audit_file
from ledger.audit.trust import format_trust, parse_trust
from ledger.evidence.checkpoint import body_hash, parse_checkpoint, verify_checkpoint
from ledger.evidence.encoding import RecordCode
from ledger.evidence.keys import verify
from ledger.evidence.merkle import RootBuilder, check_consistency, check_inclusion, leaf_hash
from ledger.evidence.note import parse_verifier_key
from ledger.evidence.sumtree import check_line, parse_sum_proof
from ledger.evidence.tlog_proof import check_tlog_proof, parse_tlog_proof

DOCUMENT = Path(__file__).parents[3] / "FORMATS.md"


def read_document() -> str:
    text = DOCUMENT.read_text()
    if os.environ.get("SWARMLEDGER_UPDATE_FORMATS"):
        text = format_document.render_document(text)
        DOCUMENT.write_text(text)
    return text


def blocks(kind: str) -> dict[str, str]:
    return {name: body for k, name, body in format_document.blocks_of(read_document()) if k == kind}


def hex_of(kind: str, name: str) -> bytes:
    return bytes.fromhex("".join(blocks(kind)[name].split("\n")[1:-2]))


def value_of(name: str) -> bytes:
    return hex_of("value", name)


def text_of(name: str) -> str:
    return "\n".join(blocks("text")[name].split("\n")[1:-2]) + "\n"


def test_blocks_are_as_the_code_has_them() -> None:
    text = read_document()
    assert text == format_document.render_document(text)


def test_every_block_is_closed_and_stands_once() -> None:
    text = read_document()
    found = [(kind, name) for kind, name, _ in format_document.blocks_of(text)]
    assert len(set(found)) == len(found)
    assert text.count("<!-- end -->") == len(found) == len(re.findall(r"<!-- \w+: ", text))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("layout", format_document.TABLES),
        ("codes", format_document.CODES),
        ("example", {sample.name for sample in records.SAMPLES}),
    ],
)
def test_document_leaves_nothing_out(kind: str, names: set[str]) -> None:
    assert set(blocks(kind)) == set(names)


def test_every_derived_value_is_shown() -> None:
    assert set(blocks("value")) | set(blocks("text")) == {*derived_values.DERIVED, "trust"}


@pytest.mark.parametrize("sample", records.SAMPLES, ids=lambda sample: sample.name)
def test_worked_example_parses_and_its_signatures_verify(sample: records.Sample) -> None:
    example = hex_of("example", sample.name)
    parsed = sample.parse(example)
    assert sample.format(parsed) == example
    for place, key in enumerate(sample.signers):
        assert verify(key, parsed.body, parsed.signatures[place])


def test_offsets_of_a_table_find_the_fields_of_its_example() -> None:
    """Read by the printed offsets alone, as somebody else's parser would."""
    receipt = records.BY_NAME["receipt"]
    value = receipt.parse(receipt.raw).value
    example, found = hex_of("example", "receipt"), {}
    for line in blocks("layout")["receipt"].splitlines()[2:]:
        offset, size, name, _ = (cell.strip() for cell in line.strip("|").split("|", 3))
        found[name.split("`")[1] if "`" in name else name] = example[int(offset) :][: int(size)]
    assert found["payee_key"] == value.payee_key
    assert int.from_bytes(found["bytes_total"], "little") == value.bytes_total
    assert found["credit_root"] == value.credit_root
    assert sum(len(part) for part in found.values()) == len(example) == 232


def test_every_number_of_a_record_stands_in_the_table_of_types() -> None:
    table = blocks("codes")["RecordCode"]
    assert all(f"| {int(code)} | `{code.name}` |" in table for code in RecordCode)


def test_log_examples_prove_what_they_say() -> None:
    checkpoint = parse_checkpoint(text_of("checkpoint-text"))
    key = parse_verifier_key(text_of("log-vkey").strip())
    note = text_of("checkpoint-note").encode()
    verified = verify_checkpoint(note, origin=checkpoint.origin, known_keys=[key])
    assert verified.checkpoint == checkpoint
    assert value_of("checkpoint-hash") == body_hash(checkpoint)
    assert value_of("checkpoint-hash") == sha256(text_of("checkpoint-text").encode()).digest()
    proof = parse_tlog_proof(text_of("tlog-proof").encode())
    check_tlog_proof(proof, b"\x03", origin=checkpoint.origin, known_keys=[key])
    inclusion, consistency = value_of("inclusion-proof"), value_of("consistency-proof")

    def hashes(data: bytes) -> list[bytes]:
        return [data[at : at + 32] for at in range(0, len(data), 32)]

    root = checkpoint.root_hash
    check_inclusion(leaf_hash(b"\x03"), 3, 5, hashes(inclusion), root)
    old = RootBuilder()
    for leaf in derived_values.LEAVES[:3]:
        old.append(leaf)
    check_consistency(3, old.root(), 5, root, hashes(consistency))


def test_sum_tree_example_proves_its_line() -> None:
    tree = derived_values.sum_tree_of(derived_values.book_builders.statement_lines())
    proof = parse_sum_proof(value_of("sum-proof"))
    check_line(tree.lines[proof.line_index], proof, tree.root())
    assert value_of("sum-root") == tree.root().hash


def test_root_builder_example_continues_to_its_root() -> None:
    assert RootBuilder.restore(value_of("root-builder-state")).root() == value_of("credit-root")


def test_audit_example_is_the_head_of_a_file_that_parses() -> None:
    whole = audit_samples.audit_file()
    assert parse_audit_file(whole).contents == audit_samples.audit_contents()
    assert whole.startswith(hex_of("audit", "table"))


def test_trust_example_parses() -> None:
    trust = parse_trust(text_of("trust"))
    assert trust == audit_samples.trust()
    assert format_trust(trust) == text_of("trust")
    assert trust.digest.hex() in read_document()


def test_prose_names_no_byte_count_that_is_wrong() -> None:
    text = read_document()
    for name, title in (("receipt", "Receipt"), ("binding", "Binding"), ("clock", "Clock")):
        size = len(records.BY_NAME[name].raw)
        assert re.search(rf"## {title}\n\n{size} bytes", text), (name, size)
