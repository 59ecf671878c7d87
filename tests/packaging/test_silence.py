"""Nothing that GameGen does by itself leaves the machine: packets are looked at, not settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.environment import ENVIRONMENT
from gamegen.telemetry import SWITCHES
from tests.packaging.conftest import Used, own_network
from tests.packaging.distribution import REPOSITORY
from tests.packaging.quiet_network import Outcome

SCRIPT = Path(__file__).with_name("quiet_network.py")


@pytest.mark.parametrize("name", ["info", "sizes", "rollout", "generate", "training", "train", "play"])
def test_no_packet_and_no_question_for_a_name_leaves_the_machine(used: Used, name: str) -> None:
    if used.why_unrecorded:
        pytest.skip(used.why_unrecorded)
    assert used.outcomes[name].reached == []


def test_attempts_of_python_native_libraries_and_children_are_noticed(tmp_path: Path) -> None:
    why, network = own_network()
    if why:
        pytest.skip(why)
    connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])))"
    send = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('10.9.8.7', 514))"
    own = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    )
    steps = {
        "version 4": [sys.executable, "-c", connect, "203.0.113.7", "443"],
        "version 6": [sys.executable, "-c", connect, "2001:db8::7", "443"],
        "name": ["getent", "ahosts", "telemetry.example"],
        "datagram": ["sh", "-c", f'{sys.executable} -c "{send}"'],
        "own": [sys.executable, "-c", own],
    }
    plan, results = tmp_path / "plan.json", tmp_path / "results.json"
    plan.write_text(json.dumps([{"name": name, "command": command} for name, command in steps.items()]))
    subprocess.run([*network, sys.executable, str(SCRIPT), str(plan), str(results), "isolated"], check=True)
    reached = {name: Outcome(**outcome).reached for name, outcome in json.loads(results.read_text()).items()}
    assert reached["version 4"] == ["tcp 203.0.113.7:443"]
    assert reached["version 6"] == ["tcp 2001:db8::7:443"]
    assert reached["datagram"] == ["udp 10.9.8.7:514"]
    assert reached["name"] and all(line.endswith(" telemetry.example") for line in reached["name"])
    assert reached["own"] == []


def test_switches_are_set_on_import_reach_children_and_leave_what_was_set() -> None:
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    child = f"import gamegen, subprocess, sys; subprocess.run([sys.executable, '-c', {show!r}], check=True)"
    bare = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    chosen = {"HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", child], env=bare | chosen, capture_output=True, text=True, check=True
    )
    seen = json.loads(done.stdout)
    assert {name: seen[name] for name in SWITCHES} == SWITCHES | chosen
    # The nodes of a cluster set the same before Ray starts.
    assert ENVIRONMENT.items() >= SWITCHES.items()


def test_the_manual_names_every_switch() -> None:
    manual = (REPOSITORY / "docs" / "trust.md").read_text()
    assert [name for name, value in SWITCHES.items() if f"`{name}={value}`" not in manual] == []
