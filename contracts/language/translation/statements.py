"""Statements and functions of the rule language as Python ones.

What it is: each function of a checked module as a Python function that deviates wherever the rule
would fail. What it does not do: it says nothing about a failure; the closures of `compiler` find it
again, and its place. Specification: RULES.md, "Bounds and steps".
"""

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from contracts.language.checker import names_of_block, own_expressions
from contracts.language.costs import cost_of_block
from contracts.language.limits import CONTAINER_BYTES, ITEM_BYTES
from contracts.language.syntax import (
    Assign,
    Augment,
    Break,
    Continue,
    Define,
    Evaluate,
    For,
    If,
    ListDisplay,
    Name,
    Pass,
    Return,
    Statement,
)
from contracts.language.translation import fragments
from contracts.language.translation.arithmetic import emit_arithmetic
from contracts.language.translation.emitter import ends
from contracts.language.translation.expressions import (
    ExpressionTranslator,
    Functions,
    calls_any,
)
from contracts.language.translation.templates import Atom, constant, sequence
from contracts.language.values import Internal


def translate_function(
    define: Define,
    constants: Mapping[str, Internal],
    constant_names: Mapping[str, str],
    functions: Functions,
) -> ast.stmt:
    """Return a function of a rule as a Python function.

    Args:
        define: the function.
        constants: the module's constants.
        constant_names: the Python variable of each constant that is not written as itself.
        functions: this function and those that it may call.
    """
    return _FunctionTranslator(constants, constant_names, functions).function(define)


class _FunctionTranslator(ExpressionTranslator):
    def function(self, define: Define) -> ast.stmt:
        out = self._out
        parameters = [self._declare(parameter.name) for parameter in define.parameters]
        for name in names_of_block(define.body):
            if name.name not in self._variables:
                self._declare(name.name)
        out.add(fragments.START)
        self._block(define.body)
        if not ends(out.body):
            self._leave(constant(None))
        return ast.FunctionDef(
            name=self._functions[define.name][0],
            args=ast.arguments(
                posonlyargs=[],
                args=[ast.arg(arg=parameter.id) for parameter in parameters],
                kwonlyargs=[],
                kw_defaults=[],
                defaults=[],
            ),
            body=out.body,
            decorator_list=[],
        )

    def _block(self, statements: Sequence[Statement], *, is_charged: bool = False) -> None:
        """Emit a block; entering it costs the nodes of all its own statements."""
        if not is_charged:
            self._out.charge(steps=cost_of_block(statements))
        for statement in statements:
            self._TRANSLATE_STATEMENT[type(statement)](self, statement)
            if isinstance(statement, Break | Continue | Return):
                break

    def _leave(self, value: ast.expr) -> None:
        """Emit the return of a value."""
        self._out.flush()
        for identity in self._held:
            self._out.add(fragments.UNLOCK, IDENTITY=identity)
        self._out.add(fragments.FINISH)
        self._out.body.append(ast.Return(value=value))

    def _return(self, statement: Return) -> None:
        value = constant(None) if statement.value is None else self._expression(statement.value)
        self._leave(value)

    def _evaluate(self, statement: Evaluate) -> None:
        self._expression(statement.expression)

    def _assign(self, statement: Assign) -> None:
        self._store(statement.target, self._expression(statement.value))

    def _pass(self, _statement: Pass) -> None:
        """Emit nothing."""

    def _break(self, _statement: Break) -> None:
        self._out.flush()
        self._out.body.append(ast.Break())

    def _continue(self, _statement: Continue) -> None:
        self._out.flush()
        self._out.body.append(ast.Continue())

    def _augment(self, statement: Augment) -> None:
        target = statement.target
        if isinstance(target, Name):
            old: Atom = self._variables[target.name]
            new = self._combine(old, statement)
            if new is not old:
                self._store(target, new)
            return
        container_of, key_at = target.children()
        container, key = self._expression(container_of), self._expression(key_at)
        old = self._item(container, key)
        new = self._combine(old, statement)
        if new is old:
            # The list grew in place and stands where it stood.
            self._out.add(fragments.STORE_AGAIN, CONTAINER=container, KEY=key, VALUE=new)
        else:
            self._store_item(container, key, new)

    def _combine(self, old: Atom, statement: Augment) -> Atom:
        """Emit what an augmented assignment makes of the old value."""
        out = self._out
        if statement.operator == "+" and isinstance(statement.value, ListDisplay):
            return self._append(old, statement.value)
        value = self._expression(statement.value)
        kinds = {out.kind_of(old), out.kind_of(value)}
        if statement.operator != "+" or kinds & {int, str} or out.kind_of(old) is tuple:
            return emit_arithmetic(out, statement.operator, old, value)
        made = out.temporary()
        out.add(fragments.EXTEND_OR_ADD, OUT=made, X=old, VALUE=value)
        return made

    def _append(self, old: Atom, display: ListDisplay) -> Atom:
        """Emit ``old += [items]``; the new list is charged, but need not be made."""
        out = self._out
        values = self._expressions(display.items)
        count = len(values)
        out.charge(steps=count // 8, size_bytes=CONTAINER_BYTES + 2 * ITEM_BYTES * count)
        if count == 1:
            out.add(fragments.APPEND_ITEM, X=old, VALUE=values[0])
        else:
            out.add(fragments.EXTEND_BY_ITEMS, X=old, VALUES=sequence(values))
        out.learn(old, list)
        return old

    def _if(self, statement: If, first: int = 0) -> None:
        condition, body = statement.arms[first]
        otherwise: Callable[[], None] | None = None
        if first + 1 < len(statement.arms):
            otherwise = lambda: self._if(statement, first + 1)  # noqa: E731
        elif statement.otherwise:
            otherwise = lambda: self._block(statement.otherwise)  # noqa: E731
        self._out.choose(self._condition(condition), lambda: self._block(body), otherwise)

    def _for(self, statement: For) -> None:
        body = statement.body
        runs_all = not _leaves(body, Break)
        self._loop(
            statement.target,
            statement.iterable,
            lambda: self._block(body, is_charged=True),
            cost=cost_of_block(body),
            locks=self._changes(body),
            forgets=[name.name for name in names_of_block(body)],
            runs_all=runs_all,
            runs_through=runs_all and not _leaves(body, Continue),
        )

    def _changes(self, statements: Iterable[Statement]) -> bool:
        """Whether statements may change a list or dict that was there before them."""
        for statement in statements:
            if isinstance(statement, Augment):
                return True
            if isinstance(statement, Assign) and not isinstance(statement.target, Name):
                return True
            expressions = own_expressions(statement)
            if any(calls_any(expression, self._functions) for expression in expressions):
                return True
            if any(map(self._changes, _blocks_of(statement))):
                return True
        return False

    _TRANSLATE_STATEMENT: ClassVar[dict[type[Statement], Any]] = {
        Assign: _assign,
        Augment: _augment,
        Break: _break,
        Continue: _continue,
        Evaluate: _evaluate,
        For: _for,
        If: _if,
        Pass: _pass,
        Return: _return,
    }


def _blocks_of(statement: Statement) -> list[tuple[Statement, ...]]:
    """Return the nested blocks of a statement."""
    if isinstance(statement, For):
        return [statement.body]
    if isinstance(statement, If):
        return [*(body for _, body in statement.arms), statement.otherwise]
    return []


def _leaves(statements: Iterable[Statement], kind: type[Statement]) -> bool:
    """Whether a loop's body may leave its pass by a ``return``, or by this kind of statement."""
    for statement in statements:
        if isinstance(statement, Return | kind):
            return True
        # Break and continue inside an inner loop concern that one.
        inner = Return if isinstance(statement, For) else kind
        if any(_leaves(block, inner) for block in _blocks_of(statement)):
            return True
    return False
