"""Rows of numbers as images: what codes that know neighbours share."""

from __future__ import annotations

import numpy as np

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
