"""Golden files: the bytes of every format, pinned for good.

`SWARMLEDGER_UPDATE_VECTORS=1` writes them anew; a change of a released byte is a new version of the
format, never an edit of these files.
"""

import os
from pathlib import Path

import audit_samples
import derived_values
import pytest
import records

from ledger.audit.file import parse_audit_file
from ledger.audit.trust import format_trust, parse_trust

GOLDEN = Path(__file__).parents[2] / "vectors" / "golden"
MADE = {sample.name: sample.raw for sample in records.SAMPLES} | derived_values.DERIVED
MADE |= {
    "audit-file": audit_samples.audit_file(),
    "trust-text": format_trust(audit_samples.trust()).encode(),
    "trust-digest": audit_samples.trust().digest,
}
UPDATE = bool(os.environ.get("SWARMLEDGER_UPDATE_VECTORS"))


def print_hex(data: bytes) -> str:
    text = data.hex()
    return "".join(f"{text[at : at + 64]}\n" for at in range(0, len(text), 64))


def read_golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


@pytest.mark.parametrize("name", MADE)
def test_builders_still_make_the_golden_bytes(name: str) -> None:
    if UPDATE:
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / f"{name}.hex").write_text(print_hex(MADE[name]))
    assert (GOLDEN / f"{name}.hex").read_text() == print_hex(MADE[name])


@pytest.mark.parametrize("sample", records.SAMPLES, ids=lambda sample: sample.name)
def test_golden_bytes_parse_to_the_same_record(sample: records.Sample) -> None:
    golden = read_golden(sample.name)
    parsed = sample.parse(golden)
    assert parsed == sample.parse(sample.raw)
    assert sample.format(parsed) == golden


def test_golden_audit_and_trust_files_parse() -> None:
    assert parse_audit_file(read_golden("audit-file")).contents == audit_samples.audit_contents()
    trust = parse_trust(read_golden("trust-text").decode())
    assert trust.digest == read_golden("trust-digest")


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(MADE)
