"""GameGen trains and serves playable game worlds."""

from gamegen.telemetry import switch_off

__version__ = "0.1.0"

# Before any library that reads the variables can be imported.
switch_off()
