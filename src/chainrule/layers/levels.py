"""Tables over levels that have an order: K rows that start out smooth and can become anything."""

from __future__ import annotations

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
        self.register_buffer("basis", smooth_basis(symbols), persistent=False)

    def table(self) -> Tensor:
        """The rows T, (K, D)."""
        return self.basis @ self.coefficients

    def forward(self, x: Tensor) -> Tensor:
        """x (...) levels -> (..., D)."""
        return nn.functional.embedding(x.long(), self.table())


def smooth_basis(symbols: int) -> Tensor:
    """K orthogonal columns over K levels, from smooth and long to rough and short, (K, K).

    First the polynomials 1, k, k²: a softmax of a k + b k² is a discretised Gaussian, so two numbers say
    "near 100, give or take 5". Then cosines (DCT-II) of rising frequency f. Lengths fall as 1/f from K/8,
    which gives a Gaussian of a few levels' width coefficients of order one; none falls below 0.1.
    """
    k = torch.arange(symbols, dtype=torch.float64)
    cosines = torch.cos(torch.pi * torch.outer(k + 0.5, k) / symbols)
    powers = (2 * k / max(symbols - 1, 1) - 1)[:, None] ** torch.arange(min(3, symbols))
    orthonormal, _ = torch.linalg.qr(torch.cat([powers, cosines[:, 3:]], 1))
    length = (max(1.0, symbols / 8) / k.clamp(min=1)).clamp(min=0.1)
    length[0] = 1.0  # adding a constant to all logits changes nothing
    return (orthonormal * symbols**0.5 * length).float()
