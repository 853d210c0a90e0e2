"""Takes out of translated code the questions whose answers are known.

What it is: tests of the form ``type(x) is int`` decided by what is known of `x`, and branches that
can then never run left out. What it does not do: it infers no types itself.
"""

import ast
from collections.abc import Iterable, Mapping

_KINDS: Mapping[str, type] = {kind.__name__: kind for kind in (int, str, list, dict, tuple, range)}


def simplify(statements: Iterable[ast.stmt], facts: Mapping[str, type]) -> list[ast.stmt]:
    """Return statements without the branches that can never run.

    Args:
        statements: statements that assign to no variable that `facts` knows.
        facts: the exact type of variables' values.
    """
    made: list[ast.stmt] = []
    for statement in statements:
        if isinstance(statement, ast.Assign):
            statement.value = _decide(statement.value, facts)
            made.append(statement)
        elif isinstance(statement, ast.If):
            test = _decide(statement.test, facts)
            if isinstance(test, ast.Constant):
                made += simplify(statement.body if test.value else statement.orelse, facts)
                continue
            statement.test = test
            statement.body = simplify(statement.body, facts) or [ast.Pass()]
            statement.orelse = simplify(statement.orelse, facts)
            made.append(statement)
        else:
            made.append(statement)
    return made


def _decide(node: ast.expr, facts: Mapping[str, type]) -> ast.expr:
    """Return a test with its decided parts left out: a constant if all of it is decided."""
    if isinstance(node, ast.BoolOp):
        decides = isinstance(node.op, ast.Or)
        values: list[ast.expr] = []
        for value in node.values:
            decided = _decide(value, facts)
            if not isinstance(decided, ast.Constant):
                values.append(decided)
            elif bool(decided.value) is decides:
                return decided
        if not values:
            return ast.Constant(value=not decides)
        return values[0] if len(values) == 1 else ast.BoolOp(op=node.op, values=values)
    if isinstance(node, ast.IfExp):
        test = _decide(node.test, facts)
        if isinstance(test, ast.Constant):
            return _decide(node.body if test.value else node.orelse, facts)
        return ast.IfExp(test=test, body=node.body, orelse=node.orelse)
    if isinstance(node, ast.Compare):
        return _decide_type(node, facts)
    return node


def _decide_type(node: ast.Compare, facts: Mapping[str, type]) -> ast.expr:
    """Decide ``type(x) is kind`` or ``type(x) is not kind``."""
    called, asked = node.left, node.comparators[0]
    if not isinstance(called, ast.Call) or not isinstance(asked, ast.Name):
        return node
    if not isinstance(node.ops[0], ast.Is | ast.IsNot):
        return node
    if not isinstance(called.func, ast.Name) or called.func.id != "type":
        return node
    subject = called.args[0]
    known: type | None = None
    if isinstance(subject, ast.Constant):
        known = type(subject.value)
    elif isinstance(subject, ast.Name):
        known = facts.get(subject.id)
    if known is None:
        return node
    is_so = known is _KINDS[asked.id]
    return ast.Constant(value=is_so is isinstance(node.ops[0], ast.Is))
