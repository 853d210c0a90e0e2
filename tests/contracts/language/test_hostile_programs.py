"""Programs that try to escape, to hang or to exhaust memory; each meets its own verdict."""

import pytest

from contracts.language import (
    AllocationLimitError,
    ArgumentError,
    CallGraphError,
    CheckError,
    DepthLimitError,
    DivisionByZeroError,
    ForbiddenError,
    FrozenValueError,
    IntegerBoundError,
    LanguageError,
    Limits,
    MissingItemError,
    ParseError,
    RuleFailedError,
    SizeLimitError,
    SourceLimitError,
    StepLimitError,
    TypeMismatchError,
    UnassignedError,
    UndefinedNameError,
    parse,
)

LIMITS = Limits(steps=200_000, allocation_bytes=8 << 20)


def function(*lines: str) -> str:
    return "def f():\n" + "".join(f"    {line}\n" for line in lines)


FORBIDDEN = [
    ("floating-point literal", function("return 1.5")),
    ("floating-point literal without integer part", function("return .5")),
    ("exponent literal", function("return 1e9")),
    ("true division", function("return 4 / 2")),
    ("augmented true division", function("x = 4", "x /= 2")),
    ("power", function("return 9 ** 9 ** 9")),
    ("left shift", function("return 1 << 1000000")),
    ("right shift", function("return 1 >> 1")),
    ("bitwise or", function("return 1 | 2")),
    ("bitwise complement", function("return ~1")),
    ("attribute", function("return f.__globals__")),
    ("method", function("x = {}", "return x.get(1)")),
    ("attribute of a literal", function('return "".join')),
    ("lambda", function("return lambda: 1")),
    ("load", 'load("other.star", "x")\n' + function("return 1")),
    ("while", function("while True:", "    pass")),
    ("import", "import os\n" + function("return 1")),
    ("try", function("try:", "    pass")),
    ("class", "class X:\n    pass\n"),
    ("yield", function("yield 1")),
    ("global", function("global x")),
    ("is", function("return 1 is 1")),
    ("walrus", function("return (x := 1)")),
    ("print", function('print("x")')),
    ("hash", function("return hash(1)")),
    ("str", function("return str(1)")),
    ("getattr", function('return getattr(1, "x")')),
    ("eval", function('return eval("1")')),
    ("open", function('return open("/etc/passwd")')),
    ("string formatting", function('return "%s" % 1')),
    ("nested function", function("def g():", "    return 1", "return g()")),
    ("function as a value", "def g():\n    return 1\n" + function("x = g", "return x")),
    ("built-in as a value", function("x = len", "return x")),
    ("call of a value", function("x = 1", "return x()")),
    ("call of an item", function("return [1][0]()")),
    ("call of a call", function("return f()()")),
    ("variable parameters", "def f(*args):\n    return args\n"),
    ("default of a parameter", "def f(x=[]):\n    return x\n"),
    ("variable arguments", function("return len(*[1])")),
    ("step of a slice", function("return [1, 2][0:2:1]")),
    ("semicolon", function("x = 1; y = 2")),
    ("line continuation", function("x = 1 + \\", "    2")),
    ("decorator", "@f\n" + function("return 1")),
]


@pytest.mark.parametrize("source", [row[1] for row in FORBIDDEN], ids=[row[0] for row in FORBIDDEN])
def test_forbidden_construct_is_refused_before_it_runs(source: str) -> None:
    with pytest.raises(ForbiddenError) as caught:
        parse(source.encode()).check()
    assert caught.value.line >= 1
    assert caught.value.column >= 1
    assert "forbidden: " in caught.value.message


NOT_A_PROGRAM = [
    ("tab", "def f():\n\treturn 1\n", ParseError),
    ("carriage return", "def f():\r\n    return 1\r\n", ParseError),
    ("zero byte", "def f():\n    return 1\0\n", ParseError),
    ("look-alike letter", "def f():\n    p\u0430yee = 1\n", ParseError),
    ("right-to-left override in a comment", "# \u202e\ndef f():\n    return 1\n", ParseError),
    ("unclosed string", function('return "abc'), ParseError),
    ("unclosed bracket", function("return [1, 2"), ParseError),
    ("stray bracket", function("return 1)"), ParseError),
    ("crossed brackets", function("return [(1])"), ParseError),
    ("unknown escape", function(r'return "\x41"'), ParseError),
    ("adjacent strings", function('return "a" "b"'), ParseError),
    ("adjacent strings without a space", function("return \"a\"'b'"), ParseError),
    ("leading zero", function("return 0123"), ParseError),
    ("digit separator", function("return 1_000"), ParseError),
    ("hexadecimal", function("return 0xff"), ParseError),
    ("number glued to a name", function("return 12abc"), ParseError),
    ("chained comparison", function("return 1 < 2 < 3"), ParseError),
    ("chained assignment", function("a = b = 1"), ParseError),
    ("not after an operator", function("return 1 + not 2"), ParseError),
    ("assignment to a literal", function("1 = 2"), ParseError),
    ("assignment to a call", function("len([]) = 2"), ParseError),
    ("assignment to an empty tuple", function("() = []"), ParseError),
    ("augmented tuple", function("a, b += 1, 2"), ParseError),
    ("position after keyword", function("return sorted(reverse=True, [1])"), ParseError),
    ("missing block", "def f():\nreturn 1\n", ParseError),
    ("unexpected indentation", function("x = 1", "    y = 2"), ParseError),
    ("dedent to nowhere", "def f():\n    if True:\n        x = 1\n      y = 2\n", ParseError),
    ("empty function", "def f():\n", ParseError),
    ("trailing comma without parentheses", function("return 1,"), ParseError),
    ("else without if", function("else:", "    pass"), ParseError),
    ("loop over an item target", function("for x[0] in [1]:", "    pass"), ParseError),
    ("loop over a tuple without parentheses", function("for x in 1, 2:", "    pass"), ParseError),
    ("source too long", "#" * 65_537, SourceLimitError),
    ("integer literal of 129 bits", function(f"return {1 << 127}"), SourceLimitError),
    ("integer literal of 60,000 digits", function("return " + "9" * 60_000), SourceLimitError),
    ("string literal too long", function('return "' + "x" * 4_097 + '"'), SourceLimitError),
    ("10,000 parentheses", function("return " + "(" * 10_000 + ")" * 10_000), SourceLimitError),
    ("10,000 brackets", function("return " + "[" * 10_000 + "]" * 10_000), SourceLimitError),
    ("10,000 minus signs", function("return " + "-" * 10_000 + "1"), SourceLimitError),
    ("10,000 nots", function("return " + "not " * 10_000 + "1"), SourceLimitError),
    ("10,000 sums", function("return 1" + " + 1" * 10_000), SourceLimitError),
    ("10,000 indexes", function("return x" + "[0]" * 10_000), SourceLimitError),
    ("5,000 conditionals", function("return 1" + " if 1 else 1" * 4_000), SourceLimitError),
    ("3,000 clauses", function("return [1" + " for x in y" * 3_000 + "]"), SourceLimitError),
    (
        "nested loop targets",
        function("for " + "(" * 100 + "x" + ")" * 100 + " in y:", "    pass"),
        SourceLimitError,
    ),
    (
        "100 nested blocks",
        "def f():\n" + "".join("  " * n + "if 1:\n" for n in range(1, 100)) + "  " * 100 + "pass\n",
        SourceLimitError,
    ),
    ("100 arguments", function("return len(" + "1," * 100 + ")"), SourceLimitError),
    (
        "100 parameters",
        f"def f({','.join(f'p{n}' for n in range(100))}):\n    pass\n",
        SourceLimitError,
    ),
]


@pytest.mark.parametrize(
    ("source", "error"), [row[1:] for row in NOT_A_PROGRAM], ids=[row[0] for row in NOT_A_PROGRAM]
)
def test_source_outside_the_grammar_does_not_parse(source: str, error: type[LanguageError]) -> None:
    with pytest.raises(LanguageError) as caught:
        parse(source.encode())
    assert type(caught.value) is error
    assert caught.value.line >= 1


def chain(length: int) -> str:
    """Functions that call each other one after the other, the last one first."""
    links = [f"def g{n}():\n    return g{n + 1}()\n" for n in range(length)]
    return "".join([*links, f"def g{length}():\n    return 1\n"])


REFUSED = [
    ("recursion", function("return f()"), CallGraphError),
    ("mutual recursion", "def f():\n    return g()\ndef g():\n    return f()\n", CallGraphError),
    ("recursion in a comprehension", function("return [f() for x in [1]]"), CallGraphError),
    ("2,000 calls deep", chain(1_500), CallGraphError),
    ("unknown name", function("return nothing"), UndefinedNameError),
    ("unknown function", function("return nothing()"), UndefinedNameError),
    ("constant before its definition", "A = B\nB = 1\n" + function("return A"), UndefinedNameError),
    ("call at module level", function("return 1") + "A = f()\n", CheckError),
    ("loop at module level", "for x in [1]:\n    pass\n", CheckError),
    ("condition at module level", "if True:\n    x = 1\n", CheckError),
    ("item assignment at module level", "A = [1]\nA[0] = 2\n", CheckError),
    ("augmented assignment at module level", "A = 1\nA += 1\n", CheckError),
    ("constant bound twice", "A = 1\nA = 2\n", CheckError),
    ("function bound twice", function("return 1") + function("return 2"), CheckError),
    ("built-in replaced", "def len(x):\n    return 0\n", CheckError),
    ("built-in replaced by a local", function("len = 1"), CheckError),
    ("constant hidden by a local", "A = 1\n" + function("A = 2"), CheckError),
    ("constant hidden by a parameter", "A = 1\ndef f(A):\n    return A\n", CheckError),
    (
        "constant hidden in a comprehension",
        "A = 1\n" + function("return [A for A in [1]]"),
        CheckError,
    ),
    ("parameter twice", "def f(x, x):\n    return x\n", CheckError),
    ("missing argument", "def g(x):\n    return x\n" + function("return g()"), CheckError),
    ("unknown keyword", "def g(x):\n    return x\n" + function("return g(y=1)"), CheckError),
    ("argument twice", "def g(x):\n    return x\n" + function("return g(1, x=1)"), CheckError),
    ("keyword twice", "def g(x):\n    return x\n" + function("return g(x=1, x=1)"), CheckError),
    ("unknown keyword of a built-in", function("return len(x=[])"), CheckError),
    ("key function", function("return sorted([1], key=1)"), CheckError),
    ("too many arguments of a built-in", function("return len([], [])"), CheckError),
    ("break outside of a loop", function("break"), CheckError),
    ("continue outside of a loop", function("continue"), CheckError),
    ("return outside of a function", "return 1\n", CheckError),
    ("statement without effect", function("1 + 1"), CheckError),
    ("name bound later", function("return [y for x in [1] if y for y in [1]]"), CheckError),
    ("name bound twice", function("return [x for x in [[1]] for x in x]"), CheckError),
    (
        "name leaks out of a comprehension",
        function("y = [x for x in [1]]", "return x"),
        UndefinedNameError,
    ),
]


@pytest.mark.parametrize(
    ("source", "error"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_program_that_breaks_a_static_rule_is_refused(
    source: str, error: type[LanguageError]
) -> None:
    with pytest.raises(LanguageError) as caught:
        parse(source.encode()).check()
    assert type(caught.value) is error
    assert caught.value.line >= 1


DOUBLE = ("x = [0]", "for i in range(100):")
RUNS_WILD = [
    ("loop of 2**31", function("for x in range(2147483647):", "    pass"), StepLimitError),
    (
        "nested loops",
        function(
            "for a in range(1000000):",
            "    for b in range(1000000):",
            "        for c in range(1000000):",
            "            pass",
        ),
        StepLimitError,
    ),
    (
        "nested comprehension",
        function("return [0 for a in range(99999) for b in range(99999) if False]"),
        StepLimitError,
    ),
    ("least of a huge range", function("return min(range(2147483647))"), StepLimitError),
    (
        "search in lists",
        function("x = [0] * 60000", "for i in x:", "    y = 1 in x"),
        StepLimitError,
    ),
    (
        "comparing lists",
        function("x = [0] * 60000", "for i in x:", "    y = x == x"),
        StepLimitError,
    ),
    ("sorting", function("for i in range(99):", "    x = sorted(range(9999))"), StepLimitError),
    (
        "result that unfolds to 2**14 items",
        function("x = []", "for i in range(14):", "    x = [x, x, x, x]", "return x"),
        StepLimitError,
    ),
    ("list doubled by sum", function(*DOUBLE, "    x = x + x"), AllocationLimitError),
    ("list doubled in place", function(*DOUBLE, "    x += x"), AllocationLimitError),
    ("list doubled by product", function(*DOUBLE, "    x *= 2"), AllocationLimitError),
    (
        "tuple doubled",
        function("x = (0,)", "for i in range(99):", "    x += x"),
        AllocationLimitError,
    ),
    ("list of a huge range", function("return list(range(2147483647))"), SizeLimitError),
    ("huge repetition", function("return [0] * 2147483647"), SizeLimitError),
    ("huger repetition", function(f"return [0] * {(1 << 127) - 1}"), SizeLimitError),
    ("huge string", function('return "x" * 2147483647'), SizeLimitError),
    ("string doubled", function('x = "x"', "for i in range(99):", "    x += x"), SizeLimitError),
    ("range beyond 31 bits", function("return len(range(2147483648))"), SizeLimitError),
    (
        "many strings",
        function("for i in range(99999):", '    x = "x" * 4096'),
        AllocationLimitError,
    ),
    (
        "many dict entries",
        function("x = {y: 0 for y in range(9999)}", "z = [dict(x) for y in range(99)]"),
        AllocationLimitError,
    ),
    (
        "many items by comprehension",
        function("return [x for x in range(9999999)]"),
        StepLimitError,
    ),
    (
        "key of one long string many times",
        function('x = ("x" * 4096,) * 9999', "return {x: 1}"),
        AllocationLimitError,
    ),
    ("square", function("x = 3", "for i in range(99):", "    x *= x"), IntegerBoundError),
    ("sum beyond 127 bits", function(f"return {(1 << 127) - 1} + 1"), IntegerBoundError),
    ("difference beyond 127 bits", function(f"return -{(1 << 127) - 1} - 2"), IntegerBoundError),
    (
        "negated least integer",
        function(f"x = -{(1 << 127) - 1} - 1", "return -x"),
        IntegerBoundError,
    ),
    ("absolute least integer", function(f"return abs(-{(1 << 127) - 1} - 1)"), IntegerBoundError),
    (
        "least integer by minus one",
        function(f"return (-{(1 << 127) - 1} - 1) // -1"),
        IntegerBoundError,
    ),
    ("division by zero", function("return 1 // 0"), DivisionByZeroError),
    ("remainder by zero", function("return 1 % 0"), DivisionByZeroError),
    ("range without a step", function("return range(0, 1, 0)"), DivisionByZeroError),
    (
        "list that contains itself, returned",
        function("x = []", "x += [x]", "return x"),
        DepthLimitError,
    ),
    (
        "lists that contain themselves, compared",
        function("x = []", "x += [x]", "y = []", "y += [y]", "return x == y"),
        DepthLimitError,
    ),
    (
        "lists that contain themselves, ordered",
        function("x = []", "x += [x]", "y = []", "y += [y]", "return x < y"),
        DepthLimitError,
    ),
    (
        "lists that contain themselves, sorted",
        function("x = []", "x += [x]", "return sorted([x, x])"),
        DepthLimitError,
    ),
    (
        "tuple nested 1,000 times, as a key",
        function("x = ()", "for i in range(1000):", "    x = (x,)", "return {x: 1}"),
        DepthLimitError,
    ),
    (
        "list changed while it is iterated",
        function("x = [1]", "for i in x:", "    x += [i]"),
        FrozenValueError,
    ),
    (
        "item set while the list is iterated",
        function("x = [1]", "for i in x:", "    x[0] = 2"),
        FrozenValueError,
    ),
    (
        "dict grown while it is iterated",
        function("x = {1: 1}", "for i in x:", "    x[i + 1] = 1"),
        FrozenValueError,
    ),
    (
        "list changed in its own comprehension",
        "def g(x):\n    x += [1]\n    return 1\n" + function("x = [1]", "return [g(x) for i in x]"),
        FrozenValueError,
    ),
    (
        "constant list extended",
        "A = [1]\ndef g(x):\n    x += [2]\n" + function("g(A)"),
        FrozenValueError,
    ),
    ("constant dict changed", "A = {}\n" + function("A[1] = 1"), FrozenValueError),
    ("list inside a constant", "A = ([1],)\n" + function("A[0][0] = 2"), FrozenValueError),
    ("list inside a constant dict", "A = {1: [1]}\n" + function("A[1][0] = 2"), FrozenValueError),
    ("local before assignment", function("if False:", "    x = 1", "return x"), UnassignedError),
    ("local before augmentation", function("x += 1"), UnassignedError),
    (
        "field of an unassigned local",
        function("if False:", "    x = {}", 'return x["a"]'),
        UnassignedError,
    ),
    ("missing key", function("return {1: 2}[2]"), MissingItemError),
    ("True is not the key 1", function("return {1: 2}[True]"), MissingItemError),
    ("index too high", function("return [1][1]"), MissingItemError),
    ("index too low", function("return [1][-2]"), MissingItemError),
    ("least of nothing", function("return min([])"), MissingItemError),
    ("fail", function('fail("no", 7)'), RuleFailedError),
    ("sum of a boolean", function("return True + 1"), TypeMismatchError),
    ("negated boolean", function("return -True"), TypeMismatchError),
    ("string plus integer", function('return "a" + 1'), TypeMismatchError),
    ("formatting of a variable", function('x = "%d"', "return x % 1"), TypeMismatchError),
    ("order of unlike values", function('return 1 < "a"'), TypeMismatchError),
    ("order of boolean and integer", function("return True < 2"), TypeMismatchError),
    ("order of None", function("return None < None"), TypeMismatchError),
    ("sorting unlike values", function('return sorted([1, "a"])'), TypeMismatchError),
    ("sorting dicts", function("return sorted([{}])"), TypeMismatchError),
    ("list as a key", function("return {[1]: 1}"), TypeMismatchError),
    ("list in a tuple as a key", function("return {(1, [2]): 1}"), TypeMismatchError),
    ("same key twice in a display", function("return {1: 1, 1: 2}"), TypeMismatchError),
    ("string is not iterable", function('for x in "abc":', "    pass"), TypeMismatchError),
    ("list of a string", function('return list("abc")'), TypeMismatchError),
    ("too few to unpack", function("a, b = [1]"), TypeMismatchError),
    ("too many to unpack", function("a, b = [1, 2, 3]"), TypeMismatchError),
    ("unpacked integer", function("a, b = 1"), TypeMismatchError),
    ("item of a tuple set", function("x = (1,)", "x[0] = 2"), TypeMismatchError),
    ("index is a boolean", function("return [1][False]"), TypeMismatchError),
    ("length of an integer", function("return len(1)"), TypeMismatchError),
    ("range of a boolean", function("return range(True)"), TypeMismatchError),
    ("fail with a list", function("fail([1])"), TypeMismatchError),
    ("range returned", function("return range(3)"), TypeMismatchError),
    ("dict of other keys returned", function("return {1: 2}"), TypeMismatchError),
    ("no such function", "def g():\n    return 1\n", ArgumentError),
    ("arguments missing", "def f(x):\n    return x\n", ArgumentError),
]


@pytest.mark.parametrize(
    ("source", "error"), [row[1:] for row in RUNS_WILD], ids=[row[0] for row in RUNS_WILD]
)
def test_program_that_runs_wild_is_stopped(source: str, error: type[LanguageError]) -> None:
    program = parse(source.encode())
    program.check()
    with pytest.raises(LanguageError) as caught:
        program.call("f", [], limits=LIMITS)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("source", "error"), [row[1:] for row in RUNS_WILD], ids=[row[0] for row in RUNS_WILD]
)
def test_verdict_on_a_wild_program_is_the_same_each_time(
    source: str, error: type[LanguageError]
) -> None:
    messages = set()
    for _ in range(2):
        with pytest.raises(error) as caught:
            parse(source.encode()).call("f", [], limits=LIMITS)
        messages.add(str(caught.value))
    assert len(messages) == 1
