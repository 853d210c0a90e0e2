"""What the project's pages state is what the code says: help, steps, keys, options, modules."""

import re
from pathlib import Path

import pytest
import typer

from contracts.registry import RELEASED_DIGESTS
from engine_plugin import command as engine_command
from ledger import cli
from ledger.audit.verify import EXIT_CODES, STEPS
from ledger.config import PREFIX, Settings

ROOT = Path(__file__).parents[2]
PACKAGES = ("contracts", "engine_plugin", "ledger", "worker")
PAGES = (
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "FORMATS.md",
    "README.md",
    "RULES.md",
    "SECURITY.md",
)
README_LINES_MAX = 250
BADGES_MAX = 4


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def table_under(heading: str, text: str) -> list[list[str]]:
    """Return the cells of the table whose first row is `heading`."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(heading))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_readme_is_short() -> None:
    readme = text_of("README.md")
    assert len(readme.splitlines()) <= README_LINES_MAX
    assert readme.count("![") <= BADGES_MAX


def test_readme_shows_the_help_text_of_the_command() -> None:
    assert f"```\n{cli.format_help()}\n```" in text_of("README.md")


def test_readme_lists_the_verifiers_steps_in_their_order() -> None:
    rows = table_under("| # | Step |", text_of("README.md"))
    names = ["file", *(name for name, _ in STEPS)]
    assert [row[:2] for row in rows] == [
        [str(number), name] for number, name in enumerate(names, start=1)
    ]


def test_readme_states_the_verifiers_exit_codes() -> None:
    stated = ", ".join(f"{code} {verdict.value}" for verdict, code in EXIT_CODES.items())
    assert f"Exit codes: {stated}" in text_of("README.md")


def keys_told_in(page: str) -> dict[str, str]:
    rows = table_under("| Key | Default |", text_of(page))
    return {row[0].strip("`"): row[1].strip("`") for row in rows}


def test_every_configuration_key_is_listed_with_its_default() -> None:
    in_readme, in_guide = keys_told_in("README.md"), keys_told_in("docs/operator.md")
    assert not in_readme.keys() & in_guide.keys()
    assert in_readme | in_guide == {
        name.upper(): "" if field.default is None else str(field.default)
        for name, field in Settings.model_fields.items()
    }


def test_readme_lists_the_released_rules_with_their_digests() -> None:
    rows = table_under("| Rule | Digest |", text_of("README.md"))
    assert {name.strip("`"): digest.strip("`") for name, digest in rows} == dict(RELEASED_DIGESTS)


def test_commands_in_readme_are_all_commands_of_the_engine() -> None:
    rows = table_under("| Command | Does |", text_of("README.md"))
    told = [name for row in rows for name in re.findall(r"`([a-z]+)`", row[0])]
    # `init` stands in the example above the table.
    assert sorted([*told, "init"]) == sorted(engine_command.SUBCOMMANDS)


def test_options_in_readme_are_options_of_the_engine() -> None:
    group = typer.main.get_command(engine_command.make_app())
    begin = text_of("README.md").index("## Run a seeder or a viewer")
    section = text_of("README.md")[begin:].partition("\n## ")[0]
    calls = re.findall(r"^swarmledger engine ([a-z]+) (.*)$", section, re.MULTILINE)
    assert len(calls) >= 3
    for name, rest in calls:
        known = {
            option
            for parameter in group.commands[name].params  # type: ignore[attr-defined]
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert set(re.findall(r"--[a-z-]+", rest.partition("#")[0])) <= known
    for option in re.findall(r"`(--[a-z-]+)`", section):
        assert any(
            option in (*parameter.opts, *parameter.secondary_opts)
            for command in group.commands.values()  # type: ignore[attr-defined]
            for parameter in command.params
        ), option


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", text_of(page))
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_configuration_keys_that_pages_name_exist(page: str) -> None:
    named = set(re.findall(rf"`{PREFIX}([A-Z_]+)`", text_of(page)))
    # What opens key files is read by programs without a configuration too.
    of_key_files = {"PASSPHRASE", "PASSPHRASE_FILE", "PLAIN_KEYS"}
    known = {name.upper() for name in Settings.model_fields} | {"CONFIG"} | of_key_files
    assert named - known == set()


def modules_in_tree() -> set[str]:
    return {
        path.relative_to(ROOT).with_suffix("").as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }


def modules_in_map() -> list[str]:
    found, folder = [], ""
    section = text_of("ARCHITECTURE.md").partition("\n## Modules\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("### "):
            folder = line.removeprefix("### ")
        elif match := re.match(r"- `(\w+)`: \S", line):
            found.append(f"{folder}/{match[1]}")
    return found


def test_map_has_one_line_for_every_module() -> None:
    mapped = modules_in_map()
    assert len(mapped) == len(set(mapped))
    assert set(mapped) == modules_in_tree()


def test_map_names_every_migration() -> None:
    names = {path.name for path in (ROOT / "migrations/versions").iterdir() if path.is_file()}
    assert {name for name in names if name not in text_of("ARCHITECTURE.md")} == set()


def test_changelog_opens_each_version_with_money_and_safety() -> None:
    versions = re.split(r"(?m)^## \[", text_of("CHANGELOG.md"))[1:]
    headings = [re.findall(r"(?m)^### (.+)$", version) for version in versions]
    assert headings
    known = ["Money and safety", "Added", "Changed", "Fixed"]
    for found in headings:
        assert found[0] == known[0]
        assert found == [heading for heading in known if heading in found]
