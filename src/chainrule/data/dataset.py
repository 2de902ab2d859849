"""`Dataset`: what every verb receives, whatever the files were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """Events with their names, and what they are conditioned on.

    An *event* is one array of integer symbols 0..levels-1: an image (H, W, C), a text (T,) of bytes.

    Attributes:
        x: the events. One array (N, *event) when all have one shape (it may be memory-mapped), else a
            sequence of N arrays of their own shapes. Integer, or floating (read as probabilities, see `draw`).
        levels: K, the number of symbols: 2 for binary, 256 for bytes, 17 for scikit-learn's digits.
        kind: "image" | "text" | "array".
        names: N names, unique: file names relative to the folder given, or "0", "1", ...
        context: (N,) class indices, or None.
        classes: names of the classes, in the order of their indices; () without classes.
        source: what the user asked for ("digits", "photos/"), for messages and run.json.
        skipped: (name, reason) of every file that could not be read.
        binarise: True when `x` holds intensities 0..255 that are binarised afresh each time an event is
            drawn (dynamic binarisation: symbol 1 with probability x/255); then `levels` is 2.
    """

    x: np.ndarray | Sequence[np.ndarray]
    levels: int
    kind: str
    names: Sequence[str] = ()
    context: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    source: str = ""
    skipped: tuple[tuple[str, str], ...] = field(default=())
    binarise: bool = False

    def __len__(self) -> int:
        return len(self.x)

    @property
    def event(self) -> tuple[int, ...] | None:
        """The shape that all events share, or None when they differ."""
        if isinstance(self.x, np.ndarray):
            return self.x.shape[1:]
        shapes = {a.shape for a in self.x}
        return shapes.pop() if len(shapes) == 1 else None

    @property
    def symbols_total(self) -> int:
        """The number of symbols in all events together: the denominator of bits/dim."""
        return int(self.x.size if isinstance(self.x, np.ndarray) else sum(a.size for a in self.x))

    def select(self, index) -> Dataset:
        """The events at `index` (integers or a slice), in that order."""
        index = np.arange(len(self))[index]
        x = self.x[index] if isinstance(self.x, np.ndarray) else [self.x[i] for i in index]
        names = [self.names[i] for i in index] if len(self.names) else ()
        context = None if self.context is None else self.context[index]
        return replace(self, x=x, names=names, context=context)
