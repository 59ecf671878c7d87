"""Minetest as a footage source: a lock-step client hook, a server mod and the recorder that drives both."""
