"""Every event at mean 0 and about the same contrast: Coates, Lee & Ng 2011, section 3.2.1."""

from __future__ import annotations

import numpy as np
from sklearn.utils.validation import check_is_fitted

from chainrule.layers.whitening import check_share
from chainrule.model import Code

MOST = 1 - 1e-12  # of the variance of a code: its distance from 1 is known to about 1e-16


class ContrastNormalization(Code):
    """Subtract the mean of each event, divide by its contrast: z = (x − mean x) / √(var x + c).

    c = share · (mean variance of the events that were fitted). It keeps events without contrast, such as a
    patch of sky, from becoming all noise.

    Args:
        share: c as a share of the mean variance; 0 gives every event variance 1.

    Attributes:
        constant_: c, in squared units of the data.
        mean_: the mean of all numbers that were fitted. The mean of an event is not in its code, so the
            inverse gives every event this one.

    The contrast is in the code when c > 0: var z = var x / (var x + c), so the inverse restores it, the more
    exactly the smaller var x / c. With c = 0 it is lost as the mean is: events come back with variance 1.

    Example:
        >>> import numpy as np
        >>> patches = np.random.default_rng(0).normal(size=(100, 64)) * 9 + 100
        >>> z = ContrastNormalization(share=0).fit_transform(patches)
        >>> np.allclose(z.mean(1), 0), np.allclose(z.var(1), 1)
        (True, True)
    """

    SIZES = {"tiny": {}, "laptop": {}, "paper": {}}
    TYPES = (np.float64, np.float32)

    def __init__(self, share: float = 0.01):
        self.share = share

    def fit(self, X, y=None):
        """Learn c from the variances of the events X (n, *event)."""
        check_share(self.share)
        rows = self.rows(X, reset=True, fewest=1)
        self.constant_ = self.share * float(rows.var(1, dtype=float).mean())
        self.mean_ = float(rows.mean(dtype=float))
        return self

    def transform(self, X):
        """X (n, *event) -> (n, d)."""
        rows = self.rows(X)
        centred = rows - rows.mean(1, keepdims=True, dtype=float)
        # what equal numbers leave of their mean is a rounding error, and must not be taken for contrast
        rounding = 4 * np.finfo(float).eps * np.abs(rows).max(1, keepdims=True)
        centred[np.abs(centred) <= rounding] = 0
        contrast = np.sqrt(centred.var(1, keepdims=True) + self.constant_)
        normal = np.divide(centred, contrast, out=np.zeros_like(centred), where=contrast > 0)
        return normal.astype(rows.dtype)

    def inverse_transform(self, Z):
        """Codes (n, d) -> events (n, *event), each with the mean of all."""
        check_is_fitted(self)
        codes = self.codes(Z, self.n_features_in_)
        variance = codes.var(1, keepdims=True, dtype=float).clip(max=MOST)
        # var x + c = c / (1 − var z)
        contrast = np.sqrt(self.constant_ / (1 - variance)) if self.constant_ else 1.0
        return self.events((codes * contrast + self.mean_).astype(codes.dtype))
