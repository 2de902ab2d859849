"""The filter that makes natural images white and takes out their noise: Olshausen & Field 1996."""

from __future__ import annotations

import numpy as np
from sklearn.utils.validation import check_is_fitted

from chainrule.errors import ChainruleError
from chainrule.layers.images import as_images, image_shape
from chainrule.layers.whitening import filtered, olshausen_gain
from chainrule.model import Code


class OlshausenFilter(Code):
    """Images whose amplitude at the frequency f is multiplied by f·exp(−(f/f₀)⁴), channel by channel.

    Natural images have amplitudes of about 1/f: this makes them equal up to f₀ and takes out what is finer.
    Frequencies are in cycles/pixel, so that the filter does the same to a picture of any size; 0.5 is the
    finest grating along a row. An image is taken as one period: its borders meet.

    Args:
        cutoff: f₀ in cycles/pixel. The published 200 cycles/picture of 512 pixels are 0.39.
        floor: the inverse divides by the filter where the filter is above this share of its largest value;
            other frequencies are lost, 0 in what comes back. At 0.001 those are the corners of the square of
            frequencies, beyond what a row or a column can hold.

    Attributes:
        mean_: (C,) the mean of each channel over all images that were fitted. The filter is 0 at f = 0, so the
            mean of a picture cannot be recovered: the inverse gives every picture this one.

    Two-dimensional X (n, d) are images of 1 × d pixels.

    Example:
        >>> import numpy as np
        >>> wave = np.cos(2 * np.pi * 0.25 * np.arange(16))
        >>> images = np.tile(wave, (1, 16, 1))[..., None]
        >>> out = OlshausenFilter().fit(images).transform(images)
        >>> gain = 0.25 * np.exp(-((0.25 / (200 / 512)) ** 4))
        >>> np.allclose(out, gain * images.reshape(1, -1))
        True
    """

    SIZES = {"tiny": {}, "laptop": {}, "paper": {}}
    SPATIAL = True
    TYPES = (np.float64, np.float32)

    def __init__(self, cutoff: float = 200 / 512, floor: float = 1e-3):
        self.cutoff = cutoff
        self.floor = floor

    def fit(self, X, y=None):
        """Remember the shape and the mean of images X (n, H, W, C); there is nothing else to learn."""
        if not 0 < self.cutoff < np.inf:
            raise ChainruleError(f"cutoff is {self.cutoff} cycles/pixel: take more than 0, such as 0.39")
        if not 0 < self.floor < 1:
            raise ChainruleError(f"floor is {self.floor}: take a share between 0 and 1, such as 0.001")
        images = as_images(self.rows(X, reset=True, fewest=1), self.event_)
        self.mean_ = images.mean((0, 1, 2), dtype=float)
        return self

    def transform(self, X):
        """Images (n, H, W, C) -> (n, H·W·C): filtered, of mean 0."""
        rows = self.rows(X)
        images = filtered(as_images(rows, self.event_), self._gain())
        return images.reshape(rows.shape).astype(rows.dtype)

    def inverse_transform(self, Z):
        """Filtered images (n, H·W·C) -> images (n, H, W, C), each with the mean of all."""
        check_is_fitted(self)
        gain = self._gain()
        kept = gain > self.floor * gain.max(initial=0)
        inverse = np.divide(1, gain, out=np.zeros_like(gain), where=kept)
        codes = self.codes(Z, self.n_features_in_)
        images = filtered(as_images(codes, self.event_), inverse) + self.mean_
        return self.events(images.astype(codes.dtype))

    def _gain(self):
        height, width, _ = image_shape(self.event_)
        return olshausen_gain(height, width, self.cutoff)
