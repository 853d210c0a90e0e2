"""Which signatures count toward an account's thresholds, and whether all were needed.

Follows the protocol's order: pre-authorised hashes, then hash(x), ed25519 keys, signed payloads
(CAP-40).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from stellar_sdk import Keypair
from stellar_sdk.exceptions import BadSignatureError

from ledger.devnet import wire
from ledger.devnet.entries import Account, Signer
from ledger.devnet.envelope import Signature

ED25519, PRE_AUTH, HASH_X, SIGNED_PAYLOAD = 0, 1, 2, 3
_MAX_WEIGHT: Final = 255


@lru_cache(maxsize=65_536)
def _verify(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Keypair.from_raw_ed25519_public_key(key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def signer_key(kind: int, value: bytes) -> bytes:
    """SignerKey XDR of a 32-byte value."""
    return wire.i32(kind) + value


class SignatureChecker:
    """Signatures of one envelope, remembering which were used."""

    def __init__(self, content_hash: bytes, signatures: Sequence[Signature]) -> None:
        self.content_hash = content_hash
        self.signatures = signatures
        self.used = [False] * len(signatures)
        self._verdicts: dict[tuple[bytes, int], bool] = {}

    def check(self, signers: Sequence[Signer], needed_weight: int) -> bool:
        """Whether the signatures reach a weight; marks those that were looked at and matched."""
        total = 0
        by_kind: dict[int, list[Signer]] = {kind: [] for kind in range(4)}
        for signer in signers:
            by_kind[signer.key[3]].append(signer)
        for signer in by_kind[PRE_AUTH]:
            if signer.key[4:] == self.content_hash:
                total += min(signer.weight, _MAX_WEIGHT)
                if total >= needed_weight:
                    return True
        rules: tuple[tuple[int, Callable[[Signature, bytes], bool]], ...] = (
            (HASH_X, _matches_hash_x),
            (ED25519, self._matches_key),
            (SIGNED_PAYLOAD, _matches_payload),
        )
        for kind, matches in rules:
            left = by_kind[kind]
            for index, signature in enumerate(self.signatures):
                found = next((s for s in left if matches(signature, s.key)), None)
                if found is None:
                    continue
                self.used[index] = True
                total += min(found.weight, _MAX_WEIGHT)
                if total >= needed_weight:
                    return True
                left.remove(found)
        return False

    def check_account(self, account: Account, needed_weight: int) -> bool:
        """Whether an account's signers, its master key included, have signed with a weight.

        The answer is kept: an account's signers do not change between the checks of one envelope.
        """
        asked = (account.account, needed_weight)
        if asked not in self._verdicts:
            self._verdicts[asked] = self._check_account(account, needed_weight)
        return self._verdicts[asked]

    def _check_account(self, account: Account, needed_weight: int) -> bool:
        signers = list(account.signers)
        if account.thresholds[0]:
            master = Signer(signer_key(ED25519, account.account), account.thresholds[0])
            signers.insert(0, master)
        return self.check(signers, needed_weight)

    def check_missing_account(self, account: bytes) -> bool:
        """Whether the key of an account that does not exist yet has signed."""
        return self.check([Signer(signer_key(ED25519, account), 1)], 0)

    def all_used(self) -> bool:
        """Whether no signature was superfluous."""
        return all(self.used)

    def _matches_key(self, signature: Signature, key: bytes) -> bool:
        public = key[4:36]
        return signature.hint == public[-4:] and _verify(
            public, self.content_hash, signature.signature
        )


def _matches_hash_x(signature: Signature, key: bytes) -> bool:
    value = key[4:36]
    return signature.hint == value[-4:] and hashlib.sha256(signature.signature).digest() == value


def _matches_payload(signature: Signature, key: bytes) -> bool:
    reader = wire.Reader(key, 4)
    public = reader.take(32)
    payload = reader.opaque()
    tail = payload[-4:] if len(payload) >= 4 else payload + bytes(4 - len(payload))
    hint = bytes(a ^ b for a, b in zip(public[-4:], tail, strict=True))
    return signature.hint == hint and _verify(public, payload, signature.signature)
