"""The order of leaves: what a stranger can check of a log without any secret.

Per epoch: activations, bundle leaves, corrections, one seal leaf, one result leaf, payout leaves.
Checked: every leaf parses and prints back identically, stands in its place, is of the same network
and of the epoch that follows the one before; counts in seal and result are those of the leaves; an
epoch opens with the state root that the one before closed with; batch numbers rise by one; a DAO
key signed every activation, and the rule is always the one activated last: the first epoch has an
activation, and so has the first of another DAO key. Not checked, because it needs the audit file:
whether totals are right.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from ledger.audit.errors import DisprovenError
from ledger.audit.trust import Trust
from ledger.evidence.encoding import RecordCode
from ledger.evidence.errors import EvidenceError, MalformedRecordError
from ledger.evidence.leaf import (
    ACTIVATION,
    BUNDLE_LEAF,
    CORRECTION_LEAF,
    RESULT_LEAF,
    SEAL_LEAF,
    code_of_leaf,
    parse_payout_leaf,
)


class Phase(IntEnum):
    """Which part of an epoch comes next, at the earliest."""

    ACTIVATIONS = 0
    BUNDLES = 1
    CORRECTIONS = 2
    RESULT = 3
    """The seal leaf stands."""
    PAYOUTS = 4


@dataclass(slots=True)
class LeafOrder:
    """Takes a log's leaves one after the other and refuses the first that cannot stand there."""

    trust: Trust | None = None
    """Says which network, first epoch and DAO keys are right; None: the log's own word."""

    epoch: int | None = None
    """The epoch of the last result leaf; None before the first."""

    closing_root: bytes | None = None
    batch_number: int | None = None
    network_id: bytes | None = None
    phase: Phase = Phase.ACTIVATIONS
    bundles: int = 0
    corrections: int = 0
    payouts_left: int = 0
    index: int = 0
    """Index of the next leaf."""

    _seal_epoch: int | None = None
    _rules_digest: bytes = b""
    """Rule of the last seal."""

    _activated: bytes = b""
    """Rule that begins with this epoch; empty if none does."""

    @classmethod
    def after(cls, leaves: Iterable[bytes], index: int, trust: Trust | None = None) -> Self:
        """Go on after a whole epoch.

        Args:
            leaves: Its result leaf and payout leaves.
            index: Index of the next leaf.
            trust: As for the class.

        Raises:
            DisprovenError: They are not that.
        """
        order = cls(trust=trust, phase=Phase.RESULT, index=index)
        for leaf in leaves:
            order._take(leaf)
        order.index = index
        return order

    @property
    def is_whole(self) -> bool:
        """Whether the last leaf ended an epoch: only then a checkpoint is signed."""
        return self.phase == Phase.ACTIVATIONS and self._seal_epoch is None

    def take(self, leaf: bytes) -> None:
        """Take the next leaf.

        Raises:
            DisprovenError: It is malformed or cannot stand here.
        """
        self._take(leaf)
        self.index += 1

    def _take(self, leaf: bytes) -> None:
        takers: dict[RecordCode, Callable[[bytes], None]] = {
            RecordCode.LEAF_ACTIVATION: self._take_activation,
            RecordCode.LEAF_BUNDLE: self._take_bundle,
            RecordCode.LEAF_CORRECTION: self._take_correction,
            RecordCode.LEAF_SEAL: self._take_seal,
            RecordCode.LEAF_RESULT: self._take_result,
            RecordCode.LEAF_PAYOUT: self._take_payout,
        }
        try:
            code = code_of_leaf(leaf)
            taker = takers.get(code)
            if taker is None:
                raise MalformedRecordError("leaf", got=code.name, want="a kind of leaf")
            taker(leaf)
        except EvidenceError as error:
            raise DisprovenError(f"leaf {self.index}: {error}") from error

    def _take_activation(self, leaf: bytes) -> None:
        signed = ACTIVATION.parse(leaf)
        ACTIVATION.require_signed_by(signed, signed.value.dao_key)
        activation = signed.value
        self._require_phase(Phase.ACTIVATIONS, "activation")
        self._require_network(activation.network_id)
        self._enter(activation.first_epoch)
        if self.trust is not None:
            self._require(
                "DAO key", activation.dao_key, self.trust.dao_key_at(activation.first_epoch)
            )
            self._require(
                "broadcaster", activation.broadcaster_account, self.trust.broadcaster_account
            )
        self._activated = activation.rules_digest

    def _take_bundle(self, leaf: bytes) -> None:
        bundle = BUNDLE_LEAF.parse_body(leaf)
        self._require_phase(Phase.BUNDLES, "bundle leaf")
        self._require_network(bundle.network_id)
        self._enter(bundle.sealing_epoch)
        if bundle.epoch > bundle.sealing_epoch:
            self._refuse("bundle's epoch", bundle.epoch, f"at most {bundle.sealing_epoch}")
        self.phase = Phase.BUNDLES
        self.bundles += 1

    def _take_correction(self, leaf: bytes) -> None:
        correction = CORRECTION_LEAF.parse_body(leaf)
        self._require_phase(Phase.CORRECTIONS, "correction")
        self._require_network(correction.network_id)
        self._enter(correction.sealing_epoch)
        if correction.epoch >= correction.sealing_epoch:
            self._refuse("corrected epoch", correction.epoch, f"< {correction.sealing_epoch}")
        self.phase = Phase.CORRECTIONS
        self.corrections += 1

    def _take_seal(self, leaf: bytes) -> None:
        seal = SEAL_LEAF.parse_body(leaf)
        self._require_phase(Phase.CORRECTIONS, "seal leaf")
        self._require_network(seal.network_id)
        self._enter(seal.epoch)
        self._require("bundle count", seal.bundle_count, self.bundles)
        self._require("correction count", seal.correction_count, self.corrections)
        if self.closing_root is not None:
            self._require("opening state root", seal.opening_state_root, self.closing_root)
        if not self._activated and self._needs_activation(seal.epoch):
            self._refuse("activation", "none", f"one that begins with epoch {seal.epoch}")
        self._rules_digest = self._activated or self._rules_digest
        self._require("rules digest", seal.rules_digest, self._rules_digest)
        self.phase = Phase.RESULT

    def _take_result(self, leaf: bytes) -> None:
        result = RESULT_LEAF.parse_body(leaf)
        if self.phase != Phase.RESULT:
            self._refuse("result leaf", f"one in phase {self.phase.name}", "a seal leaf before it")
        self._require_network(result.network_id)
        if self._seal_epoch is not None:
            self._require("epoch of the result", result.epoch, self._seal_epoch)
            self._require("rules digest", result.rules_digest, self._rules_digest)
        self._rules_digest = result.rules_digest
        self.epoch, self.closing_root = result.epoch, result.closing_state_root
        self.payouts_left = result.payout_count
        self._seal_epoch, self._activated = None, b""
        self.bundles = self.corrections = 0
        self.phase = Phase.PAYOUTS if self.payouts_left else Phase.ACTIVATIONS

    def _take_payout(self, leaf: bytes) -> None:
        payout = parse_payout_leaf(leaf)
        if self.phase != Phase.PAYOUTS:
            self._refuse("payout leaf", "one more", "as many as the result says")
        self._require_network(payout.network_id)
        self._require("epoch of the payout", payout.epoch, self.epoch)
        if self.batch_number is not None:
            self._require("batch number", payout.batch_number, self.batch_number + 1)
        self.batch_number = payout.batch_number
        self.payouts_left -= 1
        if not self.payouts_left:
            self.phase = Phase.ACTIVATIONS

    def _needs_activation(self, epoch: int) -> bool:
        """Whether no rule can go on from the epoch before."""
        trust = self.trust
        return not self._rules_digest or (
            trust is not None and trust.dao_key_at(epoch) != trust.dao_key_at(epoch - 1)
        )

    def _enter(self, epoch: int) -> None:
        """Be in an epoch: the one after the last, and the same for all its leaves."""
        if self._seal_epoch is not None:
            self._require("epoch", epoch, self._seal_epoch)
        elif self.epoch is not None:
            self._require("epoch", epoch, self.epoch + 1)
        elif self.trust is not None:
            self._require("first epoch", epoch, self.trust.first_epoch)
        self._seal_epoch = epoch

    def _require_phase(self, latest: Phase, what: str) -> None:
        if self.phase > latest:
            self._refuse(what, f"one in phase {self.phase.name}", f"none after {latest.name}")

    def _require_network(self, network_id: bytes) -> None:
        if self.network_id is None:
            self.network_id = self.trust.network_id if self.trust is not None else network_id
        self._require("network", network_id, self.network_id)

    def _require(self, what: str, got: object, want: object) -> None:
        if got != want:
            self._refuse(what, got, want)

    def _refuse(self, what: str, got: object, want: object) -> None:
        shown = [one.hex() if isinstance(one, bytes) else str(one) for one in (got, want)]
        raise DisprovenError(f"leaf {self.index}: {what}: got {shown[0]}, want {shown[1]}")
