"""Trust file: the reader's root of trust, chosen by the reader, never taken from the operator.

A JSON document a person can read and compare: which network, which log and its keys, which DAO
keys, which broadcaster, how time is cut. Its digest is over a canonical record, so spelling does
not matter. Without a trust file the verifier's answer is "cannot tell".
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from ledger.audit.address import format_account, parse_account
from ledger.evidence.encoding import Layout, RecordCode, format_counted, format_tag
from ledger.evidence.errors import MalformedError, MalformedRecordError
from ledger.evidence.keys import network_id_of
from ledger.evidence.note import VerifierKey, format_verifier_key, parse_verifier_key

TRUST_FORMAT = "swarmledger-trust/1"
TRUST_SIZE_MAX = 65_536
_KEYS_MAX = 16

_HEAD = Layout(
    "trust",
    [
        ("broadcaster_account", "bytes32"),
        ("genesis_s", "u64"),
        ("epoch_length_s", "u32"),
        ("grace_s", "u32"),
        ("first_epoch", "u32"),
    ],
)
TRUST_HEAD = _HEAD
"""The fixed part after the tag, for the format document's test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A key and the first epoch in which it signs; it signs until the next one of its list."""

    key: bytes
    """Ed25519 public key, 32 bytes."""

    first_epoch: int
    """First epoch it signs for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What the reader believes before reading anything."""

    network_passphrase: str
    """Stellar network; its id is the passphrase's SHA-256."""

    log_origin: str
    """Name of the broadcaster's log."""

    log_keys: tuple[TrustedKey, ...]
    """Operator's log keys, by rising first epoch; at least one."""

    dao_keys: tuple[TrustedKey, ...]
    """Keys whose signature activates rules, by rising first epoch; at least one."""

    broadcaster_account: bytes
    """Whose books; 32 bytes."""

    genesis_s: int
    """Start of epoch 0, Unix seconds of ledger time."""

    epoch_length_s: int
    """Seconds per epoch."""

    grace_s: int
    """Seconds of grace."""

    first_epoch: int
    """First epoch of the log."""

    @property
    def network_id(self) -> bytes:
        """32 bytes."""
        return network_id_of(self.network_passphrase)

    @property
    def digest(self) -> bytes:
        """SHA-256 over the canonical record; 32 bytes."""
        parts = [format_tag(RecordCode.TRUST, self.network_id), _HEAD.pack(self)]
        parts.append(format_counted(self.log_origin.encode()))
        for keys in (self.log_keys, self.dao_keys):
            parts.append(len(keys).to_bytes(4, "little"))
            parts.extend(key.key + key.first_epoch.to_bytes(4, "little") for key in keys)
        return sha256(b"".join(parts)).digest()

    def epoch_at(self, close_time_s: int) -> int:
        """Return the epoch of a network ledger's close time; times before genesis count as 0."""
        return max(0, close_time_s - self.genesis_s) // self.epoch_length_s

    def log_key_at(self, epoch: int) -> bytes:
        """Return the log key of an epoch."""
        return _key_at(self.log_keys, epoch)

    def dao_key_at(self, epoch: int) -> bytes:
        """Return the DAO key of an epoch."""
        return _key_at(self.dao_keys, epoch)

    def log_verifier_keys(self) -> tuple[VerifierKey, ...]:
        """Return all log keys as verifier keys of the log's notes."""
        return tuple(VerifierKey(name=self.log_origin, public_key=key.key) for key in self.log_keys)


def _key_at(keys: tuple[TrustedKey, ...], epoch: int) -> bytes:
    in_force = [key.key for key in keys if key.first_epoch <= epoch]
    return in_force[-1] if in_force else keys[0].key


def format_trust(trust: Trust) -> str:
    """Return the trust file's JSON text, ending in a newline."""
    document = {
        "format": TRUST_FORMAT,
        "network_passphrase": trust.network_passphrase,
        "broadcaster_account": format_account(trust.broadcaster_account),
        "log_origin": trust.log_origin,
        "log_keys": [
            {
                "key": format_verifier_key(VerifierKey(name=trust.log_origin, public_key=key.key)),
                "first_epoch": key.first_epoch,
            }
            for key in trust.log_keys
        ],
        "dao_keys": [
            {"key": key.key.hex(), "first_epoch": key.first_epoch} for key in trust.dao_keys
        ],
        "genesis_s": trust.genesis_s,
        "epoch_length_s": trust.epoch_length_s,
        "grace_s": trust.grace_s,
        "first_epoch": trust.first_epoch,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


_NUMBERS = ("genesis_s", "epoch_length_s", "grace_s", "first_epoch")
_FIELDS = {
    "format",
    "network_passphrase",
    "broadcaster_account",
    "log_origin",
    "log_keys",
    "dao_keys",
    *_NUMBERS,
}


def parse_trust(text: str) -> Trust:
    """Return the trust a file states.

    Raises:
        MalformedRecordError: Not JSON, another format, a field missing, unknown or out of range.
    """
    if len(text) > TRUST_SIZE_MAX:
        raise MalformedRecordError("trust", got=f"{len(text)} characters", want=f"{TRUST_SIZE_MAX}")
    try:
        document = json.loads(text, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise MalformedRecordError("trust", got=str(error), want="a JSON object") from None
    if not isinstance(document, dict) or set(document) != _FIELDS:
        got = sorted(set(document) ^ _FIELDS) if isinstance(document, dict) else document
        raise MalformedRecordError("trust fields", got=got, want="exactly the fields of the format")
    if document["format"] != TRUST_FORMAT:
        raise MalformedRecordError("trust.format", got=document["format"], want=TRUST_FORMAT)
    origin = _text(document, "log_origin")
    for field in _NUMBERS:
        number = document[field]
        if type(number) is not int or not 0 <= number < 2**32:
            raise MalformedRecordError(f"trust.{field}", got=number, want="0..2**32-1")
    if document["epoch_length_s"] == 0:
        raise MalformedRecordError("trust.epoch_length_s", got=0, want="≥ 1")
    return Trust(
        network_passphrase=_text(document, "network_passphrase"),
        broadcaster_account=parse_account(_text(document, "broadcaster_account")),
        log_origin=origin,
        log_keys=_keys(document, "log_keys", origin),
        dao_keys=_keys(document, "dao_keys", None),
        **{field: document[field] for field in _NUMBERS},
    )


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"a name stands twice among {names}")
    return dict(pairs)


def _text(document: dict[str, Any], field: str) -> str:
    value = document[field]
    if not isinstance(value, str) or not value or not _is_unicode(value):
        raise MalformedRecordError(f"trust.{field}", got=value, want="text")
    return value


def _is_unicode(text: str) -> bool:
    """JSON can hold halves of surrogate pairs, which no bytes stand for."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _keys(document: dict[str, Any], field: str, origin: str | None) -> tuple[TrustedKey, ...]:
    entries = document[field]
    if not isinstance(entries, list) or not 1 <= len(entries) <= _KEYS_MAX:
        raise MalformedRecordError(f"trust.{field}", got=entries, want="1 to 16 keys")
    keys: list[TrustedKey] = []
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"key", "first_epoch"}:
            raise MalformedRecordError(f"trust.{field}", got=entry, want="key and first_epoch")
        first_epoch = entry["first_epoch"]
        if type(first_epoch) is not int or not 0 <= first_epoch < 2**32:
            raise MalformedRecordError(f"trust.{field}.first_epoch", got=first_epoch, want="≥ 0")
        if keys and first_epoch <= keys[-1].first_epoch:
            raise MalformedRecordError(f"trust.{field}", got=first_epoch, want="rising epochs")
        keys.append(TrustedKey(key=_key(entry["key"], field, origin), first_epoch=first_epoch))
    if origin is not None:
        _require_distinct_ids(field, origin, {key.key for key in keys})
    return tuple(keys)


def _require_distinct_ids(field: str, origin: str, keys: set[bytes]) -> None:
    """A note names its key by the log's name and four bytes: two such keys cannot be told apart."""
    ids = {VerifierKey(name=origin, public_key=key).key_id for key in keys}
    if len(ids) != len(keys):
        raise MalformedRecordError(f"trust.{field}", got=f"{len(ids)} key ids", want=f"{len(keys)}")


def _key(text: Any, field: str, origin: str | None) -> bytes:
    if not isinstance(text, str):
        raise MalformedRecordError(f"trust.{field}.key", got=text, want="text")
    if origin is not None:
        try:
            verifier_key = parse_verifier_key(text)
        except MalformedError as error:
            raise MalformedRecordError(f"trust.{field}.key", got=text, want=str(error)) from None
        if verifier_key.name != origin:
            raise MalformedRecordError(f"trust.{field}.key", got=verifier_key.name, want=origin)
        return verifier_key.public_key
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise MalformedRecordError(f"trust.{field}.key", got=text, want="64 lower-case hex digits")
    return bytes.fromhex(text)
