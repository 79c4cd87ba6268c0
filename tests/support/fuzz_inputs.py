"""What all inputs of fuzz.py are made with: a choice at random, noise, and files that are spoilt."""

from collections.abc import Callable

import numpy as np

Rng = np.random.Generator
Made = tuple[str, object]  # (kind, cell)


def pick(rng: Rng, choices: dict[str, Callable[[], object]]) -> Made:
    """One of the choices, with its name."""
    name = list(choices)[int(rng.integers(len(choices)))]
    return name, choices[name]()


def noise(rng: Rng, longest: int = 4000) -> bytes:
    return rng.bytes(int(rng.integers(longest)))


def spoilt(rng: Rng, data: bytes) -> Made:
    """A file with something wrong in it."""
    cut = int(rng.integers(len(data)))
    spoilt = bytearray(data)
    for _ in range(int(rng.integers(1, 30))):
        spoilt[int(rng.integers(len(spoilt)))] = int(rng.integers(256))
    header = int(rng.integers(min(80, len(data))))
    size = int(rng.choice([1, 2, 4]))
    value = bytes(rng.choice([b"\xff", b"\x00", b"\x7f", b"\x80"])) * size
    return pick(
        rng,
        {
            "truncated": lambda: data[:cut],
            "end only": lambda: data[cut:],
            "flipped bytes": lambda: bytes(spoilt),
            "wrong header": lambda: data[:header] + value + data[header + size :],
            "another's header": lambda: rng.choice([b"RIFF", b"fLaC", b"OggS", b"\x89PNG", b"GIF89a", b"ID3\x03"]) + data[4:],
            "a hole": lambda: data[:cut] + data[cut + 100 :],
            "zeros inside": lambda: data[:cut] + bytes(1000) + data[cut + 1000 :],
            "twice": lambda: data + data,
        },
    )


def valid(cell: Made) -> Made:
    """For nested columns, which are made from Python's strings."""
    kind, value = cell
    return kind, value.decode("utf-8", "replace") if isinstance(value, bytes) else value
