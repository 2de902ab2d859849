"""Gated residual layers with normalised weights, and how a stack of them begins (Salimans et al. 2017).

PixelCNN++ and PixelSNAIL are made of these; in step programs `when` says at which clock and how often one runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from chainrule.layers.conv import RowsAbove, affine, corner, down, right, rows_above


class Gated(nn.Module):
    """x + a ⊙ σ(b), (a, b) = W₂ ∗ e(W₁ ∗ e(x) + W₃ e(skip)) + class. (B, width, H, W) -> the same.

    e(x) is elu(x), or elu(x, -x) with `signs`; all weights are normalised (Salimans & Kingma 2016).
    """

    def __init__(
        self,
        conv: Callable[[int, int], nn.Conv2d],
        width: int,
        skip: int = 0,
        classes: int = 0,
        dropout: float = 0.0,
        signs: bool = False,
    ):
        super().__init__()
        times = 1 + signs
        self.first = weight_norm(conv(times * width, width))
        self.skip: Any = weight_norm(nn.Conv2d(times * skip, width, 1)) if skip else None
        self.second = weight_norm(conv(times * width, 2 * width))
        with torch.no_grad():  # a layer begins as little more than its input
            self.second.parametrizations.weight.original0.mul_(0.1)
        self.condition = nn.Embedding(classes, 2 * width) if classes else None
        self.dropout, self.signs = dropout, signs

    def forward(self, x: Tensor, skip: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        h = self.first(self._bent(x))
        if skip is not None:
            h = h + self.skip(self._bent(skip))
        h = self.second(F.dropout(self._bent(h), self.dropout, self.training))
        if self.condition is not None:
            h = h + self.condition(context)[:, :, None, None]
        a, b = h.chunk(2, 1)
        return x + a * b.sigmoid()

    def program(self, p, x, skip=None, **when):
        h = p.dense(*self._taps(p, x, self.first, when), **affine(self.first), **when)
        if self.skip is not None:
            nin = affine(self.skip)
            h = p.dense(self._bent_program(p, skip, when), weight=nin["weight"], onto=h, **when)
            h = p.add(h, p.constant(nin["bias"]), **when)
        start = {"bias": self.second.bias}
        if self.condition is not None:
            start = {"onto": p.one_of_classes(self.condition.weight + self.second.bias)}
        taps = self._taps(p, h, self.second, when)
        h = p.dense(*taps, weight=affine(self.second)["weight"], **start, **when)
        a, b = h[: x.width], h[x.width :]
        return p.add(x, p.multiply(a, p.pointwise("sigmoid", b, **when), **when), **when)

    def _bent(self, x: Tensor) -> Tensor:
        """e(x)"""
        return F.elu(torch.cat([x, -x], 1) if self.signs else x)

    def _bent_program(self, p, x, when):
        if not self.signs:
            return p.pointwise("elu", x, **when)
        minus = p.multiply(x, p.constant(-torch.ones(x.width)), **when)
        return p.concat(p.pointwise("elu", x, **when), p.pointwise("elu", minus, **when), **when)

    def _taps(self, p, value, layer, when):
        """What a layer reads of e(value)."""
        reads = rows_above if isinstance(layer, RowsAbove) else corner
        return reads(p, self._bent_program(p, value, when), layer)


def before(row: nn.Conv2d, column: nn.Conv2d, image: Tensor) -> Tensor:
    """What comes before each pixel: three pixels in the row above, two in the column to the left."""
    return row(down(image)) + column(right(image))


def before_program(p, row: nn.Conv2d, column: nn.Conv2d, image):
    """The same, the row above a row at a time."""
    weight, bias = affine(row).values()
    bias = bias + affine(column)["bias"]
    above = p.dense(*p.taps(image, (-1,), (-1, 0, 1)), weight=weight, bias=bias, clock="row")
    beside = p.taps(image, (-1, 0), (-1,))
    return p.dense(*beside, weight=affine(column)["weight"], onto=above, clock="pixel")
