"""An external signer: a command that holds keys and signs, one JSON line in and one line out.

The command is run once for each question, without a shell, with a bound on time and on what it may
answer; its standard error is dropped, and of the environment it gets nothing of this product's.
Questions (FORMATS.md):

    {"format": "swarmledger-signer/1", "kind": "keys"}
    {"format": …, "kind": "transaction", "key": "G…", "network_passphrase": …,
     "envelope": base64 without signatures, "hash": hexadecimal}
    {"format": …, "kind": "message", "key": "G…", "message": base64, begins with "swarmledger "}

Answers: {"keys": ["G…"]}, {"signature": base64}, or {"error": text}. No answer is believed: a
signature is verified before it is used, and what does not verify is an error.
"""

import base64
import binascii
import json
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ledger.audit.address import format_account, parse_account
from ledger.evidence.errors import EvidenceError
from ledger.evidence.keys import verify
from ledger.stellar.errors import ExternalSignerError
from ledger.stellar.signing import UnsignedTransaction

FORMAT: Final = "swarmledger-signer/1"
ANSWER_BYTES_MAX: Final = 8_192
TIMEOUT_S: Final = 30.0
KEYS_MAX: Final = 64
_OWN: Final = "SWARMLEDGER_"


class CommandKeys:
    """`ledger.stellar.signing.KeyHolder` over a command."""

    def __init__(self, command: str | Sequence[str], *, timeout_s: float = TIMEOUT_S) -> None:
        """Ask the command for its keys.

        Args:
            command: Program and arguments; a text is split as a shell would, but none is run.
            timeout_s: In which each answer must be there.

        Raises:
            ExternalSignerError: No usable answer.
        """
        self._command = tuple(shlex.split(command) if isinstance(command, str) else command)
        if not self._command:
            raise ExternalSignerError("signer command: got nothing, want a program")
        self._timeout_s = timeout_s
        self._keys = self._ask_keys()

    def __repr__(self) -> str:
        return f"CommandKeys({self._command[0]!r}, {len(self._keys)} keys)"

    @property
    def keys(self) -> frozenset[bytes]:
        """Public keys that the command says it holds."""
        return self._keys

    def sign(self, transaction: UnsignedTransaction, key: bytes) -> bytes:
        """Return a key's valid signature of a transaction's hash.

        Raises:
            ExternalSignerError: No usable answer, or a signature that does not verify.
        """
        question = {
            "kind": "transaction",
            "key": format_account(key),
            "network_passphrase": transaction.passphrase,
            "envelope": base64.b64encode(transaction.envelope).decode(),
            "hash": transaction.tx_hash.hex(),
        }
        return self._signature(question, key, transaction.tx_hash)

    def sign_message(self, message: bytes, key: bytes) -> bytes:
        """Return a key's valid signature of a message of this product.

        Raises:
            ExternalSignerError: No usable answer, or a signature that does not verify.
        """
        question = {
            "kind": "message",
            "key": format_account(key),
            "message": base64.b64encode(message).decode(),
        }
        return self._signature(question, key, message)

    def _ask_keys(self) -> frozenset[bytes]:
        found = self._ask({"kind": "keys"}).get("keys")
        if not isinstance(found, list) or not 1 <= len(found) <= KEYS_MAX:
            raise self._fault(f"keys: got no list of 1 to {KEYS_MAX}")
        try:
            return frozenset(parse_account(str(text)) for text in found)
        except EvidenceError:
            raise self._fault("keys: got something else, want G… addresses") from None

    def _signature(self, question: Mapping[str, Any], key: bytes, message: bytes) -> bytes:
        text = self._ask(question).get("signature")
        try:
            signature = base64.b64decode(str(text), validate=True)
        except (binascii.Error, ValueError):
            signature = b""
        if not verify(key, message, signature):
            raise self._fault(f"signature: got one that is not {format_account(key)}'s")
        return signature

    def _fault(self, text: str) -> ExternalSignerError:
        return ExternalSignerError(f"signer {self._command[0]}: {text}")

    def _ask(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        line = json.dumps({"format": FORMAT, **question}).encode() + b"\n"
        raw = self._run(line)
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            raise self._fault("got no JSON line") from None
        if not isinstance(answer, dict):
            raise self._fault("got no JSON object")
        if "error" in answer:
            raise self._fault(f"refused: {str(answer['error'])[:200]!r}")
        return answer

    def _run(self, line: bytes) -> bytes:
        """Run the command once; it and its children are gone when this returns."""
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise self._fault(f"cannot be run: {error.strerror}") from None
        if process.stdin is None or process.stdout is None:
            raise AssertionError("a process with pipes has them")
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            _kill_group(process)

        timer = threading.Timer(self._timeout_s, end)
        timer.start()
        try:
            try:
                process.stdin.write(line)
                process.stdin.close()
            except OSError:
                pass  # it may answer without reading; if not, the answer is missing
            raw = process.stdout.read(ANSWER_BYTES_MAX + 1)
        finally:
            timer.cancel()
            timer.join()
            _kill_group(process)
            process.stdout.close()
            process.wait()
        if is_late.is_set():
            raise self._fault(f"got no answer in {self._timeout_s} s")
        if len(raw) > ANSWER_BYTES_MAX:
            raise self._fault(f"got over {ANSWER_BYTES_MAX} bytes")
        return raw


def _environment() -> dict[str, str]:
    """The environment without what is this product's: passphrases and seeds are not for signers."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
