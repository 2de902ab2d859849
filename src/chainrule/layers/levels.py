"""Tables over levels that have an order: K rows that start out smooth and can become anything."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LevelTable(nn.Module):
    """A (K, D) table T = B A, indexed by levels 0..K-1; B a fixed invertible basis, A (K, D) learned.

    Brightness 100 and 101 mean nearly the same, and an unconstrained table must learn that from data. B
    holds cosines of rising frequency with falling weight, so that what is learned about a level at first
    spreads to its neighbours. B is invertible: the family of models is that of a plain table, only the
    direction of the first steps differs.

    Example:
        >>> LevelTable(256, 8)(torch.tensor([[0, 255]])).shape
        torch.Size([1, 2, 8])
    """

    basis: Tensor

    def __init__(self, symbols: int, width: int):
        super().__init__()
        self.coefficients = nn.Parameter(torch.randn(symbols, width) / max(width, 1) ** 0.5)
        self.register_buffer("basis", cosine_basis(symbols), persistent=False)

    def table(self) -> Tensor:
        """The rows T, (K, D)."""
        return self.basis @ self.coefficients

    def forward(self, x: Tensor) -> Tensor:
        """x (...) levels -> (..., D)."""
        return nn.functional.embedding(x.long(), self.table())


def cosine_basis(symbols: int, decay: float = 1.0) -> Tensor:
    """The DCT-II basis (K levels, K frequencies), frequency f weighted by (1 + f/8)^-decay."""
    k = torch.arange(symbols, dtype=torch.float64)
    basis = torch.cos(torch.pi * torch.outer(k + 0.5, k) / symbols)
    return (basis * (1 + k / 8) ** -decay).float()
