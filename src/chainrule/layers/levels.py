"""Tables over levels that have an order: K rows that start out smooth and can become anything."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from chainrule.errors import ChainruleError

MOST = 4096  # levels: the basis takes K² numbers


class LevelTable(nn.Module):
    """A (K, D) table T = B A, indexed by levels 0..K-1; B a fixed invertible basis, A (K, D) learned.

    Brightness 100 and 101 mean nearly the same, and an unconstrained table must learn that from data. In
    the coordinates of `smooth_basis` what is learned about a level at first spreads to its neighbours. B is
    invertible, so the family of models is that of a plain table; only the path of the training differs.

    Example:
        >>> LevelTable(256, 8)(torch.tensor([[0, 255]])).shape
        torch.Size([1, 2, 8])
    """

    basis: Tensor

    def __init__(self, symbols: int, width: int):
        super().__init__()
        if not 1 <= symbols <= MOST:
            raise ChainruleError(f"a table of {symbols} levels cannot be built: 1 to {MOST} can")
        self.coefficients = nn.Parameter(0.02 * torch.randn(symbols, width))
        basis = smooth_basis(symbols).to(self.coefficients.device, copy=True)
        self.register_buffer("basis", basis, persistent=False)

    def table(self) -> Tensor:
        """The rows T, (K, D)."""
        with torch.autocast("cpu", enabled=False):
            return self.basis @ self.coefficients

    def forward(self, x: Tensor) -> Tensor:
        """x (...) levels -> (..., D)."""
        return nn.functional.embedding(x.long(), self.table())


@cache
def smooth_basis(symbols: int) -> Tensor:
    """K orthogonal columns over K levels, from smooth and long to rough and short, (K, K).

    First the polynomials 1, k, k²: a softmax of a k + b k² is a discretised Gaussian, so two numbers say
    "near 100, give or take 5". Then cosines (DCT-II) of rising frequency f, turned out of the way of the
    polynomials by a reflection for each. Lengths fall as 1/f from K/8, which gives a Gaussian of a few levels'
    width coefficients of order one; none falls below 0.1.

    It is part of the model and not in its file, so it is computed with correctly rounded operations and sums
    in order only: the same bits on every machine.
    """
    k = np.arange(symbols)
    columns = cosines(symbols)
    columns /= np.sqrt(in_order(columns * columns))
    polynomials: list[np.ndarray] = []
    for degree in range(min(3, symbols)):
        p = ((2 * k - (symbols - 1)) / max(symbols - 1, 1)) ** degree
        for before in polynomials:
            p = p - in_order(p * before) * before
        p = p / np.sqrt(in_order(p * p))
        polynomials.append(p)
        v = columns[:, degree] - p
        size = in_order(v * v)
        if size > 1e-12:  # otherwise the cosine is the polynomial
            columns = columns - np.outer(v, in_order(v[:, None] * columns)) * (2 / size)
    length = np.maximum(max(1.0, symbols / 8) / np.maximum(k, 1), 0.1)
    length[0] = 1.0  # adding a constant to all logits changes nothing
    return torch.from_numpy((columns * (np.sqrt(symbols) * length)).astype(np.float32))


def cosines(count: int) -> np.ndarray:
    """cos(π (k + ½) f / K) for k, f = 0..K-1, (K, K), by Taylor's series: libraries differ in the last bit."""
    quarter = np.arange(count + 1)  # cos(π m / 2K) for m = 0..K
    low = np.minimum(quarter, count - quarter) * (math.pi / (2 * count))  # at most π/4
    square = low * low
    cosine, sine = np.ones(count + 1), np.ones(count + 1)
    for n in range(20, 0, -2):
        cosine = 1 - square / (n * (n - 1)) * cosine
        sine = 1 - square / (n * (n + 1)) * sine
    table = np.where(2 * quarter <= count, cosine, sine * low)
    m = np.outer(2 * np.arange(count) + 1, np.arange(count)) % (4 * count)
    m = np.minimum(m, 4 * count - m)  # cos is even, and odd about π/2
    return np.where(
        m <= count, table[np.minimum(m, count)], -table[np.maximum(2 * count - m, 0).clip(max=count)]
    )


def in_order(terms: np.ndarray) -> np.ndarray:
    """The sum along the first axis, from the first term to the last."""
    return np.cumsum(terms, axis=0)[-1]
