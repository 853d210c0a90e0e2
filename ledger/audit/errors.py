"""What can be wrong with audit material.

AuditError
├── DisprovenError      a step's statement does not hold; exit code 1
└── UndecidableError    the material does not suffice to tell; exit code 2
"""

from collections.abc import Sized

_SHOWN_MAX = 300
"""Most bytes, items or characters of a value that a finding quotes."""


class AuditError(Exception):
    """Base of the verifier's findings."""


class DisprovenError(AuditError):
    """A step's statement does not hold: says what, got and want."""


class UndecidableError(AuditError):
    """The verifier cannot tell: unreadable file, no trust, a format it does not know."""


def require(holds: bool, what: str, *, got: object, want: object) -> None:
    """Raise unless a checked statement holds.

    Raises:
        DisprovenError: It does not.
    """
    if not holds:
        raise DisprovenError(f"{what}: got {_shown(got)}, want {_shown(want)}")


def require_same(what: str, *, got: object, want: object) -> None:
    """Raise unless two values are equal.

    Raises:
        DisprovenError: They differ.
    """
    require(got == want, what, got=got, want=want)


def _shown(value: object) -> str:
    """Bytes in hex; anything long cut short, before it is printed as a whole."""
    if isinstance(value, bytes):
        return value.hex() if len(value) <= _SHOWN_MAX else f"{value[:32].hex()}… ({len(value)} B)"
    if isinstance(value, Sized) and len(value) > _SHOWN_MAX:
        return f"{len(value)} of {type(value).__name__}"
    text = str(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"
