"""What can go wrong between the ledger and the Stellar network.

    StellarError
    ├── GatewayError               an API gave no usable answer; later it may
    ├── SourceError                a configured source cannot be
    ├── NotSubmittedError          a set-up transaction ended without effect
    ├── ConflictingFactError       the network tells two histories; a person looks
    ├── SeedFileError              a seed file is missing, readable by others, or holds no seed
    ├── ExternalSignerError        a signer command gave no usable signature in time
    ├── TreasuryError              accounts' signers are not as wanted, or cannot be made so
    └── SettlerError               a settler cannot go on: its files, or the operator's answers

An error of an API is never evidence that a transaction did not happen.
"""


class StellarError(Exception):
    """Base of everything this package raises on purpose."""


class GatewayError(StellarError):
    """An API did not answer, or answered what cannot be read. Retryable."""

    @property
    def reason(self) -> str:
        """What went wrong, in a word: the name of the error below, if there is one."""
        return type(self.__cause__ or self).__name__


class SourceError(StellarError):
    """A configured source names no known kind, or no http or https URL."""


class NotSubmittedError(StellarError):
    """A set-up transaction was refused, failed, or can no longer be applied."""


class ConflictingFactError(StellarError):
    """Two answers of the network exclude each other: a reset network, or a source that lies."""


class SeedFileError(StellarError):
    """A seed file is missing, readable by others, or holds no seed; the message names the file."""


class ExternalSignerError(StellarError):
    """An external signer refused, took too long, or answered what is no signature. Retryable."""


class TreasuryError(StellarError):
    """Signers and thresholds of accounts are not as wanted, or cannot be made so from here."""


class SettlerError(StellarError):
    """A settler cannot go on: its own files are not its own, or the operator gives no answer."""
