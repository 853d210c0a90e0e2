"""Issuer: the broadcaster's own back end, which gives entitlements to session keys.

A separate application and process: it holds the issuing key and nothing of the operator's, and the
operator holds nothing of it. A viewer shows the binding of its session key and names a content; it
gets an entitlement with the configured caps, the same one again until it is about to run out.
What was issued is on disk before it is answered, so a restart issues the same. Time is ledger time,
from the collector's signed clock; without it nothing is issued. Not here: who may watch (a
broadcaster puts its own door in front), and whether the escrow covers it.
"""

import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from fastapi import FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from ledger.api.answers import RefusedError, refuse_malformed
from ledger.api.app import OCTETS, add_error_answers
from ledger.api.requests import parse_hex, read_bounded
from ledger.api.signed_clock import ClockUnknownError
from ledger.evidence.binding import BINDING, Binding, Role, is_valid_binding
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.errors import MalformedError
from ledger.evidence.terms import Terms

BACKDATED_S: Final = 60
"""An entitlement begins this long ago: a seeder's reading of ledger time may lag behind ours."""

RENEWED_BEFORE_S: Final = 120
"""One that has less than this left, or than half its life, is replaced by a new one."""


class IssuedFileError(Exception):
    """The file of issued entitlements cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What an entitlement of this issuer allows."""

    max_bytes: int
    """Cap of credited bytes; 0 = none."""

    valid_s: int
    """Seconds it holds, ≥ 1."""


class IssuedFile:
    """Entitlements as they were issued, one fixed-width record after the other, synced each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_key: dict[tuple[bytes, bytes], Signed[Entitlement]] = {}
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._load()
        except (OSError, MalformedError) as error:
            raise IssuedFileError(f"{path}: {error}") from None

    def _load(self) -> None:
        content = self._path.read_bytes()
        whole = len(content) // ENTITLEMENT.size * ENTITLEMENT.size
        for at in range(0, whole, ENTITLEMENT.size):
            self._note(ENTITLEMENT.parse(content[at : at + ENTITLEMENT.size]))
        # A record that was half written when the machine stopped was never answered.
        os.ftruncate(self._descriptor, whole)
        os.lseek(self._descriptor, whole, os.SEEK_SET)

    def find(self, session_key: bytes, content_id: bytes) -> Signed[Entitlement] | None:
        """Return the newest entitlement of a session key for a content."""
        return self._by_key.get((session_key, content_id))

    def add(self, signed: Signed[Entitlement]) -> None:
        """Append an entitlement; it is durable when this returns.

        Raises:
            OSError: It is not.
        """
        start = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        try:
            os.write(self._descriptor, signed.raw)
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, start)
            os.lseek(self._descriptor, start, os.SEEK_SET)
            raise
        self._note(signed)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _note(self, signed: Signed[Entitlement]) -> None:
        self._by_key[signed.value.session_key, signed.value.content_id] = signed


class Issuer:
    """Issues entitlements under one broadcaster's terms."""

    def __init__(
        self,
        *,
        terms: Signed[Terms],
        issuing_seed: bytes,
        caps: Caps,
        issued: IssuedFile,
        now_s: Callable[[], int],
    ) -> None:
        """Begin to issue.

        Args:
            terms: Verified terms.
            issuing_seed: Seed of the terms' issuing key.
            caps: Of every entitlement.
            issued: What was issued before, and will be.
            now_s: Ledger time in Unix seconds; raises `ClockUnknownError` when it is not known.
        """
        self._terms = terms
        self._seed = issuing_seed
        self._caps = caps
        self._issued = issued
        self._now_s = now_s
        self._lock = threading.Lock()

    def issue(self, binding_raw: bytes, content_id: bytes) -> bytes:
        """Return a signed entitlement for a bound session key.

        Raises:
            RefusedError: The binding is malformed, not signed by both, for another network or
                role, or does not cover the present epoch; or ledger time is not known.
        """
        try:
            now_s = self._now_s()
        except ClockUnknownError as error:
            raise RefusedError(
                503, "clock_unknown", field="clock", got=error, want="a reading signed by the log"
            ) from None
        binding = self._check_binding(binding_raw, now_s)
        with self._lock:
            known = self._issued.find(binding.key, content_id)
            if known is not None and not self._runs_out(known.value, now_s):
                return known.raw
            signed = ENTITLEMENT.sign(self._make(binding.key, content_id, now_s), self._seed)
            self._issued.add(signed)
            return signed.raw

    def _runs_out(self, entitlement: Entitlement, now_s: int) -> bool:
        left_s = entitlement.not_after_s - now_s
        of_other_terms = entitlement.terms_digest != self._terms.digest
        return of_other_terms or left_s < min(RENEWED_BEFORE_S, self._caps.valid_s // 2)

    def _check_binding(self, raw: bytes, now_s: int) -> Binding:
        try:
            signed = BINDING.parse(raw)
        except MalformedError as error:
            raise refuse_malformed(error) from None
        binding, terms = signed.value, self._terms.value
        if binding.network_id != terms.network_id:
            raise RefusedError(
                400,
                "wrong_network",
                field="binding.network_id",
                got=binding.network_id,
                want=terms.network_id.hex(),
            )
        if not is_valid_binding(signed):
            raise RefusedError(
                403,
                "bad_signature",
                field="binding.signature",
                got="one that is not valid",
                want="the account's and the key's",
            )
        epoch = terms.epoch_at(now_s)
        if not binding.covers(Role.SESSION, epoch):
            raise RefusedError(
                403,
                "binding_not_valid",
                field="binding",
                got=f"role {binding.role}, epochs {binding.first_epoch} to {binding.last_epoch}",
                want=f"role {int(Role.SESSION)} in epoch {epoch}",
            )
        return binding

    def _make(self, session_key: bytes, content_id: bytes, now_s: int) -> Entitlement:
        terms = self._terms.value
        return Entitlement(
            network_id=terms.network_id,
            broadcaster_account=terms.broadcaster_account,
            issuing_key=terms.issuing_key,
            terms_digest=self._terms.digest,
            content_id=content_id,
            session_key=session_key,
            payer_account=terms.broadcaster_account,
            serial=secrets.token_bytes(16),
            assignment_seed=bytes(32),
            not_before_s=max(0, now_s - BACKDATED_S),
            not_after_s=now_s + self._caps.valid_s,
            max_bytes=self._caps.max_bytes,
            max_media_ms=0,
            max_rate_kbps=0,
            assignment_policy=0,
            country="",
        )


def make_issuer_app(issuer: Issuer) -> FastAPI:
    """Make the application around an issuer."""
    app = FastAPI(title="swarmledger issuer", version="1", docs_url=None)
    add_error_answers(app)

    @app.post("/v1/entitlements", response_class=Response)
    async def entitlements(request: Request, content_id: Annotated[str, Query()]) -> Response:
        """Give the session key of the binding in the body an entitlement for a content."""
        content = parse_hex("content_id", content_id, 32)
        raw = await read_bounded(request, BINDING.size)
        entitlement = await run_in_threadpool(issuer.issue, raw, content)
        return Response(entitlement, media_type=OCTETS)

    @app.get("/healthz")
    def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    return app
