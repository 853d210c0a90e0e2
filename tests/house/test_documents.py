"""What the documents tell a reader to type or to open is there."""

import re
from pathlib import Path

from ledger import cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "FORMATS.md",
    "SECURITY.md",
)
# The format document quotes texts that begin with the product's name and names no command.
COMMAND_DOCUMENTS = tuple(name for name in DOCUMENTS if name != "FORMATS.md")
TOP_FOLDERS = r"(?:\.ci|contracts|engine_plugin|ledger|migrations|tests|worker)"


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def test_readme_names_the_two_commands() -> None:
    readme = text_of("README.md")
    assert "make demo" in readme
    assert "make test" in readme


def test_make_targets_that_documents_name_exist() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", text_of("Makefile")))
    named = {
        target
        for document in DOCUMENTS
        for target in re.findall(r"(?m)(?:`|^ *\$? *)make ([a-z-]+)", text_of(document))
    }
    assert named - targets == set()


def test_commands_that_documents_name_exist() -> None:
    named = {
        command
        for document in COMMAND_DOCUMENTS
        for command in re.findall(r"(?m)(?:`|^ *\$? *|bin/)swarmledger ([a-z]+)", text_of(document))
    }
    assert named - set(cli.COMMANDS) == set()


def test_files_that_documents_name_exist() -> None:
    missing = {
        f"{document}: {path}"
        for document in DOCUMENTS
        for path in re.findall(rf"`({TOP_FOLDERS}/[\w./-]+)`", text_of(document))
        if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists()
    }
    assert missing == set()
