"""The number and the socket of a gateway among several."""

import socket
from dataclasses import dataclass
from pathlib import Path

SOCKET_VARIABLE = "ASR_GATEWAY_SOCKET"
"""Set by the supervisor: the socket where a gateway listens for the others."""


@dataclass(frozen=True)
class GatewayPlace:
    """One of several gateways."""

    directory: Path
    number: int
    """Number, from 1."""

    @classmethod
    def of(cls, path: str) -> "GatewayPlace":
        return cls(Path(path).parent, int(Path(path).name.rpartition("-")[2]))

    @property
    def path(self) -> Path:
        return self.directory / f"gateway-{self.number}"

    def listen(self) -> socket.socket:
        """Listen for requests that the other gateways forward. The socket of a process that died is replaced."""
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        return listener
