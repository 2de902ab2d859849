"""WAVE files, byte for byte: where their samples lie, these as symbols, and the same file again.

Nothing is resampled or mixed. The samples of several channels become one event, one channel after another. Whatever is
not understood is left as a whole: every file comes back as it was.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from chainrule.data.dataset import Dataset
from chainrule.data.files import list_files
from chainrule.data.reading import file_size, printable, reading
from chainrule.data.sound import SILENCE, Sound
from chainrule.errors import ChainruleError

MAX_HEAD = 1 << 20  # bytes before the first sample; a file with more is kept whole
MAX_TAIL = 1 << 24  # bytes after the last one
UNKNOWN = 0xFFFFFFFF  # the length that a program writes when it does not know it yet
PCM, MU_LAW, EXTENSIBLE = 1, 7, 0xFFFE  # forms of samples
SUBFORM = bytes.fromhex(
    "000000001000800000aa00389b71"
)  # what follows the form in the GUID of an extensible one


@dataclass(frozen=True)
class Wav:
    """Where the samples of a WAVE file lie.

    Attributes:
        coding: "16 bit" or "8 bit", linear; "mu-law": the 8 bits of G.711.
        rate: samples a second.
        channels: samples of a frame, which stand next to each other.
        head, frames, tail: bytes before the first frame, how many frames there are, bytes after the last one.
    """

    coding: str
    rate: int
    channels: int
    head: int
    frames: int
    tail: int

    @property
    def width(self) -> int:
        """Bytes of a sample."""
        return width_of(self.coding)

    @property
    def samples(self) -> int:
        """Of all channels together."""
        return self.frames * self.channels


def width_of(coding: str) -> int:
    """Bytes of a sample, in a file as in symbols."""
    return 2 if coding == "16 bit" else 1


def parse(beginning: bytes, size: int) -> Wav | None:
    """What lies where in a file of `size` bytes that begins so; None when it is not understood.

    Args:
        beginning: at least its first `MAX_HEAD` bytes, or all of it.

    >>> parse(header("16 bit", 8000, 3) + bytes(6), 50)
    Wav(coding='16 bit', rate=8000, channels=1, head=44, frames=3, tail=0)
    """
    if beginning[:4] != b"RIFF" or beginning[8:12] != b"WAVE":
        return None
    form, at = None, 12
    while at + 8 <= min(len(beginning), MAX_HEAD):
        name, length = struct.unpack_from("<4sI", beginning, at)
        at += 8
        if name == b"data":
            return None if form is None else located(form, beginning, at, length, size)
        if name == b"fmt ":
            form = form_of(beginning[at : at + length]) if form is None else None
            if form is None:
                return None
        at += length + (length & 1)  # chunks begin at even places
    return None


def form_of(fmt: bytes) -> tuple[str, int, int] | None:
    """(coding, rate, channels) that a chunk "fmt " tells, when it is a form that we know."""
    if len(fmt) < 16:
        return None
    form, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", fmt)
    if form == EXTENSIBLE and len(fmt) >= 40 and fmt[26:40] == SUBFORM:
        form = int.from_bytes(fmt[24:26], "little")
    coding = {(PCM, 16): "16 bit", (PCM, 8): "8 bit", (MU_LAW, 8): "mu-law"}.get((form, bits))
    if coding is None or not channels or align != channels * width_of(coding):
        return None
    return coding, rate, channels


def located(form: tuple[str, int, int], beginning: bytes, head: int, length: int, size: int) -> Wav | None:
    """The samples after `head` bytes, of which the file says that they take `length`: as far as they are there."""
    coding, rate, channels = form
    told = int.from_bytes(beginning[4:8], "little")
    streamed = length == UNKNOWN or (length == 0 and told in (0, UNKNOWN))
    room = size - head
    frames = (room if streamed else min(length, room)) // (channels * width_of(coding))
    tail = room - frames * channels * width_of(coding)
    return Wav(coding, rate, channels, head, frames, tail) if frames > 0 and tail <= MAX_TAIL else None


# ------------------------------------------------------------------------------------------- samples as symbols


def to_symbols(raw: bytes, coding: str, channels: int) -> np.ndarray:
    """Frames as they stand in a file -> symbols (T,) or (T, 2) uint8 as in `Sound`, one channel after another.

    >>> to_symbols(bytes([1, 0, 255, 255]), "16 bit", channels=2).tolist()
    [[128, 1], [127, 255]]
    """
    frames = np.frombuffer(raw, np.uint8).reshape(-1, channels, width_of(coding))
    planar = frames.swapaxes(0, 1).reshape(-1, width_of(coding))  # (T, 1 or 2)
    if coding == "16 bit":
        return planar[:, ::-1] ^ HIGH_BIT
    return planar[:, 0].copy() if coding == "8 bit" else LEVEL_OF[planar[:, 0]]


def to_bytes(symbols: np.ndarray, coding: str, channels: int) -> bytes:
    """Undo `to_symbols`."""
    if coding == "16 bit":
        planar = (symbols ^ HIGH_BIT)[:, ::-1]
    else:
        planar = (symbols if coding == "8 bit" else G711_OF[symbols])[:, None]
    return planar.reshape(channels, -1, width_of(coding)).swapaxes(0, 1).tobytes()


def g711_levels() -> np.ndarray:
    """The code in `mu_law` (van den Oord's) of each byte of G.711 mu-law, (256,).

    Both are logarithmic with mu = 255, and have 127 steps on either side: G.711 in straight pieces, as sign and steps,
    inverted. Its second zero, which few programs ever write, becomes the one code that `mu_law` never gives, 0.
    """
    inverted = 255 - np.arange(256)
    steps = inverted & 127
    levels = np.where(inverted & 128, SILENCE - steps, SILENCE + steps)
    levels[127] = 0
    return levels.astype(np.uint8)


HIGH_BIT = np.array([128, 0], np.uint8)  # of (high byte, low byte): with it a sample becomes sample + 32,768
LEVEL_OF = g711_levels()
G711_OF = np.argsort(LEVEL_OF).astype(np.uint8)


# --------------------------------------------------------------------------------------------------- the head


def header(coding: str, rate: int, samples: int) -> bytes:
    """The 44 bytes before so many linear samples of one channel; a length that does not fit is `UNKNOWN`."""
    width = width_of(coding)
    data = samples * width
    riff = struct.pack("<4sI4s", b"RIFF", min(36 + data + data % 2, UNKNOWN), b"WAVE")
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, PCM, 1, rate, rate * width, width, 8 * width)
    return riff + fmt + struct.pack("<4sI", b"data", min(data, UNKNOWN))


def relative(head: bytes, data: int, tail: int, sign: int = -1) -> bytes:
    """A head with its two lengths, of the file and of the samples, less what they should be: nearly always 0.

    So the heads of all files of a folder are the same. With `sign` 1 it is undone.

    Args:
        data, tail: bytes of the samples, and after them.

    >>> relative(header("8 bit", 8000, 4), 4, 0)[4:8]
    b'\\x00\\x00\\x00\\x00'
    """
    told = [int.from_bytes(head[at : at + 4], "little") for at in (4, len(head) - 4)]
    right = len(head) - 8 + data + tail, data
    riff, length = (struct.pack("<I", (n + sign * m) % 2**32) for n, m in zip(told, right, strict=True))
    return head[:4] + riff + head[8:-4] + length


def absolute(head: bytes, data: int, tail: int) -> bytes:
    """Undo `relative`."""
    return relative(head, data, tail, 1)


# ---------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True)
class WaveFile:
    """The samples of a WAVE file as an event (T,) or (T, 2), one channel after another, read when they are needed."""

    path: Path
    wav: Wav
    dtype: ClassVar[np.dtype] = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """(T,) of 8 bits, (T, 2) of 16; T counts the samples of all channels."""
        return (self.wav.samples, 2) if self.wav.width == 2 else (self.wav.samples,)

    def raw(self, begin: int, end: int) -> bytes:
        """Frames `begin` to `end` as they stand in the file."""
        frame = self.wav.channels * self.wav.width
        return stretch(self.path, self.wav.head + begin * frame, (end - begin) * frame)

    def part(self, begin: int, end: int) -> np.ndarray:
        """Frames `begin` to `end` of every channel."""
        return to_symbols(self.raw(begin, end), self.wav.coding, self.wav.channels)

    def ends(self) -> tuple[bytes, bytes]:
        """What stands before and after the samples; the lengths before them as from `relative`."""
        data = self.wav.samples * self.wav.width
        head, tail = (
            stretch(self.path, *at) for at in ((0, self.wav.head), (self.wav.head + data, self.wav.tail))
        )
        return relative(head, data, len(tail)), tail

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.part(0, self.wav.frames), dtype)


@dataclass(frozen=True)
class WholeFile:
    """A file that is kept as it is: its bytes (n,), and why."""

    path: Path
    size: int
    reason: str
    dtype: ClassVar[np.dtype] = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n,)"""
        return (self.size,)

    def part(self, begin: int, end: int) -> np.ndarray:
        """Some of its bytes."""
        return np.frombuffer(stretch(self.path, begin, end - begin), np.uint8)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.part(0, self.size), dtype)


def stretch(path: Path, begin: int, size: int) -> bytes:
    """So many bytes of a file, which must be there."""
    name = printable(str(path))
    with reading(name), path.open("rb") as file:
        file.seek(begin)
        found = file.read(size)
    if len(found) != size:
        raise ChainruleError(f"{name} has become shorter while it was read: take it again")
    return found


# ---------------------------------------------------------------------------------------------------- folders


def load_wavs(path: Path, sound: Sound, classes: Sequence[str] = ()) -> Dataset:
    """The WAVE file at `path`, or all files below it, exactly: what a model of `sound` can code as `WaveFile`.

    Every other file is a `WholeFile`. The rates of the files may be others than that of `sound`.

    Args:
        classes: the model's: then the first folder of each name is its class, and what has none is a `WholeFile`.

    Raises:
        ChainruleError: there is no file that the model can code; the line says why of the first.
    """
    source = printable(str(path))
    folder = path.is_dir()
    files, skipped = list_files(path, source) if folder else ({printable(path.name): path}, [])
    events: dict[str, Any] = {}
    for name, file in files.items():
        try:
            events[name] = event_of(name, file, sound, classes)
        except ChainruleError as error:
            skipped.append((name, str(error).removeprefix(name).strip()))
    if not any(isinstance(event, WaveFile) for event in events.values()):
        raise ChainruleError(nothing(source, events, skipped, folder))
    context = None
    if classes:
        folders = [name.partition("/")[0] for name in events]
        context = np.array([list(classes).index(f) if f in classes else 0 for f in folders], np.int64)
    return Dataset(
        list(events.values()), 256, "sound", list(events), context, tuple(classes), source, tuple(skipped),
        sound=sound,
    )  # fmt: skip


def event_of(name: str, path: Path, sound: Sound, classes: Sequence[str]) -> WaveFile | WholeFile:
    """A file as what can be made of it."""
    size = file_size(path, name)
    with reading(name), path.open("rb") as file:
        wav = parse(file.read(MAX_HEAD), size)
    reason = "is no WAVE file of 8 or 16 bits" if wav is None else misfit(wav, sound)
    if not reason and classes and name.partition("/")[0] not in classes:
        reason = f"is in no folder named after a class, such as {classes[0]}"
    return WholeFile(path, size, reason) if reason or wav is None else WaveFile(path, wav)


TOLD = {
    "16 bit": "16 bits a sample",
    "8 bit": "8 linear bits a sample",
    "mu-law": "8 bits a sample in mu-law",
}


def misfit(wav: Wav, sound: Sound) -> str:
    """Why samples of a file cannot be coded by a model of `sound`, and what would; nothing when they can.

    >>> misfit(Wav("16 bit", 8000, 1, 44, 9, 0), Sound(8000, "mu-law"))
    'has 16 bits a sample, the model was fitted on 8 bits a sample in mu-law: fit one with --bits 16'
    """
    if wav.coding == sound.coding:
        return ""
    way = "fit one with --bits 16" if wav.coding == "16 bit" else "fit one to such files with --bits 8"
    return f"has {TOLD[wav.coding]}, the model was fitted on {TOLD[sound.coding]}: {way}"


def nothing(source: str, events: dict[str, Any], skipped: list[tuple[str, str]], folder: bool) -> str:
    """What to say when not one file can be coded."""
    found = [(name, event.reason) for name, event in events.items()] + skipped
    if not found:
        return f"{source} is an empty folder"
    found.sort(key=lambda pair: pair[1].startswith("is no WAVE"))
    name, reason = found[0]
    told = (
        reason
        if "fit one" in reason
        else f"{reason}: only such are coded, with others beside them kept whole"
    )
    return (
        f"{source}: none of {len(found)} files can be coded: {name} {told}" if folder else f"{source} {told}"
    )
