"""The address that a local server listens on, and the one at which this machine reaches it."""

from __future__ import annotations

import socket
from dataclasses import dataclass

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Hosts that stand for every address of a machine, and the loopback address of each family."""


@dataclass(frozen=True)
class ListenAddress:
    """A host, a name or an address of IPv4 or IPv6 with or without brackets, and a port."""

    host: str
    port: int

    @property
    def bare_host(self) -> str:
        """The host as sockets take it, without brackets."""
        return self.host.strip("[]")

    @property
    def url(self) -> str:
        """The address for a browser on this machine."""
        host = _EVERYWHERE.get(self.bare_host, self.bare_host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def check(self, option: str) -> None:
        """Raises ValueError if nothing can listen there; `option` is what names the port on the command line."""
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port {self.port}: use a number from 1 to 65535")
        # The family that the server chooses as well: IPv6 for its addresses, IPv4 for all else.
        family = socket.AF_INET6 if ":" in self.bare_host else socket.AF_INET
        try:
            with socket.socket(family) as probe:
                # As the server does: a port that a previous run just left can be bound again at once.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((self.bare_host, self.port))
        except socket.gaierror as error:
            raise ValueError(
                f"host {self.host!r} is not an address of this machine: use 127.0.0.1"
            ) from error
        except PermissionError as error:
            raise ValueError(
                f"port {self.port} is for privileged users: choose one above 1023 with {option}"
            ) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(
                f"cannot listen on {self.host}:{self.port} ({reason}): stop what uses it or choose another with "
                f"{option}"
            ) from error
