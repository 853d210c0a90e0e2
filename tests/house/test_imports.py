"""The outside libraries that each package may import; import-linter rules over our own."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWN = {"contracts", "engine_plugin", "ledger", "worker"}
SERVER = {"httpx", "jinja2", "pydantic", "pydantic_settings", "rich", "structlog", "tenacity"}
SERVER |= {"typer", "numpy"}
ENGINE = {"httpx", "rich", "structlog", "tenacity", "typer"}
# The longest matching prefix decides.
ALLOWED: dict[str, set[str]] = {
    "contracts": set(),
    "contracts/starlark_engine.py": {"starlark"},
    "engine_plugin": ENGINE,
    "engine_plugin/http_face": ENGINE | {"av", "starlette", "uvicorn"},
    "engine_plugin/live": ENGINE | {"av", "m3u8", "starlette", "uvicorn"},
    "engine_plugin/recovery_phrase.py": ENGINE | {"mnemonic"},
    "engine_plugin/viewing": ENGINE | {"starlette"},
    "engine_plugin/libtorrent_door": {"libtorrent"},
    "ledger": SERVER,
    "ledger/api": SERVER | {"fastapi", "starlette", "uvicorn"},
    "ledger/api/deposit_papers.py": SERVER | {"segno"},
    "ledger/api/metrics.py": SERVER | {"prometheus_client"},
    "ledger/api/payee_session.py": SERVER | {"jwt"},
    "ledger/audit": set(),
    "ledger/books": set(),
    "ledger/cdnlogs": set(),
    "ledger/cli.py": set(),
    "ledger/devnet": SERVER | {"fastapi", "starlette", "stellar_sdk", "uvicorn", "xdrlib3"},
    "ledger/embedded": SERVER | {"starlette", "uvicorn"},
    "ledger/evidence": set(),
    "ledger/evidence/keys.py": {"nacl"},
    "ledger/evidence/quick_rows.py": {"qh3"},
    "ledger/serving.py": SERVER | {"starlette", "uvicorn"},
    "ledger/stellar": SERVER | {"stellar_sdk", "xdrlib3"},
    "ledger/store": SERVER | {"alembic", "pgmq", "psycopg", "psycopg_pool", "sqlalchemy"},
    "worker": SERVER | {"celery", "kombu"},
}


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.partition(".")[0]


def allowed_in(name: str) -> set[str]:
    prefixes = [prefix for prefix in ALLOWED if name == prefix or name.startswith(f"{prefix}/")]
    return ALLOWED[max(prefixes, key=len)]


def test_packages_import_only_the_libraries_granted_to_them() -> None:
    found = [
        f"{name}:{line} {library}"
        for package in sorted(OWN)
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in [path.relative_to(ROOT).as_posix()]
        for line, library in imported(ast.parse(path.read_text()))
        if library not in sys.stdlib_module_names | OWN | allowed_in(name)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("name", "library", "granted"),
    [
        ("ledger/evidence/keys.py", "nacl", True),
        ("ledger/evidence/quick_rows.py", "nacl", False),
        ("ledger/evidence/receipt.py", "nacl", False),
        ("contracts/language/parser.py", "numpy", False),
        ("ledger/api/collector.py", "sqlalchemy", False),
        ("ledger/store/receipts.py", "sqlalchemy", True),
        ("engine_plugin/meter.py", "libtorrent", False),
    ],
)
def test_grants_are_as_narrow_as_meant(name: str, library: str, granted: bool) -> None:
    assert (library in allowed_in(name)) is granted


def test_bare_installation_brings_pynacl_only() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [line.partition("=")[0] for line in project["dependencies"]] == ["PyNaCl"]
