"""Static checks of the rule language: everything that is decided before a rule runs.

What it is: names, scopes, calls and their graph, and where statements may stand. What it does
not do: it infers no types. Specification: RULES.md, "Static rules".

Functions are no values here, so the call graph is known, recursion is refused, and the deepest
chain of calls is bounded: a rule cannot exhaust the stack of the machine that runs it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from contracts.language.errors import (
    CallGraphError,
    CheckError,
    ForbiddenError,
    UndefinedNameError,
)
from contracts.language.limits import MAX_CALL_LEVELS, MAX_PARAMETERS
from contracts.language.syntax import (
    Assign,
    Augment,
    Break,
    Call,
    Comprehension,
    Constant,
    Continue,
    Define,
    Evaluate,
    Expression,
    For,
    ForClause,
    If,
    Index,
    Module,
    Name,
    Node,
    Return,
    Statement,
    TupleDisplay,
)

BUILTIN_ARGUMENTS = {
    "abs": (1, 1),
    "bool": (0, 1),
    "dict": (0, 1),
    "enumerate": (1, 2),
    "fail": (1, MAX_PARAMETERS),
    "len": (1, 1),
    "list": (0, 1),
    "max": (1, MAX_PARAMETERS),
    "min": (1, MAX_PARAMETERS),
    "range": (1, 3),
    "sorted": (1, 1),
    "tuple": (0, 1),
    "zip": (1, MAX_PARAMETERS),
}
"""Fewest and most positional arguments of each built-in function."""

BUILTIN_KEYWORDS = {"sorted": ("reverse",)}
"""Keyword arguments of built-in functions; all are optional."""

_FORBIDDEN_NAMES = frozenset(
    (
        *("bytes", "chr", "dir", "eval", "exec", "float", "getattr", "hasattr", "hash", "int"),
        *("open", "ord", "print", "repr", "set", "str", "type"),
    )
)

_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CheckedModule:
    """A module that passed, in the order in which it is compiled."""

    constants: tuple[Assign, ...]
    """Module constants, in source order."""

    functions: tuple[Define, ...]
    """Functions, each after all that it calls."""


@dataclass(slots=True)
class _Function:
    """What is known of a function while its calls are collected."""

    define: Define
    levels: int = 0
    calls: list[tuple[str, int]] = field(default_factory=list)
    """Callee and the level at which the call stands."""


def check_module(module: Module) -> CheckedModule:
    """Check a whole module.

    Raises:
        ForbiddenError: it uses a part of Starlark that rules may not use.
        UndefinedNameError: it uses a name that nothing binds.
        CallGraphError: it recurses, or its calls nest too deeply.
        CheckError: any other static rule is broken.
    """
    return _Checker().module(module)


def names_of_target(target: Expression) -> Iterator[Name]:
    """Yield the variables that an assignment or loop target binds, in order."""
    if isinstance(target, Name):
        yield target
    elif isinstance(target, TupleDisplay):
        for item in target.items:
            yield from names_of_target(item)


def names_of_block(block: Iterable[Statement]) -> Iterator[Name]:
    """Yield the variables that a block binds, nested blocks included, in order."""
    for statement in block:
        if isinstance(statement, Assign | Augment):
            yield from names_of_target(statement.target)
        elif isinstance(statement, For):
            yield from names_of_target(statement.target)
            yield from names_of_block(statement.body)
        elif isinstance(statement, If):
            for _, body in statement.arms:
                yield from names_of_block(body)
            yield from names_of_block(statement.otherwise)


def _is_docstring(statement: Statement) -> bool:
    if not isinstance(statement, Evaluate) or not isinstance(statement.expression, Constant):
        return False
    return isinstance(statement.expression.value, str)


class _Checker:
    """Walks one module; the state is what the module binds and who calls whom."""

    def __init__(self) -> None:
        self._functions: dict[str, _Function] = {}
        self._constants: dict[str, Name] = {}
        self._current: _Function | None = None

    def module(self, module: Module) -> CheckedModule:
        for statement in module.statements:
            if isinstance(statement, Define):
                self._bind_global(statement, statement.name)
                self._functions[statement.name] = _Function(statement)
        constants: list[Assign] = []
        for position, statement in enumerate(module.statements):
            if isinstance(statement, Assign) and isinstance(statement.target, Name):
                self._expression(statement.value, 1, _NOTHING, _NOTHING)
                self._bind_global(statement.target, statement.target.name)
                self._constants[statement.target.name] = statement.target
                constants.append(statement)
            elif not isinstance(statement, Define) and not (
                position == 0 and _is_docstring(statement)
            ):
                raise CheckError(
                    statement.line,
                    statement.column,
                    "module: want only functions and assignments to one name",
                )
        for function in self._functions.values():
            self._function(function)
        return CheckedModule(tuple(constants), self._call_order())

    def _bind_global(self, at: Node, name: str) -> None:
        if name in BUILTIN_ARGUMENTS:
            raise CheckError(at.line, at.column, f"name: {name} is a built-in function")
        if name in self._functions or name in self._constants:
            raise CheckError(at.line, at.column, f"name: {name} is bound twice in the module")

    # Functions

    def _function(self, function: _Function) -> None:
        self._current = function
        names: set[str] = set()
        for parameter in function.define.parameters:
            self._bind_local(parameter, parameter.name)
            if parameter.name in names:
                raise CheckError(
                    parameter.line, parameter.column, f"parameter: {parameter.name} is given twice"
                )
            names.add(parameter.name)
        for name in names_of_block(function.define.body):
            self._bind_local(name, name.name)
            names.add(name.name)
        body = function.define.body
        if _is_docstring(body[0]):
            body = body[1:]
        self._block(body, 1, frozenset(names), in_loop=False)
        self._current = None

    def _bind_local(self, at: Node, name: str) -> None:
        if name in BUILTIN_ARGUMENTS:
            raise CheckError(at.line, at.column, f"name: {name} is a built-in function")
        if name in self._functions or name in self._constants:
            raise CheckError(at.line, at.column, f"name: {name} is bound by the module")

    def _block(
        self, block: Iterable[Statement], level: int, visible: frozenset[str], *, in_loop: bool
    ) -> None:
        for statement in block:
            self._statement(statement, level, visible, in_loop=in_loop)

    def _statement(
        self, statement: Statement, level: int, visible: frozenset[str], *, in_loop: bool
    ) -> None:
        for expression in own_expressions(statement):
            self._expression(expression, level + 1, visible, _NOTHING)
        self._reach(level)
        if isinstance(statement, If):
            for _, body in statement.arms:
                self._block(body, level + 1, visible, in_loop=in_loop)
            self._block(statement.otherwise, level + 1, visible, in_loop=in_loop)
        elif isinstance(statement, For):
            self._block(statement.body, level + 1, visible, in_loop=True)
        elif isinstance(statement, Define):
            raise ForbiddenError(statement.line, statement.column, "forbidden: nested function")
        elif isinstance(statement, Break | Continue) and not in_loop:
            raise CheckError(
                statement.line, statement.column, "loop: got break or continue outside of one"
            )
        elif isinstance(statement, Evaluate) and not isinstance(statement.expression, Call):
            raise CheckError(statement.line, statement.column, "statement: has no effect")

    def _reach(self, level: int) -> None:
        if self._current is not None:
            self._current.levels = max(self._current.levels, level)

    # Expressions

    def _expression(
        self, node: Expression, level: int, visible: frozenset[str], pending: frozenset[str]
    ) -> None:
        """Check the names and calls of an expression.

        Args:
            node: the expression.
            level: how deeply it stands in its function.
            visible: local names that may be read here.
            pending: names that a later clause of the comprehension around it binds.
        """
        self._reach(level)
        if isinstance(node, Name):
            self._name(node, visible, pending)
        elif isinstance(node, Comprehension):
            self._comprehension(node, level, visible, pending)
        else:
            if isinstance(node, Call):
                self._call(node, level, visible | pending)
            for child in node.children():
                self._expression(child, level + 1, visible, pending)

    def _name(self, node: Name, visible: frozenset[str], pending: frozenset[str]) -> None:
        name = node.name
        if name in pending:
            raise CheckError(
                node.line, node.column, f"name: {name} is bound later in the comprehension"
            )
        if name in visible or name in self._constants:
            return
        if name in self._functions or name in BUILTIN_ARGUMENTS:
            raise ForbiddenError(node.line, node.column, f"forbidden: function {name} as a value")
        raise self._undefined(node, name)

    @staticmethod
    def _undefined(at: Node, name: str) -> CheckError:
        if name in _FORBIDDEN_NAMES:
            return ForbiddenError(at.line, at.column, f"forbidden: {name}")
        return UndefinedNameError(at.line, at.column, f"name: {name} is not defined")

    def _comprehension(
        self,
        node: Comprehension,
        level: int,
        visible: frozenset[str],
        pending: frozenset[str],
    ) -> None:
        bound: set[str] = set()
        for clause in node.clauses:
            if isinstance(clause, ForClause):
                for name in names_of_target(clause.target):
                    self._bind_local(name, name.name)
                    if name.name in bound:
                        raise CheckError(
                            name.line,
                            name.column,
                            f"name: {name.name} is bound twice in the comprehension",
                        )
                    bound.add(name.name)
        first = True
        later = frozenset(bound)
        for clause in node.clauses:
            level += 1
            if isinstance(clause, ForClause):
                # The first iterable belongs to the scope around the comprehension.
                hidden = pending if first else pending | later
                self._expression(clause.iterable, level, visible, hidden)
                names = frozenset(name.name for name in names_of_target(clause.target))
                visible, later = visible | names, later - names
                pending -= names
                first = False
            else:
                self._expression(clause.condition, level, visible, pending | later)
        if node.key is not None:
            self._expression(node.key, level + 1, visible, pending)
        self._expression(node.value, level + 1, visible, pending)

    # Calls

    def _call(self, node: Call, level: int, local_names: frozenset[str]) -> None:
        name = node.function
        if name in local_names or name in self._constants:
            raise ForbiddenError(node.line, node.column, "forbidden: call of a value")
        if name in self._functions:
            if self._current is None:
                raise CheckError(
                    node.line,
                    node.column,
                    f"module: {name} is called before the module is complete",
                )
            self._current.calls.append((name, level))
            self._check_function_arguments(node, self._functions[name].define)
        elif name in BUILTIN_ARGUMENTS:
            self._check_builtin_arguments(node)
        else:
            raise self._undefined(node, name)

    @staticmethod
    def _check_function_arguments(node: Call, define: Define) -> None:
        names = [parameter.name for parameter in define.parameters]
        keywords = [name for name, _ in node.keywords]
        for keyword in keywords:
            if keyword not in names:
                raise CheckError(
                    node.line, node.column, f"argument: {define.name} has no parameter {keyword}"
                )
            if keyword in names[: len(node.positional)]:
                raise CheckError(node.line, node.column, f"argument: {keyword} is given twice")
        count = len(node.positional) + len(keywords)
        if count != len(names):
            raise CheckError(
                node.line,
                node.column,
                f"arguments of {define.name}: got {count}, want {len(names)}",
            )

    @staticmethod
    def _check_builtin_arguments(node: Call) -> None:
        name = node.function
        fewest, most = BUILTIN_ARGUMENTS[name]
        if not fewest <= len(node.positional) <= most:
            raise CheckError(
                node.line,
                node.column,
                f"arguments of {name}: got {len(node.positional)}, want {fewest} to {most}",
            )
        for keyword, _ in node.keywords:
            if keyword not in BUILTIN_KEYWORDS.get(name, ()):
                raise CheckError(
                    node.line, node.column, f"argument: {name} has no parameter {keyword}"
                )

    def _call_order(self) -> tuple[Define, ...]:
        """Sort functions after their callees, and bound the levels of every chain of calls."""
        waiting = dict(self._functions)
        levels: dict[str, int] = {}
        ordered: list[Define] = []
        callers: dict[str, list[str]] = {name: [] for name in waiting}
        open_calls = dict.fromkeys(waiting, 0)
        for name, function in waiting.items():
            for callee in dict.fromkeys(callee for callee, _ in function.calls):
                callers[callee].append(name)
                open_calls[name] += 1
        ready = [name for name, count in open_calls.items() if count == 0]
        for name in ready:
            function = waiting.pop(name)
            deepest = function.levels
            for callee, level in function.calls:
                deepest = max(deepest, level + 1 + levels[callee])
            if deepest > MAX_CALL_LEVELS:
                raise CallGraphError(
                    function.define.line,
                    function.define.column,
                    f"calls: {name} nests {deepest} levels, want at most {MAX_CALL_LEVELS}",
                )
            levels[name] = deepest
            ordered.append(function.define)
            for caller in callers[name]:
                open_calls[caller] -= 1
                if open_calls[caller] == 0:
                    ready.append(caller)
        if waiting:
            raise _recursion(waiting)
        return tuple(ordered)


def _recursion(waiting: dict[str, _Function]) -> CallGraphError:
    """Name one function that reaches itself; every waiting function calls a waiting one."""
    name = next(iter(waiting))
    visited: set[str] = set()
    while name not in visited:
        visited.add(name)
        name = next(callee for callee, _ in waiting[name].calls if callee in waiting)
    define = waiting[name].define
    return CallGraphError(define.line, define.column, f"recursion: {name} calls itself")


def own_expressions(statement: Statement) -> Iterator[Expression]:
    """Yield the expressions of a statement, without those of its nested blocks."""
    if isinstance(statement, Evaluate):
        yield statement.expression
    elif isinstance(statement, Assign | Augment):
        yield statement.value
        yield from _reads_of_target(statement.target)
        if isinstance(statement, Augment) and isinstance(statement.target, Name):
            yield statement.target
    elif isinstance(statement, If):
        for condition, _ in statement.arms:
            yield condition
    elif isinstance(statement, For):
        yield statement.iterable
    elif isinstance(statement, Return) and statement.value is not None:
        yield statement.value


def _reads_of_target(target: Expression) -> Iterator[Expression]:
    """Yield what must be evaluated to assign to a target: containers and keys, not variables."""
    if isinstance(target, Index):
        yield target.container
        yield target.key
    elif isinstance(target, TupleDisplay):
        for item in target.items:
            yield from _reads_of_target(item)
