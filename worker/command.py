"""The command `swarmledger worker`: `run` does the tasks, `beat` publishes them on a schedule.

Any number of workers; one beat, or several: what it publishes may come twice. Exit 1 when the
configuration does not allow a start.
"""

import argparse
import gc
import sys
from collections.abc import Sequence

from ledger.config import ConfigError, load_settings
from ledger.evidence.errors import EvidenceError
from ledger.evidence.quick_rows import load_check
from ledger.stellar.errors import StellarError
from worker.process import make_parts
from worker.settings import BUNDLES_QUEUE, EPOCHS_QUEUE, GC_OBJECTS, make_celery_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `swarmledger worker`.

    Args:
        argv: The arguments after the command's name; `sys.argv[1:]` when None.
    """
    arguments = _parser().parse_args(argv)
    try:
        settings = load_settings()
        make_celery_settings(settings)
        if arguments.name == "run":
            # Made to find what is missing now, not in the first task; each process makes its own.
            make_parts(settings)
    except (ConfigError, EvidenceError, OSError, StellarError) as error:
        print(f"swarmledger worker {arguments.name}: {error}", file=sys.stderr)
        return 1
    _start(arguments)
    return 0


def _start(arguments: argparse.Namespace) -> None:
    # Imported here: making the application needs a configuration that was found good.
    from worker.app import app  # noqa: PLC0415

    app.loader.import_default_modules()
    if arguments.name == "run":
        # Once for all children.
        load_check()
    # What is loaded by now stays until the end. Without this the garbage collector walks over it
    # in every child, and once more at the exit, which takes longer than all the rest of stopping.
    gc.freeze()
    # Tasks make many small objects and hardly any cycles.
    gc.set_threshold(GC_OBJECTS)
    if arguments.name == "beat":
        app.start(["--quiet", "beat", "--scheduler", "celery.beat:Scheduler", "--pidfile", ""])
        return
    app.start(
        [
            "--quiet",
            "worker",
            "--pool=prefork",
            f"--concurrency={arguments.concurrency}",
            f"--queues={EPOCHS_QUEUE},{BUNDLES_QUEUE}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swarmledger worker", description="Do the server's work, or publish it on a schedule."
    )
    commands = parser.add_subparsers(required=True, dest="name", metavar="COMMAND")
    run = commands.add_parser("run", help="judge bundles, drive epochs, settle")
    run.add_argument("--concurrency", type=int, default=2, help="processes, ≥ 1")
    commands.add_parser("beat", help="publish the scheduled tasks")
    return parser
