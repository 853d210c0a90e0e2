"""Abstract syntax of the rule language.

What it is: one frozen class per construct, as the parser builds them. What it does not do: it
knows no meaning; names are resolved by the checker and the compiler. Specification: RULES.md,
"Grammar".

Each expression knows the depth of its own tree, so that the parser can refuse a deep one before
anything walks it recursively.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Node:
    """Something with a place in the source."""

    line: int
    """Line, from 1."""

    column: int
    """Column, from 1."""


@dataclass(frozen=True, slots=True)
class Expression(Node):
    """Something with a value."""

    depth: int = field(init=False, repr=False, compare=False)
    """Levels of this expression's tree; 1 for a leaf."""

    def __post_init__(self) -> None:
        deepest = 0
        for child in self.children():
            deepest = max(deepest, child.depth)
        object.__setattr__(self, "depth", deepest + 1)

    def children(self) -> Iterator["Expression"]:
        """The direct sub-expressions, in the order in which they stand in the source."""
        return iter(())


@dataclass(frozen=True, slots=True)
class Constant(Expression):
    """A literal: integer, string, True, False or None."""

    value: int | str | bool | None


@dataclass(frozen=True, slots=True)
class Name(Expression):
    """A variable, constant, function or built-in by name."""

    name: str


@dataclass(frozen=True, slots=True)
class ListDisplay(Expression):
    """``[a, b]``."""

    items: tuple[Expression, ...]

    def children(self) -> Iterator[Expression]:
        """The items."""
        return iter(self.items)


@dataclass(frozen=True, slots=True)
class TupleDisplay(Expression):
    """``(a, b)``, ``(a,)``, ``()`` or ``a, b``; also the target of an unpacking."""

    items: tuple[Expression, ...]

    def children(self) -> Iterator[Expression]:
        """The items."""
        return iter(self.items)


@dataclass(frozen=True, slots=True)
class DictDisplay(Expression):
    """``{k: v}``."""

    entries: tuple[tuple[Expression, Expression], ...]

    def children(self) -> Iterator[Expression]:
        """Each key, followed by its value."""
        for key, value in self.entries:
            yield key
            yield value


@dataclass(frozen=True, slots=True)
class ForClause(Node):
    """``for target in iterable`` inside a comprehension."""

    target: Expression
    iterable: Expression


@dataclass(frozen=True, slots=True)
class IfClause(Node):
    """``if condition`` inside a comprehension."""

    condition: Expression


@dataclass(frozen=True, slots=True)
class Comprehension(Expression):
    """``[value for …]`` (key is None) or ``{key: value for …}``."""

    key: Expression | None
    value: Expression
    clauses: tuple[ForClause | IfClause, ...]

    def children(self) -> Iterator[Expression]:
        """The expressions of the clauses, then the key, then the value."""
        for clause in self.clauses:
            if isinstance(clause, ForClause):
                yield clause.target
                yield clause.iterable
            else:
                yield clause.condition
        if self.key is not None:
            yield self.key
        yield self.value


@dataclass(frozen=True, slots=True)
class Index(Expression):
    """``container[key]``."""

    container: Expression
    key: Expression

    def children(self) -> Iterator[Expression]:
        """The container and the key."""
        yield self.container
        yield self.key


@dataclass(frozen=True, slots=True)
class Slice(Expression):
    """``container[start:stop]``."""

    container: Expression
    start: Expression | None
    stop: Expression | None

    def children(self) -> Iterator[Expression]:
        """The container and the bounds that are given."""
        yield self.container
        if self.start is not None:
            yield self.start
        if self.stop is not None:
            yield self.stop


@dataclass(frozen=True, slots=True)
class Call(Expression):
    """``function(a, name=b)``."""

    function: str
    positional: tuple[Expression, ...]
    keywords: tuple[tuple[str, Expression], ...]

    def children(self) -> Iterator[Expression]:
        """The arguments, in order."""
        yield from self.positional
        for _, value in self.keywords:
            yield value


@dataclass(frozen=True, slots=True)
class Unary(Expression):
    """``-x`` or ``not x``."""

    operator: str
    operand: Expression

    def children(self) -> Iterator[Expression]:
        """The operand."""
        yield self.operand


@dataclass(frozen=True, slots=True)
class Binary(Expression):
    """Arithmetic, comparison, membership, ``and`` and ``or``."""

    operator: str
    left: Expression
    right: Expression

    def children(self) -> Iterator[Expression]:
        """Both sides."""
        yield self.left
        yield self.right


@dataclass(frozen=True, slots=True)
class Conditional(Expression):
    """``chosen if condition else other``."""

    condition: Expression
    chosen: Expression
    other: Expression

    def children(self) -> Iterator[Expression]:
        """The chosen value, the condition and the other value."""
        yield self.chosen
        yield self.condition
        yield self.other


@dataclass(frozen=True, slots=True)
class Statement(Node):
    """Something that is executed."""


@dataclass(frozen=True, slots=True)
class Evaluate(Statement):
    """An expression on a line of its own."""

    expression: Expression


@dataclass(frozen=True, slots=True)
class Assign(Statement):
    """``target = value``."""

    target: Expression
    value: Expression


@dataclass(frozen=True, slots=True)
class Augment(Statement):
    """``target += value`` and its kin; `operator` is the arithmetic one, without ``=``."""

    target: Expression
    operator: str
    value: Expression


@dataclass(frozen=True, slots=True)
class If(Statement):
    """``if``, each ``elif``, and ``else``."""

    arms: tuple[tuple[Expression, tuple[Statement, ...]], ...]
    otherwise: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class For(Statement):
    """``for target in iterable:``."""

    target: Expression
    iterable: Expression
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Return(Statement):
    """``return`` with or without a value."""

    value: Expression | None


@dataclass(frozen=True, slots=True)
class Break(Statement):
    """``break``."""


@dataclass(frozen=True, slots=True)
class Continue(Statement):
    """``continue``."""


@dataclass(frozen=True, slots=True)
class Pass(Statement):
    """``pass``."""


@dataclass(frozen=True, slots=True)
class Parameter(Node):
    """A parameter of a function."""

    name: str


@dataclass(frozen=True, slots=True)
class Define(Statement):
    """``def name(parameters):``."""

    name: str
    parameters: tuple[Parameter, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Module:
    """A whole source file."""

    statements: tuple[Statement, ...]
