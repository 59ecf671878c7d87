"""Signals end a program between two steps, whatever handlers native code installs meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

SERVER = """
import faulthandler, signal, subprocess, sys
from gamegen.process.signals import run_until_signal

def work(told):
    # A handler of native code, as Ray's: it would print stacks.
    faulthandler.register(signal.SIGTERM, chain=False)
    child = subprocess.Popen(["sleep", "60"], preexec_fn=lambda: None)
    print("started", flush=True)
    told.wait()
    child.terminate()
    print("child", child.wait(5), flush=True)
    return "ended"

print(run_until_signal(work, 10))
"""
JOB = """
import time
from gamegen.process.command import run_program
from gamegen.process.signals import call_in_lasting_thread

def start():
    print("started", flush=True)
    time.sleep(0.3)
    print("whole", flush=True)

def job():
    call_in_lasting_thread(start)
    time.sleep(60)

run_program(job)
"""
STUCK = """
import subprocess
from gamegen.process.command import run_program
from gamegen.process.signals import run_until_signal

def work(told):
    print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
    while True:
        told.wait(1)

run_program(lambda: run_until_signal(work, 0.2))
"""

# Python imports it at its start.
INTERRUPTING = """
import os, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        own = sys.stdlib_module_names | {{"usercustomize", "gamegen", "jobs", "loadtest"}}
        if name.partition(".")[0] not in own:
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Interrupting())
"""
LIBRARY = """
import os, signal
import gamegen
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("heard")
"""


def ended(program: str, numbers: list[int]) -> tuple[int, str, str]:
    """Runs a program, sends it signals after its first line, and returns its exit code and what it printed."""
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        for number in numbers:
            process.send_signal(number)
        output, errors = process.communicate(timeout=120)
    return process.returncode, first + output, errors


@pytest.fixture(autouse=True)
def hears_ctrl_c():
    """A shell starts what runs in its background deaf to Ctrl-C, and children of the tests would be so too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGTERM, signal.SIGINT]]
)
def test_a_server_ends_at_its_first_signal(numbers):
    code, output, errors = ended(SERVER, numbers)
    assert (code, errors) == (0, "")
    assert output == f"started\nchild {-signal.SIGTERM}\nended\n"


@pytest.mark.parametrize(
    "module", ["gamegen.cli", "gamegen.training", "gamegen.evaluation", "jobs.record", "loadtest.load"]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_still_loads_ends_without_a_word(module, number, tmp_path):
    """The signal comes at the first import of a library that is none of Python's own, which stands for all of them."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING.format(number=int(number)))
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", module],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")


def test_another_program_that_imports_the_library_hears_ctrl_c_as_before():
    done = subprocess.run([sys.executable, "-c", LIBRARY], capture_output=True, text=True, check=True)
    assert done.stdout == "heard\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_job_is_stopped_once_its_start_is_whole(number):
    code, output, errors = ended(JOB, [number])
    assert (code, output) == (128 + number, "started\nwhole\n")
    assert errors == "gamegen: stopped\n"


def test_what_does_not_end_is_killed():
    code, output, errors = ended(STUCK, [signal.SIGTERM])
    assert code == 2 and "stopping took longer than 0.2 s" in errors
    assert subprocess.run(
        ["ps", "-o", "stat=", "-p", output.strip()], capture_output=True
    ).stdout.strip() in (
        b"",
        b"Z",
    )
