"""Programs that measure a running server from outside, and the players that they simulate."""
