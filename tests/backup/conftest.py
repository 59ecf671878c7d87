"""A database for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases import database_server, fresh_database


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A running PostgreSQL."""
    with database_server() as url:
        yield url


@pytest.fixture
def database_url(server_url: str) -> Iterator[str]:
    """A database with empty tables."""
    with fresh_database(server_url) as url:
        yield url
