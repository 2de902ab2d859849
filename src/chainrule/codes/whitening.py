"""Whitening: a linear map after which all directions of the data have the same variance, and its inverse.

Bell & Sejnowski 1997 (ZCA, "zero-phase": the symmetric whitening matrix); Kessy, Lewin & Strimmer 2018.
"""

from __future__ import annotations

import numpy as np
from sklearn.utils.validation import check_is_fitted

from chainrule.layers.whitening import check_share, scales, spectrum
from chainrule.model import Code


class Whitening(Code):
    """Events to events of equal variance in every direction: z = (x − mean) · (C + εI)^(−1/2).

    C is the covariance of the events and ε = share · (mean eigenvalue of C). After it the covariance has the
    eigenvalues λ/(λ + ε): I when share is 0. Of all maps that do this, ZCA moves events least: z looks like x.

    Args:
        share: ε as a share of the mean eigenvalue. More of it leaves the directions of small variance, which
            hold the noise of a camera, small; 0 whitens all directions, up to rounding errors.
        rotate: give the coordinates in the principal axes, in falling order of variance (PCA whitening): the
            same numbers, rotated.

    Attributes:
        mean_: (d,) the mean event, d = prod(event_).
        axes_: (d, d) orthonormal rows, in falling order of variance; the largest entry of each is positive.
        variances_: (d,) the variance of the events along each: the eigenvalues of C.

    A direction in which all events agree (λ + ε = 0) is scaled as the widest one, so that the inverse is exact for
    everything, outside of the span of what was fitted too.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(500, 3)) @ [[3, 1, 0], [0, 2, 1], [0, 0, 1]]
        >>> white = Whitening(share=0).fit(x)
        >>> np.allclose(np.cov(white.transform(x).T), np.eye(3))
        True
        >>> np.allclose(white.inverse_transform(white.transform(x)), x)
        True
    """

    SIZES = {"tiny": {}, "laptop": {}, "paper": {}}
    TYPES = (np.float64, np.float32)

    def __init__(self, share: float = 0.1, rotate: bool = False):
        self.share = share
        self.rotate = rotate

    def fit(self, X, y=None):
        """Learn the mean and the covariance of X (n, *event), n ≥ 2."""
        check_share(self.share)
        self.mean_, self.variances_, self.axes_ = spectrum(self.rows(X, reset=True).astype(float))
        return self

    def transform(self, X):
        """X (n, *event) -> (n, d): whitened, in the order of the flattened event or of the axes."""
        rows = self.rows(X)
        along = (rows - self.mean_) @ self.axes_.T * scales(self.variances_, self.share)
        return (along if self.rotate else along @ self.axes_).astype(rows.dtype)

    def inverse_transform(self, Z):
        """Whitened events (n, d) -> events (n, *event)."""
        check_is_fitted(self)
        codes = self.codes(Z, len(self.axes_))
        along = codes if self.rotate else codes @ self.axes_.T
        rows = along / scales(self.variances_, self.share) @ self.axes_ + self.mean_
        return self.events(rows.astype(codes.dtype))
