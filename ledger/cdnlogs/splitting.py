"""Splitting: one line of a log into the values of its columns, by the layout of its format.

Layouts: `json` (one object a line), `tsv`, `pipe`, `space` (plain separators) and `quoted` (spaces,
with "quoted" and [bracketed] values, as web servers write). Not here: what the values mean.
"""

import json
import re
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|\[([^\]]*)\]|([^\s"\[]\S*)')


class Layout(Enum):
    """How a line holds its values."""

    JSON = "json"
    TSV = "tsv"
    PIPE = "pipe"
    SPACE = "space"
    QUOTED = "quoted"


class SplitError(Exception):
    """A line that has not this layout: got, want."""


SEPARATORS: Final = {Layout.TSV: "\t", Layout.PIPE: "|", Layout.SPACE: " "}


def split_line(text: str, layout: Layout, columns: Sequence[str]) -> list[str]:
    """Return the values of a line's columns.

    Raises:
        SplitError: Another number of values than columns.
    """
    if layout == Layout.QUOTED:
        values = ["".join(found) for found in _TOKEN.findall(text)]
    else:
        values = text.split(SEPARATORS[layout])
    if len(values) != len(columns):
        raise SplitError(f"columns: got {len(values)}, want {len(columns)}")
    return values


def unescape(value: str) -> str:
    r"""Return a quoted value as it was before a web server wrote it: \x22 and \" are quotes."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], value)


def read_object(text: str) -> dict[str, object]:
    """Return the object that a line of JSON holds.

    Raises:
        SplitError: No such object.
    """
    try:
        # Decimals stay text: a time in seconds keeps its digits.
        found = json.loads(text, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise SplitError(f"json: {str(error)[:80]}") from None
    if not isinstance(found, dict):
        raise SplitError(f"json: got {type(found).__name__}, want an object")
    return found


def text_of(value: object) -> str | None:
    """Return a JSON value as a column's text; None for null and for what is no plain value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return None


Picker = Callable[[str], list[str | None]]
"""Takes a line and returns the values of the wanted fields, None where the line has none."""


def make_picker(layout: Layout, columns: Sequence[str], wanted: Sequence[str]) -> Picker:
    """Return what picks the wanted fields out of a line.

    Args:
        layout: The format's layout.
        columns: Names in the order of the line; for JSON of no meaning.
        wanted: Names; a name that is no column yields None.
    """
    if layout == Layout.JSON:
        names = tuple(wanted)

        def pick_names(text: str) -> list[str | None]:
            found = read_object(text)
            return [text_of(found.get(name)) for name in names]

        return pick_names
    known = {name: place for place, name in enumerate(columns)}
    places = [known.get(name) for name in wanted]

    def pick_places(text: str) -> list[str | None]:
        values = split_line(text, layout, columns)
        return [None if place is None else values[place] for place in places]

    def pick_escaped(text: str) -> list[str | None]:
        picked = pick_places(text)
        if "\\" in text:
            return [None if value is None else unescape(value) for value in picked]
        return picked

    return pick_escaped if layout == Layout.QUOTED else pick_places
