"""An operator that is gone, and what it left."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from survivors import Survivors, make_survivors


@pytest.fixture
def survivors(database_url: str, tmp_path: Path) -> Iterator[Survivors]:
    with make_survivors(database_url, tmp_path) as made:
        yield made
