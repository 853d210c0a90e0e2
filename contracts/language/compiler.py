"""Compiler of the rule language: a checked module becomes Python closures.

What it is: one closure a node, made anew for each call of a rule, so that calls share nothing.
What it does not do: it checks nothing that `checker` has checked. Specification: RULES.md,
"Semantics" and "Steps".

A closure takes the frame: a list whose first slot is the value to return and whose other slots
are the local variables. Plain integers and strings are handled in the closures; everything else,
and every error, goes through `operations`.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

from contracts.language.builtin_functions import BUILTINS
from contracts.language.checker import (
    CheckedModule,
    names_of_block,
    names_of_target,
)
from contracts.language.costs import cost_of_block, cost_of_statement, nodes_of
from contracts.language.errors import TypeMismatchError, UnassignedError
from contracts.language.expressions import compile_binary, compile_index
from contracts.language.iteration import Fill, Frame, compile_clause
from contracts.language.limits import (
    CONTAINER_BYTES,
    ENTRY_BYTES,
    ITEM_BYTES,
    Meter,
    Place,
    check_item_count,
)
from contracts.language.locks import lock, unlock
from contracts.language.operations import (
    ARITHMETIC,
    extend,
    get_item,
    get_slice,
    negate,
    set_item,
)
from contracts.language.syntax import (
    Assign,
    Augment,
    Binary,
    Break,
    Call,
    Comprehension,
    Conditional,
    Constant,
    Continue,
    Define,
    DictDisplay,
    Evaluate,
    Expression,
    For,
    ForClause,
    If,
    IfClause,
    Index,
    ListDisplay,
    Name,
    Return,
    Slice,
    Statement,
    TupleDisplay,
    Unary,
)
from contracts.language.values import (
    Internal,
    freeze,
    items_of,
    key_of,
    mismatch,
)

Run: TypeAlias = Callable[[Frame], Internal]
Signal: TypeAlias = int
Execute: TypeAlias = Callable[[Frame], Signal]
Store: TypeAlias = Callable[[Frame, Internal], None]
Routine: TypeAlias = tuple[Callable[[list[Internal]], Internal], tuple[str, ...]]
"""A compiled function and the names of its parameters."""

# What executing a statement tells the block around it.
_NEXT = 0
_BREAK = 1
_CONTINUE = 2
_RETURN = 3
_LEAVES_LOOP = frozenset([_BREAK, _RETURN])

_UNSET = object()


def evaluate_constants(checked: CheckedModule, meter: Meter) -> dict[str, Internal]:
    """Evaluate and freeze the constants of a module, anew for each call of a rule.

    Args:
        checked: what the checker returned.
        meter: pays for the constants, and keeps their locks.

    Raises:
        EvalError: a constant fails to evaluate.
    """
    constants: dict[str, Internal] = {}
    for statement in checked.constants:
        scope = _Scope(constants, {}, meter, {})
        run = scope.expression(statement.value)
        frame = scope.new_frame()
        meter.step(cost_of_statement(statement), statement)
        value = run(frame)
        freeze(value, statement, meter)
        for name in names_of_target(statement.target):
            constants[name.name] = value
    return constants


def compile_functions(
    checked: CheckedModule, constants: dict[str, Internal], meter: Meter
) -> dict[str, Routine]:
    """Compile the functions of a module.

    Args:
        checked: what the checker returned.
        constants: the module's constants.
        meter: pays for the functions while they run.

    Returns:
        Each function by name, with its parameters; it takes its arguments in order.
    """
    routines: dict[str, Routine] = {}
    for define in checked.functions:
        routines[define.name] = _compile_function(define, constants, routines, meter)
    return routines


def _compile_function(
    define: Define,
    constants: dict[str, Internal],
    routines: dict[str, Routine],
    meter: Meter,
) -> Routine:
    parameters = [parameter.name for parameter in define.parameters]
    scope = _Scope(constants, routines, meter, dict.fromkeys(parameters))
    for name in names_of_block(define.body):
        scope.declare(name.name)
    body = scope.block(define.body)
    locals_unset = scope.new_frame()[1 + len(parameters) :]

    def routine(arguments: list[Internal]) -> Internal:
        frame = [None, *arguments, *locals_unset]
        body(frame)
        return frame[0]

    return routine, tuple(parameters)


class _Scope:
    """Compiles one function, or one constant; knows the slot of each local name."""

    def __init__(
        self,
        constants: dict[str, Internal],
        routines: dict[str, Routine],
        meter: Meter,
        parameters: dict[str, None],
    ) -> None:
        self._constants = constants
        self._routines = routines
        self._meter = meter
        self._slots = {name: slot for slot, name in enumerate(parameters, 1)}
        self._always_set = set(self._slots.values())
        self._size = 1 + len(self._slots)

    def declare(self, name: str) -> int:
        """Return the slot of a local name, making one if it is new."""
        if name not in self._slots:
            self._slots[name] = self._size
            self._size += 1
        return self._slots[name]

    def new_frame(self) -> Frame:
        """Return a frame in which nothing is set."""
        return [None, *[_UNSET] * (self._size - 1)]

    # Statements

    def block(self, statements: Sequence[Statement]) -> Execute:
        """Compile a block; entering it costs the nodes of all its own statements."""
        meter = self._meter
        at = statements[0]
        cost = cost_of_block(statements)
        runs = tuple(self.statement(statement) for statement in statements)
        if len(runs) == 1:
            only = runs[0]

            def execute_one(frame: Frame) -> Signal:
                meter.steps_left -= cost
                if meter.steps_left < 0:
                    meter.step(0, at)
                return only(frame)

            return execute_one

        def execute(frame: Frame) -> Signal:
            meter.steps_left -= cost
            if meter.steps_left < 0:
                meter.step(0, at)
            for run in runs:
                signal = run(frame)
                if signal:
                    return signal
            return _NEXT

        return execute

    def statement(self, statement: Statement) -> Execute:
        """Compile one statement."""
        if isinstance(statement, Assign):
            return self._assign(statement)
        if isinstance(statement, Augment):
            return self._augment(statement)
        if isinstance(statement, If):
            return self._if(statement)
        if isinstance(statement, For):
            return self._for(statement)
        if isinstance(statement, Return):
            return self._return(statement)
        if isinstance(statement, Evaluate):
            return self._evaluate(statement)
        signal = _NEXT
        if isinstance(statement, Break):
            signal = _BREAK
        elif isinstance(statement, Continue):
            signal = _CONTINUE
        return lambda _frame: signal

    def _evaluate(self, statement: Evaluate) -> Execute:
        run = self.expression(statement.expression)

        def execute(frame: Frame) -> Signal:
            run(frame)
            return _NEXT

        return execute

    def _return(self, statement: Return) -> Execute:
        if statement.value is None:
            return lambda _frame: _RETURN
        run = self.expression(statement.value)

        def execute(frame: Frame) -> Signal:
            frame[0] = run(frame)
            return _RETURN

        return execute

    def _assign(self, statement: Assign) -> Execute:
        run = self.expression(statement.value)
        if isinstance(statement.target, Name):
            slot = self._slots[statement.target.name]

            def execute_name(frame: Frame) -> Signal:
                frame[slot] = run(frame)
                return _NEXT

            return execute_name
        store = self._store(statement.target)

        def execute(frame: Frame) -> Signal:
            store(frame, run(frame))
            return _NEXT

        return execute

    def _store(self, target: Expression) -> Store:
        """Compile an assignment target: a name, an item, or a tuple of targets."""
        if isinstance(target, Name):
            slot = self._slots[target.name]

            def store_name(frame: Frame, value: Internal) -> None:
                frame[slot] = value

            return store_name
        if isinstance(target, Index):
            return self._store_item(target)
        return self._store_tuple(target)

    def _store_item(self, target: Index) -> Store:
        container = self.expression(target.container)
        key = self.expression(target.key)
        meter = self._meter

        def store(frame: Frame, value: Internal) -> None:
            set_item(container(frame), key(frame), value, target, meter)

        return store

    def _store_tuple(self, target: Expression) -> Store:
        stores = tuple(self._store(item) for item in target.children())
        count = len(stores)
        slots = [self._slots[item.name] for item in target.children() if isinstance(item, Name)]
        pair = (slots[0], slots[1]) if count == 2 and len(slots) == 2 else None

        def store(frame: Frame, value: Internal) -> None:
            if type(value) is not tuple and type(value) is not list:
                mismatch(target, "unpacking", value)
            if len(value) != count:
                raise TypeMismatchError(
                    target.line, target.column, f"unpacking: got {len(value)} items, want {count}"
                )
            if pair:
                frame[pair[0]], frame[pair[1]] = value
                return
            # A list that is unpacked into its own items must not change on the way.
            for one, item in zip(stores, tuple(value), strict=True):
                one(frame, item)

        return store

    def _augment(self, statement: Augment) -> Execute:
        operator = statement.operator
        operate = ARITHMETIC[operator]
        meter = self._meter
        value = self.expression(statement.value)

        def combine(old: Internal, new: Internal) -> Internal:
            if operator == "+" and type(old) is list:
                extend(old, new, statement, meter)
                return old
            return operate(old, new, statement, meter)

        if isinstance(statement.target, Name):
            slot = self._slots[statement.target.name]
            read = self.expression(statement.target)

            def execute_name(frame: Frame) -> Signal:
                frame[slot] = combine(read(frame), value(frame))
                return _NEXT

            return execute_name
        container_of, key_at = (self.expression(part) for part in statement.target.children())

        def execute(frame: Frame) -> Signal:
            container = container_of(frame)
            key = key_at(frame)
            old = get_item(container, key, statement, meter)
            set_item(container, key, combine(old, value(frame)), statement, meter)
            return _NEXT

        return execute

    def _if(self, statement: If) -> Execute:
        arms = tuple((self.expression(test), self.block(body)) for test, body in statement.arms)
        otherwise = self.block(statement.otherwise) if statement.otherwise else None
        if len(arms) == 1:
            (condition, body), *_ = arms

            def execute_one(frame: Frame) -> Signal:
                if condition(frame):
                    return body(frame)
                return otherwise(frame) if otherwise else _NEXT

            return execute_one

        def execute(frame: Frame) -> Signal:
            for test, chosen in arms:
                if test(frame):
                    return chosen(frame)
            return otherwise(frame) if otherwise else _NEXT

        return execute

    def _for(self, statement: For) -> Execute:
        iterable = self.expression(statement.iterable)
        store = self._store(statement.target)
        slot = self._slots[statement.target.name] if isinstance(statement.target, Name) else 0
        body = self.block(statement.body)
        meter = self._meter

        def execute(frame: Frame) -> Signal:
            iterated = iterable(frame)
            locked = lock(iterated, meter.locks)
            signal = _NEXT
            for item in items_of(iterated, statement, meter, "for"):
                if slot:
                    frame[slot] = item
                else:
                    store(frame, item)
                signal = body(frame)
                if signal in _LEAVES_LOOP:
                    break
            # An error leaves the lock: it ends the call, and with it all unfrozen values.
            if locked is not None:
                unlock(locked, meter.locks)
            return _RETURN if signal == _RETURN else _NEXT

        return execute

    # Expressions

    def expression(self, node: Expression) -> Run:
        """Compile one expression."""
        compile_node: Callable[[Any], Run] = self._COMPILE[type(node)].__get__(self)
        return compile_node(node)

    def _constant(self, node: Constant) -> Run:
        value = node.value
        return lambda _frame: value

    def _name(self, node: Name) -> Run:
        name = node.name
        if name not in self._slots:
            value = self._constants[name]
            return lambda _frame: value
        slot = self._slots[name]
        if slot in self._always_set:
            return lambda frame: frame[slot]

        def run(frame: Frame) -> Internal:
            value = frame[slot]
            if value is _UNSET:
                raise UnassignedError(
                    node.line, node.column, f"name: {name} is read before it is assigned"
                )
            return value

        return run

    def _list(self, node: ListDisplay) -> Run:
        items = tuple(self.expression(item) for item in node.items)
        size_bytes = CONTAINER_BYTES + ITEM_BYTES * len(items)
        meter = self._meter

        def run(frame: Frame) -> Internal:
            meter.bytes_left -= size_bytes
            if meter.bytes_left < 0:
                meter.allocate(0, node)
            return [item(frame) for item in items]

        return run

    def _tuple(self, node: TupleDisplay) -> Run:
        items = tuple(self.expression(item) for item in node.items)
        size_bytes = CONTAINER_BYTES + ITEM_BYTES * len(items)
        meter = self._meter

        def run(frame: Frame) -> Internal:
            meter.bytes_left -= size_bytes
            if meter.bytes_left < 0:
                meter.allocate(0, node)
            return tuple([item(frame) for item in items])

        return run

    def _dict(self, node: DictDisplay) -> Run:
        entries = tuple(
            (self.expression(key), self.expression(value), key) for key, value in node.entries
        )
        size_bytes = CONTAINER_BYTES + ENTRY_BYTES * len(entries)
        meter = self._meter

        def run(frame: Frame) -> Internal:
            meter.allocate(size_bytes, node)
            made: dict[str, Internal] = {}
            for key, value, at in entries:
                text = key_of(key(frame), at, meter)
                if text in made:
                    raise TypeMismatchError(at.line, at.column, "dict: the same key stands twice")
                made[text] = value(frame)
            return made

        return run

    def _comprehension(self, node: Comprehension) -> Run:
        outer = self._slots
        # The comprehension's names get slots of their own, which hide outer ones.
        self._slots = dict(outer)
        clauses: list[tuple[Run, Store | None, Place]] = []
        for clause in node.clauses:
            if isinstance(clause, IfClause):
                clauses.append((self.expression(clause.condition), None, clause))
                continue
            iterable = self.expression(clause.iterable)
            clauses.append((iterable, self._bind(clause), clause))
        key = None if node.key is None else self.expression(node.key)
        value = self.expression(node.value)
        self._slots = outer
        meter = self._meter

        def put(frame: Frame, made: Any) -> None:
            if key is None:
                check_item_count(len(made) + 1, node)
                meter.allocate(ITEM_BYTES, node)
                made.append(value(frame))
            else:
                set_item(made, key(frame), value(frame), node, meter)

        fill: Fill = put
        for run, store, at in reversed(clauses):
            fill = compile_clause(run, store, at, fill, nodes_of(node), meter)

        def comprehend(frame: Frame) -> Internal:
            meter.allocate(CONTAINER_BYTES, node)
            made: Any = [] if key is None else {}
            fill(frame, made)
            return made

        return comprehend

    def _bind(self, clause: ForClause) -> Store:
        for name in names_of_target(clause.target):
            self._slots[name.name] = self._size
            self._always_set.add(self._size)
            self._size += 1
        return self._store(clause.target)

    def _index(self, node: Index) -> Run:
        container, key = self.expression(node.container), self.expression(node.key)
        slot = self._slots.get(node.container.name) if isinstance(node.container, Name) else None
        return compile_index(node, container, key, slot, self._meter)

    def _slice(self, node: Slice) -> Run:
        container = self.expression(node.container)
        start = None if node.start is None else self.expression(node.start)
        stop = None if node.stop is None else self.expression(node.stop)
        meter = self._meter

        def run(frame: Frame) -> Internal:
            return get_slice(
                container(frame),
                None if start is None else start(frame),
                None if stop is None else stop(frame),
                node,
                meter,
            )

        return run

    def _call(self, node: Call) -> Run:
        keywords = {name: self.expression(value) for name, value in node.keywords}
        positional = tuple(self.expression(value) for value in node.positional)
        meter = self._meter
        if node.function in BUILTINS:
            builtin = BUILTINS[node.function]
            if not keywords:
                return lambda frame: builtin(
                    [argument(frame) for argument in positional], {}, node, meter
                )

            def run_builtin(frame: Frame) -> Internal:
                arguments = [argument(frame) for argument in positional]
                named = {name: argument(frame) for name, argument in keywords.items()}
                return builtin(arguments, named, node, meter)

            return run_builtin
        routine, names = self._routines[node.function]
        order = (*range(len(positional)), *[names.index(name) for name in keywords])
        runs = (*positional, *keywords.values())
        if order == tuple(range(len(order))):
            return lambda frame: routine([argument(frame) for argument in runs])

        def run(frame: Frame) -> Internal:
            arguments = [None] * len(order)
            for place, argument in zip(order, runs, strict=True):
                arguments[place] = argument(frame)
            return routine(arguments)

        return run

    def _unary(self, node: Unary) -> Run:
        operand = self.expression(node.operand)
        if node.operator == "not":
            return lambda frame: not operand(frame)
        return lambda frame: negate(operand(frame), node)

    def _binary(self, node: Binary) -> Run:
        left, right = self.expression(node.left), self.expression(node.right)
        return compile_binary(node, left, right, self._meter)

    def _conditional(self, node: Conditional) -> Run:
        condition = self.expression(node.condition)
        chosen, other = self.expression(node.chosen), self.expression(node.other)
        return lambda frame: chosen(frame) if condition(frame) else other(frame)

    _COMPILE: ClassVar[dict[type[Expression], Any]] = {
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
