"""Causal convolutions that contain only the taps they need, and the gate.

`RowsAbove` and `LeftOf` include their own position. A network of them becomes causal by shifting its *input* once
(`down` for the rows above, `right` for the pixels to the left); from there on every layer may look at itself.
A `Causal` convolution is what others call a masked one; the first of a network leaves its own pixel out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from chainrule.errors import ChainruleError
from chainrule.layers.levels import in_order


class RowsAbove(nn.Conv2d):
    """A convolution over a row and the rows above it: ⌈n/2⌉ × n taps, (B, C, H, W) -> (B, D, H, W)."""

    def __init__(self, c_in: int, c_out: int, n: int, stride: int = 1):
        super().__init__(c_in, c_out, (half(n), n), stride)

    def forward(self, x: Tensor) -> Tensor:
        rows, n = self.kernel_size
        return super().forward(F.pad(x, (n // 2, n // 2, rows - 1, 0)))


class LeftOf(nn.Conv2d):
    """A convolution over a pixel and those to its left: 1 × ⌈n/2⌉ taps, (B, C, H, W) -> (B, D, H, W)."""

    def __init__(self, c_in: int, c_out: int, n: int):
        super().__init__(c_in, c_out, (1, half(n)))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.kernel_size[1] - 1, 0)))


class Corner(nn.Conv2d):
    """A convolution over a pixel and those left of it, in its row and the rows above: (B, C, H, W) -> (B, D, H, W)."""

    def __init__(self, c_in: int, c_out: int, rows: int, columns: int, stride: int = 1):
        super().__init__(c_in, c_out, (rows, columns), stride)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.kernel_size
        return super().forward(F.pad(x, (columns - 1, 0, rows - 1, 0)))


class Causal(nn.Module):
    """A convolution over what comes before a pixel in an n × n window, and the pixel where `own`.

    The taps are the first ⌊n²/2⌋ (+ 1) of the window in reading order: the ones that a mask "A" ("B") leaves of the
    kernel (van den Oord et al. 2016a, section 3.4). (B, C, H, W) -> (B, D, H, W)

    Example:
        >>> Causal(1, 8, 7, own=False).weight.shape
        torch.Size([8, 1, 24])
    """

    def __init__(self, c_in: int, c_out: int, n: int, own: bool = True):
        super().__init__()
        self.shape, self.own = (half(n), n), own
        taps = n * n // 2 + own
        if not taps:
            raise ChainruleError("a kernel of 1 has no pixel but its own: take 3 or more for the first")
        bound = (c_in * taps) ** -0.5
        self.weight = nn.Parameter(torch.empty(c_out, c_in, taps).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, x: Tensor) -> Tensor:
        rows, n = self.shape
        kernel = F.pad(self.weight, (0, rows * n - self.weight.shape[2])).unflatten(2, self.shape)
        return F.conv2d(F.pad(x, (n // 2, n // 2, rows - 1, 0)), kernel, self.bias)

    def program(self, p, value, **first):
        """As operations of a step program: what lies in the rows above is summed up a row at a time."""
        rows, n = self.shape
        weight, above = self.weight.permute(2, 1, 0), n * (rows - 1)  # (taps, in, out)
        columns = range(-(n // 2), n // 2 + 1)
        total = first or {"bias": self.bias}
        if above:
            part = weight[:above].flatten(0, 1)
            taps = p.taps(value, range(1 - rows, 0), columns)
            total = {"onto": p.dense(*taps, weight=part, clock="row", **total)}
        beside = p.taps(value, (0,), columns[: n // 2 + self.own])
        return p.dense(*beside, weight=weight[above:].flatten(0, 1), clock="pixel", **total)


def half(n: int) -> int:
    """⌈n/2⌉ of an n that has a centre: an even kernel would reach further to one side than to the other."""
    if n < 1 or n % 2 == 0:
        raise ChainruleError(f"a kernel of {n} has no centre: take an odd number")
    return (n + 1) // 2


def down(x: Tensor) -> Tensor:
    """Row r of the result is row r-1 of x (B, C, H, W); the first row is 0."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]


def right(x: Tensor) -> Tensor:
    """Column c of the result is column c-1 of x (B, C, H, W); the first column is 0."""
    return F.pad(x, (1, 0))[:, :, :, :-1]


def gate(a: Tensor) -> Tensor:
    """tanh(f) ⊙ σ(g) for f, g the halves of a (B, 2C, ...): van den Oord et al. 2016b, equation 2.

    tanh(f) is computed as 2σ(2f) − 1: the same function, and PyTorch's σ is several times faster than
    its tanh on a processor.
    """
    f, g = a.chunk(2, dim=1)
    return (2 * torch.sigmoid(2 * f) - 1) * torch.sigmoid(g)


def affine(layer: nn.Conv2d) -> dict[str, Tensor]:
    """The weight (taps · in, out), taps row by row, and the bias (out,) for a step program's `dense`."""
    weight = weight_of(layer).permute(2, 3, 1, 0).flatten(0, 2)
    bias = weight.new_zeros(weight.shape[1]) if layer.bias is None else layer.bias
    return {"weight": weight, "bias": bias}


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer as a step program keeps it: of a normalised one g v / ‖v‖, the same bits everywhere.

    Only correctly rounded operations and sums in order are used. PyTorch sums as suits the processor.
    """
    if not is_parametrized(layer, "weight"):
        return layer.weight  # type: ignore[return-value]
    normalised: Any = layer.parametrizations["weight"]  # type: ignore[index]
    g, v = (x.detach().cpu().double() for x in (normalised.original0, normalised.original1))
    rows = v.movedim(normalised[0].dim, 0).flatten(1).T.numpy()  # (n, as many as there are lengths)
    length = torch.from_numpy(np.sqrt(in_order(rows * rows))).view_as(g)
    return (g * v / length).to(normalised.original1)


def rows_above(p, value, layer: RowsAbove, shift: int = 0) -> list:
    """What the layer reads in a step program, `shift` rows up."""
    rows, n = layer.kernel_size
    return p.taps(value, range(1 - rows - shift, 1 - shift), range(-(n // 2), n // 2 + 1))


def left_of(p, value, layer: LeftOf, shift: int = 0) -> list:
    """What the layer reads in a step program, `shift` columns to the left."""
    return p.taps(value, (0,), range(1 - layer.kernel_size[1] - shift, 1 - shift))


def corner(p, value, layer: Corner) -> list:
    """What the layer reads in a step program."""
    rows, columns = layer.kernel_size
    return p.taps(value, range(1 - rows, 1), range(1 - columns, 1))
