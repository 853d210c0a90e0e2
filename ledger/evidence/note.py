"""Signed notes: a text and the signatures under it, in the form of c2sp.org/signed-note.

    text            UTF-8, ends in a newline, no control character but newline
    (blank line)
    — <name> <base64 of key id₄ ‖ signature>        one line a signature, at least one

The blank line is the last one, so the text may hold blank lines. A key id is the first four bytes
of SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key₃₂). A verifier key prints as `name+hex(key id)+base64(
0x01 ‖ public key)`. Here signatures are Ed25519 (type 0x01); lines of any other type belong to
keys unknown to us and are carried, not judged.

Verification: a signature of an unknown key is ignored, a failing signature of a known key rejects
the note, and so does the lack of any signature of a known key. Parsing is exact: what would not
print back identically is malformed. What a text means is not known here; see `checkpoint`.

Test vectors: the example of Go's golang.org/x/mod/sumdb/note and that of the specification.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ledger.evidence import keys
from ledger.evidence.errors import BadSignatureError, MalformedError, MalformedNoteError

NOTE_BYTES_MAX = 1_000_000
"""A note is at most this long; post-quantum signatures are up to 5 kB each."""

SIGNATURES_MAX = 100
"""A note has at most this many signature lines; the specification asks for at least 16."""

NAME_BYTES_MAX = 255
"""A key name is at most this long in UTF-8."""

_ED25519_TYPE = b"\x01"
_KEY_ID_BYTES = 4
_PUBLIC_KEY_BYTES = 32
_SIGNATURE_PREFIX = "— "


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """An Ed25519 public key with the name under which it signs notes.

    Raises:
        MalformedNoteError: the name or the key is not allowed.
    """

    name: str
    """Key name; no space, no plus sign, no control character; 1 to 255 bytes of UTF-8."""

    public_key: bytes
    """Ed25519 public key; 32 bytes."""

    def __post_init__(self) -> None:
        require_key_name("verifier_key.name", self.name)
        if len(self.public_key) != _PUBLIC_KEY_BYTES:
            raise MalformedNoteError(
                "verifier_key.public_key", got=f"{len(self.public_key)} bytes", want="32 bytes"
            )

    @property
    def key_id(self) -> bytes:
        """First 4 bytes of SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key)."""
        content = self.name.encode() + b"\n" + _ED25519_TYPE + self.public_key
        return hashlib.sha256(content).digest()[:_KEY_ID_BYTES]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line, of a known or an unknown key.

    Raises:
        MalformedNoteError: a field could not stand in a note.
    """

    name: str
    """Name of the key."""

    key_id: bytes
    """Id of the key; 4 bytes."""

    signature: bytes
    """What the key made of the text; at least 1 byte, 64 for Ed25519."""

    def __post_init__(self) -> None:
        require_key_name("signature.name", self.name)
        if len(self.key_id) != _KEY_ID_BYTES:
            raise MalformedNoteError(
                "signature.key_id", got=f"{len(self.key_id)} bytes", want="4 bytes"
            )
        if not self.signature:
            raise MalformedNoteError("signature.signature", got="0 bytes", want="at least 1 byte")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A text with its signatures, none of them checked yet.

    Raises:
        MalformedNoteError: the text could not stand in a note, or there are 0 or over 100 lines.
    """

    text: str
    """The signed text, with its final newline."""

    signatures: tuple[NoteSignature, ...]
    """Signature lines in their order; 1 to 100."""

    def __post_init__(self) -> None:
        require_text("note.text", self.text)
        if not 1 <= len(self.signatures) <= SIGNATURES_MAX:
            raise MalformedNoteError(
                "note.signatures", got=len(self.signatures), want=f"1 to {SIGNATURES_MAX} lines"
            )

    def with_signature(self, signature: NoteSignature) -> Self:
        """The same note with one more signature line at its end, such as a witness's."""
        return type(self)(text=self.text, signatures=(*self.signatures, signature))


def sign_note(text: str, *, name: str, seed: bytes) -> Note:
    """Note with one signature over `text`.

    Args:
        text: The text, with its final newline.
        name: Key name; a log's key is named like its origin.
        seed: Ed25519 seed; 32 bytes.

    Raises:
        MalformedNoteError: the text or the name is not allowed.
    """
    require_text("note.text", text)
    return Note(text=text, signatures=(sign_text(text, name=name, seed=seed),))


def sign_text(text: str, *, name: str, seed: bytes) -> NoteSignature:
    """Signature line of this key for `text` (signed-note, "Ed25519 signatures").

    Raises:
        MalformedNoteError: the name is not allowed.
    """
    key = VerifierKey(name=name, public_key=keys.public_key_of(seed))
    return NoteSignature(
        name=name, key_id=key.key_id, signature=keys.sign(seed, text.encode("utf-8"))
    )


def verify_note(note: Note, known_keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
    """Check every signature that names a known key (signed-note, "Signatures").

    Args:
        note: A parsed note.
        known_keys: Keys the caller trusts for something; which of them must sign is the caller's
            rule, applied to what is returned.

    Returns:
        The known keys that signed, each once, in the order of their lines; at least one.

    Raises:
        BadSignatureError: a known key's signature fails, or no known key signed.
        ValueError: two different known keys share name and id.
    """
    key_by_id: dict[tuple[str, bytes], VerifierKey] = {}
    for key in known_keys:
        if key_by_id.setdefault((key.name, key.key_id), key) != key:
            raise ValueError(f"known_keys: got two keys {key.name}+{key.key_id.hex()}, want one")
    message = note.text.encode("utf-8")
    signers: list[VerifierKey] = []
    for line in note.signatures:
        signer = key_by_id.get((line.name, line.key_id))
        if signer is None:
            continue
        if not keys.verify(signer.public_key, message, line.signature):
            name = f"{line.name}+{line.key_id.hex()}"
            raise BadSignatureError(f"signature of {name}: got one that fails, want a valid one")
        if signer not in signers:
            signers.append(signer)
    if not signers:
        names = ", ".join(sorted({line.name for line in note.signatures}))
        raise BadSignatureError(f"signatures: got only unknown keys ({names}), want a known one")
    return tuple(signers)


def format_note(note: Note) -> bytes:
    """Print a note.

    Raises:
        MalformedNoteError: it would be longer than 1,000,000 bytes.
    """
    lines = "".join(
        f"{_SIGNATURE_PREFIX}{line.name} {encode_base64(line.key_id + line.signature)}\n"
        for line in note.signatures
    )
    content = f"{note.text}\n{lines}".encode()
    _require_note_size(content)
    return content


def parse_note(content: bytes) -> Note:
    """Parse a note; checks form only, `verify_note` checks signatures.

    Raises:
        MalformedNoteError: `content` is not what `format_note` prints.
    """
    _require_note_size(content)
    try:
        decoded = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedNoteError("note", got=str(error), want="UTF-8") from error
    cut = decoded.rfind("\n\n")
    if cut < 0:
        raise MalformedNoteError("note", got="no blank line", want="text, blank line, signatures")
    text, tail = decoded[: cut + 1], decoded[cut + 2 :]
    if not tail.endswith("\n"):
        raise MalformedNoteError("note.signatures", got=tail[-8:], want="lines ending in newline")
    lines = tail[:-1].split("\n")
    return Note(text=text, signatures=tuple(_parse_signature(line) for line in lines))


def format_verifier_key(key: VerifierKey) -> str:
    """Print a key as `name+hex(key id)+base64(type ‖ public key)`, without a newline."""
    return f"{key.name}+{key.key_id.hex()}+{encode_base64(_ED25519_TYPE + key.public_key)}"


def parse_verifier_key(text: str) -> VerifierKey:
    """Parse what `format_verifier_key` printed, and nothing else.

    Raises:
        MalformedNoteError: another form, another type than Ed25519, or an id of another key.
    """
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise MalformedNoteError("verifier_key", got=text, want="name+id+key")
    name, key_id, encoded = parts
    material = decode_base64("verifier_key.key", encoded, MalformedNoteError)
    if material[:1] != _ED25519_TYPE:
        raise MalformedNoteError("verifier_key.type", got=material[:1], want="1 (Ed25519)")
    key = VerifierKey(name=name, public_key=material[1:])
    if key_id != key.key_id.hex():
        raise MalformedNoteError("verifier_key.id", got=key_id, want=key.key_id.hex())
    return key


def encode_base64(value: bytes) -> str:
    """Standard base64 with padding (RFC 4648 §4), the only one in these formats."""
    return base64.b64encode(value).decode("ascii")


def decode_base64(field: str, text: str, malformed: type[MalformedError]) -> bytes:
    """Decode what `encode_base64` prints, and nothing else.

    Args:
        field: What to call the value in an error.
        text: The encoded value.
        malformed: Error to raise.

    Raises:
        MalformedError: of the given class; foreign characters, padding or trailing bits.
    """
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise malformed(field, got=text, want="base64") from error
    if encode_base64(value) != text:
        raise malformed(field, got=text, want=f"canonical base64 {encode_base64(value)}")
    return value


def require_key_name(field: str, name: str) -> None:
    """Refuse what may not be a key name (signed-note, "Format").

    Raises:
        MalformedNoteError: empty, too long, a space of any kind, a plus sign or a control
            character.
    """
    if not name or len(_encode_utf8(field, name)) > NAME_BYTES_MAX:
        raise MalformedNoteError(field, got=name, want=f"1 to {NAME_BYTES_MAX} bytes")
    if any(character.isspace() or character < " " or character == "+" for character in name):
        raise MalformedNoteError(field, got=name, want="no space, plus or control character")


def require_text(field: str, text: str) -> None:
    """Refuse what may not be the text of a note (signed-note, "Format").

    Raises:
        MalformedNoteError: no newline at the end, a control character, or not UTF-8.
    """
    if not text.endswith("\n"):
        raise MalformedNoteError(field, got=text[-8:], want="a newline at the end")
    for character in text:
        if character < " " and character != "\n":
            raise MalformedNoteError(field, got=character, want="no control character but newline")
    _encode_utf8(field, text)


def _parse_signature(line: str) -> NoteSignature:
    if not line.startswith(_SIGNATURE_PREFIX):
        raise MalformedNoteError("note.signature", got=line, want="— <name> <base64>")
    name, space, encoded = line[len(_SIGNATURE_PREFIX) :].partition(" ")
    if not space:
        raise MalformedNoteError("note.signature", got=line, want="— <name> <base64>")
    content = decode_base64("note.signature", encoded, MalformedNoteError)
    if len(content) <= _KEY_ID_BYTES:
        raise MalformedNoteError(
            "note.signature", got=f"{len(content)} bytes", want="key id and at least 1 byte"
        )
    return NoteSignature(
        name=name, key_id=content[:_KEY_ID_BYTES], signature=content[_KEY_ID_BYTES:]
    )


def _encode_utf8(field: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedNoteError(field, got=str(error), want="text that UTF-8 can hold") from error


def _require_note_size(content: bytes) -> None:
    if len(content) > NOTE_BYTES_MAX:
        raise MalformedNoteError(
            "note", got=f"{len(content)} bytes", want=f"at most {NOTE_BYTES_MAX} bytes"
        )
