"""Principal component analysis: the linear code of least squared error, which any other code must beat.

Pearson 1901; Hotelling 1933. Rows of `components_` are the eigenvectors of the covariance of the events with
the largest eigenvalues; a code is the coordinates of an event in them.
"""

from __future__ import annotations

import math

import numpy as np
from sklearn.utils.validation import check_is_fitted

from chainrule.errors import ChainruleError
from chainrule.model import Code


class PCA(Code):
    """The k directions of largest variance, exactly.

    Args:
        n_components: k, the length of a code; min(n, d) when n events of d numbers have no more directions.
        whiten: divide every coordinate by its standard deviation, so that codes have covariance I.

    Attributes:
        mean_: (d,) the mean event, d = prod(event_).
        components_: (k, d) orthonormal rows, in falling order of variance; the largest entry of each is
            positive.
        explained_variance_: (k,) the variance along each row: the k largest eigenvalues of the covariance.
        explained_variance_ratio_: (k,) the same as shares of the total variance.

    Example:
        >>> images = np.random.default_rng(0).normal(size=(50, 4, 4, 1))
        >>> code = PCA(n_components=3).fit(images)
        >>> code.transform(images).shape, code.inverse_transform(code.transform(images)).shape
        ((50, 3), (50, 4, 4, 1))
    """

    # The published size is the 30 of Hinton & Salakhutdinov 2006, figures 2 and 3.
    SIZES = {"tiny": {"n_components": 4}, "laptop": {}, "paper": {}}
    TYPES = (np.float64, np.float32)

    def __init__(self, n_components: int = 30, whiten: bool = False):
        self.n_components = n_components
        self.whiten = whiten

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply: fewer components where the default is too many."""
        if data.event is None:
            raise ChainruleError("pca needs events of one shape, and these differ: resize or crop them first")
        most = min(len(data), math.prod(data.event))
        return {"n_components": most} if most < cls().n_components else {}

    def fit(self, X, y=None):
        """Learn the mean and the axes of X (n, *event), n ≥ 2."""
        rows = self.rows(X, reset=True).astype(float, copy=False)
        if self.n_components < 1:
            raise ChainruleError(f"n_components={self.n_components}: a code needs at least 1 number")
        self.mean_ = rows.mean(0)
        variances, axes = principal_axes(rows - self.mean_)
        self.components_ = axes[: self.n_components]
        self.explained_variance_ = variances[: self.n_components]
        total = variances.sum()
        self.explained_variance_ratio_ = self.explained_variance_ / (total if total > 0 else 1.0)
        return self

    def transform(self, X):
        """X (n, *event) -> codes (n, k): W(x − mean), whitened if asked."""
        rows = self.rows(X)
        codes = (rows - self.mean_.astype(rows.dtype)) @ self.components_.T.astype(rows.dtype)
        return codes / self._scale().astype(rows.dtype) if self.whiten else codes

    def inverse_transform(self, Z):
        """Codes (n, k) -> events (n, *event): the point of the principal subspace that has these codes."""
        check_is_fitted(self)
        codes = self.codes(Z, len(self.components_))
        rows = (codes * self._scale() if self.whiten else codes) @ self.components_ + self.mean_
        return self.events(rows.astype(codes.dtype))

    def _scale(self):
        # (k,) standard deviations. Eigenvalues are known to 1e-16 of the largest, so deviations below 1e-7 of
        # the largest are rounding errors: such directions stay as they are.
        deviations = np.sqrt(self.explained_variance_)
        return np.where(deviations > 1e-7 * deviations[0], deviations, 1.0)


def principal_axes(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances (r,) in falling order and their axes (r, d), orthonormal rows, of centred rows (n, d).

    Few events of many numbers go through the singular value decomposition, which never forms a d × d matrix;
    many events through the eigenvectors of the covariance, at a fraction of the time and memory.
    """
    n, d = centred.shape
    if n < d:
        _, singular, axes = np.linalg.svd(centred, full_matrices=False)
        variances = singular**2 / (n - 1)
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred / (n - 1))
        variances, axes = values[::-1].clip(min=0), vectors.T[::-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1, keepdims=True), 1)
    return variances, axes * np.sign(largest)
