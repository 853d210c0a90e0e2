"""Tokens of the rule language, with Starlark's indentation rules.

What it is: source bytes in, a list of tokens out. What it does not do: it knows no grammar.
Specification: RULES.md, "Tokens".

Only printable ASCII and newlines are source, so that no engine can disagree about the length,
the order or the look of a text.
"""

from dataclasses import dataclass
from enum import Enum

from contracts.language.errors import ForbiddenError, ParseError, SourceLimitError
from contracts.language.limits import INTEGER_MAX, MAX_SOURCE_BYTES, MAX_STRING_CHARACTERS

KEYWORDS = frozenset(
    (
        *("and", "break", "continue", "def", "elif", "else", "for", "if", "in", "not", "or"),
        *("pass", "return", "True", "False", "None"),
    )
)

FORBIDDEN_WORDS = frozenset(
    (
        *("as", "assert", "async", "await", "class", "del", "except", "finally", "from"),
        *("global", "import", "is", "lambda", "load", "nonlocal", "raise", "try", "while"),
        *("with", "yield"),
    )
)
"""Reserved in Starlark; rules may not use them at all."""

# Longest first, so that the first match is the longest one.
_OPERATORS = (
    *("//=", "==", "!=", "<=", ">=", "+=", "-=", "*=", "%=", "//"),
    *("+", "-", "*", "%", "<", ">", "=", "(", ")", "[", "]", "{", "}", ",", ":"),
)
_FORBIDDEN_OPERATORS = (
    *("<<=", ">>=", "**=", "**", "<<", ">>", "&=", "|=", "^=", "/=", ":=", "->", "..."),
    *("/", "&", "|", "^", "~", "@", ";", "\\"),
)
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"', "'": "'"}
_DIGITS = frozenset("0123456789")
_NAME_START = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_NAME_PART = _NAME_START | _DIGITS
_MAX_DIGITS = len(str(INTEGER_MAX))
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Kind(Enum):
    """What a token is."""

    NAME = "name"
    KEYWORD = "keyword"
    INTEGER = "integer"
    STRING = "string"
    OPERATOR = "operator"
    NEWLINE = "end of line"
    INDENT = "deeper indentation"
    DEDENT = "shallower indentation"
    END = "end of source"


@dataclass(frozen=True, slots=True)
class Token:
    """One token and its place."""

    kind: Kind
    text: str
    """The name, keyword, operator, digits, or the string's value."""
    line: int
    column: int


def tokenize(source: bytes) -> list[Token]:
    """Split a source into tokens.

    Args:
        source: at most `MAX_SOURCE_BYTES` of printable ASCII and newlines.

    Returns:
        The tokens, ending with one of kind END.

    Raises:
        SourceLimitError: the source or a literal is too large.
        ForbiddenError: a token of Starlark that rules may not use.
        ParseError: anything else that is not a token.
    """
    if len(source) > MAX_SOURCE_BYTES:
        raise SourceLimitError(
            1, 1, f"source: got {len(source)} bytes, want at most {MAX_SOURCE_BYTES}"
        )
    line, column = 1, 1
    for byte in source:
        if byte == 0x0A:
            line, column = line + 1, 1
            continue
        if not 0x20 <= byte <= 0x7E:
            raise ParseError(
                line, column, f"source: got byte 0x{byte:02x}, want printable ASCII or newline"
            )
        column += 1
    return _Scanner(source.decode("ascii")).scan()


class _Scanner:
    """One pass over the source, left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._line = 1
        self._line_start = 0
        self._indents = [0]
        self._brackets: list[str] = []
        self._tokens: list[Token] = []

    def scan(self) -> list[Token]:
        text = self._text
        at_line_start = True
        while self._position < len(text):
            if at_line_start and not self._brackets:
                at_line_start = False
                if not self._indentation():
                    at_line_start = True
                    continue
            character = text[self._position]
            if character == "\n":
                if not self._brackets:
                    self._add(Kind.NEWLINE, "", self._column())
                    at_line_start = True
                self._next_line()
            elif character == " ":
                self._position += 1
            elif character == "#":
                self._skip_comment()
            else:
                self._token(character)
        self._finish()
        return self._tokens

    def _column(self) -> int:
        return self._position - self._line_start + 1

    def _add(self, kind: Kind, text: str, column: int) -> None:
        self._tokens.append(Token(kind, text, self._line, column))

    def _next_line(self) -> None:
        self._position += 1
        self._line += 1
        self._line_start = self._position

    def _skip_comment(self) -> None:
        end = self._text.find("\n", self._position)
        self._position = len(self._text) if end < 0 else end

    def _indentation(self) -> bool:
        """Read the indentation of a line; False if the line is blank or a comment."""
        text = self._text
        while self._position < len(text) and text[self._position] == " ":
            self._position += 1
        if self._position == len(text):
            return False
        if text[self._position] == "#":
            self._skip_comment()
        if self._position == len(text):
            return False
        if text[self._position] == "\n":
            self._next_line()
            return False
        width = self._position - self._line_start
        if width > self._indents[-1]:
            self._indents.append(width)
            self._add(Kind.INDENT, "", width + 1)
        while width < self._indents[-1]:
            self._indents.pop()
            self._add(Kind.DEDENT, "", width + 1)
        if width != self._indents[-1]:
            raise ParseError(
                self._line, width + 1, f"indentation: got {width}, want {self._indents[-1]}"
            )
        return True

    def _token(self, character: str) -> None:
        if character in _NAME_START:
            self._word()
        elif character in _DIGITS:
            self._number()
        elif character in "\"'":
            self._string(character)
        else:
            self._operator()

    def _word(self) -> None:
        start, column = self._position, self._column()
        while self._position < len(self._text) and self._text[self._position] in _NAME_PART:
            self._position += 1
        word = self._text[start : self._position]
        if word in FORBIDDEN_WORDS:
            raise ForbiddenError(self._line, column, f"forbidden: {word}")
        self._add(Kind.KEYWORD if word in KEYWORDS else Kind.NAME, word, column)

    def _number(self) -> None:
        start, column = self._position, self._column()
        while self._position < len(self._text) and self._text[self._position] in _DIGITS:
            self._position += 1
        digits = self._text[start : self._position]
        following = self._text[self._position : self._position + 1]
        if following == "." or (following in {"e", "E"}):
            raise ForbiddenError(self._line, column, "forbidden: floating-point number")
        if following and following in _NAME_PART:
            raise ParseError(self._line, column, "integer: want decimal digits only")
        if digits[0] == "0" and len(digits) > 1:
            raise ParseError(self._line, column, "integer: got a leading zero, want none")
        if len(digits) > _MAX_DIGITS or int(digits) > INTEGER_MAX:
            raise SourceLimitError(
                self._line, column, f"integer: got {len(digits)} digits, want at most 2**127 - 1"
            )
        self._add(Kind.INTEGER, digits, column)

    def _string(self, quote: str) -> None:
        line, column = self._line, self._column()
        text = self._text
        is_long = text.startswith(quote * 3, self._position)
        delimiter = quote * 3 if is_long else quote
        self._position += len(delimiter)
        parts: list[str] = []
        while not text.startswith(delimiter, self._position):
            character = text[self._position : self._position + 1]
            if not character or (character == "\n" and not is_long):
                raise ParseError(line, column, "string: got no closing quote")
            if character == "\\":
                parts.append(self._escape())
            else:
                parts.append(character)
                if character == "\n":
                    self._next_line()
                else:
                    self._position += 1
        self._position += len(delimiter)
        if len(parts) > MAX_STRING_CHARACTERS:
            raise SourceLimitError(
                line,
                column,
                f"string: got {len(parts)} characters, want at most {MAX_STRING_CHARACTERS}",
            )
        if text[self._position : self._position + 1] in {'"', "'"}:
            raise ParseError(line, column, "string: want an operator between two strings")
        self._tokens.append(Token(Kind.STRING, "".join(parts), line, column))

    def _escape(self) -> str:
        escaped = self._text[self._position + 1 : self._position + 2]
        if escaped not in _ESCAPES:
            raise ParseError(
                self._line, self._column(), "string: want one of the escapes \\n \\t \\\\ \\\" \\'"
            )
        self._position += 2
        return _ESCAPES[escaped]

    def _operator(self) -> None:
        column = self._column()
        for operator in _FORBIDDEN_OPERATORS:
            # "//" and "//=" begin with the forbidden "/".
            if self._text.startswith(operator, self._position) and not (
                operator == "/" and self._text.startswith("//", self._position)
            ):
                raise ForbiddenError(self._line, column, f"forbidden: operator {operator}")
        if self._text[self._position] == ".":
            following = self._text[self._position + 1 : self._position + 2]
            what = "floating-point number" if following in _DIGITS else "attribute"
            raise ForbiddenError(self._line, column, f"forbidden: {what}")
        for operator in _OPERATORS:
            if self._text.startswith(operator, self._position):
                self._bracket(operator, column)
                self._add(Kind.OPERATOR, operator, column)
                self._position += len(operator)
                return
        raise ParseError(
            self._line, column, f"source: got character {self._text[self._position]!r}"
        )

    def _bracket(self, operator: str, column: int) -> None:
        if operator in _CLOSING:
            self._brackets.append(_CLOSING[operator])
        elif operator in {")", "]", "}"}:
            if not self._brackets or self._brackets[-1] != operator:
                raise ParseError(self._line, column, f"bracket: got {operator} without its opening")
            self._brackets.pop()

    def _finish(self) -> None:
        if self._brackets:
            raise ParseError(
                self._line, self._column(), f"bracket: got end of source, want {self._brackets[-1]}"
            )
        if self._tokens and self._tokens[-1].kind is not Kind.NEWLINE:
            self._add(Kind.NEWLINE, "", self._column())
        for _ in self._indents[1:]:
            self._add(Kind.DEDENT, "", 1)
        self._add(Kind.END, "", self._column())
