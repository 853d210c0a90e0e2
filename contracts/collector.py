"""Python's collector of cycles, put off while many values are made that hold none.

What it is: a context in which it waits. What it does not do: it changes no result; a rule's values
that contain themselves wait to be collected, and its limits bound them.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_waits() -> Iterator[None]:
    """Let the collector wait: it would walk all lanes again and again and find nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
