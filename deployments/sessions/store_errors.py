"""Errors that the session store raises."""


class SessionGoneError(KeyError):
    """The session does not exist: it was deleted, has expired or never was."""


class SessionMovedError(RuntimeError):
    """Another ingress has claimed the session."""


class StoreFullError(RuntimeError):
    """The limit on live sessions is reached."""


class UserFullError(RuntimeError):
    """The limit on live sessions of one user is reached."""


class PromptsFullError(RuntimeError):
    """The limit on video prompts of one session is reached."""
