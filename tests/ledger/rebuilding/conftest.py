"""An operator that is gone, and what it left; made once, copied for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import copied_database
from survivors import Survivors, make_survivors


@pytest.fixture(scope="session")
def first_survivors(
    postgres_cluster, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Survivors]:
    with (
        copied_database(postgres_cluster, template_database) as url,
        make_survivors(url, tmp_path_factory.mktemp("operator")) as made,
    ):
        yield made


@pytest.fixture
def survivors(first_survivors: Survivors, tmp_path: Path) -> Survivors:
    """Files and evidence of the test's own; the operator's database is only read."""
    return first_survivors.copy_to(tmp_path)
