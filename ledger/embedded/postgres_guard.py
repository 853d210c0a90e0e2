"""The parent process of the embedded Postgres server: it ends the server when its owner ends.

Started by `ledger.embedded.postgres` as a script, never imported by it: standard library only, one
thread. Standard input is a pipe whose other end only the owner holds. When the pipe closes, because
the owner stopped the cluster or died of whatever cause (SIGKILL included), the guard shuts the
server down (SIGINT, Postgres's "fast" shutdown), removes the socket folder and exits. Should the
guard itself be killed, the kernel sends the server that same SIGINT (`prctl(2)`,
PR_SET_PDEATHSIG). It does not restart a server that ended by itself.
"""

import argparse
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1
FAST_SHUTDOWN_SECONDS: Final = 60
IMMEDIATE_SHUTDOWN_SECONDS: Final = 10


def main() -> int:
    """Run the server that the arguments name until it or the owner ends.

    Returns:
        The server's exit status; 128 + the signal's number when a signal ended it.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--socket-dir", required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    wake_fd = _wake_on_signals()
    server = subprocess.Popen(
        options.command,
        stdin=subprocess.DEVNULL,
        cwd="/",
        user=options.uid,
        group=options.gid,
        extra_groups=None if options.uid is None else [],
        # One thread only, so preexec_fn is safe; it runs after the change of user, which is
        # needed because that change clears the parent-death signal.
        preexec_fn=_end_with_parent,  # noqa: PLW1509
    )
    while server.poll() is None:
        readable, _, _ = select.select([sys.stdin.fileno(), wake_fd], [], [])
        if sys.stdin.fileno() in readable:
            break
        if _ends_guard(os.read(wake_fd, 64)):
            break
    status = _shut_down(server)
    shutil.rmtree(options.socket_dir, ignore_errors=True)
    return status if status >= 0 else 128 - status


def _wake_on_signals() -> int:
    """Turn signals into bytes on a pipe, one byte each: the signal's number."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
    return read_fd


def _ends_guard(numbers: bytes) -> bool:
    return any(number != signal.SIGCHLD for number in numbers)


def _end_with_parent() -> None:
    guard_pid = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    if os.getppid() != guard_pid:
        os._exit(1)


def _shut_down(server: subprocess.Popen[bytes]) -> int:
    """End the server: fast, then immediate (its log makes that safe), then killed."""
    for number, seconds in (
        (signal.SIGINT, FAST_SHUTDOWN_SECONDS),
        (signal.SIGQUIT, IMMEDIATE_SHUTDOWN_SECONDS),
        (signal.SIGKILL, None),
    ):
        server.send_signal(number)
        try:
            return server.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            print(f"guard: server outlived {number.name}", file=sys.stderr, flush=True)
    return server.wait()


if __name__ == "__main__":
    sys.exit(main())
