"""How long things are kept, and what is removed when."""
