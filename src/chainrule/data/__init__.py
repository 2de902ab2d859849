"""Files and named sets -> `Dataset`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chainrule.data.arrays import from_array
from chainrule.data.batches import batches, draw, steps_per_epoch, train_holdout
from chainrule.data.dataset import Dataset
from chainrule.data.files import load_path
from chainrule.data.named import NAMED, SPLITS, describe, load_named
from chainrule.data.patches import COUNT, in_gray, patches_of
from chainrule.data.reading import shown
from chainrule.errors import ChainruleError

__all__ = ["Dataset", "batches", "describe", "draw", "load", "steps_per_epoch", "train_holdout"]


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
) -> Dataset:
    """A named set, the files at a path, or an array with one item a row, as a `Dataset`.

    Args:
        source: a path, or a name from the table (see `describe`), or NAME:SPLIT. A path that exists wins
            over a name. A `Dataset` is handed back as it is.
        split: "train" (the default), "test" or "all", of a named set or of an .npz file with `x_train` and
            `x_test`; other files have no splits, and all of them are read.
        levels: the number of symbols, when it does not follow from the data: it is an error if one is
            larger. A named set knows its own.
        classes: for a folder: each sub-folder is a class. A sequence of names says which class has which
            index, as a model that was fitted needs it. Labels that come with a set are always read.
        channels: 1 or 3, for images: what a model that was fitted needs.
        gray: colour images become their luminance.
        patches: instead of the images, `count` random patches of so many pixels across and down, drawn by
            `seed`. The images may have several sizes.

    Raises:
        ChainruleError: nothing of that name, nothing that can be read, or symbols out of range.

    >>> load("digits", split="test").event
    (8, 8, 1)
    """
    data = found(source, split, levels, classes, channels)
    data = in_gray(data) if gray else data
    return data if patches is None else patches_of(data, patches, count, seed)


def found(source, split, levels, classes, channels) -> Dataset:
    """What `load` finds, as it is."""
    if isinstance(source, Dataset):
        return source
    if isinstance(source, np.ndarray):
        return from_array(source, levels)
    if split not in (None, *SPLITS):
        raise ChainruleError(f"there is no split '{split}': take {', '.join(SPLITS)}")
    text = os.fsdecode(source)
    name, _, given = text.partition(":")
    if os.path.lexists(text):
        return load_path(Path(text), split or "train", levels, classes, channels)
    if name in NAMED:
        return load_named(name, given or split or "train")
    close = difflib.get_close_matches(name, NAMED, 1)
    hint = f"did you mean {close[0]}?" if close else f"the sets are {', '.join(NAMED)}"
    raise ChainruleError(f"'{shown(text)}' is neither a file nor a folder nor a named set: {hint}")
