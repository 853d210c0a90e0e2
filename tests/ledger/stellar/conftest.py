"""A devnet process for the run, and a settlement domain with a database for each test."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.store.engine import make_session_factory, open_engine

sys.path.append(str(Path(__file__).parent))

from settlement_scene import DevnetProcess, Scene, make_scene


@pytest.fixture(scope="session")
def devnet_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevnetProcess]:
    process = DevnetProcess(tmp_path_factory.mktemp("devnet"))
    yield process
    process.client.close()
    process.stop()


@pytest.fixture
def devnet(devnet_process: DevnetProcess) -> Iterator[DevnetProcess]:
    """The run's devnet without a fault."""
    devnet_process.clear_faults()
    yield devnet_process
    devnet_process.clear_faults()


@pytest.fixture
def scene(devnet: DevnetProcess, database_url: str, tmp_path: Path) -> Iterator[Scene]:
    engine = open_engine(database_url)
    made = make_scene(devnet, make_session_factory(engine), tmp_path)
    yield made
    made.gateway.close()
    engine.dispose()
