"""The treasury's page: each command on it is one that the product has."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from ledger.stellar import command, keys_command, settler_command
from ledger.stellar.cosigning import Reason

PAGE = (Path(__file__).parents[3] / "docs" / "treasury.md").read_text("utf-8")
PARSERS = {
    "keys": keys_command._parser,
    "settler": settler_command._parser,
    "stellar": command._parser,
}


def lines() -> list[list[str]]:
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    words = [shlex.split(line) for block in blocks for line in block.strip().splitlines()]
    return [one[one.index("swarmledger") + 1 :] for one in words]


@pytest.mark.parametrize("arguments", lines(), ids=lambda one: " ".join(one[:2]))
def test_command_on_the_page_is_taken(arguments: list[str]) -> None:
    parser: argparse.ArgumentParser = PARSERS[arguments[0]]()
    parser.parse_args(arguments[1:])


def test_every_reason_of_a_settler_is_on_the_page() -> None:
    table = PAGE.split("| It refuses with |")[1].split("```")[0]
    assert set(re.findall(r"`([a-z_]+)`", table)) >= set(Reason)
