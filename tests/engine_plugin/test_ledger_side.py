"""What the accounting of a long run remembers, and what it lets go."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine_plugin import ledger_side
from engine_plugin.config import EngineConfig
from engine_plugin.engine import Engine
from engine_plugin.wire import Endpoint


@pytest.mark.swarm
def test_of_many_ended_scopes_the_first_are_forgotten_and_none_that_lasts(
    tmp_path: Path, make_operator: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_side, "SCOPES_KEPT", 2)
    scopes = [bytes([number]) * 32 for number in range(5)]
    operator = make_operator()
    config = EngineConfig(
        listen=Endpoint("127.0.0.83", 0), state_path=tmp_path / "state", terms=operator.terms
    )

    async def scene() -> None:
        async with Engine(config) as engine:
            ledger = engine.ledger
            assert ledger is not None
            for scope in scopes:
                ledger.watch(scope, None)
            # The second comes back after it has ended.
            for scope in scopes[:3]:
                ledger.unwatch(scope)
            ledger.watch(scopes[1], None)
            ledger.unwatch(scopes[3])
            assert ledger._scopes == set(scopes[1:])
            assert set(ledger._upkeep._scopes) == set(scopes[1:])

    asyncio.run(scene())
