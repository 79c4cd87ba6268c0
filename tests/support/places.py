"""Where the tests are."""

import socket
from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the checkout


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
