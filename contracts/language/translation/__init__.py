"""The fast way of running a rule: checked syntax as Python code.

What it is: a translation that gives the same value, steps and bytes as the closures of `compiler`,
or says that it cannot. What it does not do: it is not normative, and names no error. Reading order:
templates, fragments, emitter, arithmetic, expressions, statements, execution.
"""

from contracts.language.translation.execution import Deviation, Translation, translate

__all__ = ["Deviation", "Translation", "translate"]
