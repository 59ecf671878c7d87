"""Ray jobs, one module each."""

# Before a job imports anything that takes long: Ctrl-C is quiet from here on.
import gamegen  # noqa: F401
