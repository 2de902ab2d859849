"""Rows of numbers as images: what codes that know neighbours share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chainrule.data.patches import starts
from chainrule.errors import ChainruleError


def image_shape(event: tuple[int, ...]) -> tuple[int, int, int]:
    """(H, W, C) of an event: (H, W, C) itself, (H, W) has one channel, (d,) is an image of 1 × d pixels.

    Raises:
        ChainruleError: the event has more axes than an image.

    Example:
        >>> image_shape((8, 6, 3)), image_shape((8, 6)), image_shape((48,))
        ((8, 6, 3), (8, 6, 1), (1, 48, 1))
    """
    if len(event) == 3:
        return event[0], event[1], event[2]
    if len(event) == 2:
        return event[0], event[1], 1
    if len(event) == 1:
        return 1, event[0], 1
    raise ChainruleError(
        f"an event of shape {event} has {len(event)} axes, an image at most 3: give its frames one by one"
    )


def as_images(rows: np.ndarray, event: tuple[int, ...]) -> np.ndarray:
    """Rows (n, d) of events -> images (n, H, W, C), a view."""
    return rows.reshape(len(rows), *image_shape(event))


@dataclass(frozen=True)
class Grid:
    """Where the patches of an image start, and how large they are.

    Attributes:
        down, across: (rows,) and (columns,) first rows and columns of patches.
        patch: (h, w, C) the shape of a patch.
    """

    down: np.ndarray
    across: np.ndarray
    patch: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.down) * len(self.across)

    @property
    def size(self) -> int:
        """Numbers of a patch."""
        return self.patch[0] * self.patch[1] * self.patch[2]


def patch_grid(shape: tuple[int, ...], side: int, stride: int) -> Grid:
    """The grid of an image (H, W, C): a patch every `stride` pixels, the last one at the border; small images clip it.

    >>> grid = patch_grid((8, 9, 3), side=4, stride=2)
    >>> grid.down.tolist(), grid.across.tolist(), grid.patch
    ([0, 2, 4], [0, 2, 4, 5], (4, 4, 3))
    """
    height, width, channels = shape
    h, w = min(side, height), min(side, width)
    return Grid(starts(height, h, stride), starts(width, w, stride), (h, w, channels))


def cut(images: np.ndarray, grid: Grid) -> np.ndarray:
    """All patches (n · P, h · w · C) of images (n, H, W, C), image by image, row by row."""
    views = np.lib.stride_tricks.sliding_window_view(images, grid.patch[:2], axis=(1, 2))
    views = np.moveaxis(views, 3, -1)  # (n, rows, columns, h, w, C)
    return views[:, grid.down[:, None], grid.across].reshape(-1, grid.size)
