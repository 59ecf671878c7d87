"""`gamegen load`: a crowd of simulated players who come and go, and the figures of their run."""
