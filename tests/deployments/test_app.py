"""The builder of the Serve application."""

from __future__ import annotations

import pytest

from deployments.app import local
from deployments.settings import CLUSTER_SETTINGS


def test_the_application_builder_says_what_it_takes(monkeypatch, database_url, store_url, tmp_path):
    with pytest.raises(ValueError, match="REDIS_URL is not set: name the Valkey or Redis"):
        local({})
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    with pytest.raises(ValueError, match="DATABASE_URL is not set: name the PostgreSQL"):
        local({})
    monkeypatch.setenv("DATABASE_URL", database_url)
    with pytest.raises(ValueError, match="OBJECT_STORE_URL is not set"):
        local({})
    monkeypatch.setenv("OBJECT_STORE_URL", str(tmp_path))
    with pytest.raises(ValueError, match=r"'model'.*settings=FILE"):
        local({"model": "nano"})
    with pytest.raises(ValueError, match=r"the session store does not answer: .*check REDIS_URL"):
        local({})
    monkeypatch.setenv("REDIS_URL", store_url)
    assert local({"settings": str(CLUSTER_SETTINGS)})
