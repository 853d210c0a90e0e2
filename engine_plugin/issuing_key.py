"""Until when the terms' issuing key may issue: the broadcaster account's newest word on it.

The account binds its issuing key for epochs; a newer binding with an earlier last epoch revokes it
from the epoch after. The newest one that was ever seen counts, wherever it came from (a file, the
collector, a peer): it is signed by the account and the key itself. It is kept on disk, so that a
revocation is not forgotten.

Not here: what follows for receipts (`entitlements`, `payee`).
"""

from pathlib import Path

from engine_plugin.errors import EngineError
from engine_plugin.key_files import write_private
from ledger.evidence.binding import BINDING, Binding, Role, is_valid_binding
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import EvidenceError
from ledger.evidence.terms import Terms


class IssuingKeyError(EngineError):
    """A binding that says nothing about the terms' issuing key, or that cannot be kept."""


class IssuingKey:
    """What is known of the issuing key of one broadcaster's terms."""

    def __init__(self, terms: Terms, path: Path | None = None) -> None:
        """Read what is kept; a file that cannot be used counts as none.

        Args:
            terms: Whose issuing key.
            path: Where the newest binding is kept; None: nowhere.
        """
        self._terms = terms
        self._path = path
        self.signed: Signed[Binding] | None = None
        """The newest binding known."""
        if path is not None and path.exists():
            try:
                self._check(kept := BINDING.parse(path.read_bytes()))
                self.signed = kept
            except (OSError, EvidenceError, IssuingKeyError):
                self.signed = None

    @property
    def last_epoch(self) -> int | None:
        """Last epoch the key issues for; None: no binding is known."""
        return None if self.signed is None else self.signed.value.last_epoch

    def take(self, signed: Signed[Binding]) -> bool:
        """Keep a binding if it is newer than what is known.

        Returns:
            Whether it was newer.

        Raises:
            IssuingKeyError: It is not the account's word on the terms' issuing key, or it cannot
                be kept; it counts nevertheless in the latter case.
        """
        self._check(signed)
        if self.signed is not None and signed.value.serial <= self.signed.value.serial:
            return False
        self.signed = signed
        if self._path is not None:
            try:
                write_private(self._path, signed.raw)
            except OSError as error:
                raise IssuingKeyError(f"{self._path}: {error.strerror}") from None
        return True

    def covers(self, epoch: int) -> bool:
        """Tell whether the key issues for an epoch; without any binding it does."""
        return self.signed is None or self.signed.value.covers(Role.ISSUING, epoch)

    def is_about(self, binding: Binding) -> bool:
        """Tell whether a binding speaks of this key, without looking at its signatures."""
        return (binding.role, binding.key) == (Role.ISSUING, self._terms.issuing_key)

    def _check(self, signed: Signed[Binding]) -> None:
        binding, terms = signed.value, self._terms
        for field, got, want in (
            ("network_id", binding.network_id, terms.network_id),
            ("account", binding.account, terms.broadcaster_account),
            ("key", binding.key, terms.issuing_key),
        ):
            if got != want:
                raise IssuingKeyError(f"binding.{field}: got {got.hex()}, want {want.hex()}")
        if binding.role != Role.ISSUING:
            raise IssuingKeyError(f"binding.role: got {binding.role}, want {int(Role.ISSUING)}")
        if not is_valid_binding(signed):
            raise IssuingKeyError("binding: signature not valid under the account and the key")
