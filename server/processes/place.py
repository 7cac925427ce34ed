"""Where a gateway is among the others, and where it listens for them."""

import socket
from dataclasses import dataclass
from pathlib import Path

SOCKET_VARIABLE = "ASR_GATEWAY_SOCKET"
"""From the supervisor: where a gateway listens for the others."""


@dataclass(frozen=True)
class Place:
    """A gateway among the others."""

    directory: Path
    number: int
    """From 1."""

    @classmethod
    def of(cls, path: str) -> "Place":
        return cls(Path(path).parent, int(Path(path).name.rpartition("-")[2]))

    @property
    def path(self) -> Path:
        return self.directory / f"gateway-{self.number}"

    def listen(self) -> socket.socket:
        """For what the others hand on. A socket that was left behind by a process that died is taken over."""
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        return listener
