"""Row keys: 64-bit integers. The rows of a file have consecutive keys, so a set of finished rows has few intervals."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
NONE = np.empty(0, np.uint64)


def first_key(file: str) -> int:
    """The key of a file's first row, a hash of the file's name: at least 1 and below 2**63, so that no key overflows."""
    return int.from_bytes(hashlib.blake2b(file.encode(), digest_size=8).digest()) >> 1 | 1


def keys_between(start: int, stop: int) -> Keys:
    """All keys in [start, stop), as an array."""
    return np.uint64(start) + np.arange(stop - start, dtype=np.uint64)


@dataclass(frozen=True)
class KeySet:
    """A set of keys as intervals that neither overlap nor touch: 16 bytes for each, however many keys are in it.

    Attributes:
        starts: first keys, ascending; uint64 of shape (intervals,).
        stops: the keys after the last ones.
    """

    starts: Keys = field(default_factory=lambda: NONE)
    stops: Keys = field(default_factory=lambda: NONE)

    @classmethod
    def of(cls, keys: Keys) -> KeySet:
        """The set of these keys, in any order."""
        ordered = np.unique(keys)
        ends = np.flatnonzero(np.diff(ordered) != 1)
        starts = ordered[np.concatenate([[0], ends + 1])] if len(ordered) else NONE
        stops = ordered[np.concatenate([ends, [-1]])] + np.uint64(1) if len(ordered) else NONE
        return cls(starts, stops)

    @classmethod
    def between(cls, spans: Iterable[tuple[int, int]]) -> KeySet:
        """The set of the keys in [start, stop) for each (start, stop)."""
        pairs = np.array([span for span in spans if span[0] < span[1]], np.uint64).reshape(-1, 2)
        return cls.union([cls(pairs[:, 0], pairs[:, 1])])

    @classmethod
    def union(cls, sets: Iterable[KeySet]) -> KeySet:
        """The union of the sets. Their intervals may overlap and be in any order."""
        several = [each for each in sets if len(each.starts)]
        if not several:
            return cls()
        starts = np.concatenate([each.starts for each in several])
        stops = np.concatenate([each.stops for each in several])
        order = np.argsort(starts, kind="stable")
        starts, reached = starts[order], np.maximum.accumulate(stops[order])
        is_new = np.concatenate([[True], starts[1:] > reached[:-1]])
        return cls(starts[is_new], reached[np.concatenate([np.flatnonzero(is_new)[1:] - 1, [len(starts) - 1]])])

    def __len__(self) -> int:
        """The number of keys."""
        return int((self.stops - self.starts).sum())

    def keys(self) -> Keys:
        """All keys, ascending."""
        pairs = zip(self.starts.tolist(), self.stops.tolist(), strict=True)
        return np.concatenate([NONE, *(keys_between(start, stop) for start, stop in pairs)])

    def holds(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Whether each of `keys` is in the set; shape (keys,)."""
        if not len(self.starts):
            return np.zeros(len(keys), bool)
        places = np.searchsorted(self.starts, keys, side="right").astype(np.int64) - 1
        return np.asarray((places >= 0) & (keys < self.stops[np.maximum(places, 0)]))

    def counts(self, starts: Keys, stops: Keys) -> npt.NDArray[np.int64]:
        """How many keys of the set are in [start, stop), for each start and stop; all shapes (ranges,)."""
        return self._below(stops) - self._below(starts)

    def _below(self, keys: Keys) -> npt.NDArray[np.int64]:
        """How many keys of the set are smaller than each of `keys`."""
        before = np.searchsorted(self.starts, keys, side="left")
        sums = np.concatenate([[0], np.cumsum((self.stops - self.starts).astype(np.int64))])
        last_stops = np.concatenate([np.zeros(1, np.uint64), self.stops])[before]
        return np.asarray(sums[before] - np.where(last_stops > keys, last_stops - keys, np.uint64(0)).astype(np.int64))

    def without(self, other: KeySet) -> KeySet:
        """The keys of the set that are not in `other`."""
        edges = np.unique(np.concatenate([self.starts, self.stops, other.starts, other.stops]))
        inside = self.holds(edges) & ~other.holds(edges)  # from one edge to the next nothing changes
        before = np.concatenate([[False], inside[:-1]])
        return KeySet(edges[inside & ~before], edges[~inside & before])

    def common(self, other: KeySet) -> KeySet:
        """The keys that are in both sets."""
        return self.without(self.without(other))
