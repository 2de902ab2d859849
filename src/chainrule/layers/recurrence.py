"""LSTMs that run over an image front by front: a row after another, or a diagonal after another.

All positions of a front are computed side by side; each is given the hidden states of some positions of the front
before it. Skewing an image makes its anti-diagonals such fronts (van den Oord et al. 2016a, figure 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# gates (D, B, P, g), and for each offset of `cells_at` the cells (D, B, P, h) there -> cells, hidden (D, B, P, h)
Cell = Callable[..., tuple[Tensor, Tensor]]


def scan(
    inputs: Tensor,
    weight: Tensor,
    offsets: Sequence[int],
    cell: Cell,
    cells_at: Sequence[int] = (0,),
    valid: Tensor | None = None,
) -> Tensor:
    """Hidden states (F, D, B, P, h) of an LSTM over F fronts of P positions; zeros lie before and around them.

        gates[f, p] = inputs[f, p] + Σ_o hidden[f - 1, p + offsets[o]] · weight[o]
        cells[f, p], hidden[f, p] = cell(gates[f, p], cells[f - 1, p + cells_at[0]], ...)

    Args:
        inputs: (F, D, B, P, g): D directions with weights of their own, B items.
        weight: (D, O, h, g) for the O offsets.
        valid: (F, P) bool: elsewhere states are zero, as outside the image.
    """
    _, directions, batch, places, _ = inputs.shape
    h, reach = weight.shape[2], max(abs(o) for o in (*offsets, *cells_at))
    weight = weight.flatten(1, 2)
    hidden = cells = inputs.new_zeros(directions, batch, places + 2 * reach, h)

    def at(states: Tensor, offset: int) -> Tensor:
        return states[:, :, reach + offset : reach + offset + places]

    found = []
    for f, given in enumerate(
        inputs.unbind()
    ):  # not inputs[f]: its gradient would be as large as all of them
        near = torch.cat([at(hidden, o) for o in offsets], -1)  # (D, B, P, O h)
        gates = torch.baddbmm(given.flatten(1, 2), near.flatten(1, 2), weight)  # (D, B P, g)
        new_cells, new = cell(gates.unflatten(1, (batch, places)), *(at(cells, o) for o in cells_at))
        if valid is not None:
            new_cells, new = (torch.where(valid[f, :, None], x, 0) for x in (new_cells, new))
        hidden, cells = (F.pad(x, (0, 0, reach, reach)) for x in (new, new_cells))
        found.append(new)
    return torch.stack(found)


def lstm(gates: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Gates i, f, g, o before their functions, and the cells that are kept in part."""
    i, f, g, o = gates.chunk(4, -1)
    new = f.sigmoid() * cells + i.sigmoid() * g.tanh()
    return new, o.sigmoid() * new.tanh()


def skewed(x: Tensor) -> Tensor:
    """x (B, H, W, D) -> (H + W - 1, B, H, D): row r moved r places to the right, the columns first; zeros elsewhere.

    >>> skewed(torch.tensor([[1, 2], [3, 4]])[None, :, :, None])[:, 0, :, 0].T
    tensor([[1, 2, 0],
            [0, 3, 4]])
    """
    b, height, width, d = x.shape
    long = F.pad(x, (0, 0, 0, height)).flatten(1, 2)[:, : height * (width + height - 1)]
    return long.view(b, height, width + height - 1, d).permute(2, 0, 1, 3)


def straight(x: Tensor, width: int) -> Tensor:
    """The inverse of `skewed`: x (H + W - 1, B, H, D) -> (B, H, W, D)."""
    _, b, height, d = x.shape
    long = F.pad(x.permute(1, 2, 0, 3).flatten(1, 2), (0, 0, 0, height))
    return long.view(b, height, width + height, d)[:, :, :width]


def on_diagonals(height: int, width: int) -> Tensor:
    """Which places of `skewed` maps belong to the image, (H + W - 1, H) bool."""
    return skewed(torch.ones(1, height, width, 1))[:, 0, :, 0] > 0
