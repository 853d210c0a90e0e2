"""A Postgres cluster of our own: made, started and stopped by the process that needs it.

One process owns a cluster's folder at a time (a kernel lock, so a dead owner's lock never has to be
guessed at). The server listens on a Unix socket only, in a short folder that only its account and
root can enter, because trust authentication asks for no password. Started by root, the server runs
as an existing unprivileged account, since Postgres refuses to run as root. A server that outlived
its owner is shut down before a new one starts: taking it over while it runs would hand out a
server that may be on its way down. It creates no user, changes no mode of a folder it did not
make, and needs no `pg_ctl`: `ledger.embedded.postgres_guard` is the server's parent and ends it
when the owner ends, however that happens.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from ledger.embedded import postgres_guard
from ledger.embedded.errors import ClusterError, ClusterInUseError
from ledger.embedded.postgres_binaries import Account, find_binaries, make_runnable

SUPERUSER: Final = "postgres"
SOCKET_DIR_PREFIX: Final = "swarmledger-pg-"
PORT: Final = 5432
SOCKET_PATH_MAX_BYTES: Final = 107
"""`sockaddr_un.sun_path` holds 108 bytes with its closing zero (unix(7))."""
POLL_SECONDS: Final = 0.02
REPORT_EVERY_SECONDS: Final = 5.0
ORPHAN_GRACE_SECONDS: Final = 60.0
LOCK_BYTES_MAX: Final = 65536
LOG_TAIL_LINES: Final = 15
STATUS_LINE: Final = 7
"""`postmaster.pid` says "starting", "ready" or "stopping" in its eighth line."""

SETTINGS: Final[Mapping[str, str]] = {
    "cluster_name": "swarmledger",
    "fsync": "on",
    "jit": "off",
    "listen_addresses": "",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "max_connections": "60",
    "max_parallel_workers_per_gather": "0",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "unix_socket_permissions": "0700",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owner:
    """The process that holds, or last held, a cluster's lock."""

    pid: int
    started_at_ticks: int
    """Clock ticks since boot: with it a process number that was given out again is told apart."""
    socket_dir: Path


class PostgresCluster:
    """One Postgres server with its data folder; a context manager that starts and stops it."""

    def __init__(
        self, data_dir: Path, *, run_as: str = "nobody", settings: Mapping[str, str] | None = None
    ) -> None:
        """Describe a cluster; nothing happens on disk yet.

        Args:
            data_dir: The cluster's folder, made if missing. When this process is root, `run_as`
                must be able to pass through all of its parents.
            run_as: Existing account for the server's processes when this process is root; unused
                otherwise.
            settings: Postgres settings that replace or add to `SETTINGS`.
        """
        self._data_dir = data_dir.absolute()
        self._pgdata = self._data_dir / "pgdata"
        self._log_path = self._data_dir / "postgres.log"
        self._account = _find_account(run_as) if os.geteuid() == 0 else None
        self._settings = {**SETTINGS, **(settings or {})}
        self._socket_dir: Path | None = None
        self._lock_fd: int | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def socket_dir(self) -> Path:
        """The folder of the server's socket.

        Raises:
            ClusterError: The cluster is not running.
        """
        if self._socket_dir is None:
            raise ClusterError("cluster: got stopped, want running")
        return self._socket_dir

    def url(self, database: str = "postgres") -> str:
        """Return the SQLAlchemy URL of a database of the running cluster."""
        host = quote(str(self.socket_dir), safe="/")
        return f"postgresql+psycopg://{SUPERUSER}@/{quote(database)}?host={host}&port={PORT}"

    def conninfo(self, database: str = "postgres") -> str:
        """Return the libpq URI of a database of the running cluster, for other clients."""
        host = quote(str(self.socket_dir), safe="/")
        return f"postgresql://{SUPERUSER}@/{quote(database)}?host={host}&port={PORT}"

    def start(self) -> None:
        """Make the cluster if there is none, start its server, and wait until it takes connections.

        There is no limit on the wait: recovery of a large cluster takes as long as it takes; the
        log says every few seconds what the server is doing.

        Raises:
            ClusterInUseError: Another live process owns the folder.
            ClusterError: The account is unusable, or the server ended instead of getting ready;
                the message ends with the server's log.
        """
        if self._guard is not None:
            raise ClusterError("cluster: got running, want stopped")
        try:
            self._make_data_dir()
            self._lock()
            self._end_orphans()
            self._remove_socket_dir_of_dead_owner()
            binaries = find_binaries()
            binaries = make_runnable(binaries, self._account, self._data_dir / "binaries")
            if not self._pgdata.exists():
                self._initialise(binaries.program("initdb"))
            self._socket_dir = self._make_socket_dir()
            self._write_lock()
            self._guard = self._spawn(binaries.program("postgres"))
            self._wait_until_ready(self._guard)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut the server down and wait until its last process is gone. Harmless when stopped."""
        if self._guard is not None:
            if self._guard.stdin is not None:
                self._guard.stdin.close()
            _wait_reporting(self._guard, "waiting for Postgres to shut down")
            self._guard = None
            self._end_orphans()
        if self._socket_dir is not None:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            self._socket_dir = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _make_data_dir(self) -> None:
        if not self._data_dir.exists():
            self._data_dir.mkdir(parents=True)
            # Ours, just made: passing through is all that the server's account needs.
            self._data_dir.chmod(0o711 if self._account else 0o700)
        if self._account:
            _require_passage(self._data_dir, self._account)

    def _lock(self) -> None:
        """Take the folder's lock, waiting for the guard of an owner that died a moment ago."""
        lock_fd = os.open(
            self._data_dir / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        self._lock_fd = lock_fd
        for _ in _intervals("waiting for the server of a dead owner to shut down"):
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in {errno.EAGAIN, errno.EACCES}:
                    raise
                owner = _read_lock(lock_fd)
                if owner is not None and _started_at(owner.pid) == owner.started_at_ticks:
                    raise ClusterInUseError(
                        f"data_dir: got {self._data_dir}, in use by process {owner.pid}, "
                        "want a folder of its own"
                    ) from error
            else:
                return

    def _write_lock(self) -> None:
        if self._lock_fd is None:
            raise AssertionError("lock: got none, want held")
        record = {
            "pid": os.getpid(),
            "started_at_ticks": _started_at(os.getpid()),
            "pgdata": str(self._pgdata),
            "socket_dir": str(self._socket_dir),
        }
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, json.dumps(record).encode(), 0)

    def _remove_socket_dir_of_dead_owner(self) -> None:
        record = _read_lock(self._lock_fd) if self._lock_fd is not None else None
        if record is not None and record.socket_dir.name.startswith(SOCKET_DIR_PREFIX):
            shutil.rmtree(record.socket_dir, ignore_errors=True)

    def _end_orphans(self) -> None:
        """End every process that works in the data folder, then drop the server's stale lock.

        In that order: the server's own lock file keeps a second server off the data while a
        backend of the first still writes.
        """
        killing_from = time.monotonic() + ORPHAN_GRACE_SECONDS
        postmaster = _first_line(self._pgdata / "postmaster.pid")
        for _ in _intervals("waiting for a leftover Postgres server to shut down"):
            pids = _processes_in(self._pgdata)
            if not pids:
                break
            if time.monotonic() > killing_from:
                number = signal.SIGKILL
            elif postmaster in pids:
                pids, number = [postmaster], signal.SIGINT
            else:
                number = signal.SIGQUIT
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        (self._pgdata / "postmaster.pid").unlink(missing_ok=True)

    def _initialise(self, initdb: str) -> None:
        """Make the data folder beside its place and move it there whole."""
        new = self._pgdata.with_name("pgdata.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self._give_to_account(new)
        command = [initdb, "-D", str(new), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8"]
        command += ["--locale=C", "--no-instructions"]
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            cwd="/",
            env=_environment(),
            user=self._account.uid if self._account else None,
            group=self._account.gid if self._account else None,
            extra_groups=[] if self._account else None,
        )
        if result.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            raise ClusterError(f"initdb: got exit status {result.returncode}:\n{result.stdout}")
        new.rename(self._pgdata)

    def _make_socket_dir(self) -> Path:
        for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108
            if self._account and not _passable(Path(parent), self._account):
                continue
            if not os.access(parent, os.W_OK | os.X_OK):
                continue
            path = Path(tempfile.mkdtemp(prefix=SOCKET_DIR_PREFIX, dir=parent))
            if len(os.fsencode(path / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_MAX_BYTES:
                self._give_to_account(path)
                return path
            path.rmdir()
        raise ClusterError("socket_dir: got no temporary folder that is short and open, want /tmp")

    def _give_to_account(self, path: Path) -> None:
        if self._account:
            os.chown(path, self._account.uid, self._account.gid)

    def _spawn(self, postgres: str) -> subprocess.Popen[bytes]:
        if self._lock_fd is None:
            raise AssertionError("lock: got none, want held")
        guard = [sys.executable, "-I", "-S", str(postgres_guard.__file__)]
        guard += ["--socket-dir", str(self.socket_dir)]
        if self._account:
            guard += ["--uid", str(self._account.uid), "--gid", str(self._account.gid)]
        server = [postgres, "-D", str(self._pgdata), "-k", str(self.socket_dir), "-p", str(PORT)]
        for name, value in self._settings.items():
            server += ["-c", f"{name}={value}"]
        with self._log_path.open("ab") as log:
            return subprocess.Popen(
                [*guard, "--", *server],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(),
                start_new_session=True,
                # The guard shares the lock, so a next owner waits until the server is gone.
                pass_fds=(self._lock_fd,),
            )

    def _wait_until_ready(self, guard: subprocess.Popen[bytes]) -> None:
        status_path = self._pgdata / "postmaster.pid"
        for _ in _intervals("waiting for Postgres to get ready"):
            if guard.poll() is not None:
                raise ClusterError(
                    f"postgres: got exit status {guard.returncode}, want a server; "
                    f"its log ends:\n{_tail(self._log_path)}"
                )
            with contextlib.suppress(FileNotFoundError):
                lines = status_path.read_text(errors="replace").splitlines()
                if len(lines) > STATUS_LINE and lines[STATUS_LINE].strip() == "ready":
                    return


def create_state_dir(prefix: str = "swarmledger-") -> Path:
    """Make a temporary folder in which a cluster works for root and ordinary users alike.

    A folder of `tempfile.mkdtemp` has mode 0700, which keeps out the account that root's server
    runs as; this one lets it pass through. The caller removes it.
    """
    path = Path(tempfile.mkdtemp(prefix=prefix))
    if os.geteuid() == 0:
        path.chmod(0o711)
    return path


def _find_account(name: str) -> Account:
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise ClusterError(f"run_as: got {name!r}, want an existing account") from error
    if entry.pw_uid == 0:
        raise ClusterError(f"run_as: got {name!r}, want an account without root's rights")
    return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)


def _passable(folder: Path, account: Account) -> bool:
    status = folder.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & 0o100)
    if status.st_gid == account.gid:
        return bool(status.st_mode & 0o010)
    return bool(status.st_mode & 0o001)


def _require_passage(folder: Path, account: Account) -> None:
    for step in (folder, *folder.parents):
        if not _passable(step, account):
            raise ClusterError(
                f"data_dir: got {folder}, but account {account.name!r} cannot pass {step}, "
                "want a folder that it can reach"
            )


def _environment() -> dict[str, str]:
    """Nothing of the caller's PG… variables or locale reaches the server."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _intervals(message: str) -> Iterator[None]:
    """Yield now and after every short sleep, reporting the message every few seconds."""
    report_at = time.monotonic() + REPORT_EVERY_SECONDS
    while True:
        yield
        time.sleep(POLL_SECONDS)
        if time.monotonic() >= report_at:
            report_at += REPORT_EVERY_SECONDS
            logger.info(message)


def _wait_reporting(process: subprocess.Popen[bytes], message: str) -> None:
    for _ in _intervals(message):
        if process.poll() is not None:
            return


def _processes_in(folder: Path) -> list[int]:
    """List Postgres's server and backends at work in this folder: it is their working folder.

    The program's name is asked too, so that a shell of somebody who looks around is no match.
    """
    found = []
    wanted = os.path.realpath(folder)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                program = Path(os.readlink(entry / "exe")).name
                if program.startswith("postgres") and os.readlink(entry / "cwd") == wanted:
                    found.append(int(entry.name))
    return found


def _started_at(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when there is no such one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] == "Z":
        return None
    return int(fields[19])  # proc(5): field 22, counted from the state, which is field 3


def _read_lock(lock_fd: int) -> _Owner | None:
    """Return what the last owner wrote; None before the first, and while a write is under way."""
    try:
        record = json.loads(os.pread(lock_fd, LOCK_BYTES_MAX, 0))
        return _Owner(
            pid=int(record["pid"]),
            started_at_ticks=int(record["started_at_ticks"]),
            socket_dir=Path(record["socket_dir"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _first_line(path: Path) -> int | None:
    try:
        return int(path.read_text(errors="replace").partition("\n")[0])
    except (FileNotFoundError, ValueError):
        return None


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
