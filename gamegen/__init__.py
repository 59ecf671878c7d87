"""GameGen trains and serves playable game worlds."""

__version__ = "0.1.0"
