"""Measures a checkpoint in this process: `gamegen evaluate nano --data data/curated`."""

from __future__ import annotations

from gamegen.device import keep_freed_memory
from gamegen.evaluation.evaluate_command import command
from gamegen.evaluation.suite import run_here
from gamegen.process.command import run_command

if __name__ == "__main__":
    keep_freed_memory()
    run_command(command(run_here))
