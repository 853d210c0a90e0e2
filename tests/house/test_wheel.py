"""The built wheel, in environments that have nothing but what an auditor or a seeder installs."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
SHIPPED = ("contracts", "engine_plugin", "ledger", "worker")
VERIFIER = ("contracts", "ledger.audit", "ledger.books", "ledger.evidence")
# Optional second engine for cross-checking; the verifier runs the contracts' own interpreter.
OUTSIDE_VERIFIER = "contracts.starlark_engine"
# Imports every module under the packages named, then prints what came from outside.
IMPORT_ALL = """
import importlib, pkgutil, sys
skipped, *packages = sys.argv[1:]
before = set(sys.modules)
for package in packages:
    top = importlib.import_module(package)
    for module in pkgutil.walk_packages(top.__path__, package + "."):
        if module.name != skipped:
            importlib.import_module(module.name)
loaded = {name.partition(".")[0] for name in set(sys.modules) - before
    if name != "__mp_main__"}  # a second name of the main module, by multiprocessing
own = {package.partition(".")[0] for package in packages}
print(*sorted(loaded - own - set(sys.stdlib_module_names)))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A virtual environment of its own, without pip and without this repository."""

    folder: Path

    def run(self, *command: str) -> str:
        """Run a program of the environment; return its output; fail with it on a non-zero exit."""
        result = subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=self.folder,
            env={
                name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout

    def distributions(self) -> set[str]:
        [packages] = self.folder.glob("lib/python3*/site-packages")
        found = importlib.metadata.distributions(path=[str(packages)])
        return {canonicalize_name(distribution.metadata["Name"]) for distribution in found}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def verifier(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("verifier"), wheel, closure())


@pytest.fixture(scope="module")
def engine(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("engine"), wheel, closure("engine"))


def make_environment(folder: Path, wheel: Path, names: set[str]) -> Environment:
    locked = folder / "requirements.txt"
    locked.write_text("".join(block for name, block in locked_blocks() if name in names))
    target = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(target)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(target / "bin/python"), "install", "-qq"]
    pip += ["--no-deps", "--root-user-action=ignore"]
    subprocess.run([*pip, "--require-hashes", "-r", str(locked)], check=True)
    subprocess.run([*pip, str(wheel)], check=True)
    return Environment(folder=target)


def locked_blocks() -> Iterator[tuple[str, str]]:
    """Yield each requirement of the lock with its hashes."""
    block = ""
    for line in (ROOT / "requirements.lock").read_text().splitlines(keepends=True):
        if not line.startswith(" ") and block:
            yield block_name(block), block
            block = ""
        block += line
    yield block_name(block), block


def block_name(block: str) -> str:
    return canonicalize_name(block.partition("==")[0])


def closure(*extras: str) -> set[str]:
    """Names of all distributions that the project needs with these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    found: set[str] = set()
    pending = [Requirement(line) for line in lines]
    seen: set[tuple[str, str]] = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        found.add(name)
        for extra in {"", *requirement.extras} - {extra for done, extra in seen if done == name}:
            seen.add((name, extra))
            for line in importlib.metadata.requires(name) or ():
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    pending.append(needed)
    return found


def test_wheel_ships_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(SHIPPED)
    assert not [name for name in names if "test" in name.rpartition("/")[2].split("_")]


def test_wheel_ships_every_file_of_the_packages_and_the_migrations(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    command = ["git", "ls-files", "-z", *SHIPPED, "migrations"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tracked = {
        f"ledger/store/{name}" if name.startswith("migrations/") else name
        for name in listing.split("\0")
        if name and (ROOT / name).is_file()
    }
    assert tracked - names == set()
    assert "ledger/store/migrations/env.py" in names


def test_verifier_imports_only_pynacl(verifier: Environment) -> None:
    assert verifier.distributions() == {"swarmledger", "pynacl", "cffi", "pycparser"}
    loaded = verifier.run("python", "-I", "-c", IMPORT_ALL, OUTSIDE_VERIFIER, *VERIFIER).split()
    assert set(loaded) <= {"nacl", "_sodium", "cffi", "_cffi_backend", "pycparser"}


def test_verifier_command_runs_with_pynacl_only(verifier: Environment) -> None:
    assert "--trust" in verifier.run("swarmledger-verify", "--help")
    assert "verify" in verifier.run("swarmledger", "audit", "--help")
    assert "usage: swarmledger" in verifier.run("swarmledger", "--help")


def test_missing_extra_is_named_by_the_bare_installation(verifier: Environment) -> None:
    code = "from ledger import cli; assert cli.main(['api']) == 2"
    assert "pip install 'swarmledger[server]'" in verifier.run("python", "-I", "-c", code)


def test_engine_plugin_imports_no_server_code(engine: Environment) -> None:
    server_only = closure("server") - closure("engine")
    assert engine.distributions() & server_only == set()
    loaded = engine.run("python", "-I", "-c", IMPORT_ALL, "", "engine_plugin").split()
    assert "libtorrent" in loaded
    assert "contracts" not in loaded
    assert "worker" not in loaded


def test_engine_command_runs_without_the_server_extra(engine: Environment) -> None:
    assert "swarmledger engine" in engine.run("swarmledger", "engine", "--help")
