"""The measured process of `swarmledger bench seal`: seals a folder's bundles and says what it took.

Reads the bundles as a worker reads its rows (verdicts stand, signatures were verified on arrival),
judges lanes, makes leaves, runs the contract, books, sums, signs the checkpoint and writes tiles.
Not here: Postgres, and making the bundles (`synthetic_epoch`).
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ledger.audit.compose import LogView, Notes, compose_contents
from ledger.audit.file import generate_audit_file
from ledger.audit.trust import format_trust
from ledger.bench.synthetic_epoch import BundleFile, SyntheticEpoch, make_epoch
from ledger.books import epoch as books
from ledger.books.epoch import EpochInputs, Result, Seal
from ledger.books.gathering import GatheredChecks
from ledger.evidence.checkpoint import Checkpoint, sign_checkpoint
from ledger.evidence.merkle import root_hash
from ledger.evidence.note import format_note
from ledger.evidence.tile import growth_files_of
from ledger.sealing.files import sync_folders, write_file, write_pieces

BUNDLES, AUDIT, TRUST = "bundles.bin", "epoch-0.audit", "trust.json"


class StepTimes:
    """Processor time by step."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step."""
        began_s = time.process_time()
        yield
        self.cpu_s[name] = time.process_time() - began_s

    def watch(self, module: Any, function: str) -> None:
        """Time a function of a module as a step of its own, within another."""
        original: Callable[..., Any] = getattr(module, function)

        def watched(*arguments: Any) -> Any:
            with self.step(function):
                return original(*arguments)

        setattr(module, function, watched)


def seal_folder(folder: Path, *, writes_audit: bool) -> dict[str, float]:
    """Seal the folder's bundles; returns processor seconds by step.

    Args:
        folder: Holds the bundles; gets the log's files, and maybe audit and trust file.
        writes_audit: Write the audit file as well, which is no part of the measurement.
    """
    times = StepTimes()
    times.watch(books, "run_contract")
    made = make_epoch()
    with times.step("read"):
        file = BundleFile(folder / BUNDLES)
        gathered = GatheredChecks(file.load)
        for index in range(len(file)):
            gathered.add(file.load(index))
    inputs = made.inputs(gathered)
    with times.step("judge"):
        sealed = books.seal_epoch(inputs)
    with times.step("compute"):
        result = books.compute_epoch(inputs, sealed)
    with times.step("log"):
        checkpoint, note = _publish(folder / "log", made, [*sealed.leaves, *result.leaves])
    if writes_audit:
        _write_audit(folder, made, inputs, sealed, result, (checkpoint, note))
    file.close()
    return times.cpu_s


def _publish(log: Path, made: SyntheticEpoch, leaves: list[bytes]) -> tuple[Checkpoint, bytes]:
    checkpoint = Checkpoint(
        origin=made.trust.log_origin, tree_size=len(leaves), root_hash=root_hash(leaves)
    )
    note = format_note(sign_checkpoint(checkpoint, made.log_seed))
    shutil.rmtree(log, ignore_errors=True)
    folders = {log}
    for path, content in growth_files_of(leaves, 0):
        write_file(log / path, content)
        folders.add((log / path).parent)
    sync_folders(folders)
    write_file(log / "checkpoint", note)
    return checkpoint, note


def _write_audit(
    folder: Path,
    made: SyntheticEpoch,
    inputs: EpochInputs,
    sealed: Seal,
    result: Result,
    head: tuple[Checkpoint, bytes],
) -> None:
    checkpoint, note = head
    contents = compose_contents(
        inputs=inputs,
        seal=sealed,
        result=result,
        log=LogView(
            leaves=[*sealed.leaves, *result.leaves],
            first_leaf_index=0,
            activation_index=0,
            previous_result_index=None,
        ),
        notes=Notes(
            trust_digest=made.trust.digest,
            issuing_binding=made.issuing_binding,
            previous_checkpoint=b"",
            checkpoint=note,
        ),
        counts=[],
        anchor=made.anchor(checkpoint),
    )
    write_file(folder / TRUST, format_trust(made.trust).encode())
    write_pieces(folder / AUDIT, generate_audit_file(contents, made.log_seed))


if __name__ == "__main__":
    cpu_s = seal_folder(Path(sys.argv[1]), writes_audit="--audit" in sys.argv[2:])
    sys.stdout.write(json.dumps(cpu_s))
