"""Parser of the rule language: tokens to syntax tree by recursive descent.

What it is: the grammar of RULES.md, one method a production. What it does not do: it resolves no
names and evaluates nothing. Specification: RULES.md, "Grammar".

Its own recursion is bounded by the nesting limits, so no source can exhaust Python's stack.
"""

from contracts.language.errors import CheckError, ForbiddenError, ParseError, SourceLimitError
from contracts.language.limits import MAX_BLOCK_DEPTH, MAX_EXPRESSION_DEPTH, MAX_PARAMETERS
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
    Module,
    Name,
    Parameter,
    Pass,
    Return,
    Slice,
    Statement,
    TupleDisplay,
    Unary,
)
from contracts.language.tokenizer import Kind, Token, tokenize

# Binding strength of each binary operator; comparisons (3) do not chain.
_COMPARISON = 3
_STRENGTH = {
    "or": 1,
    "and": 2,
    **dict.fromkeys(["==", "!=", "<", ">", "<=", ">=", "in", "not in"], _COMPARISON),
    **dict.fromkeys(["+", "-"], 4),
    **dict.fromkeys(["*", "//", "%"], 5),
}
_UNARY_MINUS = 6
_AUGMENTED = {"+=": "+", "-=": "-", "*=": "*", "//=": "//", "%=": "%"}
_LITERALS = {"True": True, "False": False, "None": None}


def parse_module(source: bytes) -> Module:
    """Parse a whole source file.

    Args:
        source: the bytes of a rule.

    Raises:
        ParseError: the source is not a program of the grammar.
        ForbiddenError: it uses a part of Starlark that rules may not use.
        CheckError: it is a program of Starlark, but not of this subset.
    """
    return _Parser(tokenize(source)).module()


class _Parser:
    """A cursor over the tokens, and the nesting at the cursor."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._nesting = 0
        self._block_depth = 0

    # Cursor

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _advance(self) -> Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _at(self, *texts: str) -> bool:
        token = self._token
        return token.kind in {Kind.OPERATOR, Kind.KEYWORD} and token.text in texts

    def _at_kind(self, kind: Kind) -> bool:
        return self._token.kind is kind

    def _accept(self, text: str) -> bool:
        if self._at(text):
            self._next += 1
            return True
        return False

    def _expect(self, text: str) -> Token:
        if not self._at(text):
            raise self._unexpected(text)
        return self._advance()

    def _expect_kind(self, kind: Kind) -> Token:
        if self._token.kind is not kind:
            raise self._unexpected(kind.value)
        return self._advance()

    def _unexpected(self, want: str) -> ParseError:
        token = self._token
        shown = token.text if token.kind in {Kind.OPERATOR, Kind.KEYWORD, Kind.NAME} else ""
        return ParseError(token.line, token.column, f"got {shown or token.kind.value}, want {want}")

    def _enter(self) -> None:
        self._nesting += 1
        if self._nesting > MAX_EXPRESSION_DEPTH:
            raise self._too_deep(self._token)

    @staticmethod
    def _too_deep(at: Token | Expression) -> SourceLimitError:
        return SourceLimitError(
            at.line,
            at.column,
            f"nesting: got an expression deeper than {MAX_EXPRESSION_DEPTH} levels",
        )

    def _bounded(self, node: Expression) -> Expression:
        if node.depth > MAX_EXPRESSION_DEPTH:
            raise self._too_deep(node)
        return node

    # Statements

    def module(self) -> Module:
        statements: list[Statement] = []
        while not self._at_kind(Kind.END):
            statements.append(self._statement())
        return Module(tuple(statements))

    def _statement(self) -> Statement:
        if self._at_kind(Kind.INDENT):
            raise self._unexpected("a statement at the same indentation")
        if self._at("def"):
            return self._define()
        if self._at("if"):
            return self._if()
        if self._at("for"):
            return self._for()
        statement = self._simple()
        self._expect_kind(Kind.NEWLINE)
        return statement

    def _block(self) -> tuple[Statement, ...]:
        self._expect(":")
        if not self._at_kind(Kind.NEWLINE):
            statement = self._simple()
            self._expect_kind(Kind.NEWLINE)
            return (statement,)
        self._advance()
        self._block_depth += 1
        if self._block_depth > MAX_BLOCK_DEPTH:
            raise SourceLimitError(
                self._token.line,
                self._token.column,
                f"nesting: got a block deeper than {MAX_BLOCK_DEPTH} levels",
            )
        self._expect_kind(Kind.INDENT)
        statements: list[Statement] = []
        while not self._at_kind(Kind.DEDENT):
            statements.append(self._statement())
        self._advance()
        self._block_depth -= 1
        return tuple(statements)

    def _define(self) -> Statement:
        start = self._expect("def")
        name = self._expect_kind(Kind.NAME).text
        self._expect("(")
        parameters: list[Parameter] = []
        while not self._at(")"):
            if self._at("*"):
                raise ForbiddenError(
                    self._token.line, self._token.column, "forbidden: variable parameters"
                )
            token = self._expect_kind(Kind.NAME)
            parameters.append(Parameter(token.line, token.column, token.text))
            if self._at("="):
                raise ForbiddenError(
                    self._token.line, self._token.column, "forbidden: default of a parameter"
                )
            if not self._accept(","):
                break
        self._expect(")")
        if len(parameters) > MAX_PARAMETERS:
            raise SourceLimitError(
                start.line,
                start.column,
                f"parameters: got {len(parameters)}, want at most {MAX_PARAMETERS}",
            )
        return Define(start.line, start.column, name, tuple(parameters), self._block())

    def _if(self) -> Statement:
        start = self._expect("if")
        arms = [(self._test(), self._block())]
        while self._accept("elif"):
            condition = self._test()
            arms.append((condition, self._block()))
        otherwise = self._block() if self._accept("else") else ()
        return If(start.line, start.column, tuple(arms), otherwise)

    def _for(self) -> Statement:
        start = self._expect("for")
        target = self._loop_target()
        self._expect("in")
        iterable = self._test()
        return For(start.line, start.column, target, iterable, self._block())

    def _simple(self) -> Statement:
        start = self._token
        place = (start.line, start.column)
        if self._accept("return"):
            value = None if self._at_kind(Kind.NEWLINE) else self._expression()
            return Return(*place, value)
        for text, kind in (("break", Break), ("continue", Continue), ("pass", Pass)):
            if self._accept(text):
                return kind(*place)
        expression = self._expression()
        if self._accept("="):
            self._check_target(expression)
            return Assign(*place, expression, self._expression())
        if self._token.kind is Kind.OPERATOR and self._token.text in _AUGMENTED:
            operator = _AUGMENTED[self._advance().text]
            if not isinstance(expression, Name | Index):
                raise ParseError(*place, "target: want a name or an index before the operator")
            return Augment(*place, expression, operator, self._expression())
        return Evaluate(*place, expression)

    def _check_target(self, target: Expression) -> None:
        if isinstance(target, TupleDisplay) and target.items:
            for item in target.items:
                self._check_target(item)
        elif not isinstance(target, Name | Index):
            raise ParseError(
                target.line, target.column, "target: want a name, an index or a tuple of them"
            )

    def _loop_target(self) -> Expression:
        """One or more variables; a loop binds names only."""
        first = self._loop_variable()
        items = [first]
        while self._accept(","):
            items.append(self._loop_variable())
        if len(items) == 1:
            return first
        return self._bounded(TupleDisplay(first.line, first.column, tuple(items)))

    def _loop_variable(self) -> Expression:
        token = self._token
        if not self._accept("("):
            return Name(token.line, token.column, self._expect_kind(Kind.NAME).text)
        self._enter()
        target = self._loop_target()
        self._nesting -= 1
        self._expect(")")
        return target

    # Expressions

    def _expression(self) -> Expression:
        """A test, or a tuple of tests without parentheses."""
        first = self._test()
        if not self._at(","):
            return first
        items = [first]
        while self._accept(","):
            items.append(self._test())
        return self._bounded(TupleDisplay(first.line, first.column, tuple(items)))

    def _test(self) -> Expression:
        self._enter()
        chosen = self._binary(1)
        if self._accept("if"):
            condition = self._binary(1)
            self._expect("else")
            other = self._test()
            chosen = Conditional(chosen.line, chosen.column, condition, chosen, other)
        self._nesting -= 1
        return self._bounded(chosen)

    def _binary(self, weakest: int) -> Expression:
        """Operators at least as strong as `weakest`, by precedence climbing."""
        left = self._unary(weakest)
        compared = False
        while True:
            token = self._token
            operator = self._operator()
            strength = _STRENGTH.get(operator, 0)
            if strength < weakest:
                return left
            if strength == _COMPARISON:
                if compared:
                    raise ParseError(
                        token.line, token.column, f"comparison: {operator} does not chain"
                    )
                compared = True
            if operator == "%" and isinstance(left, Constant) and isinstance(left.value, str):
                raise ForbiddenError(token.line, token.column, "forbidden: string formatting")
            self._next += 2 if operator == "not in" else 1
            right = self._binary(strength + 1)
            left = self._bounded(Binary(token.line, token.column, operator, left, right))

    def _operator(self) -> str:
        token = self._token
        if token.kind not in {Kind.OPERATOR, Kind.KEYWORD}:
            return ""
        if token.text == "not":
            following = self._tokens[self._next + 1]
            is_membership = following.kind is Kind.KEYWORD and following.text == "in"
            return "not in" if is_membership else ""
        return token.text

    def _unary(self, weakest: int) -> Expression:
        token = self._token
        if not self._at("not", "-"):
            return self._primary()
        if token.text == "not" and weakest > _COMPARISON:
            raise self._unexpected("an expression; put not into parentheses here")
        self._enter()
        self._advance()
        # "not" binds more weakly than comparisons, "-" more strongly than products.
        strength = _COMPARISON if token.text == "not" else _UNARY_MINUS
        operand = self._binary(strength)
        self._nesting -= 1
        return self._bounded(Unary(token.line, token.column, token.text, operand))

    def _primary(self) -> Expression:
        node = self._operand()
        while True:
            token = self._token
            if self._accept("["):
                node = self._bounded(self._subscript(node, token))
            elif self._at("("):
                if not isinstance(node, Name):
                    raise ForbiddenError(token.line, token.column, "forbidden: call of a value")
                node = self._bounded(self._call(node))
            else:
                return node

    def _subscript(self, container: Expression, at: Token) -> Expression:
        start = None if self._at(":") else self._test()
        if start is not None and self._accept("]"):
            return Index(at.line, at.column, container, start)
        self._expect(":")
        stop = None if self._at("]", ":") else self._test()
        if self._at(":"):
            raise ForbiddenError(self._token.line, self._token.column, "forbidden: step of a slice")
        self._expect("]")
        return Slice(at.line, at.column, container, start, stop)

    def _call(self, function: Name) -> Expression:
        self._expect("(")
        positional: list[Expression] = []
        keywords: list[tuple[str, Expression]] = []
        while not self._at(")"):
            token = self._token
            if self._at("*"):
                raise ForbiddenError(token.line, token.column, "forbidden: variable arguments")
            following = self._tokens[self._next + 1]
            is_keyword = following.kind is Kind.OPERATOR and following.text == "="
            if token.kind is Kind.NAME and is_keyword:
                self._next += 2
                if any(token.text == name for name, _ in keywords):
                    raise CheckError(
                        token.line, token.column, f"argument: {token.text} is given twice"
                    )
                keywords.append((token.text, self._test()))
            elif keywords:
                raise ParseError(
                    token.line, token.column, "argument: got a position after a keyword"
                )
            else:
                positional.append(self._test())
            if not self._accept(","):
                break
        self._expect(")")
        count = len(positional) + len(keywords)
        if count > MAX_PARAMETERS:
            raise SourceLimitError(
                function.line,
                function.column,
                f"arguments: got {count}, want at most {MAX_PARAMETERS}",
            )
        place = (function.line, function.column)
        return Call(*place, function.name, tuple(positional), tuple(keywords))

    def _operand(self) -> Expression:
        token = self._token
        place = (token.line, token.column)
        if token.kind is Kind.INTEGER:
            self._advance()
            return Constant(*place, int(token.text))
        if token.kind is Kind.STRING:
            self._advance()
            return Constant(*place, token.text)
        if token.kind is Kind.NAME:
            self._advance()
            return Name(*place, token.text)
        if token.kind is Kind.KEYWORD and token.text in _LITERALS:
            self._advance()
            return Constant(*place, _LITERALS[token.text])
        if self._accept("("):
            return self._parenthesis(token)
        if self._accept("["):
            return self._list(token)
        if self._accept("{"):
            return self._dict(token)
        raise self._unexpected("an expression")

    def _parenthesis(self, at: Token) -> Expression:
        if self._accept(")"):
            return TupleDisplay(at.line, at.column, ())
        first = self._test()
        if self._accept(")"):
            return first
        items = self._rest_of_items(first, ")")
        return self._bounded(TupleDisplay(at.line, at.column, items))

    def _list(self, at: Token) -> Expression:
        if self._accept("]"):
            return ListDisplay(at.line, at.column, ())
        first = self._test()
        if self._at("for"):
            clauses = self._clauses("]")
            return self._bounded(Comprehension(at.line, at.column, None, first, clauses))
        if self._accept("]"):
            return self._bounded(ListDisplay(at.line, at.column, (first,)))
        items = self._rest_of_items(first, "]")
        return self._bounded(ListDisplay(at.line, at.column, items))

    def _rest_of_items(self, first: Expression, closing: str) -> tuple[Expression, ...]:
        items = [first]
        while self._accept(","):
            if self._at(closing):
                break
            items.append(self._test())
        self._expect(closing)
        return tuple(items)

    def _dict(self, at: Token) -> Expression:
        entries: list[tuple[Expression, Expression]] = []
        while not self._accept("}"):
            key = self._test()
            self._expect(":")
            entries.append((key, self._test()))
            if len(entries) == 1 and self._at("for"):
                clauses = self._clauses("}")
                return self._bounded(Comprehension(at.line, at.column, *entries[0], clauses))
            if not self._accept(","):
                self._expect("}")
                break
        return self._bounded(DictDisplay(at.line, at.column, tuple(entries)))

    def _clauses(self, closing: str) -> tuple[ForClause | IfClause, ...]:
        clauses: list[ForClause | IfClause] = []
        while not self._accept(closing):
            token = self._token
            if self._accept("for"):
                target = self._loop_target()
                self._expect("in")
                clauses.append(ForClause(token.line, token.column, target, self._binary(1)))
            else:
                self._expect("if")
                clauses.append(IfClause(token.line, token.column, self._binary(1)))
            if len(clauses) > MAX_EXPRESSION_DEPTH:
                raise self._too_deep(token)
        return tuple(clauses)
