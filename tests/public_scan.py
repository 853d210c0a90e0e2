"""Looks for what must not be public, in every form in which it could hide.

A secret is found raw, in hexadecimal, in base64 at any offset (both alphabets), in base32 (which is
how Stellar addresses are written). Addresses of machines are found by their shape, as text. What it
finds it names, so that a failure says where to look.
"""

import base64
import hashlib
import ipaddress
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stellar_sdk import StrKey

from ledger.audit.file import AuditContents
from ledger.evidence.bundle import parse_bundle

# A version number of a program has three parts, an address four.
_IPV4 = re.compile(rb"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_IPV6 = re.compile(rb"(?<![0-9A-Za-z:])[0-9A-Fa-f:]*::?(?:[0-9A-Fa-f]{1,4}:?){2,}(?![0-9A-Za-z:])")


@dataclass(frozen=True)
class Found:
    """A secret in a public artefact."""

    where: str
    what: str
    form: str


def forms_of(value: bytes) -> dict[str, bytes]:
    """Everything that a value can look like."""
    forms = {
        "raw": value,
        "reversed": value[::-1],
        "hex": value.hex().encode(),
        "HEX": value.hex().upper().encode(),
        "decimal": str(int.from_bytes(value, "big")).encode(),
    }
    for shift in range(3):
        # The characters that only this value decides, wherever it stands in a longer one.
        whole = base64.b64encode(bytes(shift) + value)
        begin = -(-8 * shift // 6)
        end = 8 * (shift + len(value)) // 6
        inner = whole[begin:end]
        forms[f"base64+{shift}"] = inner
        forms[f"base64url+{shift}"] = inner.replace(b"+", b"-").replace(b"/", b"_")
    for shift in range(5):
        whole = base64.b32encode(bytes(shift) + value)
        forms[f"base32+{shift}"] = whole[-(-8 * shift // 5) : 8 * (shift + len(value)) // 5]
    if len(value) == 32:
        forms["address"] = StrKey.encode_ed25519_public_key(value).encode()
    return forms


def scan(artefacts: Mapping[str, bytes], secrets: Mapping[str, bytes]) -> list[Found]:
    """Secrets, and addresses of machines, in public artefacts."""
    wanted = [
        (name, form, shape)
        for name, value in secrets.items()
        for form, shape in forms_of(value).items()
    ]
    found = []
    for where, content in artefacts.items():
        found += [Found(where, name, form) for name, form, shape in wanted if shape in content]
        if is_text(content):
            found += [Found(where, address, "address") for address in addresses_in(content)]
    return found


def is_text(content: bytes) -> bool:
    try:
        return content.decode().isprintable() or b"\n" in content
    except UnicodeDecodeError:
        return False


def addresses_in(content: bytes) -> list[str]:
    found = []
    for shape in itertools.chain(_IPV4.findall(content), _IPV6.findall(content)):
        try:
            found.append(str(ipaddress.ip_address(shape.decode())))
        except ValueError:
            continue
    return found


def viewer_secrets(contents: Iterable[AuditContents]) -> dict[str, bytes]:
    """What audit files know of viewers, sessions and titles, and the log must not."""
    secrets: dict[str, bytes] = {}
    for one in contents:
        secrets[f"salt key of epoch {one.epoch}"] = one.salt_key
        for raw in one.bundles:
            bundle = parse_bundle(raw).value
            secrets[f"submitter {bundle.submitter_key.hex()[:8]}"] = bundle.submitter_key
            for signed in bundle.entitlements:
                name = signed.digest.hex()[:8]
                secrets[f"entitlement {name}"] = signed.digest
                secrets[f"session key of {name}"] = signed.value.session_key
                secrets[f"content id of {name}"] = signed.value.content_id
                secrets[f"serial of {name}"] = signed.value.serial
            for signed in bundle.receipts:
                name = signed.digest.hex()[:8]
                if not signed.value.is_cdn:
                    # A CDN's key stands in the terms, which are public.
                    secrets[f"payee key of {name}"] = signed.value.payee_key
                secrets[f"lane of {name}"] = signed.value.lane_digest
            for signed in bundle.heartbeats:
                secrets[f"playback {signed.digest.hex()[:8]}"] = signed.value.session_id
    return {name: value for name, value in secrets.items() if any(value)}


def guesses(titles: Iterable[bytes], parties: Iterable[bytes], epochs: Iterable[int]) -> set[bytes]:
    """What a stranger who knows titles, accounts and epochs, and no salt, can compute."""
    known = [
        list(titles),
        list(parties),
        [
            epoch.to_bytes(size, order)
            for epoch in epochs
            for size in (4, 8)
            for order in ("little", "big")
        ],
    ]
    made = set()
    for count in (1, 2, 3):
        for groups in itertools.permutations(known, count):
            for parts in itertools.product(*groups):
                joined = b"".join(parts)
                made |= {hashlib.sha256(prefix + joined).digest() for prefix in (b"", b"\0", b"\1")}
    return made
