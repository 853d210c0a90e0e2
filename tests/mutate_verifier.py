"""Takes each check out of the verifier in turn and runs the audit's tests, which have to notice.

    python tests/mutate_verifier.py [FIRST:STEP]

Prints one line a check: killed, and by which test, or SURVIVED; exit status 1 if one survived. A
check is a call that stands alone as a statement and is there to raise, or a row of a table of such
checks. Also a pytest plugin: `MUTANT=N pytest -p mutate_verifier` takes out check N.
"""

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

TESTS = Path(__file__).parent
HERE = TESTS / "ledger/audit"
ROOT = TESTS.parent
MODULES = ("steps_evidence", "steps_books", "counts")
VARIABLE = "MUTANT"
TIMEOUT_S = 600
# The cases that are made for one check each come first: nearly all mutants die there.
ALL_TESTS = ("test_each_check.py", "test_counts.py", "test_attacks.py", "test_verify.py")
# What these return is not what they are called for.
ALWAYS_CHECKS = {"check_inclusion", "check_line"}


def is_check(node: ast.stmt) -> bool:
    """Whether a statement is a check and nothing else."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    called = node.value.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in ALWAYS_CHECKS or name.lstrip("_").startswith(("require", "prove"))


def checks_in(tree: ast.Module) -> Iterator[tuple[str, list[ast.stmt] | list[ast.expr], int]]:
    """Yield every check: words for it, the list that it stands in, and its place there."""
    for node in ast.walk(tree):
        for field in ("body", "orelse"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                for place, statement in enumerate(statements):
                    if is_check(statement):
                        yield describe(statement), statements, place
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            rows = node.iter.elts
            for place, row in enumerate(rows):
                if isinstance(row, ast.Tuple):
                    yield describe(row), rows, place


def describe(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return f"line {getattr(node, 'lineno', 0)}: {text[:90]}"


def all_checks() -> list[tuple[str, int, str]]:
    """Every check of the verifier: module, number in it, words."""
    return [
        (module, number, words)
        for module in MODULES
        for number, (words, _, _) in enumerate(checks_in(parse(module)))
    ]


def parse(module: str) -> ast.Module:
    return ast.parse((ROOT / "ledger/audit" / f"{module}.py").read_text())


def take_out(module: str, number: int) -> None:
    """Take a check out of the imported module, function objects staying who they are."""
    tree = deepcopy(parse(module))
    _, siblings, place = list(checks_in(tree))[number]
    if isinstance(siblings[place], ast.stmt):
        siblings[place] = ast.copy_location(ast.Pass(), siblings[place])
    else:
        del siblings[place]
    ast.fix_missing_locations(tree)
    imported = importlib.import_module(f"ledger.audit.{module}")
    changed: dict[str, object] = {"__name__": imported.__name__}
    exec(compile(tree, str(imported.__file__), "exec"), changed)  # noqa: S102 - our own source
    for name, function in vars(imported).items():
        other = changed.get(name)
        if hasattr(function, "__code__") and function.__module__ == imported.__name__:
            function.__code__ = other.__code__


def pytest_configure() -> None:
    """Take out the check that the environment names."""
    module, number, _ = all_checks()[int(os.environ[VARIABLE])]
    take_out(module, int(number))


def run_tests(index: int, tests: Sequence[str] = ALL_TESTS) -> str | None:
    """Run the audit's tests without a check; returns the test that noticed, or None."""
    slow = f"{HERE / 'test_verify.py'}::test_every_single_flipped_bit_of_a_file_is_noticed"
    options = ["-p", "mutate_verifier", "-p", "no:cacheprovider", "-x", "-q", "--deselect", slow]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(HERE / name) for name in tests)],
        cwd=ROOT,
        env={**os.environ, VARIABLE: str(index), "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode != 1 or not failed:
        raise RuntimeError(
            f"check {index}: pytest ended with {done.returncode}: {done.stdout}{done.stderr}"
        )
    return failed[0].split(" - ")[0].partition("::")[2]


def survivors(indexes: Sequence[int], tests: Sequence[str] = ALL_TESTS) -> list[str]:
    """Take out these checks in turn; prints a line each; returns those that nobody missed."""
    checks = all_checks()
    survived: list[str] = []
    for index in indexes:
        module, _, words = checks[index]
        noticed_by = run_tests(index, tests)
        if noticed_by is None:
            survived.append(f"{module} {words}")
        fate = "SURVIVED" if noticed_by is None else f"killed by {noticed_by}"
        print(f"{index:>3} {module} {words}\n      {fate}", flush=True)
    return survived


def main() -> int:
    """Run the mutants that the command line asks for, all by default."""
    first, _, step = (sys.argv[1] if len(sys.argv) > 1 else "0:1").partition(":")
    indexes = list(range(len(all_checks())))[int(first) :: int(step or 1)]
    survived = survivors(indexes)
    print(f"{len(indexes)} checks taken out, {len(survived)} not missed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
