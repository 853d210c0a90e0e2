"""Asking the operator for one's own line of an epoch.

The asker signs, with the account's key or a session key that a bundle of it bound to the account,

    "swarmledger line v1" 0⁵ ‖ network id₃₂ ‖ broadcaster₃₂ ‖ account₃₂ ‖ epoch, u32 little-endian

and sends key and signature in the headers `Swarmledger-Key` and `Swarmledger-Signature`, in
hexadecimal. The signature says nothing but "my line of this epoch", so who has seen it can read
that line and no other: the connection is to be private.
"""

from typing import Final
from urllib.parse import urlsplit

from ledger.audit.address import format_account
from ledger.audit.errors import UndecidableError
from ledger.audit.trust import Trust
from ledger.evidence.keys import public_key_of, sign
from ledger.publiclog.line_file import LINE_CHARACTERS_MAX
from ledger.publiclog.source import WebSource

_DOMAIN: Final = b"swarmledger line v1".ljust(24, b"\0")
_OK: Final = 200


def format_line_request(network_id: bytes, broadcaster: bytes, account: bytes, epoch: int) -> bytes:
    """Return what the asker signs."""
    return _DOMAIN + network_id + broadcaster + account + epoch.to_bytes(4, "little")


def fetch_line(url: str, trust: Trust, *, account: bytes, epoch: int, seed: bytes) -> bytes:
    """Return the file of one's own line; nothing of it is checked.

    Args:
        url: Base URL of the operator's API.
        trust: Says which network and broadcaster.
        account: Whose line; 32 bytes.
        epoch: Of which epoch.
        seed: Of the account's key or of a session key bound to it; 32 bytes.

    Raises:
        UndecidableError: The operator does not answer, or has no such line for this key.
    """
    message = format_line_request(trust.network_id, trust.broadcaster_account, account, epoch)
    headers = {
        "Swarmledger-Key": public_key_of(seed).hex(),
        "Swarmledger-Signature": sign(seed, message).hex(),
    }
    broadcaster = format_account(trust.broadcaster_account)
    target = (
        f"{urlsplit(url).path.rstrip('/')}/v1/lines/{format_account(account)}/{epoch}.tlog-proof"
        f"?broadcaster={broadcaster}"
    )
    source = WebSource(url)
    try:
        status, content = source.get(target, LINE_CHARACTERS_MAX, headers)
    finally:
        source.close()
    if status != _OK or len(content) > LINE_CHARACTERS_MAX:
        raise UndecidableError(f"{url}: got HTTP {status}: {content[:200]!r}, want the line")
    return content
