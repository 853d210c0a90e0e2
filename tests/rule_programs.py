"""Random programs of the rule language: most of them run to their end, some fail on the way."""

import random
import re

KINDS = ("int", "str", "bool", "list", "dict", "tuple")
INTEGERS = ("0", "1", "2", "3", "7", "-1", "255", "9999999999", str((1 << 126) - 1))
STRINGS = ('""', '"a"', '"b"', '"key"', '"long text"')
OPERATORS = {
    "@arithmetic": ("+", "-", "*", "//", "%"),
    "@extreme": ("min", "max"),
    "@junction": ("and", "or"),
    "@equality": ("==", "!="),
    "@order": ("<", ">", "<=", ">="),
    "@membership": ("in", "not in"),
    "@place": ("0", "1", "-1"),
    "@part": ("1:", ":2", "-2:", ":"),
    "@integer": INTEGERS,
    "@string": STRINGS,
    "@few": ("0", "2", "3", "5"),
    "@field": ("'a'", "'a'", "'n'"),
}
LEAVES = {
    "int": INTEGERS[:7],
    "str": STRINGS,
    "bool": ("True", "False"),
    "list": ("[]", "[1]", "[3, 1, 2]", "[5]"),
    "dict": ("{}", "{'a': 1}", "{1: 2, 'b': 3}", "TABLE"),
    "tuple": ("(1, 'a')", "(2, 'b')", "()"),
}
FORMS = {
    "int": (
        "@integer",
        "(<int> @arithmetic <int>)",
        "(<int> + <int> - <int>)",
        "(<int> + <int> + <int>)",
        "@extreme(<int>, <int>)",
        "@extreme([<int>] + <list>)",
        "@extreme(<int>, <int>, 4)",
        "len(<list>)",
        "len(<str>)",
        "len(<dict>)",
        "len(<tuple>)",
        "len(<call>)",
        "len(<call>)",
        "(-<int>)",
        "abs(<int>)",
        "(<int> if <bool> else <int>)",
        "(<int> @junction <int>)",
        "[<int>, <int>][@place]",
        "(<int>, <int>)[@place]",
        "LIMIT",
        "TABLE['a']",
        "rows[0][@field]",
    ),
    "str": (
        "@string",
        "(<str> + <str>)",
        "(<str> + ':' + <str> + ':' + <str>)",
        "(<str> + <str> + <str>)",
        "(<str> * @few)",
        "(<str> if <bool> else <str>)",
        "<str>[:@few]",
        "rows[0]['s']",
        "NAMES[@place]",
    ),
    "bool": (
        "(<any> @equality <any>)",
        "(<int> @equality <int>)",
        "(<str> @equality <str>)",
        "(<int> @order <int>)",
        "(<str> @order <str>)",
        "(<tuple> == <tuple>)",
        "(<list> @order <list>)",
        "(<bool> @junction <bool>)",
        "(<int> < <int> @junction rows[0]['s'] == <str>)",
        "(not <any>)",
        "(not <bool>)",
        "bool(<any>)",
        "(<str> @membership TABLE)",
        "(<int> in <list>)",
        "(<tuple> in <dict>)",
        "(<str> in <str>)",
    ),
    "list": (
        "[<int>]",
        "[<int>, <int>]",
        "(<list> + <list>)",
        "(<list> * 2)",
        "<list>[@part]",
        "sorted(<list>)",
        "sorted(<list>, reverse=True)",
        "list(<list>)",
        "list(range(@few))",
        "[<inner> for i in <list>]",
        "[<inner> for i in <list> if <bool>]",
        "[<inner> for i in <list> for j in numbers]",
        "[len(<call>) for i in numbers]",
        "[i + j for i, j in zip(<list>, <list>)]",
        "[i + j for i, j in enumerate(<list>)]",
        "[i for i, j in sorted([(1, 'a'), (<int>, 'b')])]",
        "[row['n'] for row in rows if row['n'] > <int>]",
    ),
    "dict": (
        "{}",
        "{'a': <any>, 'b': <int>}",
        "{<int>: <any>, 'c': 2}",
        "{(<int>, <str>): <any>}",
        "{row['s']: <any> for row in rows}",
        "{(i, 'a'): <any> for i in <list>}",
        "dict(<dict>)",
        "dict([(<str>, <any>)])",
    ),
    "tuple": (
        "(<int>, <str>)",
        "(<tuple> + (<int>,))",
        "tuple(<list>)",
        "<tuple>[:2]",
    ),
}


class ProgramMaker:
    """Writes one program from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._names: dict[str, str] = {}
        self._count = 0
        self._functions: list[str] = []

    def program(self) -> str:
        """A module whose function ``f`` takes a list of dicts, a list of integers, and a string."""
        lines = ["TABLE = {'a': 1, 'b': [1, 2, (3, 'c')]}", "LIMIT = 5", "NAMES = ('a', 'b')"]
        for number in range(self._random.randrange(3)):
            self._names = {"x": self._pick(KINDS), "y": "int", "rows": "rows", "numbers": "list"}
            lines += [
                f"def g{number}(x, y, rows, numbers):",
                *self._block(1, loop=False, statements=3),
            ]
            lines += [f"    return {self.expression(self._pick(KINDS))}"]
            self._functions.append(f"g{number}")
        self._names = {"rows": "rows", "numbers": "list", "word": "str"}
        lines += ["def f(rows, numbers, word):"]
        lines += self._block(1, loop=False, statements=self._random.randrange(3, 9))
        shown = [
            f"[(k, {name}[k]) for k in {name}]" if kind == "dict" else name
            for name, kind in sorted(self._names.items())
        ]
        lines += [f"    return [{', '.join(shown)}]"]
        return "\n".join(lines) + "\n"

    def _pick(self, items: tuple[str, ...] | list[str]) -> str:
        return items[self._random.randrange(len(items))]

    def _name_of(self, kind: str) -> str | None:
        names = [name for name, known in self._names.items() if known == kind]
        if names and self._random.random() < 0.995:
            return self._pick(names)
        return self._pick(list(self._names)) if self._random.random() < 0.004 else None

    # Statements

    def _block(self, depth: int, *, loop: bool, statements: int) -> list[str]:
        lines: list[str] = []
        for _ in range(statements):
            lines += self._statement(depth, loop=loop)
        return lines

    def _statement(self, depth: int, *, loop: bool) -> list[str]:
        space = "    " * depth
        choice = self._random.randrange(14 if depth < 4 else 8)
        kind = self._pick(KINDS)
        if choice < 3:
            value = self.expression(kind)
            return [f"{space}{self._assigned(kind)} = {value}"]
        if choice == 3:
            name = self._name_of("list")
            operator = self._random.random()
            if name and operator < 0.7:
                return [f"{space}{name} += {self.expression('list')}"]
            return [f"{space}{name or 'numbers'}[0] = {self.expression(self._pick(KINDS))}"]
        if choice == 4:
            name = self._name_of("int")
            operator = self._pick(("+", "+", "-", "*", "//", "%"))
            return [f"{space}{name} {operator}= {self.expression('int')}"] if name else []
        if choice == 5:
            name = self._name_of("dict")
            key = self.expression(self._pick(("str", "str", "int", "tuple")), 2)
            return [f"{space}{name}[{key}] = {self.expression(kind)}"] if name else []
        if choice == 6:
            pair = f"{self.expression('int')}, {self.expression('str')}"
            one, two = self._assigned("int"), self._assigned("str")
            return [f"{space}{one}, {two} = {self._pick([pair, f'[{pair}]', f'({pair})'])}"]
        if choice == 7:
            if loop and self._random.random() < 0.3:
                return [
                    f"{space}if {self.expression('bool')}:",
                    f"{space}    {self._pick(('break', 'continue', 'return rows'))}",
                ]
            value = self.expression("str")
            return [f"{space}{self._assigned('str')} = {value}"]
        if choice < 11:
            return self._if(depth, loop=loop)
        return self._for(depth)

    def _assigned(self, kind: str) -> str:
        names = [name for name, known in self._names.items() if known == kind]
        if names and self._random.random() < 0.5:
            name = self._pick(names)
        elif self._random.random() < 0.02:
            name = self._pick(("numbers", "rows"))
        else:
            self._count += 1
            name = f"v{self._count}"
        self._names[name] = kind
        return name

    def _if(self, depth: int, *, loop: bool) -> list[str]:
        space = "    " * depth
        before = dict(self._names)
        lines = [f"{space}if {self.expression(self._pick(('bool', 'bool', 'int')))}:"]
        lines += self._block(depth + 1, loop=loop, statements=2) or [f"{space}    pass"]
        if self._random.random() < 0.3:
            self._names = dict(before)
            lines += [f"{space}elif {self.expression('bool')}:", f"{space}    pass"]
        if self._random.random() < 0.5:
            self._names = dict(before)
            lines += [f"{space}else:"]
            lines += self._block(depth + 1, loop=loop, statements=1) or [f"{space}    pass"]
        self._names = before
        return lines

    def _for(self, depth: int) -> list[str]:
        space = "    " * depth
        before = dict(self._names)
        target, iterable = self._loop()
        lines = [f"{space}for {target} in {iterable}:"]
        lines += self._block(depth + 1, loop=True, statements=2) or [f"{space}    pass"]
        self._names = before
        return lines

    def _loop(self) -> tuple[str, str]:
        choice = self._random.randrange(6)
        items = self.expression("list", 2)
        dictionary = self._pick(["{'a': 1, 'b': 2}", "TABLE", "rows[0]"])
        if choice == 0:
            self._names["row"] = "row"
            return "row", "rows"
        if choice == 1:
            self._names.update(row="row", number="int")
            return "row, number", "zip(rows, numbers)"
        if choice == 2:
            self._names.update(place="int", item="int")
            return "place, item", f"enumerate({items})"
        if choice == 3:
            self._names["place"] = "int"
            return "place", f"range({self._random.randrange(5)})"
        if choice == 4:
            self._names["key"] = "str"
            return "key", dictionary
        self._names["item"] = "int"
        return "item", items

    # Expressions

    def expression(self, kind: str, depth: int = 3) -> str:
        """An expression that is mostly of this kind."""
        if self._random.random() < 0.002:
            kind = self._pick(KINDS)
        name = self._name_of(kind)
        if name is not None and self._random.random() < (0.4 if depth else 0.8):
            return name
        if kind == "rows":
            return "rows"
        if kind == "row":
            return "rows[0]"
        return self._fill(self._pick(FORMS[kind]), depth - 1) if depth > 0 else self._leaf(kind)

    def _leaf(self, kind: str) -> str:
        if kind == "list" and "numbers" in self._names and self._random.random() < 0.3:
            return "numbers[:]"
        return self._pick(LEAVES[kind])

    def _fill(self, form: str, depth: int) -> str:
        """Put an expression for each kind in angle brackets, an operator for each `@`."""
        made: list[str] = []
        for piece in re.split(r"(<\w+>|@\w+)", form):
            if piece.startswith("@"):
                made.append(self._pick(OPERATORS[piece]))
            elif piece == "<any>":
                made.append(self.expression(self._pick(KINDS), depth))
            elif piece == "<call>":
                made.append(self._call(depth))
            elif piece == "<inner>":
                outer = dict(self._names)
                self._names["i"] = "int"
                made.append(self.expression("int", depth))
                self._names = outer
            elif piece.startswith("<"):
                made.append(self.expression(piece[1:-1], depth))
            else:
                made.append(piece)
        return "".join(made)

    def _call(self, depth: int) -> str:
        if not self._functions:
            return self.expression("list", depth)
        name = self._pick(self._functions)
        one, other = self.expression("int", depth), self.expression(self._pick(KINDS), depth)
        if self._random.random() < 0.3:
            return f"[{name}(y={one}, numbers=[], x={other}, rows=rows)]"
        return f"[{name}({other}, {one}, rows, numbers)]"
