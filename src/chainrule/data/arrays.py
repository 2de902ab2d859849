"""Arrays -> `Dataset`. A .npy file is memory-mapped, an .npz member unpacked, after a look at the header.

The first axis counts the items, and the numbers are integers. Levels: 2 for bool, 256 for uint8, else one
more than the largest value, unless told otherwise. (N, H, W) and (N, H, W, 1 or 3) are images.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

from chainrule.data.dataset import Dataset, Numbers
from chainrule.data.reading import file_size, reading
from chainrule.errors import ChainruleError

MAX_UNPACKED = 2**32  # bytes of one member of an .npz: it must fit in memory, which a .npy need not
MAX_LEVELS = 2**16  # a distribution over more symbols than this is a mistake
CHUNK = 2**24  # bytes of an array that are looked at together

TO_INTEGERS = {
    "f": "round it first, as in np.rint(255 * x).astype(np.uint8)",
    "c": "save two integer arrays instead",
    "O": "Python objects are never unpickled",
    "U": "save texts as files",
    "S": "save texts as files",
}


def load_array(path: Path, name: str, split: str = "train", levels: int | None = None) -> Dataset:
    """A .npy array, or of an .npz file: `x`, else `x_train`/`x_test` by `split`, else the only one.

    Labels `y` (or `y_train`, `y_test`) become the context.
    """
    if path.suffix.lower() == ".npy":
        return from_array(read_npy(path, name), levels, source=name)
    arrays = read_npz(path, name, split)
    return from_array(arrays["x"], levels, arrays.get("y"), source=name)


def from_array(
    x: np.ndarray, levels: int | None = None, y: np.ndarray | None = None, source: str = "array"
) -> Dataset:
    """Items along the first axis -> `Dataset`, with labels `y` (N,) of classes 0, 1, ... as context.

    >>> from_array(np.zeros((5, 8, 8), np.uint8)).event
    (8, 8, 1)
    """
    integers_only(x.dtype, source)
    if x.ndim < 2 or x.size == 0:
        raise ChainruleError(
            f"{source} has shape {x.shape}: (items, ...) with something in every item is needed"
        )
    levels = levels or {"bool": 2, "uint8": 256}.get(x.dtype.name)
    x = x.view(np.uint8) if x.dtype == bool else x
    levels = checked_levels(x, levels, source)
    kind = "image" if x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3)) else "array"
    x = x[..., None] if x.ndim == 3 else x
    context = None if y is None else checked_labels(y, len(x), source)
    classes = () if context is None else tuple(str(c) for c in range(int(context.max()) + 1))
    return Dataset(x, levels, kind, Numbers(len(x)), context, classes, source)


def has_splits(path: Path, name: str) -> bool:
    """Whether a file is an .npz with items to train and items to test."""
    if path.suffix.lower() != ".npz":
        return False
    file_size(path, name)
    with reading(name), zipfile.ZipFile(path) as archive:
        members = {member.removesuffix(".npy") for member in archive.namelist()}
    return {"x_train", "x_test"} <= members and "x" not in members


def read_npy(path: Path, name: str) -> np.ndarray:
    """The memory-mapped array of a .npy file."""
    size = file_size(path, name)
    with reading(name):
        with path.open("rb") as file:
            check_header(file, size, name)
        return np.lib.format.open_memmap(path, mode="r")


def read_npz(path: Path, name: str, split: str) -> dict[str, np.ndarray]:
    """Items `x` of the split, and their labels `y` when the file has them."""
    file_size(path, name)
    with reading(name), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        keys = item_keys(members, split, name)
        labels = [key.replace("x", "y", 1) for key in keys]
        found = {"x": keys} | ({"y": labels} if set(labels) <= set(members) - set(keys) else {})
        parts = {k: [read_member(archive, members[key], name) for key in v] for k, v in found.items()}
        return {k: np.concatenate(v) if len(v) > 1 else v[0] for k, v in parts.items()}


def read_members(path: Path, name: str, keys: Collection[str], kinds: str = "biuU") -> dict[str, np.ndarray]:
    """These arrays of an .npz file, whose types are of `kinds` (numpy's letters)."""
    file_size(path, name)
    with reading(name), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        missing = [key for key in keys if key not in members]
        if missing:
            raise ChainruleError(f"{name} has no array {missing[0]!r}: {', '.join(keys)} are needed")
        return {key: read_member(archive, members[key], name, kinds) for key in keys}


def item_keys(keys: Collection[str], split: str, name: str) -> list[str]:
    """Which of the `keys` of an .npz file hold the items of `split`."""
    if "x" in keys:
        return ["x"]
    parts = [key for key in ("x_train", "x_test") if key in keys]
    wanted = [key for key in parts if split in ("all", key.removeprefix("x_"))]
    if parts:
        return wanted or parts
    if len(keys) == 1:
        return list(keys)
    raise ChainruleError(f"{name} holds {len(keys)} arrays: call the one to use x, or x_train and x_test")


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, kinds: str = "biu") -> np.ndarray:
    """One array of an .npz file. The zip's checksum is verified on the way."""
    if info.file_size > MAX_UNPACKED:
        unpacked = f"{info.file_size / 2**30:.1f} GiB, over {MAX_UNPACKED >> 30}"
        raise ChainruleError(
            f"{name} unpacks to {unpacked}: save it as .npy, which is read from the disk as needed"
        )
    with archive.open(info) as file:
        check_header(file, info.file_size, name, kinds)
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def check_header(file: IO[bytes], size: int, name: str, kinds: str = "biu") -> None:
    """Refuse an array that is not of `kinds`, or does not add up to the `size` in bytes of the file."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
        version
    )
    if read is None:
        raise ChainruleError(
            f"{name} is a .npy file of version {version}: plain integer arrays have 1.0 or 2.0"
        )
    shape, _, dtype = read(file)
    if dtype.kind not in kinds:
        integers_only(dtype, name)
        raise ChainruleError(f"{name} holds {dtype} where that makes no sense")
    told, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or told != held:
        raise ChainruleError(
            f"{name} says it holds {shape} {dtype}, {told} bytes, and holds {held}: it is damaged"
        )


def integers_only(dtype: np.dtype, name: str) -> None:
    """Refuse whatever cannot be symbols, and say how to make symbols of it."""
    if dtype.kind not in "biu":
        advice = TO_INTEGERS.get(dtype.kind, "save a plain array")
        raise ChainruleError(f"{name} holds {dtype}, and symbols are integers: {advice}")


def checked_levels(x: np.ndarray, levels: int | None, name: str) -> int:
    """The number of levels: the one told, or one more than the largest value; every value lies below it."""
    if levels is not None and x.dtype.kind == "u" and np.iinfo(x.dtype).max < levels:
        return levels  # no need to look
    low, high = value_range(x)
    if low < 0 or (levels is not None and high >= levels):
        allowed = "0 or more" if levels is None else f"0 to {levels - 1}"
        raise ChainruleError(f"{name} holds values from {low} to {high}, and symbols are {allowed}")
    levels = levels or max(high + 1, 2)
    if levels > MAX_LEVELS:
        raise ChainruleError(
            f"{name} holds values up to {high}, over {MAX_LEVELS} levels: make them coarser first"
        )
    return levels


def value_range(x: np.ndarray) -> tuple[int, int]:
    """The smallest and largest value, looked at in chunks: a memory-mapped array is never read whole."""
    rows = max(1, CHUNK // max(1, x[0].nbytes))
    parts = [x[i : i + rows] for i in range(0, len(x), rows)]
    return min(int(p.min()) for p in parts), max(int(p.max()) for p in parts)


def checked_labels(y: np.ndarray, count: int, name: str) -> np.ndarray:
    """Labels as class indices (count,) int64."""
    if y.shape != (count,) or y.dtype.kind not in "biu" or int(y.min()) < 0 or int(y.max()) >= MAX_LEVELS:
        raise ChainruleError(
            f"{name} has labels y {y.shape} {y.dtype}: ({count},) integers from 0 up are needed"
        )
    return y.astype(np.int64)
