"""What a settler keeps of epochs, written from a rebuild instead of from audit files.

Audit files come from the operator. A settler that has rebuilt the epochs itself knows all that it
needs of them without one: the payouts, the log's head and its anchor on the chain. Epochs that are
not anchored are left out: their payouts are not to be signed. What the folder has verified already
must be the same, else nothing is written.
"""

from ledger.evidence.checkpoint import body_hash
from ledger.rebuilding.errors import RebuildError
from ledger.rebuilding.rebuild import Rebuilding
from ledger.rebuilding.replay import RebuiltEpoch
from ledger.stellar.settler_records import SettlerFolder, VerifiedEpoch


class SettlerArchive:
    """Writes rebuilt epochs into a settler's folder, oldest first."""

    def __init__(self, folder: SettlerFolder, rebuilding: Rebuilding) -> None:
        """Read what the folder has.

        Raises:
            SettlerError: A file in it is not ours.
        """
        self._folder, self._rebuilding = folder, rebuilding
        self._known = {one.epoch: one for one in folder.load_epochs(rebuilding.trust.first_epoch)}
        self._is_behind = False
        self.written = 0

    def take(self, rebuilt: RebuiltEpoch) -> None:
        """Keep an anchored epoch.

        Raises:
            RebuildError: The folder has verified it and holds something else.
            OSError: The folder cannot be written.
        """
        anchored = self._rebuilding.find_anchor(rebuilt)
        if anchored is None or self._is_behind:
            # The folder holds epochs without a gap.
            self._is_behind = True
            return
        checkpoint = anchored.checkpoint
        found = VerifiedEpoch(
            epoch=rebuilt.number,
            checkpoint=checkpoint,
            body_hash=body_hash(checkpoint),
            anchor_tx=anchored.tx_hash,
            last_ledger_sequence=rebuilt.inputs.last_ledger_sequence,
            signed_terms=rebuilt.terms.raw,
            payouts=rebuilt.payouts,
        )
        known = self._known.get(rebuilt.number)
        if known is None:
            self._folder.save_epoch(found)
            self.written += 1
        elif known != found:
            raise RebuildError(
                f"epoch {rebuilt.number}: the settler has verified another one: got a log of "
                f"{known.checkpoint.tree_size} leaves, want {checkpoint.tree_size}"
            )
