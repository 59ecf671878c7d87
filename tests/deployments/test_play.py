"""`gamegen play` refuses what cannot work before it starts anything."""

from __future__ import annotations

import json
import socket

import pytest

from deployments.listen_address import ListenAddress
from deployments.play import play
from gamegen.models.checkpoint import CARD_FILE
from tests.serving import free_port


def test_taken_port_is_refused(tiny_model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"127.0.0.1:{port}.*choose another with --port"):
            play(port=port, model=str(tiny_model))


def test_metrics_port_that_is_taken_or_the_same_is_refused(tiny_model):
    port = free_port()
    with pytest.raises(ValueError, match=f"both {port}"):
        play(port=port, model=str(tiny_model), metrics_port=port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match="choose another with --metrics-port"):
            play(port=free_port(), model=str(tiny_model), metrics_port=taken.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("[::1]", "http://[::1]:8000"),
        ("::", "http://[::1]:8000"),
        ("localhost", "http://localhost:8000"),
    ],
)
def test_address_for_this_machine(host, url):
    assert ListenAddress(host, 8000).url == url


def test_taken_port_of_ipv6_is_refused(tiny_model):
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"cannot listen on ::1:{port}.*choose another with --port"):
            play(host="::1", port=port, model=str(tiny_model))


@pytest.mark.parametrize("port", [0, 70000])
def test_impossible_port_is_refused(tiny_model, port):
    with pytest.raises(ValueError, match="from 1 to 65535"):
        play(port=port, model=str(tiny_model))


def test_foreign_host_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"cannot listen on 192\.0\.2\.77"):
        play(host="192.0.2.77", port=free_port(), model=str(tiny_model))


def test_missing_and_damaged_models_are_refused(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint at 'atlantis'"):
        play(port=free_port(), model="atlantis")
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = json.loads((tmp_path / CARD_FILE).read_text())
    card["sha256"]["model.safetensors"] = "0" * 64
    (tmp_path / CARD_FILE).write_text(json.dumps(card))
    with pytest.raises(ValueError, match="is damaged"):
        play(port=free_port(), model=str(tmp_path))
