"""Patches of images: drawn at random to learn from, or all on a grid, and images put together from those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from chainrule.data.dataset import Dataset, Numbers
from chainrule.errors import ChainruleError

COUNT = 100_000  # patches that are drawn, unless told otherwise
MOST = 1 << 32  # numbers in all patches together: they are kept in memory

Images = Sequence[np.ndarray] | np.ndarray


def patches_of(data: Dataset, side: int, count: int = COUNT, seed: int = 0) -> Dataset:
    """`count` random patches of the images of a dataset, as a dataset; each has the class of its image.

    Raises:
        ChainruleError: there are no images, or none of this size.

    >>> from chainrule.data import load
    >>> patches_of(load("digits"), side=5, count=7).x.shape
    (7, 5, 5, 1)
    """
    if data.kind != "image":
        raise ChainruleError(
            f"patches are cut from images, and {data.source or 'this'} is {data.kind}: leave out --patches"
        )
    which = places(data.x, side, count, seed)[0]
    context = None if data.context is None else data.context[which]
    x = random_patches(data.x, side, count, seed)
    return replace(data, x=x, names=Numbers(count), context=context)


def random_patches(images: Images, side: int, count: int = COUNT, seed: int = 0) -> np.ndarray:
    """(count, side, side, C) patches of images (H, W, C) of any sizes: every place in every image is equally likely.

    The same seed gives the same patches. Images smaller than a patch have none.

    >>> random_patches([np.zeros((9, 7, 3)), np.zeros((2, 2, 3))], side=4, count=10).shape
    (10, 4, 4, 3)
    """
    which, rows, columns = places(images, side, count, seed)
    first = np.asarray(images[int(which[0])])
    patches = np.empty((count, side, side, first.shape[2]), first.dtype)
    order = np.argsort(which, kind="stable")  # image by image
    for here in np.split(order, np.flatnonzero(np.diff(which[order])) + 1):
        image = np.asarray(images[int(which[here[0]])])
        patches[here] = windows(image, side)[rows[here], columns[here]]
    return patches


def places(images: Images, side: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image, row, column) of `count` random patches, (count,) each."""
    if side < 1 or count < 1:
        raise ChainruleError(f"{count} patches of {side} × {side} pixels are asked for: take 1 or more")
    sizes = np.array([np.shape(image)[:2] for image in images]).reshape(-1, 2)
    free = np.maximum(sizes - side + 1, 0)  # places along each axis
    ends = np.cumsum(free.prod(1))
    if not len(ends) or not ends[-1]:
        largest = " × ".join(map(str, sizes.max(0))) if len(sizes) else "0 × 0"
        raise ChainruleError(f"no image holds a patch of {side} × {side} pixels: they have at most {largest}")
    if count * side * side * np.shape(images[0])[2] > MOST:
        raise ChainruleError(
            f"{count:,} patches of {side} × {side} pixels are more than {MOST >> 30} GiB: take fewer"
        )
    at = np.random.default_rng(seed).integers(ends[-1], size=count)
    which = np.searchsorted(ends, at, side="right")
    rows, columns = np.divmod(at - (ends - free.prod(1))[which], free[which, 1])
    return which, rows, columns


def grid_patches(image: np.ndarray, side: int, stride: int) -> np.ndarray:
    """All patches (P, side, side, C) of an image (H, W, C) on a grid, row by row; see `starts`.

    Raises:
        ChainruleError: the image is smaller than a patch, or the stride leaves pixels out.

    >>> grid_patches(np.zeros((8, 9, 3)), side=4, stride=2).shape  # at rows 0, 2, 4 and columns 0, 2, 4, 5
    (12, 4, 4, 3)
    """
    down, across = grid(image.shape, side, stride)
    return windows(image, side)[down[:, None], across].reshape(-1, side, side, image.shape[2])


def from_grid(patches: np.ndarray, shape: tuple[int, ...], stride: int) -> np.ndarray:
    """Images (n, H, W, C) from the patches (n · P, side, side, C) of their grids: means where these overlap.

    `shape` is (H, W). Exactly the images that `grid_patches` cut, if the patches agree.

    >>> image = np.random.default_rng(0).normal(size=(8, 9, 3))
    >>> bool((from_grid(grid_patches(image, 4, 2), (8, 9), 2) == image).all())
    True
    """
    side, channels = patches.shape[1], patches.shape[3]
    down, across = grid(shape, side, stride)
    each = len(down) * len(across)
    if not len(patches) or len(patches) % each:
        raise ChainruleError(
            f"there are {len(patches):,} patches, and an image of {shape[0]} × {shape[1]} pixels has {each:,} "
            f"of {side} × {side} with a stride of {stride}: which size and stride were they cut with?"
        )
    apart = patches.reshape(-1, len(down), len(across), side, side, channels)
    return overlapped(apart, down, across, (shape[0], shape[1], channels))


def grid(shape: tuple[int, ...], side: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Where patches of an image start: rows (P down,) and columns (P across,)."""
    if not 1 <= stride <= side:
        raise ChainruleError(f"stride is {stride}, side {side}: take 1 to {side}, or pixels between are lost")
    if min(shape[:2]) < side:
        raise ChainruleError(
            f"an image of {shape[0]} × {shape[1]} pixels holds no patch of {side} × {side}: leave it out"
        )
    return starts(shape[0], side, stride), starts(shape[1], side, stride)


def starts(length: int, side: int, stride: int) -> np.ndarray:
    """Where patches start along an axis: every `stride` pixels, and at the last place, so that no pixel is left out."""
    last = length - side
    return np.unique(np.append(np.arange(0, last, stride), last))


def windows(image: np.ndarray, side: int) -> np.ndarray:
    """Every patch of an image (H, W, C): a view (H - side + 1, W - side + 1, side, side, C)."""
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(image, (side, side), axis=(0, 1)), 2, -1)


def overlapped(
    patches: np.ndarray, down: np.ndarray, across: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    """The means (n, H, W, C) of patches (n, P down, P across, h, w, C) that start at rows and columns.

    A running mean, not a sum divided by a count: the mean of equal numbers is then exactly that number.
    """
    dtype = np.result_type(patches.dtype, np.float32)
    images, count = np.zeros((len(patches), *shape), dtype), np.zeros((*shape[:2], 1), dtype)
    for y, x in np.ndindex(patches.shape[3:5]):
        there = np.ix_(down + y, across + x)  # no pixel twice
        count[there] += 1
        mean = images[:, *there]
        images[:, *there] = mean + (patches[:, :, :, y, x] - mean) / count[there]
    return images


def in_gray(data: Dataset) -> Dataset:
    """The luminance of colour images, 0.299 R + 0.587 G + 0.114 B, rounded; gray ones stay as they are."""
    if data.kind != "image":
        raise ChainruleError(
            f"gray is for images, and {data.source or 'this'} is {data.kind}: leave out --gray"
        )
    if len(data) and np.shape(data.x[0])[2] == 1:
        return data
    if data.levels != 256 or data.binarise:
        raise ChainruleError(f"gray is made of 256 levels, and {data.source or 'this'} has {data.levels}")
    gray = [
        np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))[..., None] for image in data.x
    ]
    same = len({image.shape for image in gray}) == 1
    return replace(data, x=np.stack(gray) if same else gray)
