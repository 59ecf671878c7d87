"""GameGen trains and serves playable game worlds."""

from gamegen.process.interrupts import end_quietly_while_loading
from gamegen.telemetry import switch_off

__version__ = "0.1.0"

end_quietly_while_loading()
# Before any library that reads the variables can be imported.
switch_off()
