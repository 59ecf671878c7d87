"""`gamegen bench recovery`: kills parts of a local cluster while players play, and measures their pauses."""
