"""What can go wrong between the ledger and the Stellar network.

    StellarError
    ├── GatewayError               an API gave no usable answer; later it may
    ├── NotSubmittedError          a set-up transaction ended without effect
    ├── ConflictingFactError       the network tells two histories; a person looks
    └── SeedFileError              a seed file is missing, readable by others, or holds no seed

An error of an API is never evidence that a transaction did not happen.
"""


class StellarError(Exception):
    """Base of everything this package raises on purpose."""


class GatewayError(StellarError):
    """An API did not answer, or answered what cannot be read. Retryable."""


class NotSubmittedError(StellarError):
    """A set-up transaction was refused, failed, or can no longer be applied."""


class ConflictingFactError(StellarError):
    """Two answers of the network exclude each other: a reset network, or a source that lies."""


class SeedFileError(StellarError):
    """A seed file is missing, readable by others, or holds no seed; the message names the file."""
