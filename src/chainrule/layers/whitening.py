"""Whitening by the spectrum of the covariance, and by the spectrum that natural images have."""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.linalg

from chainrule.errors import ChainruleError

ROUNDING = 1e-14  # of the largest eigenvalue: how far rounding errors reach in those of a covariance


def spectrum(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean (d,), variances (d,), axes (d, d)) of rows (n, d), n ≥ 2.

    The covariance is axesᵀ · diag(variances) · axes: orthonormal rows, in falling order of variance, the
    largest entry of each positive. There are d of them even when fewer rows span fewer directions.
    """
    mean = rows.mean(0)
    centred = rows - mean
    values, vectors = scipy.linalg.eigh(centred.T @ centred / (len(rows) - 1))
    rounding = (4 * np.finfo(float).eps * np.abs(rows).max()) ** 2  # what equal numbers leave of their mean
    variances, axes = np.where(values > rounding, values, 0.0)[::-1], vectors.T[::-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1, keepdims=True), 1)
    return mean, variances, axes * np.sign(largest)


def scales(variances: np.ndarray, share: float) -> np.ndarray:
    """(λ + ε)^(−1/2) of the variances λ (d,), where ε is a share of their mean.

    A direction in which λ + ε is nothing but rounding error is scaled as the widest one; if all are, by 1.
    """
    damped, widest = variances + share * variances.mean(), variances.max() or 1.0
    return np.where(damped > ROUNDING * widest, damped, widest) ** -0.5


def olshausen_gain(height: int, width: int, cutoff: float) -> np.ndarray:
    """f·exp(−(f/cutoff)⁴) at the frequencies of `scipy.fft.rfft2`, (H, W // 2 + 1); f, cutoff in cycles/pixel.

    Olshausen & Field 1996: f undoes the 1/f amplitudes of natural images, the exponential takes out the
    corners of the square of frequencies, where there is noise and little else.
    """
    down, across = scipy.fft.fftfreq(height)[:, None], scipy.fft.rfftfreq(width)
    f = np.hypot(down, across)
    return f * np.exp(-((f / cutoff) ** 4))


def filtered(images: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Images (n, H, W, C) with the amplitude of every frequency multiplied by `gain` (H, W // 2 + 1), float64.

    An image is taken as one period: what leaves it on the right enters on the left.
    """
    height, width = images.shape[1:3]
    waves = scipy.fft.rfft2(images.astype(float), axes=(1, 2))
    return scipy.fft.irfft2(waves * gain[:, :, None], s=(height, width), axes=(1, 2))


def check_share(share: float) -> None:
    """One clear line for what is no share of a variance."""
    if not 0 <= share < np.inf:
        raise ChainruleError(f"share is {share}: take 0 or more, such as 0.1 of the mean variance")
