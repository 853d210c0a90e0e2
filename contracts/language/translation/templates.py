"""Fragments of Python syntax with places to fill.

What it is: fixed text, parsed once, whose capital names are replaced by nodes. What it does not
do: no text of a rule ever becomes text here; what fills a place is a node that we made, a name
that is a letter and a number, or a constant.
"""

import ast
from textwrap import dedent
from typing import Any

from contracts.language.limits import (
    ENTRY_BYTES,
    INTEGER_MAX,
    INTEGER_MIN,
    MAX_ITEMS,
    MAX_STRING_CHARACTERS,
)

_CONSTANTS: dict[str, ast.expr] = {
    "entry_bytes": ast.Constant(value=ENTRY_BYTES),
    "integer_max": ast.Constant(value=INTEGER_MAX),
    "integer_min": ast.Constant(value=INTEGER_MIN),
    "longest_string": ast.Constant(value=MAX_STRING_CHARACTERS),
    "most_items": ast.Constant(value=MAX_ITEMS),
}

Atom = ast.Name | ast.Constant
"""What an expression of a rule has become once it is computed: a variable or a constant."""


class Template:
    """Statements with places to fill, each a name in capitals."""

    def __init__(self, text: str) -> None:
        self._statements = _copy(ast.parse(dedent(text)).body, _CONSTANTS)

    def fill(self, **places: ast.expr) -> list[ast.stmt]:
        """Return new statements with every place filled."""
        return [_copy(statement, places) for statement in self._statements]


def _copy(node: Any, places: dict[str, ast.expr]) -> Any:
    """Copy a tree, and put the nodes of `places` where their names stand."""
    if isinstance(node, ast.Name):
        given = places.get(node.id)
        if given is None:
            return ast.Name(id=node.id, ctx=node.ctx)
        if isinstance(node.ctx, ast.Store):
            return stored(given)
        return given
    if isinstance(node, list):
        return [_copy(item, places) for item in node]
    if isinstance(node, ast.AST):
        return type(node)(**{field: _copy(value, places) for field, value in ast.iter_fields(node)})
    return node


def variable(name: str) -> ast.Name:
    """Return the reading of a variable."""
    return ast.Name(id=name, ctx=ast.Load())


def constant(value: int | str | bool | None) -> ast.Constant:
    """Return a constant."""
    return ast.Constant(value=value)


def stored(target: ast.expr) -> ast.Name:
    """Return the place of an assignment to a variable."""
    if not isinstance(target, ast.Name):
        raise TypeError(f"target: got {type(target).__name__}, want a variable")
    return ast.Name(id=target.id, ctx=ast.Store())


def assign(target: ast.Name, value: ast.expr) -> ast.stmt:
    """Return ``target = value``."""
    return ast.Assign(targets=[stored(target)], value=value)


def call(function: str, *arguments: ast.expr) -> ast.Call:
    """Return ``function(arguments)``."""
    return ast.Call(func=variable(function), args=list(arguments), keywords=[])


def sequence(items: list[ast.expr]) -> ast.List:
    """Return a list of expressions."""
    return ast.List(elts=items, ctx=ast.Load())


def when(test: ast.expr, body: list[ast.stmt], otherwise: list[ast.stmt]) -> ast.stmt:
    """Return ``if test: body else: otherwise``; either may be empty."""
    return ast.If(test=test, body=body or [ast.Pass()], orelse=otherwise)


def negated(test: ast.expr) -> ast.expr:
    """Return ``not test``."""
    return ast.UnaryOp(op=ast.Not(), operand=test)
