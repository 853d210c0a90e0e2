"""The yardstick: libsodium's verification of given signatures in a loop of C, and nothing else.

The loop is compiled when it is needed and calls the libsodium that PyNaCl brings, so that a ratio
to it says what everything around the signatures costs. Not here: what is verified.
"""

import ctypes
import shutil
import subprocess
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ledger.bench.errors import BenchError
from ledger.evidence.keys import KEY_SIZE

_SOURCE = """
typedef int (*verify)(const unsigned char *, const unsigned char *, unsigned long long,
                      const unsigned char *);

long count_valid(verify check, const unsigned char *records, const unsigned char *keys,
                 long count, long size)
{
    long valid = 0;
    for (long at = 0; at < count; at++, records += size, keys += 32)
        valid += check(records, records + 64, size - 64, keys) == 0;
    return valid;
}
"""


class SignatureLoop:
    """Verifies runs of records and keeps the processor time of it."""

    def __init__(self, folder: Path) -> None:
        """Compile the loop in a scratch folder.

        Raises:
            BenchError: There is no C compiler, or PyNaCl holds no libsodium that can be called.
        """
        compiler, sodium = shutil.which("cc"), find_spec("nacl._sodium")
        if compiler is None or sodium is None or sodium.origin is None:
            raise BenchError("signature loop: got no C compiler or no libsodium, want both")
        source, library = folder / "signature_loop.c", folder / "signature_loop.so"
        source.write_text(_SOURCE)
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode:
            raise BenchError(f"signature loop: {built.stderr.strip()}")
        self._count_valid = ctypes.CDLL(str(library)).count_valid
        self._count_valid.restype = ctypes.c_long
        self._check = ctypes.CDLL(sodium.origin).crypto_sign_verify_detached
        self.cpu_s = 0.0
        """Seconds spent in the loop so far."""

        self.signatures = 0
        """Signatures verified so far."""

    def verify(self, records: bytes, start: int, size: int, keys: Sequence[bytes]) -> None:
        """Verify records of one size that stand side by side, each under its own key.

        Raises:
            BenchError: A signature is not valid.
        """
        joined = b"".join(keys)
        if len(joined) != KEY_SIZE * len(keys) or len(records) < start + size * len(keys):
            raise BenchError(f"signature loop: got {len(keys)} keys, want one a record")
        buffer = ctypes.c_char_p(records)
        first = ctypes.c_void_p((ctypes.cast(buffer, ctypes.c_void_p).value or 0) + start)
        began_s = time.process_time()
        valid = self._count_valid(
            self._check, first, joined, ctypes.c_long(len(keys)), ctypes.c_long(size)
        )
        self.cpu_s += time.process_time() - began_s
        self.signatures += len(keys)
        if valid != len(keys):
            raise BenchError(f"signature loop: got {valid} valid of {len(keys)}, want all")
