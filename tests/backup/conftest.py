"""A database for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases import database_server, fresh_database, older_programs, older_server


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A running PostgreSQL."""
    with database_server() as url:
        yield url


@pytest.fixture(scope="session")
def older_url() -> Iterator[str]:
    """A running PostgreSQL of an older version, without our tables."""
    if older_programs() is None:
        pytest.skip("needs PostgreSQL of Debian: cluster/install-system-packages.sh")
    with older_server() as url:
        yield url


@pytest.fixture
def database_url(server_url: str) -> Iterator[str]:
    """A database with empty tables."""
    with fresh_database(server_url) as url:
        yield url


@pytest.fixture
def empty_url(server_url: str) -> Iterator[str]:
    """A database without tables."""
    with fresh_database(server_url, "template0") as url:
        yield url
