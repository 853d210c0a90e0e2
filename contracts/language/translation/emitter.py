"""What is kept while one function is translated: statements, charges, and known types.

What it is: the list of Python statements under construction, its temporary variables, the steps
and bytes that its straight-line parts cost, and the types that variables surely have. What it does
not do: it knows no construct of the rule language. Specification: RULES.md, "Bounds and steps".

A call only counts if it succeeds, and both counts only grow, so where in a straight line they are
charged changes no result. Every loop looks at the budgets, as does every return.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass

from contracts.language.translation.fragments import BYTES, DEVIATE, STEPS, WANT
from contracts.language.translation.simplify import simplify
from contracts.language.translation.templates import (
    Atom,
    Template,
    assign,
    constant,
    stored,
    variable,
    when,
)

Facts = dict[str, type]
"""The exact type that a variable's value has, by the variable's name."""

_MAX_DEPTH = 64
"""Deepest nesting of the Python statements of one function."""


class UntranslatableError(Exception):
    """A rule is nested more deeply than Python code may be; its closures must do."""


@dataclass(slots=True)
class Charges:
    """Steps and bytes that every pass of a loop costs alike."""

    steps: int = 0
    size_bytes: int = 0


class Emitter:
    """Takes the statements of one function in their order."""

    def __init__(self) -> None:
        self.body: list[ast.stmt] = []
        self.facts: Facts = {}
        self._temporaries = 0
        self._depth = 0
        self._pending = Charges()
        self._hoisted: Charges | None = None

    def temporary(self, kind: type | None = None) -> ast.Name:
        """Return a new variable, whose value will be of a type if one is given."""
        self._temporaries += 1
        made = variable(f"t{self._temporaries}")
        if kind is not None:
            self.facts[made.id] = kind
        return made

    def add(self, template: Template, **places: ast.expr) -> None:
        """Add statements of a template, without the questions whose answers are known."""
        self.body += simplify(template.fill(**places), self.facts)

    def set(self, target: ast.Name, value: ast.expr, kind: type | None = None) -> None:
        """Add ``target = value``."""
        self.body.append(assign(target, value))
        self.learn(target, kind)

    def keep(self, value: ast.expr, kind: type | None = None) -> ast.Name:
        """Add an assignment to a new variable, and return that."""
        made = self.temporary()
        self.set(made, value, kind)
        return made

    def deviate(self) -> None:
        """Add the end of this way of running: something is wrong that others must name."""
        self.add(DEVIATE)

    # Types

    def kind_of(self, atom: ast.expr) -> type | None:
        """Return the type that a value surely has, if there is one."""
        if isinstance(atom, ast.Constant):
            return type(atom.value)
        if isinstance(atom, ast.Name):
            return self.facts.get(atom.id)
        return None

    def learn(self, atom: ast.expr, kind: type | None) -> None:
        """Keep in mind what type a variable has from here on; None: nobody knows."""
        if isinstance(atom, ast.Name):
            if kind is None:
                self.facts.pop(atom.id, None)
            else:
                self.facts[atom.id] = kind

    def want(self, atom: Atom, kind: type) -> None:
        """Add a check that a value is of a type, unless that is known."""
        known = self.kind_of(atom)
        if known is kind:
            return
        if known is not None:
            self.deviate()
            return
        self.add(WANT, X=atom, KIND=variable(kind.__name__))
        self.learn(atom, kind)

    # Charges

    def charge(self, steps: int = 0, size_bytes: int = 0) -> None:
        """Charge what the straight line here costs."""
        self._pending.steps += steps
        self._pending.size_bytes += size_bytes

    def flush(self) -> None:
        """Add the pending charges here, or leave them to the loop around."""
        pending, self._pending = self._pending, Charges()
        if self._hoisted is not None:
            self._hoisted.steps += pending.steps
            self._hoisted.size_bytes += pending.size_bytes
            return
        if pending.steps:
            self.add(STEPS, COUNT=constant(pending.steps))
        if pending.size_bytes:
            self.add(BYTES, COUNT=constant(pending.size_bytes))

    # Parts

    def part(self, emit: Callable[[], None]) -> tuple[list[ast.stmt], Facts]:
        """Return what `emit` adds, as statements of their own, and what is known after them."""
        self.flush()
        self._go_deeper()
        outer, self.body = self.body, []
        hoisted, self._hoisted = self._hoisted, None
        facts = dict(self.facts)
        emit()
        self.flush()
        made, self.body = self.body, outer
        known, self.facts = self.facts, facts
        self._hoisted = hoisted
        self._depth -= 1
        return made, known

    def passes(self, emit: Callable[[], None], *, hoists: bool) -> tuple[list[ast.stmt], Charges]:
        """Return what `emit` adds for each pass of a loop, and what each pass costs besides.

        Args:
            emit: adds the statements of one pass.
            hoists: whether every pass runs to its end, so that its costs can be charged before.
        """
        self.flush()
        self._go_deeper()
        outer, self.body = self.body, []
        charges = Charges()
        hoisted, self._hoisted = self._hoisted, charges if hoists else None
        facts = dict(self.facts)
        emit()
        self.flush()
        made, self.body = self.body, outer
        self.facts = facts
        self._hoisted = hoisted
        self._depth -= 1
        return made, charges

    def _go_deeper(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UntranslatableError(f"nesting: got {self._depth} levels, want {_MAX_DEPTH}")

    def choose(
        self, test: ast.expr, chosen: Callable[[], None], otherwise: Callable[[], None] | None
    ) -> None:
        """Add ``if test: chosen else: otherwise``; afterwards is known what both ways know."""
        one, facts_of_one = self.part(chosen)
        other: list[ast.stmt] = []
        facts_of_other = dict(self.facts)
        if otherwise is not None:
            other, facts_of_other = self.part(otherwise)
        self.body.append(when(test, one, other))
        ends_one, ends_other = ends(one), ends(other)
        if ends_one:
            self.facts = facts_of_other
        elif ends_other:
            self.facts = facts_of_one
        else:
            self.facts = {
                name: kind
                for name, kind in facts_of_one.items()
                if facts_of_other.get(name) is kind
            }

    def loop(self, target: ast.expr, iterable: ast.expr, body: list[ast.stmt]) -> None:
        """Add ``for target in iterable: body``."""
        self.body.append(
            ast.For(target=target, iter=iterable, body=body or [ast.Pass()], orelse=[])
        )


def ends(statements: list[ast.stmt]) -> bool:
    """Whether nothing runs after these statements."""
    return bool(statements) and isinstance(
        statements[-1], ast.Return | ast.Raise | ast.Break | ast.Continue
    )


def targets(names: list[ast.Name]) -> ast.expr:
    """Return the target of an assignment to several variables."""
    return ast.Tuple(elts=[stored(name) for name in names], ctx=ast.Store())
