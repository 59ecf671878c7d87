"""Programs that measure a running server from outside, and the players that they simulate."""

# Before a program imports anything that takes long: Ctrl-C is quiet from here on.
import gamegen  # noqa: F401
