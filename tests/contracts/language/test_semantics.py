"""What the language means: one row per fact, expectation last."""

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.language import (
    AllocationLimitError,
    ArgumentError,
    CallGraphError,
    LanguageError,
    Limits,
    SizeLimitError,
    StepLimitError,
    parse,
)

LIMITS = Limits(steps=1_000_000)


def run(source: str, *arguments: Any) -> Any:
    return parse(source.encode()).call("f", list(arguments), limits=LIMITS).value


def evaluate(expression: str) -> Any:
    return run(f"def f():\n    return {expression}\n")


def exactly(value: Any) -> Any:
    """The value with its types, since Python's True equals 1 and [True] equals [1]."""
    if isinstance(value, list | tuple):
        return type(value), [exactly(item) for item in value]
    if isinstance(value, dict):
        return dict, [(key, exactly(item)) for key, item in value.items()]
    return type(value), value


EXPRESSIONS = [
    # Integers: floor division, and a remainder with the sign of the divisor.
    ("7 // 2", 3),
    ("-7 // 2", -4),
    ("7 // -2", -4),
    ("-7 // -2", 3),
    ("7 % 3", 1),
    ("-7 % 3", 2),
    ("7 % -3", -2),
    ("-7 % -3", -1),
    ("0 // -5", 0),
    ("1 - 2 - 3", -4),
    ("2 + 3 * 4", 14),
    ("(2 + 3) * 4", 20),
    ("2 * 3 // 4 * 5", 5),
    ("-2 * -3", 6),
    ("- -5", 5),
    ("abs(-5) + abs(5)", 10),
    ("170141183460469231731687303715884105727", (1 << 127) - 1),
    ("-170141183460469231731687303715884105727 - 1", -(1 << 127)),
    # Types stay apart.
    ("True == 1", False),
    ("False == 0", False),
    ("1 in [True]", False),
    ("[True] == [1]", False),
    ("{1: 2} == {True: 2}", False),
    ("[1] == (1,)", False),
    ("1 == 'a'", False),
    ("1 != 'a'", True),
    ("None == None", True),
    ("None == False", False),
    ("len({1: 'a', True: 'b', (1,): 'c', (True,): 'd', None: 'e'})", 5),
    ("{(1, 'a'): 5}[(1, 'a')]", 5),
    ("{(1, (2, None)): 5}[(1, (2, None))]", 5),
    ("('a', 1) in {('a', True): 5}", False),
    ("(('a',), 1) in {(('a',), True): 5}", False),
    # Truth, and the values of "and" and "or".
    (
        "[bool(x) for x in [0, 1, -1, '', 'a', [], [0], (), (0,), {}, {0: 0}, None, True, False]]",
        [False, True, True, False, True, False, True, False, True, False, True, False, True, False],
    ),
    ("bool()", False),
    ("0 or 'a'", "a"),
    ("1 and 0 and fail('never')", 0),
    ("1 or fail('never')", 1),
    ("not 0", True),
    ("not 1 == 2", True),
    ("(not 1) == 2", False),
    ("not not 'a'", True),
    ("1 if True else fail('never')", 1),
    ("fail('never') if [] else 2", 2),
    ("1 if 0 else 2 if 0 else 3", 3),
    ("True and False or True", True),
    # Order.
    ("'a' < 'b' and 'B' < 'a' and '' < 'a' and 'a' < 'aa'", True),
    ("(1, 'a') < (1, 'b') and (1,) < (1, 0) and not (1, 2) < (1, 2)", True),
    ("[1, 2] <= [1, 2] and [2] > [1, 9]", True),
    ("False < True", True),
    ("(1, 2) < (2, 'a')", True),
    # Membership.
    ("'b' in 'abc' and '' in 'a' and 'd' not in 'abc'", True),
    ("2 in (1, 2) and 3 not in [1, 2]", True),
    ("1 in {1: 0} and 0 not in {1: 0}", True),
    ("[1] in [[1]]", True),
    ("3 in range(5) and 5 not in range(5) and 3 not in range(0, 9, 2)", True),
    # Sequences.
    ("[1] + [2, 3]", [1, 2, 3]),
    ("(1,) + ()", (1,)),
    ("'ab' + 'c'", "abc"),
    ("[0] * 3 + 2 * [1]", [0, 0, 0, 1, 1]),
    ("'ab' * 2 + 'c' * -1", "abab"),
    ("(1, 2) * 0", ()),
    ("[1, 2, 3][-1]", 3),
    ("'abc'[1] + 'abc'[-1]", "bc"),
    ("range(5, 0, -2)[1]", 3),
    ("[1, 2, 3, 4][1:3]", [2, 3]),
    ("[1, 2, 3][:-1] + [1, 2, 3][2:] + [1, 2][5:] + [1, 2][-9:1]", [1, 2, 3, 1]),
    ("(1, 2, 3)[1:] + (1, 2, 3)[:1]", (2, 3, 1)),
    ("'abc'[1:]", "bc"),
    ("[1, 2][:]", [1, 2]),
    ("(1)", 1),
    ("(1,)", (1,)),
    ("()", ()),
    ("[1, 2,]", [1, 2]),
    # Built-ins.
    ("[len('abc'), len([1]), len(()), len({1: 1}), len(range(1, 10, 4))]", [3, 1, 0, 1, 3]),
    ("list(range(3)) + list((1, 2)) + list({7: 1, 5: 2}) + list()", [0, 1, 2, 1, 2, 7, 5]),
    ("tuple([1, 2]) + tuple(range(1)) + tuple()", (1, 2, 0)),
    ("list(range(5, 0, -2)) + list(range(0)) + list(range(3, 1))", [5, 3, 1]),
    ("range(0, 5, 2) == range(0, 6, 2)", True),
    ("min(3, 1, 2) + max([3, 1, 2]) + min((5,)) + max({4: 0, 9: 1})", 18),
    ("[min('b', 'a'), max((1, 'a'), (1, 'b'))[1]]", ["a", "b"]),
    ("sorted([3, 1, 2])", [1, 2, 3]),
    ("sorted(['b', 'a', 'B'], reverse=True)", ["b", "a", "B"]),
    ("sorted({'b': 1, 'a': 2})", ["a", "b"]),
    ("sorted([(1, 'b'), (1, 'a'), (0, 'c')])", [(0, "c"), (1, "a"), (1, "b")]),
    ("sorted([(1, (2, 3)), (1, (2, 1)), (0,)])", [(0,), (1, (2, 1)), (1, (2, 3))]),
    ("sorted([[2], [1, 5], []])", [[], [1, 5], [2]]),
    ("sorted([True, False])", [False, True]),
    ("sorted([])", []),
    ("enumerate(['a', 'b'])", [(0, "a"), (1, "b")]),
    ("enumerate(['a', 'b'], 5)", [(5, "a"), (6, "b")]),
    ("zip([1, 2, 3], ['a', 'b'])", [(1, "a"), (2, "b")]),
    ("zip([1, 2])", [(1,), (2,)]),
    ("zip({1: 2}, range(9))", [(1, 0)]),
    ("dict([('a', 1), ['b', 2], ('a', 3)])", {"a": 3, "b": 2}),
    ("dict({'x': 1}) == {'x': 1} and dict() == {}", True),
    ("{'a': 1, 'b': 2} == {'b': 2, 'a': 1}", True),
    # Comprehensions.
    ("[x * y for x in range(3) for y in range(3) if x != y]", [0, 0, 0, 2, 0, 2]),
    ("[(x, y) for x, y in [(1, 2), [3, 4]]]", [(1, 2), (3, 4)]),
    ("[a + c for a, (b, c) in [(1, (2, 3))] if b == 2]", [4]),
    ("{x: x * x for x in range(3)}[2]", 4),
    ("{'k' * x: x for x in [1, 2, 1]}", {"k": 1, "kk": 2}),
    ("[[y for y in range(x)] for x in range(3)]", [[], [0], [0, 1]]),
    ("[x for x in [1, 2, 3] if x > 1 if x < 3]", [2]),
    # Strings.
    (r"'a\n\t\\\'\"'", "a\n\t\\'\""),
    ("'''a\nb'''", "a\nb"),
    ('"it\'s"', "it's"),
]


@pytest.mark.parametrize(
    ("expression", "want"), EXPRESSIONS, ids=[expression[:40] for expression, _ in EXPRESSIONS]
)
def test_expression_has_its_value(expression: str, want: Any) -> None:
    assert exactly(evaluate(expression)) == exactly(want)


STATEMENTS = [
    ("swap", "a, b = 1, 2\na, b = b, a\nreturn [a, b]", [2, 1]),
    ("nested unpacking", "a, (b, c) = 1, [2, 3]\nreturn a + b * c", 7),
    ("unpacking into items", "x = [1, 2]\nx[0], x[1] = x[1], x[0]\nreturn x", [2, 1]),
    ("unpacking a list into itself", "x = [1, 2]\nx[1], x[0] = x\nreturn x", [2, 1]),
    ("list is shared", "x = [1]\ny = x\ny += [2]\nreturn x", [1, 2]),
    ("sum makes a new list", "x = [1]\ny = x\ny = y + [2]\nreturn x", [1]),
    ("product makes a new list", "x = [1]\ny = x\ny *= 2\nreturn [x, y]", [[1], [1, 1]]),
    ("tuple is rebound", "x = (1,)\ny = x\ny += (2,)\nreturn [x, y]", [(1,), (1, 2)]),
    ("list extended by itself", "x = [1, 2]\nx += x\nreturn x", [1, 2, 1, 2]),
    ("list extended by a tuple", "x = []\nx += (1, 2)\nreturn x", [1, 2]),
    ("list extended by a range", "x = []\nx += range(2)\nreturn x", [0, 1]),
    ("list extended by a dict", "x = []\nx += {7: 1}\nreturn x", [7]),
    ("item augmented", "x = {'a': 1}\nx['a'] += 2\nreturn x", {"a": 3}),
    ("list in a dict extended", "x = {'a': []}\nx['a'] += [1]\nreturn x", {"a": [1]}),
    ("other augmentations", "x = 17\nx -= 2\nx *= 3\nx //= 2\nx %= 7\nreturn x", 1),
    ("negative index set", "x = [1, 2]\nx[-1] = 5\nreturn x", [1, 5]),
    (
        "insertion order",
        "x = {'b': 1, 'a': 2}\nx['b'] = 3\nx['c'] = 4\nreturn list(x)",
        ["b", "a", "c"],
    ),
    (
        "break",
        "y = 0\nfor x in range(9):\n  if x == 3:\n    break\n  y += x\nreturn [x, y]",
        [3, 3],
    ),
    ("continue", "y = 0\nfor x in range(5):\n  if x % 2:\n    continue\n  y += x\nreturn y", 6),
    (
        "break leaves one loop",
        "y = 0\nfor a in [1, 2, 3]:\n  for b in [0, 1]:\n    if b: break\n    y += 1\nreturn y",
        3,
    ),
    (
        "return out of loops",
        "for a in range(3):\n  for b in range(3):\n    if a * b == 2: return [a, b]\n",
        [1, 2],
    ),
    ("no return", "x = 1", None),
    ("bare return", "return", None),
    ("pass", "pass\nreturn 1", 1),
    ("elif", "x = 5\nif x < 3: return 'a'\nelif x < 6: return 'b'\nelse: return 'c'", "b"),
    ("else", "if False:\n  return 1\nelif 0:\n  return 2\nelse:\n  return 3", 3),
    (
        "loop over a dict gives keys",
        "y = []\nfor x in {'a': 1, 2: 3}:\n  y += [x]\nreturn y",
        ["a", 2],
    ),
    ("loop over pairs", "y = 0\nfor a, b in [(1, 2), (3, 4)]:\n  y += a * b\nreturn y", 14),
    (
        "loop over nested targets",
        "y = 0\nfor a, (b, c) in [(1, (2, 3))]:\n  y += a + b + c\nreturn y",
        6,
    ),
    ("loop over a tuple", "y = 0\nfor x in (1, 2):\n  y += x\nreturn y", 3),
    ("loop variable survives", "for x in [1, 2]: pass\nreturn x", 2),
    ("iteration ends, change is free", "x = [1]\nfor y in x: pass\nx += [2]\nreturn x", [1, 2]),
    ("change is free after break", "x = [1]\nfor y in x: break\nx += [2]\nreturn x", [1, 2]),
    (
        "change is free after a comprehension",
        "x = [1]\ny = [z for z in x]\nx += [2]\nreturn x",
        [1, 2],
    ),
    (
        "lock is counted",
        "x = [1, 2]\ny = 0\nfor a in x:\n  for b in x: y += 1\nx += [y]\nreturn x",
        [1, 2, 4],
    ),
    (
        "comprehension keeps outer name",
        "x = 5\ny = [x for x in [1, 2]]\nreturn [x, y]",
        [5, [1, 2]],
    ),
    ("first iterable is outer", "x = [1, 2]\ny = [x for x in x]\nreturn [x, y]", [[1, 2], [1, 2]]),
    ("comprehension reads outer", "n = 3\nreturn [n * x for x in range(n)]", [0, 3, 6]),
    ("brackets join lines", "x = [\n1,\n      2,\n]\nreturn (x[0] +\n  x[1])", 3),
    ("comments and blank lines", "x = 1 # one\n\n    # deeper\n# shallower\nreturn x", 1),
]


@pytest.mark.parametrize(
    ("body", "want"), [row[1:] for row in STATEMENTS], ids=[row[0] for row in STATEMENTS]
)
def test_statements_have_their_effect(body: str, want: Any) -> None:
    source = "def f():\n" + "".join(f"    {line}\n" for line in body.split("\n"))
    assert exactly(run(source)) == exactly(want)


def test_functions_take_positions_and_keywords_in_any_order_of_definition() -> None:
    source = """
'''A module may begin with its description.'''
LIMIT = 2 * 5
TABLE = {"a": [1, (2, "b")]}

def f(n):
    '''So may a function.'''
    return [g(n, 1), g(b=n, a=1), g(1, b=n), LIMIT, TABLE["a"][1][1], h()]

def h():
    return len([g(1, 2)])

def g(a, b):
    return a - b
"""
    assert run(source, 5) == [4, -4, -4, 10, "b", 1]


def test_arguments_and_result_share_nothing_with_the_caller() -> None:
    source = "def f(x):\n    x['a'] += [2]\n    y = [1]\n    return [x, y, y]\n"
    argument = {"a": [1]}
    result = run(source, argument)
    assert argument == {"a": [1]}
    assert result == [{"a": [1, 2]}, [1], [1]]
    result[1].append(2)
    assert result[2] == [1]


def test_calls_of_one_program_share_nothing() -> None:
    program = parse(b"A = {}\ndef f(x):\n    return [len(A), x]\n")
    first = program.call("f", [1], limits=LIMITS)
    second = program.call("f", [1], limits=LIMITS)
    assert first == second


@pytest.mark.parametrize(
    "argument",
    [
        1.5,
        1 << 127,
        -(1 << 127) - 1,
        "é",
        "\0",
        "\x7f",
        "x" * 4_097,
        b"bytes",
        {1: 2},
        {"é": 1},
        [[1.5]],
        {"a": 1.5},
        ({"a": [1 << 127]},),
        {1, 2},
        range(3),
    ],
)
def test_argument_that_is_no_value_of_the_language_is_refused(argument: Any) -> None:
    with pytest.raises(ArgumentError):
        run("def f(x):\n    return 1\n", argument)


def test_argument_that_contains_itself_is_refused() -> None:
    argument: list[Any] = []
    argument.append(argument)
    with pytest.raises(ArgumentError):
        run("def f(x):\n    return 1\n", argument)


def test_error_points_at_line_and_column() -> None:
    with pytest.raises(SizeLimitError) as caught:
        run("def f():\n    x = 1\n    y = [0,\n         'x' * 5000]\n")
    assert (caught.value.line, caught.value.column) == (4, 14)
    assert str(caught.value).startswith("line 4, column 14: string: got 5000 characters")


def test_steps_are_counted_to_the_last_one() -> None:
    program = parse(b"def f(n):\n    x = 0\n    for i in range(n):\n        x += i\n    return x\n")
    steps = program.call("f", [10], limits=LIMITS).steps
    assert steps == 38
    assert program.call("f", [10], limits=Limits(steps=steps)).value == 45
    with pytest.raises(StepLimitError):
        program.call("f", [10], limits=Limits(steps=steps - 1))
    assert program.call("f", [11], limits=LIMITS).steps - steps == 3


def test_allocation_is_a_total_and_not_a_peak() -> None:
    program = parse(b"def f(n):\n    for i in range(n):\n        x = [i]\n    return 0\n")
    assert program.call("f", [10], limits=Limits(allocation_bytes=2_000)).value == 0
    with pytest.raises(AllocationLimitError):
        program.call("f", [20], limits=Limits(allocation_bytes=2_000))


def test_largest_list_is_bounded_however_it_grows() -> None:
    generous = Limits(steps=10**9, allocation_bytes=10**12)
    for body in (
        "x = [0] * 4194304\n    x += [1]",
        "x = [0] * 4194304\n    x = x + [1]",
        "x = [0] * 4194305",
        "x = list(range(4194305))",
        "x = (0,) * 4194305",
    ):
        with pytest.raises(SizeLimitError):
            parse(f"def f():\n    {body}\n".encode()).call("f", [], limits=generous)


def nested_calls(length: int) -> bytes:
    """Functions that call each other, each call inside 27 nested lists."""
    links = ["def g0():\n    return 1\n"]
    for number in range(1, length + 1):
        value = "[" * 27 + f"g{number - 1}()" + "]" * 27
        links.append(f"def g{number}():\n    x = {value}\n    return 1\n")
    return "".join([*links, f"def f():\n    return g{length}()\n"]).encode()


def test_deepest_allowed_calls_run_on_half_of_the_stack() -> None:
    deepest = 0
    while True:
        try:
            parse(nested_calls(deepest + 1)).check()
        except CallGraphError:
            break
        deepest += 1
    assert deepest >= 3
    program = parse(nested_calls(deepest))

    def nest(levels: int) -> Any:
        return nest(levels - 1) if levels else program.call("f", [], limits=LIMITS).value

    assert sys.getrecursionlimit() == 1_000
    assert nest(500) == 1


@settings(deadline=None, max_examples=100)
@given(st.integers(-(2**64), 2**64), st.integers(-(2**64), 2**64).filter(bool))
def test_division_reassembles_its_dividend(dividend: int, divisor: int) -> None:
    source = b"def f(a, b):\n    return [a // b, a % b, a // b * b + a % b]\n"
    quotient, remainder, whole = parse(source).call("f", [dividend, divisor], limits=LIMITS).value
    assert (quotient, remainder, whole) == (dividend // divisor, dividend % divisor, dividend)


PLAIN = st.recursive(
    st.integers(-(2**127), 2**127 - 1)
    | st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
    | st.booleans()
    | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(st.sampled_from("abc"), max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=100)
@given(PLAIN)
def test_value_goes_in_and_out_unchanged(value: Any) -> None:
    result = run("def f(x):\n    return [x, x == x, x in [x]]\n", value)
    assert exactly(result) == exactly([value, True, True])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"]), st.booleans())))
def test_sorting_is_the_same_on_the_quick_way_and_the_slow_one(rows: list[Any]) -> None:
    quick = run("def f(x):\n    return sorted([(a, b) for a, b, _ in x])\n", rows)
    slow = run("def f(x):\n    return sorted([[a, b] for a, b, _ in x])\n", rows)
    assert quick == [tuple(row) for row in slow] == sorted((a, b) for a, b, _ in rows)


def is_refused(source: bytes) -> bool:
    """Whether the language refuses a program; any other error passes through."""
    try:
        parse(source).call("f", [], limits=LIMITS)
    except LanguageError:
        return True
    return False


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else_happens(source: bytes) -> None:
    assert is_refused(source)


WORDS = st.sampled_from(
    (
        *("def", "f", "(", ")", ":", "\n", "    ", "x", "=", "1", "for", "in", "if", "else", "["),
        *("]", "return", "{", "}", ",", "not", "-", "+", "'a'", "and", "lambda", "/", ".", "range"),
    )
)


@settings(deadline=None, max_examples=100)
@given(st.lists(WORDS, max_size=60))
def test_random_words_get_a_verdict_and_nothing_else_happens(words: list[str]) -> None:
    source = ("def f():\n    " + " ".join(words)).encode()
    assert is_refused(source) == is_refused(source)
