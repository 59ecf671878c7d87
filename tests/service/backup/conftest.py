"""A server of another version."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url, text

from gamegen.service.database.connection import connect_blocking
from tests.databases import older_programs, older_server


@pytest.fixture(scope="session")
def older_server_url() -> Iterator[str]:
    """A running PostgreSQL of an older version."""
    if older_programs() is None:
        pytest.skip("needs Debian's PostgreSQL: cluster/install-system-packages.sh")
    with older_server() as url:
        yield url


@pytest.fixture
def older_url(older_server_url: str) -> str:
    """A database without tables on it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = connect_blocking(older_server_url).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"create database {name} template template0"))
    engine.dispose()
    return make_url(older_server_url).set(database=name).render_as_string(hide_password=False)
