"""`gamegen bench serve`: figures of a few players or clients of a running server, and what serving costs."""
