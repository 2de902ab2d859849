"""Sound files -> samples of 16 bits on one channel, at the rate of the file; and samples at another rate.

libsndfile reads them, whatever they are called, by what they begin with. Several channels are averaged. What is not a
whole number of steps of 16 bits, an average or a sample of 24 bits or of floating point, is rounded once, halves to the
even neighbour, and clipped to -32,768 .. 32,767; a float of 1.0 is 32,768 steps. Mu-law and A-law are read as the
samples that they stand for. A file holds more than what is read of it when that changed a sample: `Dataset.reduced`
says so. A file that ends before its header says it does is an error; Ogg has no such header, and is read as far as it
goes.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.data.reading import file_size, reading, reason
from chainrule.data.sound import FASTEST, Sound
from chainrule.errors import ChainruleError

# libsndfile knows more, some of which have no mark of their own (HTK), or are no sounds (MAT5): those are never tried.
FORMATS = {
    "WAV": (".wav", ".wave"),
    "WAVEX": (),
    "RF64": (".rf64",),
    "W64": (".w64",),
    "FLAC": (".flac",),
    "OGG": (".ogg", ".oga", ".opus"),
    "MP3": (".mp3",),
    "AIFF": (".aiff", ".aif", ".aifc"),
    "AU": (".au", ".snd"),
    "CAF": (".caf",),
    "NIST": (".sph",),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MARKS = re.compile(rb"RIFF|RIFX|RF64|riff|fLaC|OggS|ID3|\xff[\xe0-\xff]|FORM|\.snd|dns\.|caff|NIST_1A")
EIGHT = frozenset({"PCM_U8", "PCM_S8"})
FINER = {
    "PCM_24": "24 bits", "PCM_32": "32 bits", "FLOAT": "32-bit floats", "DOUBLE": "64-bit floats",
    "ALAC_20": "20 bits", "ALAC_24": "24 bits", "ALAC_32": "32 bits", "DWVW_24": "24 bits",
}  # fmt: skip
LOWEST, HIGHEST = -32768, 32767
BLOCK = 2**18  # numbers that are decoded together, whatever a header says
LONGEST = 2**31  # samples of a sound, 4 GiB of them: they are kept in memory
FARTHEST = 256  # times more or fewer samples a second
UNKNOWN = 2**62  # samples and more: a header that was written before its file ended
STREAMED = 2**31 - 2**16  # bytes and more: so, too
# What libsndfile writes into its log when the samples of a file are fewer than its header says.
SHORT = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Recording:
    """What a file holds: samples (T,) int16, so many a second; and whether it stores each in 8 bits."""

    samples: np.ndarray
    rate: int
    coarse: bool = False

    @property
    def nbytes(self) -> int:
        return self.samples.nbytes


def read_recording(path: Path, name: str, rate: int | None = None) -> tuple[Recording, str]:
    """The samples of a file, at its own rate or another, and what the file holds beyond them ("" when nothing).

    Raises:
        ChainruleError: whatever is wrong with the file, in one line that begins with `name`.
    """
    if file_size(path, name) == 0:
        raise ChainruleError(f"{name} is empty")
    with reading(name), path.open("rb") as file:
        begins = file.read(16)
    if not MARKS.match(begins):
        raise ChainruleError(
            f"{name} is not a sound: it begins as no wav, flac, ogg, mp3, aiff, au or caf does"
        )
    with reading(name), quiet(), opened(path, name) as file:
        check(file, name)
        samples, beyond = decoded(file, name)
        check_length(file, len(samples), name)
        coarse = file.subtype in EIGHT and not (samples & 255).any()
        found = Recording(samples, file.samplerate, coarse)
    if rate in (None, found.rate):
        return found, ", ".join(beyond)
    more = [f"{found.rate:,} samples a second"] * (found.rate > rate)
    return Recording(resampled(samples, found.rate, rate, name), rate), ", ".join([*beyond, *more])


@contextmanager
def opened(path: Path, name: str) -> Iterator[Any]:
    """A `soundfile.SoundFile` that is read from its beginning to its end; what libsndfile says is one line."""
    import soundfile

    class Forwards(soundfile.SoundFile):
        """soundfile would seek after every read, which fails at the end of a FLAC file of unknown length."""

        def seekable(self) -> bool:
            return False

    try:
        with Forwards(str(path) if os.name == "nt" else os.fsencode(path)) as file:
            yield file
    except soundfile.LibsndfileError as error:
        told = reason(Exception(error.error_string)).removeprefix("Error : ").rstrip(".")
        raise ChainruleError(f"{name} cannot be read: {told[:1].lower() + told[1:]}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing on standard error, where the decoder of mp3 files writes what it dislikes about damaged ones."""
    with ONE_AT_A_TIME:
        try:
            kept = os.dup(2)
        except OSError:  # there is none
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def check(file: Any, name: str) -> None:
    """One clear line about a file that is open, and no sound that is read."""
    if file.format not in FORMATS:
        raise ChainruleError(f"{name} is a {file.format} file, which is not read: save it as wav or flac")
    if not 0 < file.samplerate <= FASTEST:
        raise ChainruleError(
            f"{name} says it has {file.samplerate:,} samples a second: 1 to {FASTEST:,} are read"
        )


def decoded(file: Any, name: str) -> tuple[np.ndarray, list[str]]:
    """Samples (T,) int16, and what the file holds beyond them."""
    parts: list[np.ndarray] = []
    held, lost = 0, np.zeros(3, bool)
    for block in blocks(file):  # (T, channels)
        if not np.isfinite(block).all():
            raise ChainruleError(f"{name} holds samples that are NaN or infinite: it is damaged")
        parts.append(rounded(block.mean(1)))
        held += len(block)
        if held > LONGEST:
            raise ChainruleError(f"{name} has more than {LONGEST:,} samples: cut it into shorter files")
        changed = block != block[:, :1], block != np.rint(block), np.abs(block) > -LOWEST
        lost |= [part.any() for part in changed]
    if not held:
        raise ChainruleError(f"{name} holds no samples")
    finer = FINER.get(file.subtype, "")  # what was coded with loss is as good in 16 bits
    beyond = f"{file.channels} channels", finer, finer and "samples beyond full scale"
    return np.concatenate(parts), [what for what, true in zip(beyond, lost, strict=True) if what and true]


def blocks(file: Any) -> Iterator[np.ndarray]:
    """Samples (T, channels) of an open file, in steps of 16 bits, a few at a time."""
    size = max(1, BLOCK // file.channels)
    while len(block := file.read(size, dtype="float64", always_2d=True)):
        yield block * -LOWEST


def check_length(file: Any, count: int, name: str) -> None:
    """One clear line when a file of `count` samples says that there are more."""
    if count < file.frames < UNKNOWN:
        raise ChainruleError(f"{name} ends after {count:,} of {file.frames:,} samples: it is truncated")
    for told, held in SHORT.findall(file.extra_info):
        if int(held) < int(told) < STREAMED:
            raise ChainruleError(f"{name} ends after {int(held):,} of {int(told):,} bytes: it is truncated")


def rounded(samples: np.ndarray) -> np.ndarray:
    """Numbers as int16: the nearest, halves to the even one, and none beyond the scale.

    >>> rounded(np.array([0.5, 1.5, 40000.0])).tolist()
    [0, 2, 32767]
    """
    return np.rint(samples).clip(LOWEST, HIGHEST).astype(np.int16)


def resampled(samples: np.ndarray, rate: int, wanted: int, name: str = "a sound") -> np.ndarray:
    """Samples (T,) int16 at another rate, about T wanted / rate of them, by soxr at its very high quality.

    Raises:
        ChainruleError: the rates are too far apart, or the result would be too long.

    >>> resampled(np.full(8000, 1000, np.int16), 8000, 4000)[1000:1003].tolist()
    [1000, 1000, 1000]
    """
    import soxr

    if max(rate, wanted) > FARTHEST * min(rate, wanted):
        raise ChainruleError(
            f"{name} cannot be brought from {rate:,} to {wanted:,} samples a second: at most {FARTHEST} times more"
        )
    if len(samples) * wanted > LONGEST * rate:
        raise ChainruleError(
            f"{name} would have more than {LONGEST:,} samples at {wanted:,} a second: take a lower rate"
        )
    stream, size = (
        soxr.ResampleStream(rate, wanted, 1, "float64", "VHQ"),
        max(1, BLOCK * rate // max(rate, wanted)),
    )
    parts = [
        rounded(
            stream.resample_chunk(samples[a : a + size].astype(np.float64), last=a + size >= len(samples))
        )
        for a in range(0, len(samples), size)
    ]
    found = np.concatenate(parts)
    return found if len(found) else rounded(samples.mean(keepdims=True))  # less than half a sample


def of_one_rate(
    found: list[tuple[str, Recording, str]], source: str
) -> tuple[list[tuple[str, np.ndarray, str]], Sound]:
    """Recordings as symbols, and what these stand for: of 8 bits a sample when all files are so, else of 16."""
    name, first, _ = found[0]
    other = next((row for row in found if row[1].rate != first.rate), None)
    if other is not None:
        raise ChainruleError(
            f"{source} has sounds of {first.rate:,} and of {other[1].rate:,} samples a second ({name}, {other[0]}): "
            f"bring all to one rate, such as --rate {min(first.rate, other[1].rate)}"
        )
    sound = Sound(first.rate, "8 bit" if all(recording.coarse for _, recording, _ in found) else "16 bit")
    return [(name, sound.symbols(recording.samples), beyond) for name, recording, beyond in found], sound
