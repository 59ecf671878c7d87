"""Limits and lease times of the session store."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.sessions.store_errors import UserFullError


@dataclass(frozen=True, kw_only=True)
class StoreLimits:
    """Times in seconds, and the number of live sessions of one user.

    A record that nobody plays expires after `kept_s`. An owner that does not renew its lease for `lease_s` loses its
    place among those who play; a session whose socket closed keeps its place for `return_s`. `max_of_user` sessions of
    one user may be live, that is played, queued or about to begin; 0 for any number.
    """

    kept_s: float
    lease_s: float = 10.0
    return_s: float = 10.0
    max_of_user: int = 0

    @property
    def kept_ms(self) -> int:
        """`kept_s` in milliseconds, as Valkey counts a key's time to live."""
        return int(1000 * self.kept_s)

    def user_full(self) -> UserFullError:
        """The error for a user with `max_of_user` live sessions."""
        most = self.max_of_user
        return UserFullError(
            f"you play or wait in {most} sessions already and the limit is {most}: end one with DELETE "
            f"/v1/sessions/{{id}}, or close its socket and wait {self.return_s:g} s"
        )
