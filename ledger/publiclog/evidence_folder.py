"""Evidence of a fork on disk: both signed checkpoints, verbatim, and what they show.

    fork-<size>-<size>-<8 hex digits>/first.checkpoint, second.checkpoint, report.json

The same fork found again writes the same files, so a monitor that runs for a year keeps one copy.
"""

import hashlib
import json
from pathlib import Path

from ledger.evidence.checkpoint import parse_checkpoint
from ledger.evidence.note import parse_note
from ledger.publiclog.errors import ForkError
from ledger.sealing.files import sync_folders, write_file


def save_fork(folder: Path, fork: ForkError) -> Path:
    """Write the evidence of a fork and return its folder.

    Raises:
        OSError: It cannot be written.
    """
    notes = sorted((fork.first, fork.second))
    sizes = [parse_checkpoint(parse_note(note).text).tree_size for note in notes]
    name = hashlib.sha256(b"".join(notes)).hexdigest()[:8]
    target = folder / f"fork-{min(sizes)}-{max(sizes)}-{name}"
    report = {
        "format": "swarmledger-fork/1",
        "finding": str(fork),
        "first": fork.first.decode(),
        "second": fork.second.decode(),
    }
    write_file(target / "first.checkpoint", fork.first)
    write_file(target / "second.checkpoint", fork.second)
    write_file(target / "report.json", json.dumps(report, indent=2).encode() + b"\n")
    sync_folders([target, folder])
    return target
