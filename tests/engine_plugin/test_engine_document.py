"""docs/engine.md says what the engine does: its events, settings, options, commands and files."""

import re
from dataclasses import fields
from pathlib import Path

import typer

from engine_plugin.command import SUBCOMMANDS, make_app
from engine_plugin.owner_settings import PREFIX, OwnerSettings

ROOT = Path(__file__).parents[2]
BROADCASTERS_COMMAND = "ledger/api/broadcaster_command.py"
PAGE = (ROOT / "docs" / "engine.md").read_text()


def rows_under(heading: str) -> list[list[str]]:
    lines = PAGE.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(heading))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def options_of_all_commands() -> set[str]:
    group = typer.main.get_command(make_app())
    found = set()
    waiting = list(group.commands.values())  # type: ignore[attr-defined]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        for parameter in command.params:
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found


def test_page_lists_every_event_that_the_engine_tells() -> None:
    told = {
        name
        for path in (ROOT / "engine_plugin").rglob("*.py")
        for name in re.findall(r'(?:\btell|\bemit|\b_emit)\(\s*"(\w+)"', path.read_text())
    }
    listed = {name for row in re.findall(r"(?m)^\| `(\w+)` \|", PAGE) for name in [row]}
    assert told - listed == set()


def test_page_lists_every_setting_with_its_variable_and_an_option_that_exists() -> None:
    rows = rows_under("| `engine.toml` |")
    assert {row[0].strip("`") for row in rows} == {field.name for field in fields(OwnerSettings)}
    for row in rows:
        assert row[1].strip("`") == PREFIX + row[0].strip("`").upper()


def test_options_and_commands_that_the_page_names_exist() -> None:
    known = options_of_all_commands()
    known |= set(re.findall(r'"(--[a-z-]+)"', (ROOT / BROADCASTERS_COMMAND).read_text()))
    # Of the benchmarks.
    known.add("--quick")
    # Lines that call other programs name options of theirs.
    lines = [line for line in PAGE.splitlines() if not re.search("bench |systemctl|pip", line)]
    named_options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)))
    assert named_options - known == set()
    named = set(re.findall(r"`engine ([a-z]+)|swarmledger engine ([a-z]+)", PAGE))
    assert {one or other for one, other in named} - set(SUBCOMMANDS) == set()


def test_files_that_the_page_names_and_links_exist() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert targets
    assert [one for one in targets if not (ROOT / "docs" / one).exists()] == []
