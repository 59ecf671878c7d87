"""Simulated players: key tracks, the client that plays them on a socket, and what it records."""
