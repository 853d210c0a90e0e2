"""No dataclass of the product shows a seed or secret when it is printed, logged or compared."""

import ast
from pathlib import Path

from ledger.stellar.domain import DomainKeys

ROOT = Path(__file__).parents[2]
SECRET_NAMES = ("seed", "seeds", "secret", "secrets")
PUBLIC = frozenset({"Entitlement.assignment_seed"})
"""Stands in a record that everybody may read."""


def shown_secrets(source: str) -> list[str]:
    """Fields of dataclasses that are secret by name or class, and stand in the repr."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef) or not is_dataclass(node):
            continue
        names = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
        if "__repr__" in names:
            continue
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                is_secret = part.target.id.rpartition("_")[2] in SECRET_NAMES
                if is_secret and "bytes" in ast.unparse(part.annotation):
                    value = "" if part.value is None else ast.unparse(part.value)
                    if "repr=False" not in value:
                        found.append(f"{node.name}.{part.target.id}")
    return sorted(set(found) - PUBLIC)


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def test_a_shown_secret_is_found() -> None:
    source = "@dataclass\nclass A:\n    log_seed: bytes\n    x_seed: bytes = field(repr=False)\n"
    assert shown_secrets(source) == ["A.log_seed"]


def test_no_dataclass_shows_a_secret() -> None:
    shown = {
        str(path.relative_to(ROOT)): found
        for folder in ("ledger", "worker", "engine_plugin", "contracts")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (found := shown_secrets(path.read_text("utf-8")))
    }
    assert shown == {}


def test_keys_of_a_domain_are_not_shown() -> None:
    seeds = [bytes([number]) * 32 for number in range(65, 73)]
    keys = DomainKeys(
        issuer=seeds[0],
        broadcaster=seeds[1],
        escrow=seeds[2],
        payout=seeds[3],
        anchor=seeds[4],
        channels=(seeds[5],),
        payees={"ann": seeds[6]},
        fee=seeds[7],
    )
    assert not any(repr(seed)[2:-1] in repr(keys) for seed in seeds)
