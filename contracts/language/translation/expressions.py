"""Expressions of the rule language as Python statements that leave their value in a variable.

What it is: each node's sub-expressions first, from left to right, then the node itself. What it
does not do: it keeps no meaning of its own; see `operations`. Specification: RULES.md, "Values and
operators".
"""

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from contracts.language.checker import names_of_target
from contracts.language.costs import nodes_of
from contracts.language.limits import CONTAINER_BYTES, ENTRY_BYTES, ITEM_BYTES
from contracts.language.syntax import (
    Binary,
    Call,
    Comprehension,
    Conditional,
    Constant,
    DictDisplay,
    Expression,
    IfClause,
    Index,
    ListDisplay,
    Name,
    Slice,
    TupleDisplay,
    Unary,
)
from contracts.language.translation import fragments
from contracts.language.translation.arithmetic import (
    emit_arithmetic,
    emit_join,
    emit_relation,
)
from contracts.language.translation.emitter import Emitter, targets
from contracts.language.translation.templates import (
    Atom,
    assign,
    call,
    constant,
    negated,
    sequence,
    stored,
    variable,
    when,
)
from contracts.language.values import Internal

Functions = Mapping[str, tuple[str, tuple[str, ...]]]
"""Python name and parameters of each function that may be called."""

_AT = variable("at")
_METER = variable("m")
_LOCKS = variable("locks")
_SIZED = frozenset((str, list, dict, tuple, range))
_ROWS = frozenset(("enumerate", "zip"))
_ARITHMETIC = frozenset(("+", "-", "*", "//", "%"))
_RESULT_KINDS: dict[str, type] = {
    "abs": int,
    "bool": bool,
    "dict": dict,
    "enumerate": list,
    "len": int,
    "list": list,
    "range": range,
    "sorted": list,
    "tuple": tuple,
    "zip": list,
}


class ExpressionTranslator:
    """Translates the expressions of one function.

    Args:
        constants: the module's constants by name.
        constant_names: the Python variable of each constant that is not written as itself.
        functions: the functions that may be called.
    """

    def __init__(
        self,
        constants: Mapping[str, Internal],
        constant_names: Mapping[str, str],
        functions: Functions,
    ) -> None:
        self._out = Emitter()
        self._constants = constants
        self._constant_names = constant_names
        self._functions = functions
        self._variables: dict[str, ast.Name] = {}
        self._variable_count = 0
        self._held: list[ast.Name] = []

    def _declare(self, name: str) -> ast.Name:
        """Return the Python variable of a local name: a new one, which hides an outer one."""
        self._variable_count += 1
        self._variables[name] = made = variable(f"v{self._variable_count}")
        return made

    def _expression(self, node: Expression) -> Atom:
        """Emit an expression; return the variable of its value, or its constant."""
        translate: Callable[[Expression], Atom] = self._TRANSLATE[type(node)].__get__(self)
        return translate(node)

    def _expressions(self, nodes: Sequence[Expression]) -> list[ast.expr]:
        return [self._expression(node) for node in nodes]

    def _condition(self, node: Expression) -> ast.expr:
        """Emit an expression; return what must be evaluated at once, for its truth alone."""
        if isinstance(node, Unary) and node.operator == "not":
            return negated(self._condition(node.operand))
        if isinstance(node, Binary) and node.operator in {"and", "or"}:
            return self._junction_of_conditions(node)
        if isinstance(node, Binary) and node.operator not in _ARITHMETIC:
            left = self._expression(node.left)
            return emit_relation(self._out, node.operator, left, self._expression(node.right))
        return self._expression(node)

    # Leaves and displays

    def _constant(self, node: Constant) -> Atom:
        return constant(node.value)

    def _name(self, node: Name) -> Atom:
        if node.name in self._variables:
            return self._variables[node.name]
        value = self._constants[node.name]
        if node.name not in self._constant_names:
            return constant(value)
        made = variable(self._constant_names[node.name])
        self._out.learn(made, type(value))
        return made

    def _list(self, node: ListDisplay) -> Atom:
        items = self._expressions(node.items)
        self._out.charge(size_bytes=CONTAINER_BYTES + ITEM_BYTES * len(items))
        return self._out.keep(sequence(items), list)

    def _tuple(self, node: TupleDisplay) -> Atom:
        items = self._expressions(node.items)
        self._out.charge(size_bytes=CONTAINER_BYTES + ITEM_BYTES * len(items))
        return self._out.keep(ast.Tuple(elts=items, ctx=ast.Load()), tuple)

    def _dict(self, node: DictDisplay) -> Atom:
        out = self._out
        out.charge(size_bytes=CONTAINER_BYTES + ENTRY_BYTES * len(node.entries))
        texts = [
            key.value
            for key, _ in node.entries
            if isinstance(key, Constant) and isinstance(key.value, str)
        ]
        if len(set(texts)) == len(node.entries):
            values = self._expressions([value for _, value in node.entries])
            return out.keep(ast.Dict(keys=[constant(text) for text in texts], values=values), dict)
        made = out.keep(ast.Dict(keys=[], values=[]), dict)
        for key, value in node.entries:
            text = out.temporary()
            out.add(fragments.KEY, TEXT=text, KEY=self._expression(key))
            out.add(fragments.PUT_NEW, TEXT=text, MADE=made, VALUE=self._expression(value))
        return made

    # Loops

    def _loop(
        self,
        target: Expression,
        iterable: Expression,
        body: Callable[[], None],
        *,
        cost: int,
        locks: bool,
        binds: bool = False,
        forgets: Iterable[str] = (),
        runs_all: bool = True,
        runs_through: bool = True,
    ) -> None:
        """Emit a loop.

        Args:
            target: what each item is assigned to.
            iterable: what is walked.
            body: emits what follows the assignment in each pass.
            cost: steps of each pass.
            locks: whether something in the loop may try to change what it walks.
            binds: whether the target's variables are new ones, of the loop alone.
            forgets: local names that the body assigns.
            runs_all: whether no pass ends the loop, so that its steps are known before.
            runs_through: whether, besides, every pass runs to its end.
        """
        out = self._out
        identity: ast.Name | None = None
        if isinstance(iterable, Call) and iterable.function in _ROWS:
            walked, count, width = self._rows(iterable)
        else:
            walked, width = self._expression(iterable), 0
            if locks and out.kind_of(walked) not in {tuple, range}:
                # What is locked must live as long, whatever becomes of its variable.
                walked = out.keep(walked, out.kind_of(walked))
                identity = out.keep(call("lock", walked, _LOCKS))
            walked, count = self._items(walked)
        for name in names_of_target(target) if binds else ():
            self._declare(name.name)
        for local in forgets:
            out.learn(self._variables[local], None)
        loop_target, item = self._loop_target(target, width)

        def one_pass() -> None:
            if not runs_all:
                out.charge(steps=cost)
                out.flush()
                out.add(fragments.CHECK_STEPS)
            if item is not None:
                self._store(target, item)
            body()

        if identity is not None:
            self._held.append(identity)
        statements, charges = out.passes(one_pass, hoists=runs_through)
        each = charges.steps + (cost if runs_all else 0)
        if each:
            out.add(fragments.STEPS_OF_PASSES, COUNT=count, EACH=constant(each))
            out.add(fragments.CHECK_STEPS)
        if charges.size_bytes:
            size_bytes = constant(charges.size_bytes)
            out.add(fragments.BYTES_OF_PASSES, COUNT=count, EACH=size_bytes)
        out.loop(loop_target, walked, statements)
        if identity is not None:
            out.add(fragments.UNLOCK, IDENTITY=self._held.pop())

    def _rows(self, node: Call) -> tuple[Atom, ast.Name, int]:
        """Emit the rows of a ``zip`` or ``enumerate`` that only a loop sees, one by one.

        Returns:
            What to walk, the count of rows, and the items in each.
        """
        arguments = self._expressions(node.positional)
        items, count = self._out.temporary(), self._out.temporary(int)
        self._out.add(
            fragments.ROWS,
            ITEMS=items,
            COUNT=count,
            FUNCTION=variable(f"rows_of_{node.function}"),
            ARGUMENTS=sequence(arguments),
        )
        return items, count, len(arguments) if node.function == "zip" else 2

    def _items(self, iterated: Atom) -> tuple[Atom, ast.Name]:
        """Emit what to walk of a value, and the count of its items."""
        count = self._out.temporary(int)
        if self._out.kind_of(iterated) in {list, tuple, range}:
            self._out.add(fragments.COUNT, COUNT=count, X=iterated)
            return iterated, count
        items = self._out.temporary()
        self._out.add(fragments.ITEMS, ITEMS=items, COUNT=count, X=iterated)
        return items, count

    def _loop_target(self, target: Expression, width: int) -> tuple[ast.expr, ast.Name | None]:
        """Return the target of the Python loop, and the variable to unpack in each pass, if any.

        Args:
            target: the target in the rule.
            width: items of each row, if it is sure to be a tuple of so many; else 0.
        """
        for name in names_of_target(target):
            self._out.learn(self._variables[name.name], None)
        if isinstance(target, Name):
            return stored(self._variables[target.name]), None
        names = [item for item in target.children() if isinstance(item, Name)]
        if width == len(names) == len(list(target.children())):
            return targets([self._variables[name.name] for name in names]), None
        item = self._out.temporary()
        return stored(item), item

    def _store(self, target: Expression, value: Atom) -> None:
        """Emit the assignment of a value to a name, an item, or a tuple of targets."""
        out = self._out
        if isinstance(target, Name):
            out.set(self._variables[target.name], value, out.kind_of(value))
            return
        if isinstance(target, Index):
            container = self._expression(target.container)
            self._store_item(container, self._expression(target.key), value)
            return
        parts = list(target.children())
        out.add(fragments.UNPACK, X=value, COUNT=constant(len(parts)))
        if all(isinstance(part, Name) for part in parts):
            names = [self._variables[part.name] for part in parts if isinstance(part, Name)]
            for name in names:
                out.learn(name, None)
            out.body.append(ast.Assign(targets=[targets(names)], value=value))
            return
        items = [out.temporary() for _ in parts]
        out.body.append(ast.Assign(targets=[targets(items)], value=value))
        for part, item in zip(parts, items, strict=True):
            self._store(part, item)

    def _store_item(self, container: Atom, key: Atom, value: Atom) -> None:
        self._out.add(fragments.STORE_ITEM, CONTAINER=container, KEY=key, VALUE=value)

    def _comprehension(self, node: Comprehension) -> Atom:
        out = self._out
        out.charge(size_bytes=CONTAINER_BYTES)
        made = out.temporary(list if node.key is None else dict)
        empty = sequence([]) if node.key is None else ast.Dict(keys=[], values=[])
        out.body.append(ast.Assign(targets=[stored(made)], value=empty))
        outer = self._variables
        # The comprehension's names get variables of their own, which hide outer ones.
        self._variables = dict(outer)
        self._clause(node, 0, made)
        self._variables = outer
        if node.key is None:
            out.add(fragments.CHECK_ITEMS, MADE=made)
        return made

    def _clause(self, node: Comprehension, place: int, made: ast.Name) -> None:
        """Emit a comprehension from one of its clauses on."""
        if place == len(node.clauses):
            self._put(node, made)
            return
        clause = node.clauses[place]
        if isinstance(clause, IfClause):
            condition = self._condition(clause.condition)
            self._out.choose(condition, lambda: self._clause(node, place + 1, made), None)
            return
        self._loop(
            clause.target,
            clause.iterable,
            lambda: self._clause(node, place + 1, made),
            cost=nodes_of(node),
            binds=True,
            locks=calls_any(node, self._functions),
        )

    def _put(self, node: Comprehension, made: ast.Name) -> None:
        out = self._out
        if node.key is None:
            value = self._expression(node.value)
            out.charge(size_bytes=ITEM_BYTES)
            out.add(fragments.APPEND, MADE=made, VALUE=value)
            return
        key = self._expression(node.key)
        value = self._expression(node.value)
        text = out.temporary()
        out.add(fragments.KEY, TEXT=text, KEY=key)
        out.add(fragments.PUT, TEXT=text, MADE=made, VALUE=value)

    # Operators

    def _index(self, node: Index) -> Atom:
        return self._item(self._expression(node.container), self._expression(node.key))

    def _item(self, container: Atom, key: Atom) -> Atom:
        """Emit ``container[key]``."""
        out = self._out
        if out.kind_of(key) is str:
            out.want(container, dict)
        made = out.temporary()
        out.add(fragments.ITEM, OUT=made, CONTAINER=container, KEY=key)
        return made

    def _slice(self, node: Slice) -> Atom:
        container = self._expression(node.container)
        start, stop = (
            constant(None) if bound is None else self._expression(bound)
            for bound in (node.start, node.stop)
        )
        kind = self._out.kind_of(container)
        return self._out.keep(call("get_slice", container, start, stop, _AT, _METER), kind)

    def _call(self, node: Call) -> Atom:
        if node.function in self._functions:
            return self._call_function(node)
        out = self._out
        if node.function == "fail":
            out.deviate()
            return constant(None)
        arguments = self._expressions(node.positional)
        if node.function == "len" and out.kind_of(arguments[0]) in _SIZED:
            return out.keep(call("len", *arguments), int)
        if node.function == "len":
            made = out.temporary(int)
            out.add(fragments.LENGTH, OUT=made, X=arguments[0])
            return made
        named = ast.Dict(
            keys=[constant(name) for name, _ in node.keywords],
            values=[self._expression(value) for _, value in node.keywords],
        )
        called = call(f"b_{node.function}", sequence(arguments), named, _AT, _METER)
        if node.function in {"min", "max"} and len(arguments) == 2:
            made = out.temporary()
            fragment = fragments.GREATER if node.function == "max" else fragments.LESSER
            left, right = arguments
            out.add(fragment, OUT=made, LEFT=left, RIGHT=right, CALLED=called)
            return made
        return out.keep(called, _RESULT_KINDS.get(node.function))

    def _call_function(self, node: Call) -> Atom:
        out = self._out
        name, parameters = self._functions[node.function]
        given = dict(zip(parameters, self._expressions(node.positional), strict=False))
        for keyword, value in node.keywords:
            given[keyword] = self._expression(value)
        out.flush()
        out.add(fragments.PAY)
        return out.keep(call(name, *(given[parameter] for parameter in parameters)))

    def _unary(self, node: Unary) -> Atom:
        if node.operator == "not":
            return self._out.keep(self._condition(node), bool)
        operand = self._expression(node.operand)
        self._out.want(operand, int)
        made = self._out.keep(ast.UnaryOp(op=ast.USub(), operand=operand), int)
        self._out.add(fragments.BOUND, X=made)
        return made

    def _binary(self, node: Binary) -> Atom:
        out = self._out
        if node.operator in {"and", "or"}:
            return self._junction(node)
        parts = self._parts_of_sum(node)
        if len(parts) > 2:
            return self._sum(parts)
        left, right = self._expression(node.left), self._expression(node.right)
        if node.operator in _ARITHMETIC:
            return emit_arithmetic(out, node.operator, left, right)
        return out.keep(emit_relation(out, node.operator, left, right), bool)

    def _parts_of_sum(self, node: Expression) -> list[Expression]:
        """Return the terms of a sum that groups to the left."""
        if isinstance(node, Binary) and node.operator == "+":
            return [*self._parts_of_sum(node.left), node.right]
        return [node]

    def _sum(self, nodes: Sequence[Expression]) -> Atom:
        """Emit a sum of three or more terms; strings are joined at once."""
        out = self._out
        parts = [self._expression(node) for node in nodes]
        if str in {out.kind_of(parts[0]), out.kind_of(parts[1])}:
            return emit_join(out, parts)
        total = parts[0]
        for part in parts[1:]:
            total = emit_arithmetic(out, "+", total, part)
        return total

    def _junction(self, node: Binary) -> Atom:
        """Emit ``and`` or ``or``: the right side only where the left one does not decide."""
        out = self._out
        left = self._expression(node.left)
        made = out.keep(left, out.kind_of(left))
        test: ast.expr = made if node.operator == "and" else negated(made)
        out.choose(test, lambda: self._move(made, node.right), None)
        return made

    def _junction_of_conditions(self, node: Binary) -> ast.expr:
        """Emit ``and`` or ``or`` for its truth; in one expression if no statement is needed."""
        out = self._out
        left = self._condition(node.left)
        right: list[ast.expr] = []
        statements, _ = out.part(lambda: right.append(self._condition(node.right)))
        operator = ast.And() if node.operator == "and" else ast.Or()
        if not statements:
            return ast.BoolOp(op=operator, values=[left, *right])
        made = out.keep(left)
        test: ast.expr = made if node.operator == "and" else negated(made)
        out.body.append(when(test, [*statements, assign(made, *right)], []))
        return made

    def _conditional(self, node: Conditional) -> Atom:
        made = self._out.temporary()
        self._out.choose(
            self._condition(node.condition),
            lambda: self._move(made, node.chosen),
            lambda: self._move(made, node.other),
        )
        return made

    def _move(self, made: ast.Name, node: Expression) -> None:
        value = self._expression(node)
        self._out.set(made, value, self._out.kind_of(value))

    _TRANSLATE: ClassVar[dict[type[Expression], Any]] = {
        Constant: _constant,
        Name: _name,
        ListDisplay: _list,
        TupleDisplay: _tuple,
        DictDisplay: _dict,
        Comprehension: _comprehension,
        Index: _index,
        Slice: _slice,
        Call: _call,
        Unary: _unary,
        Binary: _binary,
        Conditional: _conditional,
    }


def calls_any(node: Expression, functions: Functions) -> bool:
    """Whether an expression calls a function of the module, which may change something."""
    if isinstance(node, Call) and node.function in functions:
        return True
    return any(calls_any(child, functions) for child in node.children())
