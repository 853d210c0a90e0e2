"""Public logs of any size for tests of their readers: right leaves in the right order, no books.

`LogMaker` appends epochs of synthetic leaves, signs checkpoints and writes files as the operator
does; a fork is a copy that goes on otherwise. `serve_folder` puts a folder on the web.
"""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from simulated_operator import NETWORK, ORIGIN, PASSPHRASE, key, seed

from ledger.audit.trust import Trust, TrustedKey
from ledger.evidence.checkpoint import Checkpoint, sign_checkpoint
from ledger.evidence.leaf import (
    ACTIVATION,
    BUNDLE_LEAF,
    CORRECTION_LEAF,
    EVIDENCE_DAO_KEY,
    PAYOUT_FUNDING,
    RESULT_LEAF,
    SEAL_LEAF,
    Activation,
    BundleLeaf,
    CorrectionLeaf,
    Payment,
    PayoutLeaf,
    ResultLeaf,
    SealLeaf,
    format_payout_leaf,
)
from ledger.evidence.merkle import root_hash
from ledger.evidence.note import VerifierKey, format_note, format_verifier_key
from ledger.evidence.tile import growth_files_of

RULES = sha256(b"rules").digest()


def make_trust(*log_keys: tuple[str, int]) -> Trust:
    return Trust(
        network_passphrase=PASSPHRASE,
        log_origin=ORIGIN,
        log_keys=tuple(
            TrustedKey(key=key(name), first_epoch=epoch) for name, epoch in log_keys or [("log", 0)]
        ),
        dao_keys=(TrustedKey(key=key("dao"), first_epoch=0),),
        broadcaster_account=key("broadcaster"),
        genesis_s=1_000_000,
        epoch_length_s=15,
        grace_s=5,
        first_epoch=0,
    )


def vkey(name: str = "log") -> str:
    return format_verifier_key(VerifierKey(name=ORIGIN, public_key=key(name)))


def activation_leaf(by: str = "dao", **changes: object) -> bytes:
    values: dict[str, object] = {
        "network_id": NETWORK,
        "broadcaster_account": key("broadcaster"),
        "rules_digest": RULES,
        "first_epoch": 0,
        "evidence_kind": EVIDENCE_DAO_KEY,
        "dao_key": key(by),
    }
    return ACTIVATION.sign(Activation(**{**values, **changes}), seed(by)).raw


@dataclass
class LogMaker:
    leaves: list[bytes] = field(default_factory=list)
    epoch: int = 0
    batch: int = 0
    salt: str = ""
    """What makes a fork's leaves others."""
    notes: dict[int, bytes] = field(default_factory=dict)
    """Signed checkpoint by epoch."""

    def fork(self, salt: str) -> Self:
        return replace(copy.deepcopy(self), salt=salt)

    def digest(self, text: str) -> bytes:
        return sha256(f"{self.salt} {self.epoch} {text}".encode()).digest()

    def bundle_leaf(self, digest: bytes, code: int = 0) -> bytes:
        return BUNDLE_LEAF.format_body(
            BundleLeaf(
                network_id=NETWORK,
                epoch=self.epoch,
                sealing_epoch=self.epoch,
                bundle_digest=digest,
                submitter_commitment=self.digest(f"submitter of {digest.hex()}"),
                code=code,
                receipts_counted=1 - bool(code),
                receipts_refused=int(bool(code)),
                bytes_counted=100,
                codes_root=self.digest("codes"),
            )
        )

    def close(
        self,
        bundles: int = 2,
        *,
        digests: tuple[bytes, ...] = (),
        payouts: int = 1,
        by: str = "log",
        **seal: object,
    ) -> Self:
        """Append an epoch and sign its checkpoint; the first one begins with an activation."""
        if not self.leaves:
            self.leaves.append(activation_leaf(first_epoch=self.epoch))
        leaves = [self.bundle_leaf(digest) for digest in digests]
        leaves += [self.bundle_leaf(self.digest(f"bundle {n}")) for n in range(bundles)]
        counted = len(leaves)
        if self.epoch:
            correction = CorrectionLeaf(
                network_id=NETWORK,
                epoch=self.epoch - 1,
                sealing_epoch=self.epoch,
                lane_commitment=self.digest("lane"),
                bytes_before=1,
                bytes_after=2,
            )
            leaves.append(CORRECTION_LEAF.format_body(correction))
        values: dict[str, object] = {
            "network_id": NETWORK,
            "epoch": self.epoch,
            "terms_digest": sha256(b"terms").digest(),
            "rules_digest": RULES,
            "opening_state_root": state_of(self.epoch),
            "last_ledger_sequence": 100 + self.epoch,
            "last_ledger_close_s": 1_000_000 + 15 * self.epoch,
            "facts_root": root_hash([]),
            "fact_count": 0,
            "bundle_count": counted,
            "correction_count": len(leaves) - counted,
            "salt_key_commitment": self.digest("salt key"),
            "instructions_root": root_hash([]),
            "instruction_count": 0,
        }
        sealed = SealLeaf(**{**values, **seal})
        leaves.append(SEAL_LEAF.format_body(sealed))
        leaves.append(RESULT_LEAF.format_body(self._result(payouts, sealed.rules_digest)))
        leaves += [self._payout() for _ in range(payouts)]
        self.leaves += leaves
        self.notes[self.epoch] = self.sign(by)
        self.epoch += 1
        return self

    def sign(self, by: str = "log", *, root: bytes | None = None) -> bytes:
        head = Checkpoint(
            origin=ORIGIN, tree_size=len(self.leaves), root_hash=root or root_hash(self.leaves)
        )
        return format_note(sign_checkpoint(head, seed(by)))

    def write(self, folder: Path, *, old_size: int = 0) -> Path:
        """Write the log's files as of the last epoch."""
        for path, content in growth_files_of(self.leaves, old_size):
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        (folder / "checkpoint").write_bytes(self.notes[self.epoch - 1])
        return folder

    def _result(self, payouts: int, rules_digest: bytes) -> ResultLeaf:
        return ResultLeaf(
            network_id=NETWORK,
            epoch=self.epoch,
            rules_digest=rules_digest,
            lane_count=1,
            lane_root=self.digest("lanes"),
            bytes_p2p_credited=100,
            bytes_cdn_credited=0,
            bytes_uncredited=0,
            charged_stroops=10,
            fee_stroops=1,
            sum_tree_hash=self.digest("sums"),
            sum_tree_bytes=100,
            sum_tree_stroops=10,
            payout_count=payouts,
            closing_state_root=state_of(self.epoch + 1),
        )

    def _payout(self) -> bytes:
        self.batch += 1
        return format_payout_leaf(
            PayoutLeaf(
                network_id=NETWORK,
                epoch=self.epoch,
                batch_number=self.batch,
                kind=PAYOUT_FUNDING,
                channel_account=key("channel 0"),
                channel_sequence=self.batch,
                reference_ledger_sequence=1,
                reference_close_s=1,
                fee_bid_stroops=100,
                asset_code="EURT",
                asset_issuer=key("issuer"),
                source_account=key("escrow"),
                payments=(Payment(account=key("payout"), amount_stroops=9),),
            )
        )


def state_of(epoch: int) -> bytes:
    return sha256(f"state {epoch}".encode()).digest()


class QuietHandler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[str] = []  # noqa: RUF012 - one server a test, cleared by serve_folder

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_arguments: object) -> None:
        pass


@contextmanager
def serve_folder(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder; yields its URL and the paths that were asked for."""
    QuietHandler.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", QuietHandler.asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
