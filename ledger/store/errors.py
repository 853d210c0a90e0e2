"""What the store can say no to.

    StoreError
    ├── UnknownBroadcasterError    no such broadcaster is registered
    ├── UnknownRulesError          no installed contract is active in an epoch
    ├── EpochOrderError            an epoch is not in the state that a transition starts from
    ├── ExpiredError               what was asked for was dropped after its time
    └── UnprovenError              stored rows are not what a signature stands for

What the database itself refuses (a trigger, a lost connection) stays SQLAlchemy's error.
"""


class StoreError(Exception):
    """Base of what this package raises on purpose."""


class UnknownBroadcasterError(StoreError):
    """No broadcaster with this account, or none with terms, is registered."""

    def __init__(self, account: bytes) -> None:
        super().__init__(f"broadcaster: got {account.hex()}, want a registered one")
        self.account = account


class UnknownRulesError(StoreError):
    """No contract is active in an epoch, or the active one is not installed."""

    def __init__(self, epoch: int, digest: bytes | None) -> None:
        got = "no activation" if digest is None else f"digest {digest.hex()}"
        super().__init__(f"rules of epoch {epoch}: got {got}, want an active, installed contract")
        self.epoch = epoch


class EpochOrderError(StoreError):
    """An epoch is not in the state that a transition starts from."""

    def __init__(self, epoch: int, *, got: str, want: str) -> None:
        super().__init__(f"epoch {epoch}: got state {got}, want {want}")
        self.epoch = epoch


class ExpiredError(StoreError):
    """What was asked for was dropped after its time; the audit file has it."""


class UnprovenError(StoreError):
    """Stored rows are not what a signature stands for; a person looks who changed them.

    Nothing is signed, sent or computed from such rows.
    """
