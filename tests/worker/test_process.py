"""Whom a worker serves is configuration, never a row."""

from dataclasses import replace
from pathlib import Path

import pytest
from shard_scene import make_shard_scene
from simulated_operator import key

from ledger.config import Settings
from ledger.sealing.judging import make_memory
from ledger.stellar.preflight import Preflight
from ledger.store.errors import UnknownBroadcasterError
from worker.process import WorkerParts


@pytest.mark.postgres
def test_broadcaster_that_the_trust_file_does_not_name_is_not_served(
    database_url: str, tmp_path: Path
) -> None:
    with make_shard_scene(database_url, tmp_path) as scene:
        parts = WorkerParts(
            settings=Settings(),
            sessions=scene.sessions,
            preflight=Preflight(scene.sessions),
            sealing=scene.sealing,
            trust=scene.operator.trust,
            gateways=[],
            known_entitlements=make_memory(),
        )
        assert parts.list_accounts() == [key("broadcaster")]
        assert parts.find_shard(key("broadcaster")) == scene.shard
        other = replace(parts, trust=replace(parts.trust, broadcaster_account=key("other")))
        assert other.list_accounts() == []
        with pytest.raises(UnknownBroadcasterError):
            other.find_shard(key("broadcaster"))
