"""The settler's round: look, take what is wanted, sign or refuse, hand the answer over.

A round may be cut off anywhere and begun again: what was verified is in the folder, what was posted
may be posted again. Answers are posted once, and again when they change.
"""

import logging
from dataclasses import dataclass, field

from ledger.audit.address import format_account
from ledger.stellar.cosigning import Reason, Wanted, sign_refusal
from ledger.stellar.errors import SettlerError
from ledger.stellar.settler import Finding, RefusedError, Settler
from ledger.stellar.settler_client import OperatorClient

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round came to."""

    verified_through: int
    """Newest verified epoch; one less than the log's first epoch if none is."""

    signed: tuple[bytes, ...]
    """Hashes of the transactions that this settler stands for now."""

    refused: dict[bytes, Finding] = field(default_factory=dict)
    """Hash → why it does not."""

    halt: Finding | None = None
    """Why everything is refused; None while it is not."""

    problem: str = ""
    """Why the operator could not be asked or told; empty if it could."""


class SettlerRounds:
    """Rounds of one settler with one operator."""

    def __init__(self, settler: Settler, client: OperatorClient, network_id: bytes) -> None:
        self._settler = settler
        self._client = client
        self._network_id = network_id
        self._address = format_account(settler.key)
        self._posted: dict[bytes, Finding | None] = {}

    def run(self) -> Round:
        """Do one round; raises nothing of the operator's or the network's."""
        settler = self._settler
        settler.look()
        signed: list[bytes] = []
        refused: dict[bytes, Finding] = {}
        problem = ""
        try:
            wanted = self._client.wanted()
            self._posted = {
                one.tx_hash: self._posted[one.tx_hash]
                for one in wanted
                if one.tx_hash in self._posted
            }
            for one in wanted:
                finding = self._answer(one)
                if finding is None:
                    signed.append(one.tx_hash)
                else:
                    refused[one.tx_hash] = finding
        except SettlerError as error:
            _log.warning("settler: %s", error)
            problem = str(error)
        return Round(
            verified_through=settler.next_epoch - 1,
            signed=tuple(signed),
            refused=refused,
            halt=settler.halt,
            problem=problem,
        )

    def _answer(self, wanted: Wanted) -> Finding | None:
        """Sign or refuse one transaction and post that, unless it was; None: it is signed."""
        tx_hash = wanted.tx_hash
        is_posted = tx_hash in self._posted and self._posted[tx_hash] is None
        # A restored database may have forgotten it.
        if is_posted and self._address in wanted.signed_by:
            return None
        try:
            signature = self._settler.sign(wanted)
        except RefusedError as refused:
            self._refuse(tx_hash, refused.finding)
            return refused.finding
        self._client.post_signature(tx_hash, signature)
        self._posted[tx_hash] = None
        _log.info("settler: signed batch %d, attempt %d", wanted.batch_number, wanted.attempt)
        return None

    def _refuse(self, tx_hash: bytes, finding: Finding) -> None:
        before = self._posted.get(tx_hash)
        if before is not None and before.reason == finding.reason:
            return
        refusal = sign_refusal(
            self._settler.holder,
            self._settler.key,
            self._network_id,
            tx_hash,
            Reason(finding.reason),
            finding.detail,
        )
        self._client.post_refusal(refusal)
        self._posted[tx_hash] = finding
        _log.warning("settler: refuses %s: %s: %s", tx_hash.hex(), finding.reason, finding.detail)
