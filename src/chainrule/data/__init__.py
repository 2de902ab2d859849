"""Files and named sets -> `Dataset`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from chainrule.data.alphabets import BYTES, Alphabet
from chainrule.data.arrays import from_array, has_splits
from chainrule.data.batches import (
    batches,
    draw,
    padded,
    pairs,
    passage,
    passages,
    rank_in_class,
    steps_per_epoch,
    streams,
    train_holdout,
)
from chainrule.data.dataset import Dataset, unit_of
from chainrule.data.files import load_path
from chainrule.data.named import NAMED, SPLITS, describe, load_named
from chainrule.data.parallel import Sources, load_parallel
from chainrule.data.patches import COUNT, in_gray, patches_of
from chainrule.data.reading import printable, shown
from chainrule.data.sound import Sound
from chainrule.data.vocoder import frames_of
from chainrule.errors import ChainruleError

__all__ = [
    "BYTES",
    "Alphabet",
    "Dataset",
    "Sound",
    "batches",
    "describe",
    "draw",
    "load",
    "padded",
    "pairs",
    "passage",
    "passages",
    "rank_in_class",
    "steps_per_epoch",
    "streams",
    "train_holdout",
    "train_test",
    "unit_of",
]

HELD = 5  # of data without a split, the second of every five events of a class is to test with


def load(
    source: str | os.PathLike[str] | np.ndarray | Dataset,
    split: str | None = None,
    levels: int | None = None,
    classes: bool | Sequence[str] = False,
    channels: int | None = None,
    gray: bool = False,
    patches: int | None = None,
    count: int = COUNT,
    seed: int = 0,
    alphabet: Alphabet = BYTES,
    sources: Sources | None = None,
    bits: int | None = None,
    rate: int | None = None,
    sound: Sound | None = None,
    frames: bool = False,
) -> Dataset:
    """A named set, the files at a path, or an array with one item a row, as a `Dataset`.

    Args:
        source: a path, or a name from the table (see `describe`), or NAME:SPLIT. A path that exists wins
            over a name. A `Dataset` is handed back as it is.
        split: "train" (the default), "test" or "all", of a named set or of an .npz file with `x_train` and
            `x_test`; other files have no splits, and all of them are read. "validation" of a named set that has one.
        levels: the number of symbols, when it does not follow from the data: it is an error if one is
            larger. A named set knows its own.
        classes: for a folder: each sub-folder is a class. A sequence of names says which class has which
            index, as a model that was fitted needs it. Labels that come with a set are always read.
        channels: 1 or 3, for images: what a model that was fitted needs.
        gray: colour images become their luminance.
        patches: instead of the images, `count` random patches of so many pixels across and down, drawn by
            `seed`. The images may have several sizes.
        alphabet: what the symbols of texts are to be: `alphabet` of the run whose model they are for.
        sources: what each text is conditioned on, such as what it translates. A file: its lines are the sources of the
            lines of `source`. A number, 1 or 2: `source` is a table of two columns with a tab between, and this is the
            column of the sources. See `chainrule.data.parallel` for what a line is. A named set has its own.
        bits: of a sample of sound: 16, or 8, which is mu-law (files of 8 bits stay what they are, at their own rate).
            None: 8 when all files are so, else 16. See `Sound` and `chainrule.data.recordings` for what is rounded.
        rate: samples a second that sounds are brought to. None: those that all files share.
        sound: what the symbols of sounds are to be: `sound` of the run whose model they are for, in place of the two.
        frames: give sounds as `sources` what a synthesiser of speech knows of them, every 10 ms: see `vocoder`.

    Raises:
        ChainruleError: nothing of that name, nothing that can be read, or symbols out of range.

    >>> load("digits", split="test").event
    (8, 8, 1)
    """
    wanted = check_sound(bits, rate) if sound is None else sound.rate
    data = found(source, split, levels, classes, channels, wanted, sources)
    data = in_gray(data) if gray else data
    data = data if patches is None else patches_of(data, patches, count, seed)
    data = as_sound(data, bits, rate) if sound is None else data.heard(sound)
    data = replace(data, sources=frames_of(data)) if frames else data
    return data if alphabet is BYTES else data.in_alphabet(alphabet)


def check_sound(bits: int | None, rate: int | None) -> int | None:
    """One clear line for bits or a rate that there cannot be; gives the rate."""
    if bits not in (None, 8, 16):
        raise ChainruleError(f"--bits {bits}: a sample of sound has 8 or 16")
    return None if rate is None else Sound(rate, "16 bit").rate


def as_sound(data: Dataset, bits: int | None, rate: int | None) -> Dataset:
    """Sounds with so many bits a sample, and so many samples a second."""
    if data.sound is None:
        if bits or rate:
            what = f"--bits {bits}" if bits else f"--rate {rate}"
            raise ChainruleError(f"{what} is for sound, {data.source or 'this'} is {data.kind}: leave it out")
        return data
    moved = rate not in (None, data.sound.rate)
    coding = (
        "16 bit" if moved and data.sound.coding == "8 bit" else data.sound.coding
    )  # it leaves the steps of 8 bits
    if bits not in (None, 16 if coding == "16 bit" else 8):
        coding = "mu-law" if bits == 8 else "16 bit"
    return data.heard(Sound(rate or data.sound.rate, coding))


def found(source, split, levels, classes, channels, rate=None, sources=None) -> Dataset:
    """What `load` finds, as it is; the files of a folder at one rate."""
    if sources is not None:
        return with_sources(source, levels, classes, sources)
    if isinstance(source, Dataset):
        return source
    if isinstance(source, np.ndarray):
        return from_array(source, levels)
    text = os.fsdecode(source)
    name, _, given = text.partition(":")
    is_path = os.path.lexists(text)
    if name in NAMED and not is_path:
        return load_named(name, given or split or "train")
    if split not in (None, *SPLITS):
        raise ChainruleError(f"there is no split '{split}': take {', '.join(SPLITS)}")
    if is_path:
        return load_path(Path(text), split or "train", levels, classes, channels, rate)
    close = difflib.get_close_matches(name, NAMED, 1)
    hint = f"did you mean {close[0]}?" if close else f"the sets are {', '.join(NAMED)}"
    raise ChainruleError(f"'{shown(text)}' is neither a file nor a folder nor a named set: {hint}")


def with_sources(source, levels, classes, sources) -> Dataset:
    """The pairs that `load` finds."""
    if classes:
        raise ChainruleError("texts with sources have no classes: leave out one of the two")
    if isinstance(source, np.ndarray | Dataset):
        raise ChainruleError("sources are read beside a file: give a path, or a Dataset that has them")
    path = os.fsdecode(source)
    if path.partition(":")[0] in NAMED and not os.path.lexists(path):
        raise ChainruleError(f"{path} is a named set, and sources are read beside a file: leave them out")
    return load_parallel(Path(path), sources, levels)


def train_test(source: str | os.PathLike[str], **reading) -> tuple[Dataset, Dataset, bool]:
    """Events to learn from, events to test with, and whether the data came so divided.

    A named set and an .npz file with `x_train` and `x_test` do. Of anything else, NAME:SPLIT included, the second of
    every five events of each class is to test with (of all events, where there are no classes).

    Args:
        reading: further arguments of `load`.

    >>> [len(part) for part in train_test("digits")[:2]], [len(part) for part in train_test("digits:test")[:2]]
    ([1497, 300], [239, 61])
    """
    if divided(os.fsdecode(source)):
        return load(source, "train", **reading), load(source, "test", **reading), True
    data = load(source, **reading)
    classes = np.zeros(len(data), np.int64) if data.context is None else data.context
    held = rank_in_class(classes) % HELD == 1
    return data.select(~held), data.select(held), False


def divided(source: str) -> bool:
    """Whether `load` finds a training and a test split there."""
    if os.path.lexists(source):
        return has_splits(Path(source), printable(source))
    return source in NAMED
