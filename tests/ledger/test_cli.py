"""The dispatcher: it names the commands, loads only the one called, and says what is missing."""

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ledger import cli

ROOT = Path(__file__).parents[2]


def use_entry_point(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = importlib.metadata.EntryPoint(name=name, value=value, group=cli.ENTRY_POINT_GROUP)

    def entry_points(*, group: str, name: str | None = None) -> importlib.metadata.EntryPoints:
        found = importlib.metadata.EntryPoints([point]).select(group=group)
        return found if name is None else found.select(name=name)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def use_module(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    (folder / "one_command.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "one_command", raising=False)
    use_entry_point(monkeypatch, "demo", "one_command:main")


def test_every_command_of_pyproject_has_its_line_in_help() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(cli.COMMANDS) == set(project["entry-points"][cli.ENTRY_POINT_GROUP])
    text = cli.format_help()
    for name, line in cli.COMMANDS.items():
        assert f"  {name}" in text
        assert line.summary in text
        assert line.extra in {"", *project["optional-dependencies"]}


def test_help_imports_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); from ledger import cli; cli.main(['--help']); "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names) - {'ledger'}), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("usage: swarmledger COMMAND")
    assert result.stderr.strip() == "[]"


def test_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"swarmledger {importlib.metadata.version('swarmledger')}\n"


def test_no_command_prints_help_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage:" in capsys.readouterr().err


def test_unknown_command_exits_2_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dmo"]) == 2
    assert "got 'dmo'" in (message := capsys.readouterr().err)
    assert "did you mean demo" in message


def test_command_gets_its_arguments_and_its_status_is_returned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["swarmledger", "demo", "--json", "a b"])
    use_module(
        monkeypatch,
        tmp_path,
        "import sys\nargv = []\ndef main():\n    argv[:] = sys.argv\n    return 7\n",
    )
    assert cli.main() == 7
    assert sys.modules["one_command"].argv == ["swarmledger demo", "--json", "a b"]


def test_missing_extra_exits_2_and_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["swarmledger"])
    use_module(monkeypatch, tmp_path, "import no_such_library.part\n")
    assert cli.main(["demo"]) == 2
    assert "pip install 'swarmledger[all]'" in (message := capsys.readouterr().err)
    assert "'no_such_library'" in message


def test_missing_module_of_our_own_is_not_taken_for_a_missing_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["swarmledger"])
    use_module(monkeypatch, tmp_path, "import ledger.no_such_part\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_part"):
        cli.main(["demo"])
