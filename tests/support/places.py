"""Where the tests are."""

import socket
from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the checkout


def free_port() -> int:
    with socket.socket() as on_text:
        on_text.bind(("127.0.0.1", 0))
        return int(on_text.getsockname()[1])
