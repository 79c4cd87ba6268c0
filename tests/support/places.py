"""Where the tests are."""

import socket
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the checkout


def free_port() -> int:
    with socket.socket() as on_text:
        on_text.bind(("127.0.0.1", 0))
        return int(on_text.getsockname()[1])


@dataclass(frozen=True)
class Cluster:
    """A running Ray cluster: the address drivers connect to, and its dashboard for job submission."""

    address: str
    dashboard: str
