"""The lanes of a block: events, or parts of texts and sounds, that are walked along a chain side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np

from chainrule.archive import FILE, Header, Item, Progress
from chainrule.errors import ChainruleError


class Lanes:
    """The items of a block as the lanes that are walked side by side.

    An event is a lane. A text or a sound is cut into several, and such of different length stand side by side: lanes
    are in order of falling length, and a lane that has ended is coded no further.

    Attributes:
        event: the shape that is walked: that of the items, or (steps,); of a sound of 16 bits (samples, 2).
        owner, first, length: of each lane (B,): its item, and which of its symbols.
        steps: symbols of the longest lane.
        active: (steps,) how many lanes go on at each step: the first so many.
    """

    def __init__(self, items: Sequence[Item], header: Header) -> None:
        pieces, rank = [], header.per_sample
        for owner, item in enumerate(items):
            each = max(1, -(-item.steps // (rank * lanes_of(item, header)))) * rank
            pieces += [(owner, i, min(each, item.steps - i)) for i in range(0, item.steps, each)]
        pieces.sort(key=lambda piece: -piece[2])
        self.items = items
        self.owner, self.first, self.length = np.array(pieces, np.int64).reshape(-1, 3).T
        self.steps = int(self.length.max(initial=0))
        ends, counts = np.unique(self.length, return_counts=True)  # shortest first
        left = len(pieces) - np.cumsum(counts) + counts  # that reach each of these ends
        self.active = np.repeat(left, np.diff(ends, prepend=0))
        line = (self.steps,) if rank == 1 else (self.steps // rank, rank)
        self.event = line if len(items[0].coded) == 1 or rank > 1 else items[0].coded

    def gather(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The symbols of the items as lanes (B, steps) int32, filled up with zeros."""
        flat = np.zeros((len(self.owner), self.steps), np.int32)
        for row, owner, first, length in zip(flat, self.owner, self.first, self.length, strict=True):
            row[:length] = arrays[owner].reshape(-1)[first : first + length]
        return flat

    def scatter(self, flat: np.ndarray, dtype: np.dtype) -> list[np.ndarray]:
        """Undo `gather`."""
        arrays = [np.empty(item.coded, dtype) for item in self.items]
        for row, owner, first, length in zip(flat, self.owner, self.first, self.length, strict=True):
            arrays[owner].reshape(-1)[first : first + length] = row[:length]
        return arrays

    def totals(self, bits: np.ndarray) -> np.ndarray:
        """What belongs to lanes (B,), added up for each item (items,)."""
        return np.bincount(self.owner, bits, len(self.items))

    def context(self, classes: int) -> np.ndarray | None:
        """The class of each lane (B,), for a model that is conditioned on so many classes."""
        if not classes:
            return None
        found = [self.items[owner].context for owner in self.owner]
        if any(c is None or c >= classes for c in found):
            raise ChainruleError(f"the model is conditioned on {classes} classes, the items have others")
        return np.array(found, np.int64)


def lanes_of(item: Item, header: Header) -> int:
    """How many lanes an item is cut into; only texts and sounds are."""
    line = len(item.shape) == 1 or header.per_sample > 1
    if not line or not header.lane or item.form == FILE:
        return 1
    return max(1, min(header.block_items, item.steps // (header.per_sample * header.lane)))


class Meter:
    """Tells `progress` how much is done, and estimates the seconds that are left."""

    def __init__(self, progress: Progress | None, what: str, total: int) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._start, self._done, self._lock = time.monotonic(), 0, threading.Lock()

    def add(self, symbols: int) -> None:
        """So many more are done; any thread may say so."""
        with self._lock:
            self._done = min(self._total, self._done + symbols)
            if self._progress is not None:
                left = (time.monotonic() - self._start) / max(1, self._done) * (self._total - self._done)
                self._progress(self._what, self._done, self._total, left)


def symbol_type(header: Header) -> np.dtype:
    """The type in which the symbols of an archive are handed out, and stand in its raw blocks."""
    return np.dtype(f"<u{header.width}")


def coded_type(header: Header) -> np.dtype:
    """The type of the symbols that a model codes: tokens, too."""
    return np.dtype("<u1" if header.symbols <= 256 else "<u2")
