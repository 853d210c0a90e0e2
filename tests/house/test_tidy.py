"""The house's form: sizes, names and words that every file keeps to."""

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("contracts", "engine_plugin", "ledger", "worker")
LINES_MAX = 600
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100
NAMES_BANNED = {"common", "helper", "helpers", "manager", "misc", "util", "utils"}
# Spelt in halves, so that this file passes its own test.
WORDS_BANNED = tuple(
    "".join(halves)
    for halves in (("TO", "DO"), ("FIX", "ME"), ("XX", "X:"), ("HA", "CK:"), ("../", "shared"))
)
TEXT_SUFFIXES = {"", ".cfg", ".css", ".html", ".ini", ".j2", ".js", ".mako", ".md", ".py", ".sh"}
TEXT_SUFFIXES |= {".sql", ".star", ".toml", ".txt", ".yaml", ".yml"}
# Who prints: command-line entry points, whose standard output is their result.
PRINTERS = re.compile(r"(^|/)(cli|command|\w+_command|console|terminal|postgres_guard)\.py$")


def tracked_files() -> list[Path]:
    """Files of the repository: known to git, or (in an unpacked archive) all but the ignored."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def python_files(*folders: str) -> list[Path]:
    wanted = {*folders} or {*SHIPPED, "migrations", "tests"}
    return [
        path
        for path in tracked_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in wanted
    ]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_files_are_short_enough_to_read_at_one_sitting() -> None:
    long = {
        relative(path): lines
        for path in python_files()
        if (lines := len(path.read_text().splitlines())) > LINES_MAX
    }
    assert long == {}


def test_lines_fit_the_width() -> None:
    wide = [
        f"{relative(path)}:{number}"
        for path in python_files()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > COLUMNS_MAX
    ]
    assert wide == []


def test_functions_fit_a_screen() -> None:
    long = [
        f"{relative(path)}:{node.lineno} {node.name}: {length} lines"
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_modules_have_names_that_say_what_they_hold() -> None:
    vague = [
        relative(path)
        for path in python_files()
        if NAMES_BANNED & {*path.stem.split("_"), path.parent.name}
    ]
    assert vague == []


def test_modules_open_with_a_docstring() -> None:
    silent = [
        relative(path)
        for path in python_files(*SHIPPED)
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_no_file_holds_a_word_of_unfinished_work() -> None:
    found = [
        f"{relative(path)}: {word}"
        for path in tracked_files()
        if path.suffix in TEXT_SUFFIXES and "vectors" not in path.parts
        for word in WORDS_BANNED
        if word in path.read_text(errors="replace")
    ]
    assert found == []


def test_only_commands_print() -> None:
    found = [
        f"{relative(path)}:{node.lineno}"
        for path in python_files(*SHIPPED)
        if not PRINTERS.search(relative(path))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"print", "breakpoint", "pprint"}
        and not any(keyword.arg == "file" for keyword in node.keywords)
    ]
    assert found == []


def test_every_silenced_warning_names_its_rule() -> None:
    found = [
        f"{relative(path)}:{token.start[0]}"
        for path in python_files(*SHIPPED)
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        if token.type == tokenize.COMMENT
        if re.search(r"noqa(?!: [A-Z])|type: ignore(?!\[)", token.string)
    ]
    assert found == []


@pytest.mark.parametrize("name", ["LICENSE", "README.md", "pyproject.toml", "requirements.lock"])
def test_file_that_a_newcomer_needs_is_there(name: str) -> None:
    assert (ROOT / name).is_file()
