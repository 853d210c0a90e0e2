"""Fixtures that every test may use: one Postgres for the run, one database for each test."""

import gc
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from databases import COPY_DATABASE
from hypothesis import settings
from psycopg import sql

from ledger.embedded.postgres import PostgresCluster, create_state_dir

# A failure prints the blob that repeats it (@reproduce_failure). CI explores the same examples each
# time, so that a red run is about the change; people's runs explore new ones.
settings.register_profile("people", print_blob=True, deadline=None)
settings.register_profile("ci", print_blob=True, deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "people")

LONG_ONES = (
    "simulation",
    "docs",
    "ledger/simulation",
    "worker",
    "ledger/embedded",
    "ledger/bench",
    "engine_plugin/live",
    "engine_plugin",
    "ledger/stellar",
)
"""Folders that take longest: what is begun last should be short, or the other cores wait for it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let long files begin first; within a file nothing changes its place."""
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).as_posix()
        ranks = (rank for rank, long in enumerate(LONG_ONES) if folder.startswith(f"{long}/"))
        return next(ranks, len(LONG_ONES))

    items.sort(key=place)


# Modules and tests live on to the end: no garbage is looked for while they load, nor in them later.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Look for garbage again, in what tests make; other plugins run them."""
    gc.freeze()
    gc.enable()


TEMPLATE_DATABASE = "swarmledger_template"
# Lost on a crash of the machine, which no test survives either.
FAST_SETTINGS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresCluster]:
    """The run's Postgres; tests take `database_url` instead, unless they test the cluster."""
    state_dir = create_state_dir("swarmledger-tests-")
    try:
        with PostgresCluster(state_dir / "cluster", settings=FAST_SETTINGS) as cluster:
            yield cluster
    finally:
        shutil.rmtree(state_dir)


@pytest.fixture(scope="session")
def template_database(postgres_cluster: PostgresCluster) -> str:
    """The database that all migrations made, once for the run; it is only ever copied."""
    from ledger.store.migrate import upgrade

    _execute(postgres_cluster, "CREATE DATABASE {}", TEMPLATE_DATABASE)
    upgrade(postgres_cluster.url(TEMPLATE_DATABASE))
    # The first connection writes a file that spares all later ones time; copies have it too.
    psycopg.connect(postgres_cluster.conninfo(TEMPLATE_DATABASE)).close()
    return TEMPLATE_DATABASE


@pytest.fixture
def database_url(postgres_cluster: PostgresCluster, template_database: str) -> Iterator[str]:
    """The SQLAlchemy URL of a database of this test alone, at the newest migration, empty."""
    name = f"test_{uuid.uuid4().hex}"
    _execute(postgres_cluster, COPY_DATABASE, name, template_database)
    yield postgres_cluster.url(name)
    _execute(postgres_cluster, "DROP DATABASE {} WITH (FORCE)", name)


def _execute(cluster: PostgresCluster, statement: str, *names: str) -> None:
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
