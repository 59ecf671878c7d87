"""What a session store lacks is told at the start."""

from __future__ import annotations

import pytest
from valkey import Valkey

from deployments.sessions.valkey_client import check_store
from tests.deployments.sessions.valkey_servers import LAST_SLOT, cluster_node, started_server, wait_until_up


def test_a_store_that_will_do_is_not_complained_of(own_url: str) -> None:
    check_store(own_url)


def test_a_node_of_a_cluster_that_keeps_other_keys_names_the_one_that_keeps_the_sessions(tmp_path) -> None:
    with cluster_node(tmp_path / "a") as (here, one), cluster_node(tmp_path / "b") as (there, other):
        other.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, LAST_SLOT)
        address = there.removeprefix("redis://")
        (bus_port,) = other.config_get("cluster-port").values()
        one.execute_command("CLUSTER", "MEET", *address.split(":"), bus_port)
        wait_until_up(one)
        wait_until_up(other)
        check_store(there)
        with pytest.raises(ValueError, match=rf"REDIS_URL is a node of a cluster.*{address}: name that one"):
            check_store(here)


def test_a_cluster_without_slots_is_told(tmp_path) -> None:
    with cluster_node(tmp_path) as (url, _), pytest.raises(ValueError, match="the session store refuses"):
        check_store(url)


def test_a_replica_is_told(tmp_path) -> None:
    primary, replica = (started_server(tmp_path / name) for name in ("primary", "replica"))
    try:
        with Valkey(port=replica.port) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        with pytest.raises(ValueError, match="REDIS_URL is a replica, which takes no writes"):
            check_store(f"redis://127.0.0.1:{replica.port}")
    finally:
        replica.stop()
        primary.stop()


def test_a_wrong_password_is_told_and_not_shown(tmp_path) -> None:
    server = started_server(tmp_path)
    try:
        with Valkey(port=server.port) as client:
            client.config_set("requirepass", "right")
        for url in (f"redis://:wrong@127.0.0.1:{server.port}", f"redis://127.0.0.1:{server.port}"):
            with pytest.raises(ValueError, match="REDIS_URL: the server refuses the password") as caught:
                check_store(url)
            assert "wrong@" not in str(caught.value)
    finally:
        server.stop()


@pytest.mark.parametrize("url", ["redis://127.0.0.1:9", "unix:///nowhere/valkey.sock"])
def test_a_store_that_does_not_answer_is_told(url: str) -> None:
    with pytest.raises(ValueError, match=r"the session store does not answer.*check REDIS_URL"):
        check_store(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "redis+sentinel://localhost:26379/mymaster", "localhost:6379"]
)
def test_what_is_no_address_of_a_store_is_told(url: str) -> None:
    with pytest.raises(ValueError, match="REDIS_URL is not a valid URL: write redis://"):
        check_store(url)
