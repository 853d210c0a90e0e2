"""What statements cost in steps, before a rule runs.

What it is: the static part of the metering, shared by both ways of running a rule. What it does
not do: it charges nothing. Specification: RULES.md, "Bounds and steps".
"""

from collections.abc import Sequence

from contracts.language.checker import own_expressions
from contracts.language.syntax import Expression, Statement


def nodes_of(expression: Expression) -> int:
    """Return the nodes of an expression's tree; 1 or more."""
    return 1 + sum(map(nodes_of, expression.children()))


def cost_of_statement(statement: Statement) -> int:
    """Return a statement's steps: itself and the nodes of its own expressions."""
    return 1 + sum(map(nodes_of, own_expressions(statement)))


def cost_of_block(statements: Sequence[Statement]) -> int:
    """Return the steps of entering a block: those of all its own statements."""
    return sum(map(cost_of_statement, statements))
