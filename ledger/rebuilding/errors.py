"""Why books cannot be rebuilt."""


class RebuildError(Exception):
    """Evidence is missing, or what it comes to is not what the log says."""


class EvidenceMissingError(RebuildError):
    """The log names evidence that nobody has brought."""

    def __init__(self, epoch: int, what: str, digest: bytes) -> None:
        super().__init__(f"epoch {epoch}: got no {what} {digest.hex()}, want it from a party")
        self.epoch = epoch
        self.digest = digest
