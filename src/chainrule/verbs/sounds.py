"""Sounds in archives and out of them: long ones in pieces, and WAVE files byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from chainrule.archive import FILE, SYMBOLS, Header, Item, Part, flaw
from chainrule.data import Dataset, Sound, wav
from chainrule.data.wav import WaveFile, WholeFile
from chainrule.errors import ChainruleError
from chainrule.verbs.lanes import symbol_type
from chainrule.verbs.sources import Source, as_coded

PIECE = 1 << 19  # samples, at least, of a piece of a recording that is longer than two of them
UNCUT = 1 << 26  # the same for a model that learns from what it codes, which is not cut into lanes either
BYTES_AT_ONCE = 1 << 24  # of a piece of a file that is kept whole


@dataclass(frozen=True)
class Sounds(Source):
    """The sounds of a data set, and files that are kept whole; long ones in pieces, each of which is a block.

    A piece has at least `PIECE` samples and less than twice as many; of several channels it has the same stretch of
    each. What is shorter is one piece.
    """

    data: Dataset
    header: Header
    pieces: list[tuple[int, int, int]] = field(
        default_factory=list
    )  # of each item: event, from where to where

    def items(self, classes: int) -> list[Item]:
        found: list[Item] = []
        taken: set[str] = set()
        for i, event in enumerate(self.data.x):
            name = self.data.names[i] if len(self.data.names) else str(i)
            if reason := flaw(name, taken):
                raise ChainruleError(f"the name {name!r} cannot be kept: {reason}; rename it")
            check_event(name, event, self.header)
            given = classes and self.data.context is not None and not isinstance(event, WholeFile)
            context = int(self.data.context[i]) if given else None  # type: ignore[index]
            for begin, end in self.cut(event):
                self.pieces.append((i, begin, end))
                found.append(item_of(name, event, begin, end, context))
        return found

    def cut(self, event: Any) -> Iterator[tuple[int, int]]:
        """From where to where each piece of an event goes: frames, or bytes of a file that is kept whole."""
        length, channels = frames_of(event), channels_of(event) or 1
        if isinstance(event, WholeFile):
            count = length // BYTES_AT_ONCE
        else:
            count = length * channels // (PIECE if self.header.lane else UNCUT)
        count = max(1, count)
        yield from ((length * i // count, length * (i + 1) // count) for i in range(count))

    def piece(self, i: int) -> tuple[Any, int, int]:
        """The event of item i, and from where to where."""
        event, begin, end = self.pieces[i]
        return self.data.x[event], begin, end

    def coded(self, i: int) -> np.ndarray:
        event, begin, end = self.piece(i)
        symbols = (
            event.part(begin, end)
            if isinstance(event, WaveFile | WholeFile)
            else np.asarray(event)[begin:end]
        )
        return as_coded(symbols, i, self.header)

    def raw(self, i: int, item: Item) -> bytes:
        ends = self.ends(i, item)
        return ends[: item.head] + self.coded(i).tobytes() + ends[item.head :]

    def plain(self, i: int) -> bytes:
        event, begin, end = self.piece(i)
        if not isinstance(event, WaveFile):
            return self.coded(i).tobytes()
        head, tail = event.ends()
        first, last = begin == 0, end == event.wav.frames
        return (head if first else b"") + event.raw(begin, end) + (tail if last else b"")

    def ends(self, i: int, item: Item) -> bytes:
        event = self.piece(i)[0]
        if not isinstance(event, WaveFile) or not item.head + item.tail:
            return b""
        head, tail = event.ends()
        return head[: item.head] + tail[: item.tail]


def frames_of(event: Any) -> int:
    """How long an event is: in frames, or bytes of a file that is kept whole."""
    return event.wav.frames if isinstance(event, WaveFile) else event.shape[0]


def channels_of(event: Any) -> int:
    """Of a file with samples; 0 of anything else."""
    return event.wav.channels if isinstance(event, WaveFile) else 0


def check_event(name: str, event: Any, header: Header) -> None:
    """One clear line for an event that is no sound of the model's."""
    wanted = (2,) if header.per_sample == 2 else ()
    if not isinstance(event, WholeFile) and event.shape[1:] != wanted:
        raise ChainruleError(
            f"{name} has the shape {event.shape}, a sound of {header.sound_coding} {('T', *wanted)}: load it anew"
        )


def item_of(name: str, event: Any, begin: int, end: int, context: int | None) -> Item:
    """A piece of an event."""
    if isinstance(event, WholeFile):
        return Item(name, (end - begin,), FILE, part=Part(begin, event.size))
    channels, total = channels_of(event), event.shape[0]
    each = channels or 1
    ends = (event.wav.head, event.wav.tail) if channels else (0, 0)
    shape = ((end - begin) * each, *event.shape[1:])
    return Item(name, shape, SYMBOLS, context, part=Part(begin * each, total, channels, *ends))


# ------------------------------------------------------------------------------------------------ out of archives


def taken_apart(raw: bytes, item: Item, header: Header) -> tuple[bytes, np.ndarray, bytes]:
    """What stands before the samples of an item in a raw block, its symbols, and what stands after them."""
    last = len(raw) - item.tail
    dtype = np.dtype("u1") if item.form == FILE else symbol_type(header)
    return raw[: item.head], np.frombuffer(raw[item.head : last], dtype).reshape(item.shape), raw[last:]


def joined(items: list[Item], arrays: list[np.ndarray]) -> np.ndarray:
    """All pieces of a recording as one event, one channel after another."""
    if len(arrays) == 1:
        return arrays[0]
    channels = max(1, items[0].part.channels if items[0].part else 1)
    pieces = [array.reshape(channels, -1, *array.shape[1:]) for array in arrays]
    return np.concatenate(pieces, 1).reshape(-1, *arrays[0].shape[1:])


def write_piece(
    file: BinaryIO, item: Item, symbols: np.ndarray, head: bytes, tail: bytes, header: Header
) -> None:
    """A piece of a recording into the file that it was, or into a new one of its samples."""
    assert item.part is not None
    part, coding = item.part, header.sound_coding
    if part.channels:
        size = part.total * wav.width_of(coding)
        file.write(wav.absolute(head, size, part.tail) if item.first else b"")
        file.write(wav.to_bytes(symbols, coding, part.channels) + tail)
        return
    linear = "8 bit" if coding == "8 bit" else "16 bit"
    file.write(wav.header(linear, header.sound_rate, part.total) if item.first else b"")
    file.write(as_linear(symbols, header))
    ends = part.begin + item.shape[0] == part.total
    file.write(b"\0" if ends and part.total % 2 and linear == "8 bit" else b"")


def as_linear(symbols: np.ndarray, header: Header) -> bytes:
    """The samples of a sound as a WAVE file has them: no two codes give the same one.

    A mu-law code gives the sample that `Sound.samples` gives; code 0, which no sample has, gives -32,768, the sample
    that no other code gives.
    """
    if header.sound_coding != "mu-law":
        return wav.to_bytes(symbols, header.sound_coding, 1)
    samples = Sound(header.sound_rate, "mu-law").samples(symbols)
    return np.where(symbols == 0, -32768, samples).astype("<i2").tobytes()
