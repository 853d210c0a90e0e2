"""Code that everybody recomputes: no clock, no chance, no float, no input or output."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = ("contracts", "ledger/audit", "ledger/books", "ledger/cdnlogs", "ledger/evidence")
# The audit's command reads the files that the user names and prints; it computes nothing itself.
# Its helper starts processes that do the same; what they find does not depend on their number.
EXEMPT = {"ledger/audit/command.py", "ledger/audit/parallel.py"}
# Read what ships beside them, or folders that the caller names, and nothing else.
FILE_READERS = {"contracts/registry.py", "ledger/cdnlogs/field_map.py"}
# Key generation and fresh nonces are the one thing that must differ between two runs.
CHANCE_ALLOWED = {"ledger/evidence/keys.py"}
# Locks tell containers apart by identity and never look at the number; translated rules are run.
CALLS_ALLOWED = {
    "contracts/language/locks.py": {"id"},
    "contracts/language/translation/execution.py": {"exec"},
}
IMPURE_MODULES = {
    "asyncio", "ctypes", "datetime", "http", "io", "locale", "logging", "multiprocessing", "os",
    "pathlib", "random", "secrets", "shutil", "signal", "socket", "sqlite3", "subprocess", "sys",
    "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip
CHANCE_MODULES = {"os", "secrets"}
IMPURE_CALLS = {"open", "input", "print", "eval", "exec", "float", "hash", "id", "__import__"}


def pure_files() -> list[Path]:
    return [
        path
        for folder in PURE
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.relative_to(ROOT).as_posix() not in EXEMPT
    ]


def impurities(tree: ast.AST, name: str) -> Iterator[tuple[int, str]]:
    allowed = CHANCE_MODULES if name in CHANCE_ALLOWED else set()
    forbidden = IMPURE_CALLS - CALLS_ALLOWED.get(name, set())
    if name in FILE_READERS:
        allowed = {"pathlib", "importlib"}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    if (top := alias.name.partition(".")[0]) in IMPURE_MODULES - allowed:
                        yield node.lineno, f"import of {top}"
            case ast.ImportFrom(module="urllib.parse", level=0):
                pass  # cuts text, reaches no network
            case ast.ImportFrom(module=str(module), level=0):
                if (top := module.partition(".")[0]) in IMPURE_MODULES - allowed:
                    yield node.lineno, f"import of {top}"
            case ast.Constant(value=float() | complex()):
                yield node.lineno, "float literal"
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
                yield node.lineno, "true division"
            case ast.Call(func=ast.Name(id=called)) if called in forbidden:
                yield node.lineno, f"call of {called}()"
            case ast.For(iter=iterated) | ast.comprehension(iter=iterated) if is_set(iterated):
                yield iterated.lineno, "iteration over a set"
            case ast.Call(func=ast.Name(id="list" | "tuple" | "enumerate"), args=[first, *_]):
                if is_set(first):
                    yield node.lineno, "order of a set"


def is_set(node: ast.expr) -> bool:
    """Whether an expression is plainly a set: its iteration order differs between runs."""
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr() | ast.Sub() | ast.BitXor(), left=left):
            return is_set(left)
    return False


def test_pure_packages_hold_nothing_impure() -> None:
    found = [
        f"{name}:{line} {what}"
        for path in pure_files()
        for name in [path.relative_to(ROOT).as_posix()]
        for line, what in impurities(ast.parse(path.read_text()), name)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import time", "import of time"),
        ("from urllib.request import urlopen", "import of urllib"),
        ("from os.path import join", "import of os"),
        ("x = 0.1", "float literal"),
        ("x = 1 / 2", "true division"),
        ("x /= 2", "true division"),
        ("open('x')", "call of open()"),
        ("hash('x')", "call of hash()"),
        ("for x in {1, 2}: pass", "iteration over a set"),
        ("[x for x in set(y) - z]", "iteration over a set"),
        ("list({1, 2})", "order of a set"),
    ],
)
def test_impurity_is_noticed(source: str, what: str) -> None:
    assert [found for _, found in impurities(ast.parse(source), "x.py")] == [what]


def test_sorted_set_and_integer_division_are_fine() -> None:
    source = "for x in sorted({1, 2}): y = x // 2"
    assert list(impurities(ast.parse(source), "x.py")) == []
