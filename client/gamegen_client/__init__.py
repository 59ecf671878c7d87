"""Orders clips from a GameGen server, watches them being drawn and fetches them."""

from gamegen_client.client import FINAL_STATES, Client, Update
from gamegen_client.errors import (
    AuthenticationError,
    BlockedError,
    ConflictError,
    DamagedFileError,
    GameGenError,
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    ProblemError,
    RateLimitError,
    TooLargeError,
    UnavailableError,
)

__all__ = [
    "FINAL_STATES",
    "AuthenticationError",
    "BlockedError",
    "Client",
    "ConflictError",
    "DamagedFileError",
    "GameGenError",
    "InsufficientCreditsError",
    "InvalidRequestError",
    "NotFoundError",
    "ProblemError",
    "RateLimitError",
    "TooLargeError",
    "UnavailableError",
    "Update",
]
