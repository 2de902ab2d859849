"""`Dataset`: what every verb receives, whatever the files were."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from chainrule.data.alphabets import BYTES, Alphabet
from chainrule.data.recordings import resampled
from chainrule.data.sound import Sound
from chainrule.errors import ChainruleError

DIMS = {"text": "byte", "sound": "sample"}  # what bits are counted by; of anything else by symbols


@dataclass(frozen=True)
class Dataset:
    """Events with their names, and what they are conditioned on.

    An *event* is one array of integer symbols 0..levels-1: an image (H, W, C), a text (T,) of bytes or tokens, a sound
    (T,) of levels, or (T, 2) of bytes.

    Attributes:
        x: the events. One array (N, *event) when all have one shape (it may be memory-mapped), else a
            sequence of N arrays of their own shapes. A selection of a memory-mapped array is a sequence too.
        levels: K, the number of symbols: 2 for binary, 256 for bytes, 17 for scikit-learn's digits.
        kind: "image" | "text" | "sound" | "array".
        names: N names, unique: file names relative to the folder given, or "0", "1", ...
        context: (N,) class indices, or None.
        classes: names of the classes, in the order of their indices; () without classes.
        source: what the user asked for ("digits", "photos/"), for messages and run.json.
        skipped: (name, reason) of every file that could not be read.
        reduced: (name, what) of every file that holds more than `x` does: an alpha channel, 16 bits, carriage returns.
        binarise: True when `x` holds intensities 0..255 that are binarised afresh each time an event is
            drawn (dynamic binarisation: symbol 1 with probability x/255); then `levels` is 2.
        alphabet: what the symbols of texts spell.
        sources: of texts that are each conditioned on another, such as the sentence that they translate: N arrays
            (S,) in symbols of the same alphabet; else None.
        sound: of a sound what its symbols stand for; else None.
    """

    x: np.ndarray | Sequence[np.ndarray]
    levels: int
    kind: str
    names: Sequence[str] = ()
    context: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    source: str = ""
    skipped: tuple[tuple[str, str], ...] = field(default=())
    reduced: tuple[tuple[str, str], ...] = field(default=())
    binarise: bool = False
    alphabet: Alphabet = BYTES
    sources: Sequence[np.ndarray] | None = None
    sound: Sound | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def event(self) -> tuple[int, ...] | None:
        """The shape that all events share, or None when they differ."""
        if isinstance(self.x, np.ndarray | Rows):
            return self.x.shape[1:]
        return next(iter(self.buckets)) if len(self.buckets) == 1 else None

    @cached_property
    def buckets(self) -> dict[tuple[int, ...], np.ndarray]:
        """The indices of the events of every shape, in ascending order, shapes in order of appearance."""
        if isinstance(self.x, np.ndarray | Rows):
            return {self.x.shape[1:]: np.arange(len(self.x))}
        found: dict[tuple[int, ...], list[int]] = {}
        for i, event in enumerate(self.x):
            found.setdefault(event.shape, []).append(i)
        return {shape: np.array(items) for shape, items in found.items()}

    @property
    def symbols_total(self) -> int:
        """The number of symbols in all events together."""
        return sum(math.prod(shape) * len(items) for shape, items in self.buckets.items())

    def dims(self) -> np.ndarray:
        """What bits are counted by, (N,): symbols, channels included; of texts their bytes, of sounds samples.

        >>> loud = Dataset([np.zeros((5, 2), np.uint8)], 256, "sound", sound=Sound(8000, "16 bit"))
        >>> loud.dims().tolist(), loud.lengths().tolist()
        ([5], [10])
        """
        if self.kind == "text":
            return np.array([self.alphabet.size(x) for x in self.x], np.int64)
        return self.lengths() // self.per_sample

    def lengths(self) -> np.ndarray:
        """The number of symbols of every event, (N,)."""
        found = np.empty(len(self), np.int64)
        for shape, items in self.buckets.items():
            found[items] = math.prod(shape)
        return found

    @property
    def per_sample(self) -> int:
        """Symbols of a sample of sound: 2 of 16 bits; else 1."""
        return 2 if self.sound is not None and self.sound.bits == 16 else 1

    def heard(self, sound: Sound) -> Dataset:
        """The same sounds in another coding, at another rate, by way of their samples (see `Sound`, `resampled`).

        >>> loud = Dataset([np.array([[0, 0], [128, 0]])], 256, "sound", sound=Sound(8000, "16 bit"))
        >>> loud.heard(Sound(8000, "mu-law")).x[0].tolist()
        [1, 128]
        """
        old = self.sound
        if old is None:
            raise ChainruleError(
                f"{self.source or 'this'} is {self.kind}, the model was fitted on sound: give it sound"
            )
        if sound == old:
            return self

        def again(event: np.ndarray) -> np.ndarray:
            samples, name = old.samples(event), self.source or "this"
            moved = sound.rate != old.rate
            return sound.symbols(resampled(samples, old.rate, sound.rate, name) if moved else samples)

        return replace(self, x=gather([again(event) for event in self.x]), sound=sound)

    def select(self, index) -> Dataset:
        """The events at `index` (integers, a slice or a mask), in that order."""
        index = np.arange(len(self))[index]
        x: np.ndarray | Sequence[np.ndarray]
        if isinstance(self.x, Rows):
            x = Rows(self.x.rows, self.x.chosen[index])
        elif isinstance(self.x, np.memmap):
            x = Rows(self.x, index)
        else:
            x = self.x[index] if isinstance(self.x, np.ndarray) else [self.x[i] for i in index]
        names = [self.names[i] for i in index] if len(self.names) else ()
        context = None if self.context is None else self.context[index]
        sources = None if self.sources is None else [self.sources[i] for i in index]
        return replace(self, x=x, names=names, context=context, sources=sources)

    def in_alphabet(self, alphabet: Alphabet) -> Dataset:
        """The same texts in the symbols of another alphabet.

        >>> from chainrule.data.alphabets import Tokens
        >>> two = Tokens((b"a", b"b"))
        >>> Dataset(np.array([[1, 0]]), 2, "text", alphabet=two).in_alphabet(BYTES).x.tobytes()
        b'ba'
        """
        if alphabet is self.alphabet:
            return self
        if self.kind != "text":
            raise ChainruleError(
                f"{self.source or 'this'} is {self.kind}: only texts are made of {alphabet.unit}s"
            )

        def encoded(texts: Iterable[np.ndarray]) -> list[np.ndarray]:
            return [alphabet.encode(self.alphabet.decode(text)) for text in texts]

        sources = None if self.sources is None else encoded(self.sources)
        x = gather(encoded(self.x))
        return replace(self, x=x, sources=sources, levels=alphabet.symbols, alphabet=alphabet)


class Rows(Sequence[np.ndarray]):
    """Some rows of a memory-mapped array: what is not asked for is never read.

    >>> Rows(np.arange(6).reshape(3, 2), np.array([2, 0]))[0].tolist()
    [4, 5]
    """

    def __init__(self, rows: np.ndarray, chosen: np.ndarray) -> None:
        self.rows, self.chosen = rows, chosen
        self.shape, self.dtype = (len(chosen), *rows.shape[1:]), rows.dtype

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i):
        return self.rows[self.chosen[i]]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)


class Numbers(Sequence[str]):
    """The names "0", "1", ... of `length` events, without a list of them.

    >>> list(Numbers(3))
    ['0', '1', '2']
    """

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i):
        found = range(self.length)[i]
        return str(found) if isinstance(found, int) else [str(j) for j in found]


def gather(events: Sequence[np.ndarray]) -> np.ndarray | Sequence[np.ndarray]:
    """One array (N, *event) when all events have one shape, else what was given. One event is not copied."""
    if len({event.shape for event in events}) != 1:
        return events
    return events[0][None] if len(events) == 1 else np.stack(events)


def unit_of(kind: str | None) -> str:
    """The unit of a score of data of some kind, see `Dataset.dims`.

    >>> [unit_of(kind) for kind in ("image", "text", "sound")]
    ['bits/dim', 'bits/byte', 'bits/sample']
    """
    return f"bits/{DIMS.get(kind or '', 'dim')}"


def symbol_type(levels: int) -> type[np.integer]:
    """The type in which symbols are handed out: uint8, or int64 above 256 levels."""
    return np.uint8 if levels <= 256 else np.int64
