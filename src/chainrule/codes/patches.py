"""Images as their overlapping patches and back: the code that local codes are learned on."""

from __future__ import annotations

import math

import numpy as np
from sklearn.utils.validation import check_is_fitted

from chainrule.data.patches import overlapped
from chainrule.errors import ChainruleError
from chainrule.layers.images import Grid, as_images, cut, image_shape, patch_grid
from chainrule.model import Code


class Patches(Code):
    """All patches of an image on a grid, row by row; back by averaging where they overlap.

    Args:
        side: pixels across and down; a smaller image is clipped, so that it has one patch along that axis.
        stride: pixels from one patch to the next. The last patch of a row or column ends at the border, even
            if it is nearer to the one before, so that every pixel is in a patch.

    The inverse gives every pixel the mean of what the patches say about it: exactly the image if they agree,
    else the image of least squared distance to all patches (Elad & Aharon 2006). A code has about
    (side/stride)² times the size of its image: take large images a few at a time.

    Two-dimensional X (n, d) are images of 1 × d pixels.

    Example:
        >>> import numpy as np
        >>> images = np.random.default_rng(0).normal(size=(2, 8, 9, 3))
        >>> cut = Patches(side=4, stride=2).fit(images)
        >>> cut.transform(images).shape  # starting at rows 0, 2, 4 and columns 0, 2, 4, 5
        (2, 12, 4, 4, 3)
        >>> np.array_equal(cut.inverse_transform(cut.transform(images)), images)
        True
    """

    SIZES = {"tiny": {"side": 3, "stride": 2}, "laptop": {}, "paper": {}}
    SPATIAL = True
    TYPES = (np.float64, np.float32)

    def __init__(self, side: int = 12, stride: int = 1):
        self.side = side
        self.stride = stride

    def fit(self, X, y=None):
        """Remember the shape of images X (n, H, W, C); there is nothing else to learn."""
        if self.side < 1:
            raise ChainruleError(f"side is {self.side}: a patch has at least 1 pixel")
        if not 1 <= self.stride <= self.side:
            raise ChainruleError(
                f"stride is {self.stride}, side {self.side}: take 1 to {self.side}, or pixels between are lost"
            )
        self.rows(X, reset=True, fewest=1)
        image_shape(self.event_)
        return self

    def transform(self, X):
        """Images (n, H, W, C) -> patches (n, P, h, w, C); h and w are `side`, or what the image has of it."""
        images, grid = as_images(self.rows(X), self.event_), self._grid()
        return cut(images, grid).reshape(len(images), len(grid), *grid.patch)

    def inverse_transform(self, Z):
        """Patches (n, P, h, w, C), flattened or not -> images (n, H, W, C)."""
        check_is_fitted(self)
        grid = self._grid()
        flat = np.asarray(Z).reshape(len(Z), math.prod(np.shape(Z)[1:])) if np.ndim(Z) > 2 else Z
        codes = self.codes(flat, len(grid) * grid.size)
        patches = codes.reshape(len(codes), len(grid.down), len(grid.across), *grid.patch)
        return self.events(overlapped(patches, grid.down, grid.across, image_shape(self.event_)))

    def _grid(self) -> Grid:
        return patch_grid(image_shape(self.event_), self.side, self.stride)
