"""What can be wrong with the books.

    BooksError
    ├── UnbalancedEntryError       postings of one journal entry do not sum to zero
    ├── UnknownTransactionError    money of ours moved by a transaction that no plan explains
    └── ConservationError          two views of the same numbers differ

All three are findings about the whole epoch, not about one party's input: the operator stops and a
person looks; the verifier calls the file disproven.
"""


class BooksError(Exception):
    """Base of everything that makes an epoch's books unacceptable."""


class UnbalancedEntryError(BooksError):
    """A journal entry's postings do not sum to zero in every asset."""


class UnknownTransactionError(BooksError):
    """A transaction moved the settlement domain's money and belongs to no batch or deposit."""


class ConservationError(BooksError):
    """Two views of the same numbers differ.

    Attributes:
        what: Which identity is broken.
        got: One view.
        want: The other view.
    """

    def __init__(self, what: str, *, got: int, want: int) -> None:
        super().__init__(f"{what}: got {got}, want {want} (difference {got - want})")
        self.what = what
        self.got = got
        self.want = want


def require_equal(what: str, *, got: int, want: int) -> None:
    """Raise unless two views of one number agree.

    Raises:
        ConservationError: They differ.
    """
    if got != want:
        raise ConservationError(what, got=got, want=want)
