"""ViZDoom as a footage source: outdoor worlds generated from a seed, and the recorder that plays in them."""
