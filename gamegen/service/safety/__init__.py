"""Safety checks of prompts and frames behind a small interface. Imports no web server."""
