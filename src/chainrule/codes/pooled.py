"""Images as the pooled codes of their overlapping patches: features for a linear classifier.

Self-taught learning (Raina, Battle, Lee, Packer & Ng 2007): a code of patches is learned from images without labels,
then describes other images. Pooling the largest coefficient over the cells of a spatial pyramid is that of Yang, Yu,
Gong & Huang 2009; a second layer on the pooled codes of a first one is that of Bo, Ren & Fox 2011.

    P places of patches (down × across), K numbers of a local code, C channels after the signs
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import clone

from chainrule.engine.strict import in_threads
from chainrule.errors import ChainruleError
from chainrule.layers.images import as_images, cut, image_shape, patch_grid
from chainrule.layers.sparse import blas
from chainrule.model import Code, check_part, check_sizes

DEEPEST = 8  # levels of a pyramid: the last has 128 × 128 cells

Spans = list[tuple[int, int]]  # (start, stop) of each cell along an axis


@dataclass(frozen=True)
class Pyramid:
    """Pool over the whole image, its quarters, their quarters, ...: (n, C · cells), coarse to fine, row by row.

    Level ℓ has 2^ℓ × 2^ℓ cells of about the same size (Lazebnik, Schmid & Ponce 2006); where they do not come out
    even, neighbours share a place, so that none is empty.

    Attributes:
        levels: of the pyramid; 3 are 1 + 4 + 16 cells.
        mean: pool by the mean instead of the maximum.
    """

    levels: int = 3
    mean: bool = False

    def check(self) -> None:
        if not 1 <= self.levels <= DEEPEST:
            raise ChainruleError(f"a pyramid of {self.levels} levels: take 1 to {DEEPEST}")

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """(down, across, C) -> (cells · C,)."""
        counts = [2**level for level in range(self.levels)]
        down, across = ([shares(length, count) for count in counts] for length in z.shape[:2])
        pooled = (pool(z, *spans, by(self.mean)) for spans in zip(down, across, strict=True))
        return np.concatenate([level.ravel() for level in pooled])


@dataclass(frozen=True)
class Cells:
    """Pool over cells of side × side places: a smaller image (n, rows, columns, C), which patches are cut from again.

    The last cell of a row or column holds the places that are left.

    Attributes:
        side: places across and down.
        mean: pool by the mean instead of the maximum.
    """

    side: int = 4
    mean: bool = False

    def check(self) -> None:
        check_sizes(side=self.side)

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """(down, across, C) -> (rows, columns, C)."""
        down, across = (blocks(length, self.side) for length in z.shape[:2])
        return pool(z, down, across, by(self.mean))


class PooledCode(Code):
    """Images to the pooled codes of their patches: what is in each part of an image, wherever exactly it is there.

    Every patch on a grid is prepared and coded, coefficients of different signs are told apart, and of every cell of
    the image the largest (or mean) is kept. There is no way back: where in its cell a patch was is lost.

    Args:
        side: pixels of a patch across and down; a smaller image is clipped.
        stride: pixels from one patch to the next; the last one of a row or column ends at the border.
        code: the code of patches, such as `SparseCoding(before=Whitening())`; None pools the patches themselves.
        prepare: a code of patches that is fitted and applied before it, such as `ContrastNormalization()`.
        pooling: `Pyramid()` (None), or `Cells()` where another layer follows.
        split_signs: pool max(z, 0) and max(−z, 0) apart (C = 2K), else |z| (C = K).
        before: a code that is fitted and applied to whole images first: the layer below, a `PooledCode` with `Cells`.
        samples: patches to learn from, drawn at random from all images with this seed; all if there are fewer.
        random_state: the seed of the draw.

    Attributes:
        before_, prepare_, code_: what was fitted, each when it was given.

    All images have one size: resize or crop them first. Each is coded by itself, so memory does not grow with their
    number beyond the features, and the bits of a code depend neither on the other images nor on the threads.
    Two-dimensional X (n, d) are images of 1 × d pixels.

    Example:
        >>> images = np.random.default_rng(0).normal(size=(2, 8, 9, 1))
        >>> PooledCode(side=3, pooling=Pyramid(levels=2)).fit_transform(images).shape  # 5 cells, 9 pixels, 2 signs
        (2, 90)
        >>> PooledCode(side=3, pooling=Cells(2), split_signs=False).fit_transform(images).shape
        (2, 3, 4, 9)
    """

    SIZES = {
        "tiny": {
            "side": 3,
            "stride": 2,
            "prepare": {"model": "contrast", "args": {}},
            "code": {
                "model": "sparse-coding",
                "args": {"n_components": 8, "penalty": 0.3, "training": {"kind": "alternating", "rounds": 2}},
            },
            "pooling": {"kind": "pyramid", "levels": 2},
        },
        "laptop": {},
        "paper": {},
    }
    PARTS: ClassVar[dict[str, type]] = {"pyramid": Pyramid, "cells": Cells}
    SPATIAL = True
    TYPES = (np.float64, np.float32)

    def __init__(
        self,
        side: int = 6,
        stride: int = 1,
        code: Code | None = None,
        prepare: Code | None = None,
        pooling: Pyramid | Cells | None = None,
        split_signs: bool = True,
        before: Code | None = None,
        samples: int = 50_000,
        random_state: int = 0,
    ):
        self.side = side
        self.stride = stride
        self.code = code
        self.prepare = prepare
        self.pooling = pooling
        self.split_signs = split_signs
        self.before = before
        self.samples = samples
        self.random_state = random_state

    @classmethod
    def configure(cls, data: Any) -> dict[str, Any]:
        """Sparse codes of patches of one contrast, whitened where they are images."""
        super().configure(data)
        before = {"before": {"model": "whitening", "args": {}}} if data.kind == "image" else {}
        code = {"model": "sparse-coding", "args": {"n_components": 100, **before}}
        return {"prepare": {"model": "contrast", "args": {"share": 0.1}}, "code": code}

    def fit(self, X, y=None):
        """Learn the layer below from images X (n, H, W, C), then the code of patches from some of their patches."""
        check_sizes(side=self.side, stride=self.stride, samples=self.samples)
        check_part("pooling", self.pooling or Pyramid(), Pyramid, Cells)
        images = as_images(self.rows(X, reset=True, fewest=1), self.event_)
        if self.before is not None:
            self.before_ = clone(self.before).fit(images.reshape(len(images), *self.event_))
        if self.prepare is None and self.code is None:
            return self
        patches = self._sample(images)
        if self.prepare is not None:
            self.prepare_ = clone(self.prepare).fit(patches)
            patches = dense(self.prepare_.transform(patches))
        if self.code is not None:
            self.code_ = clone(self.code).fit(patches)
        return self

    def transform(self, X):
        """Images (n, H, W, C) -> features (n, cells · C), or (n, rows, columns, C) with `Cells`."""
        images = as_images(self.rows(X), self.event_)
        with blas().limit(limits=1, user_api="blas"):  # one product is one thread's work: the same bits
            features = in_threads(self._pooled, images, torch.get_num_threads())
            return filled(features, len(images), images.dtype)

    def _pooled(self, image: np.ndarray) -> np.ndarray:
        # (H, W, C) -> the features of one image
        below = self._below(image)
        grid = patch_grid(below.shape[1:], self.side, self.stride)
        rows = cut(below, grid)
        if self.prepare is not None:
            rows = dense(self.prepare_.transform(rows))
        z = dense(rows if self.code is None else self.code_.transform(rows))
        z = z.reshape(len(grid.down), len(grid.across), -1)  # (down, across, K)
        return (self.pooling or Pyramid())(signs(z) if self.split_signs else np.abs(z))

    def _below(self, image: np.ndarray) -> np.ndarray:
        # (H, W, C) -> (1, H', W', C'): what patches are cut from
        if self.before is None:
            return image[None]
        below = dense(self.before_.transform(image.reshape(1, *self.event_)))
        same = below.ndim == 2 and below.size == image.size  # a code such as a filter gives rows of pixels
        return below.reshape(1, *image_shape(image.shape if same else below.shape[1:]))

    def _sample(self, images: np.ndarray) -> np.ndarray:
        # (at most `samples`, h · w · C) patches, image by image
        grid = patch_grid(self._below(images[0]).shape[1:], self.side, self.stride)
        total, rng = len(images) * len(grid), np.random.default_rng(self.random_state)
        chosen = np.arange(total)
        if total > self.samples:
            chosen = np.sort(rng.integers(total, size=self.samples))
        which, places = np.divmod(chosen, len(grid))
        firsts = np.flatnonzero(np.diff(which, prepend=-1))  # of each image that is drawn from

        def patches(places: np.ndarray, i: int) -> np.ndarray:
            return cut(self._below(images[i]), grid)[places]

        drawn = zip(np.split(places, firsts[1:]), which[firsts], strict=True)
        with blas().limit(limits=1, user_api="blas"):
            found = in_threads(lambda one: patches(*one), drawn, torch.get_num_threads())
            return np.concatenate(list(found))


def filled(features, count: int, dtype) -> np.ndarray:
    """`count` arrays of one shape as one array, without holding them twice."""
    whole = None
    for i, one in enumerate(features):
        if whole is None:
            whole = np.empty((count, *one.shape), dtype)
        whole[i] = one
    assert whole is not None
    return whole


def signs(z: np.ndarray) -> np.ndarray:
    """(..., K) -> (..., 2K): max(z, 0), then max(−z, 0)."""
    return np.concatenate([np.maximum(z, 0), np.maximum(-z, 0)], axis=-1)


def pool(z: np.ndarray, down: Spans, across: Spans, reduce: Callable) -> np.ndarray:
    """(h, w, C) -> (cells down, cells across, C): `reduce` of every cell, along one axis after the other."""
    rows = np.stack([reduce(z[start:stop], axis=0) for start, stop in down])
    return np.stack([reduce(rows[:, start:stop], axis=1) for start, stop in across], axis=1)


def by(mean: bool) -> Callable:
    """The mean or the maximum."""
    return np.mean if mean else np.max


def shares(length: int, count: int) -> Spans:
    """`count` stretches of places that cover 0..length, of about the same size, none empty.

    >>> shares(6, 2), shares(5, 2), shares(1, 2)
    ([(0, 3), (3, 6)], [(0, 3), (2, 5)], [(0, 1), (0, 1)])
    """
    return [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]


def blocks(length: int, side: int) -> Spans:
    """Stretches of `side` places, and one of what is left.

    >>> blocks(6, 3), blocks(7, 3)
    ([(0, 3), (3, 6)], [(0, 3), (3, 6), (6, 7)])
    """
    return [(start, min(start + side, length)) for start in range(0, length, side)]


def dense(z) -> np.ndarray:
    """Codes as an array."""
    return z.toarray() if issparse(z) else np.asarray(z)
