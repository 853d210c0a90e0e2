"""A client of a running devnet's controls: closing, faults, incidents.

For tests and drills. The JSON it sends is described in `ledger.devnet.faults` and
`ledger.devnet.incidents`.
"""

from __future__ import annotations

from typing import Any, Self

import httpx

_TIMEOUT_S = 60.0


class ControlError(RuntimeError):
    """The devnet refused, or did not answer."""


class DevnetControl:
    """Controls one devnet over HTTP; usable as a context."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.close()

    def status(self) -> dict[str, Any]:
        """Sequence, close time, queue and armed faults.

        Raises:
            ControlError: The devnet refused or did not answer; likewise below.
        """
        return self._ask("GET", "/devnet/status")

    def close_ledgers(self, count: int = 1, *, close_time_s: int | None = None) -> int:
        """Close network ledgers now; returns the last one's sequence."""
        body: dict[str, Any] = {"count": count}
        if close_time_s is not None:
            body["close_time"] = close_time_s
        return int(self._ask("POST", "/devnet/close", body)["sequence"])

    def arm(self, kind: str, **parameters: Any) -> None:
        """Arm a fault: `count`, `path`, `seconds`, `ledgers`, `fee` as its kind needs them."""
        self._ask("POST", "/devnet/faults", {"kind": kind, **parameters})

    def armed(self) -> list[dict[str, Any]]:
        """The faults armed now, and how often each has struck."""
        found: list[dict[str, Any]] = self._ask("GET", "/devnet/faults")["faults"]
        return found

    def clear(self) -> None:
        """Disarm all faults; incidents stay as they are."""
        self._ask("DELETE", "/devnet/faults")

    def lose_queue(self) -> None:
        """Empty the queue now."""
        self._happen("lose_queue")

    def freeze(self, account: str, asset: str | None = None) -> None:
        """Freeze an account (G-address), or its trustline to CODE:ISSUER."""
        self._happen("freeze", account=account, **({"asset": asset} if asset else {}))

    def unfreeze(self, account: str, asset: str | None = None) -> None:
        """Lift a freeze."""
        self._happen("unfreeze", account=account, **({"asset": asset} if asset else {}))

    def filter(self, *operations: int) -> None:
        """Let the node's own policy refuse types of operations from now on; none: take all."""
        self._happen("filter", operations=list(operations))

    def revoke(self, issuer_seed: str, account: str, asset: str) -> None:
        """Queue the issuer's transaction that takes an account's authorization away."""
        self._happen("revoke", issuer_seed=issuer_seed, account=account, asset=asset)

    def authorize(self, issuer_seed: str, account: str, asset: str) -> None:
        """Queue the issuer's transaction that gives it back."""
        self._happen("authorize", issuer_seed=issuer_seed, account=account, asset=asset)

    def clawback(self, issuer_seed: str, account: str, asset: str, stroops: int) -> None:
        """Queue the issuer's transaction that takes money from an account."""
        self._happen(
            "clawback", issuer_seed=issuer_seed, account=account, asset=asset, stroops=stroops
        )

    def _happen(self, kind: str, **parameters: Any) -> None:
        self._ask("POST", "/devnet/incidents", {"kind": kind, **parameters})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ControlError(f"{path}: {type(error).__name__}: {error}") from error
        found: dict[str, Any] = answer.json()
        if answer.status_code != 200:
            reason = found.get("extras", {}).get("reason", found.get("detail"))
            raise ControlError(f"{path}: got HTTP {answer.status_code}: {reason}")
        return found
