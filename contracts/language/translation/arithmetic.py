"""Binary operators as Python statements, by what is known of the operands' types.

What it is: the fast ways for integers and strings, inline. What it does not do: it decides no
meaning; every other case calls `operations`, and the two must agree.
"""

import ast
from collections.abc import Sequence

from contracts.language.limits import STRING_BYTES
from contracts.language.translation import fragments
from contracts.language.translation.emitter import Emitter
from contracts.language.translation.templates import (
    Atom,
    call,
    constant,
    negated,
    variable,
)

_OPERATORS: dict[str, type[ast.operator]] = {
    "+": ast.Add,
    "-": ast.Sub,
    "*": ast.Mult,
    "//": ast.FloorDiv,
    "%": ast.Mod,
}
_RELATIONS: dict[str, tuple[type[ast.cmpop], str]] = {
    "==": (ast.Eq, "is_equal"),
    "!=": (ast.NotEq, "is_equal"),
    "<": (ast.Lt, "is_less"),
    ">": (ast.Gt, "is_greater"),
    "<=": (ast.LtE, "is_at_most"),
    ">=": (ast.GtE, "is_at_least"),
}


def emit_arithmetic(out: Emitter, operator: str, left: Atom, right: Atom) -> Atom:
    """Emit ``left operator right`` for ``+ - * // %`` and return its variable."""
    kinds = {out.kind_of(left), out.kind_of(right)}
    if operator == "+" and str in kinds:
        return emit_join(out, [left, right])
    if operator == "+" and int not in kinds:
        made = out.temporary()
        out.add(fragments.ADD, OUT=made, LEFT=left, RIGHT=right)
        if kinds & {list, tuple}:
            out.learn(made, list if list in kinds else tuple)
        return made
    if operator == "*" and kinds != {int}:
        made = out.temporary()
        out.add(fragments.MULTIPLY, OUT=made, LEFT=left, RIGHT=right)
        return made
    out.want(left, int)
    out.want(right, int)
    if operator in {"//", "%"} and not (isinstance(right, ast.Constant) and right.value):
        out.add(fragments.NOT_ZERO, X=right)
    made = out.keep(ast.BinOp(left=left, op=_OPERATORS[operator](), right=right), int)
    if operator != "%":
        out.add(fragments.BOUND, X=made)
    return made


def emit_join(out: Emitter, parts: Sequence[Atom]) -> Atom:
    """Emit the sum of two or more strings, from the left; every sum on the way is charged."""
    sums = len(parts) - 1
    fixed = STRING_BYTES * sums
    cost: list[ast.expr] = []
    for place, part in enumerate(parts):
        out.want(part, str)
        times = min(sums, len(parts) - place)
        if isinstance(part, ast.Constant):
            fixed += times * len(str(part.value))
        else:
            length = call("len", part)
            cost.append(ast.BinOp(left=constant(times), op=ast.Mult(), right=length))
    total: ast.expr = constant(fixed)
    for more in cost:
        total = ast.BinOp(left=total, op=ast.Add(), right=more)
    values: list[ast.expr] = [
        part if isinstance(part, ast.Constant) else ast.FormattedValue(value=part, conversion=-1)
        for part in parts
    ]
    made = out.keep(ast.JoinedStr(values=values), str)
    out.add(fragments.JOIN, OUT=made, COST=total)
    return made


def emit_relation(out: Emitter, operator: str, left: Atom, right: Atom) -> ast.expr:
    """Emit ``left operator right`` for a comparison or membership.

    Returns:
        The expression to evaluate at once.
    """
    if operator in {"in", "not in"}:
        return _emit_membership(out, operator, left, right)
    relation, function = _RELATIONS[operator]
    compared = ast.Compare(left=left, ops=[relation()], comparators=[right])
    kinds = [out.kind_of(left), out.kind_of(right)]
    if operator in {"==", "!="}:
        # Nothing else than a string equals a string, in Python as in the language.
        if str in kinds or kinds == [int, int]:
            return compared
    elif int in kinds or str in kinds:
        kind = int if int in kinds else str
        out.want(left, kind)
        out.want(right, kind)
        return compared
    made = out.temporary(bool)
    called: ast.expr = call(function, left, right, variable("at"), variable("m"))
    if operator == "!=":
        called = negated(called)
    out.add(fragments.COMPARE, OUT=made, LEFT=left, RIGHT=right, COMPARED=compared, CALLED=called)
    return made


def _emit_membership(out: Emitter, operator: str, item: Atom, container: Atom) -> ast.expr:
    if out.kind_of(container) is dict and out.kind_of(item) is str:
        inside = ast.In() if operator == "in" else ast.NotIn()
        return ast.Compare(left=item, ops=[inside], comparators=[container])
    made = out.temporary(bool)
    out.add(fragments.CONTAINS, OUT=made, ITEM=item, CONTAINER=container)
    return made if operator == "in" else negated(made)
