"""What can be wrong with audit material.

AuditError
├── DisprovenError      a step's statement does not hold; exit code 1
└── UndecidableError    the material does not suffice to tell; exit code 2
"""


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
        shown = [value.hex() if isinstance(value, bytes) else value for value in (got, want)]
        raise DisprovenError(f"{what}: got {shown[0]}, want {shown[1]}")


def require_same(what: str, *, got: object, want: object) -> None:
    """Raise unless two values are equal.

    Raises:
        DisprovenError: They differ.
    """
    require(got == want, what, got=got, want=want)
