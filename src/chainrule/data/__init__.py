"""Files and named sets -> `Dataset`."""

from __future__ import annotations

import os

from chainrule.data.batches import batches, draw, steps_per_epoch, train_holdout
from chainrule.data.dataset import Dataset
from chainrule.data.named import NAMED, describe, load_named
from chainrule.errors import ChainruleError

__all__ = ["Dataset", "batches", "describe", "draw", "load", "steps_per_epoch", "train_holdout"]


def load(
    source: str | os.PathLike[str], split: str | None = None, levels: int | None = None, classes: bool = False
) -> Dataset:
    """A named set, or the files at a path, as a `Dataset`.

    Args:
        source: a path, or a name from the table, or NAME:SPLIT. An existing path wins over a name.
        split: "train" (the default), "test" or "all", of whatever has splits.
    """
    name, _, given = str(source).partition(":")
    if name in NAMED:
        return load_named(name, given or split or "train")
    raise ChainruleError(f"{source}")
