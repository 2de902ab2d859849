"""LSTMs that run over an image front by front: a row after another, or a diagonal after another.

All positions of a front are computed side by side; each is given the states of some positions of the front before
it. Skewing an image makes its anti-diagonals such fronts (van den Oord et al. 2016a, figure 3).

    F fronts, D directions with weights of their own, P positions of a front, B items, h units, g gates together
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Cell(Protocol):
    """The cell of an LSTM, forwards and backwards; all arrays are views that may be written."""

    offsets: Sequence[int]  # of the positions in the front before whose cells it keeps in part

    def forward(self, gates: Tensor, before: list[Tensor], cells: Tensor, hidden: Tensor) -> None:
        """Replace `gates` (D, P, B, g) by their functions; write `cells` and `hidden` (D, P, B, h)."""

    def backward(
        self, gates: Tensor, before: list[Tensor], cells: Tensor, by_hidden: Tensor, by_cells: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The gradients by the gates before their functions and by `before`, given those by its results."""


@torch.compiler.disable  # a compiler would unroll the fronts
def scan(
    inputs: Tensor,
    weight: Tensor,
    offsets: Sequence[int],
    cell: Cell,
    spans: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Hidden states (F, D, P, B, h) of an LSTM over fronts; zeros lie before and around them.

        gates[f, p] = inputs[f, p] + Σ_o hidden[f - 1, p + offsets[o]] · weight[o]
        cells[f, p], hidden[f, p] = cell(gates[f, p], cells[f - 1, p + cell.offsets[0]], ...)

    Args:
        inputs: (F, D, P, B, g).
        weight: (D, O, h, g) for the O offsets.
        spans: first and last (exclusive) position of each front; all the others are zero, as outside the image.
    """
    spans = [(0, inputs.shape[2])] * len(inputs) if spans is None else spans
    return Scan.apply(inputs, weight, offsets, cell, spans)


class Scan(torch.autograd.Function):
    """`scan` with its gradient written out: each front is a few operations in place, and none is recorded."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, inputs, weight, offsets, cell, spans):
        fronts, directions, places, batch, _ = inputs.shape
        reach = max(abs(o) for o in (*offsets, *cell.offsets))
        states = inputs.new_zeros(2, fronts + 1, directions, places + 2 * reach, batch, weight.shape[2])
        hidden, cells = states.unbind()
        gates = inputs.clone(memory_format=torch.contiguous_format)
        for f, (first, end) in enumerate(spans):
            here = gates[f, :, first:end]
            for o, offset in enumerate(offsets):
                near = hidden[f, :, reach + first + offset : reach + end + offset]
                here.flatten(1, 2).baddbmm_(near.flatten(1, 2), weight[:, o])
            before = [cells[f, :, reach + first + o : reach + end + o] for o in cell.offsets]
            to = slice(reach + first, reach + end)
            cell.forward(here, before, cells[f + 1, :, to], hidden[f + 1, :, to])
        ctx.save_for_backward(weight, gates, hidden, cells)
        ctx.offsets, ctx.cell, ctx.spans, ctx.reach = offsets, cell, spans, reach
        return hidden[1:, :, reach : reach + places].clone()

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, by_output):
        weight, gates, hidden, cells = ctx.saved_tensors
        reach, (fronts, _, places, batch, _) = ctx.reach, gates.shape
        by_gates, by_weight = torch.zeros_like(gates), torch.zeros_like(weight)
        by_hidden, by_cells = torch.zeros_like(hidden), torch.zeros_like(cells)
        by_hidden[1:, :, reach : reach + places] = by_output
        for f in range(fronts - 1, -1, -1):
            first, end = ctx.spans[f]
            to = slice(reach + first, reach + end)
            around = [slice(reach + first + o, reach + end + o) for o in ctx.cell.offsets]
            before = [cells[f, :, part] for part in around]
            found, kept = ctx.cell.backward(
                gates[f, :, first:end],
                before,
                cells[f + 1, :, to],
                by_hidden[f + 1, :, to],
                by_cells[f + 1, :, to],
            )
            by_gates[f, :, first:end] = found
            for part, gradient in zip(around, kept, strict=True):
                by_cells[f, :, part] += gradient
            for o, offset in enumerate(ctx.offsets):
                near = slice(reach + first + offset, reach + end + offset)
                by_near = found.flatten(1, 2) @ weight[:, o].mT  # (D, P B, h)
                by_hidden[f, :, near] += by_near.unflatten(1, (end - first, batch))
                by_weight[:, o].baddbmm_(hidden[f, :, near].flatten(1, 2).mT, found.flatten(1, 2))
        return by_gates, by_weight, None, None, None


class LSTM:
    """Gates i, f, g, o; the cell at the same position is kept in part (Hochreiter & Schmidhuber 1997).

    c = σ(f) c' + σ(i) tanh(g),   h = σ(o) tanh(c)
    """

    offsets = (0,)

    def forward(self, gates, before, cells, hidden):
        units = cells.shape[-1]
        i, f, g, o = gates.split(units, -1)
        gates[..., : 2 * units].sigmoid_()
        g.tanh_()
        o.sigmoid_()
        torch.mul(f, before[0], out=cells)
        cells.addcmul_(i, g)
        torch.mul(o, cells.tanh(), out=hidden)

    def backward(self, gates, before, cells, by_hidden, by_cells):
        i, f, g, o = gates.chunk(4, -1)
        top, found = cells.tanh(), torch.empty_like(gates)
        d_i, d_f, d_g, d_o = found.chunk(4, -1)
        d_c = torch.addcmul(by_cells, by_hidden * o, 1 - top * top)
        torch.mul(by_hidden * top, o - o * o, out=d_o)
        torch.mul(d_c * g, i - i * i, out=d_i)
        torch.mul(d_c * before[0], f - f * f, out=d_f)
        torch.mul(d_c * i, 1 - g * g, out=d_g)
        return found, [d_c * f]


def skewed(x: Tensor) -> Tensor:
    """x (B, H, W, d) -> (H + W - 1, H, B, d): row r moved r places to the right, the columns first; zeros elsewhere.

    >>> skewed(torch.tensor([[1, 2], [3, 4]])[None, :, :, None])[:, :, 0, 0].T
    tensor([[1, 2, 0],
            [0, 3, 4]])
    """
    b, height, width, d = x.shape
    long = F.pad(x, (0, 0, 0, height)).flatten(1, 2)[:, : height * (width + height - 1)]
    return long.view(b, height, width + height - 1, d).permute(2, 1, 0, 3)


def straight(x: Tensor, width: int) -> Tensor:
    """The inverse of `skewed`: x (H + W - 1, H, B, d) -> (B, H, W, d)."""
    _, height, b, d = x.shape
    long = F.pad(x.permute(2, 1, 0, 3).flatten(1, 2), (0, 0, 0, height))
    return long.view(b, height, width + height, d)[:, :, :width]


def diagonals(height: int, width: int) -> list[tuple[int, int]]:
    """The rows, first and last (exclusive), of the places of each of `skewed` maps that belong to the image."""
    return [(max(0, d - width + 1), min(height, d + 1)) for d in range(height + width - 1)]
