"""What can be wrong with a log as a reader sees it.

DisprovenError (of the audit)   what was read does not hold; exit status 1
└── ForkError                   two signed checkpoints that cannot both be of one log
UndecidableError (of the audit) nothing can be told: not reachable, not signed by a known key;
                                exit status 2
"""

from ledger.audit.errors import DisprovenError


class ForkError(DisprovenError):
    """The log's key signed two histories; both notes are the evidence."""

    def __init__(self, reason: str, *, first: bytes, second: bytes) -> None:
        super().__init__(reason)
        self.first = first
        """The signed checkpoint that was kept."""
        self.second = second
        """The signed checkpoint that contradicts it."""
