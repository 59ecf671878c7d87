"""Limits on what clients send, for all routes and for the proxy."""

from __future__ import annotations

MAX_SEED = 2**63 - 1
MAX_FILE_CHARACTERS = 12 * 1024 * 1024
"""Characters of a file in base64. More than the largest image or video, which get an error that names their limit."""
MAX_BODY_BYTES = MAX_FILE_CHARACTERS + 256 * 1024
"""Bytes of a request's body: the largest file, and a prompt whose characters are all escaped."""
MAX_SOCKET_MESSAGE_BYTES = 256 * 1024
"""Bytes of a WebSocket message; the proxy closes the socket of a client that sends more."""
