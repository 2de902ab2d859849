"""RIDE: images by a spatial LSTM (Theis & Bethge 2015, "Generative Image Modeling Using Spatial LSTMs")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chainrule.layers.conv import affine
from chainrule.layers.pixels import PixelNetwork, check_images, of_images
from chainrule.layers.recurrence import diagonals, scan, skewed, straight
from chainrule.model import Chain, check_sizes


class RIDE(Chain):
    """Images of any height and width by LSTMs whose state comes from the left and from above.

    A first convolution sees what comes before a pixel in a window. Then, at row r and column c, with A one matrix
    (equations 6 and 7 of the paper):

        (g, o, i, f_r, f_c) = A [x_rc, h_{r,c-1}, h_{r-1,c}] + b
        c_rc = σ(i) ⊙ tanh(g) + σ(f_c) ⊙ c_{r,c-1} + σ(f_r) ⊙ c_{r-1,c}
        h_rc = tanh(c_rc ⊙ σ(o))                                                        (h units)
        x_rc <- U h_rc                                                                  U: h -> 2h

    Where the paper ends in a mixture of Gaussian scale mixtures over real numbers, a softmax over the levels of each
    channel stands here (the head of the PixelCNN): the same recurrence, for pictures as they are stored.

    Args:
        symbols: K levels.
        channels: C symbols a pixel: 1 gray, 3 colour.
        classes: number of classes in `context` (an embedding is added after the first convolution); 0: none.
        width: h, units of an LSTM at every pixel.
        layers: spatial LSTMs, one on top of the other.
        first_kernel: the window of the first convolution.
        head: hidden units of the head.

    Example:
        >>> chain = RIDE(symbols=4, channels=3, **RIDE.SIZES["tiny"])
        >>> chain.logits(torch.zeros(2, 5, 6, 3, dtype=torch.long)).shape
        torch.Size([2, 5, 6, 3, 4])
    """

    SIZES = {
        "tiny": {"width": 4, "layers": 2, "first_kernel": 3, "head": 8},
        "laptop": {"width": 48, "layers": 1, "head": 64},
        # Two spatial LSTMs of 128 units, on the scale of the larger models of the paper; the head is ours.
        "paper": {"width": 128, "layers": 2, "head": 256},
    }
    KINDS = ("image",)
    AXES = "grid"
    TRAINING = {"batch": 16, "lr": 3e-3, "bfloat16": True}

    def __init__(
        self,
        symbols: int = 256,
        channels: int = 1,
        classes: int = 0,
        width: int = 48,
        layers: int = 1,
        first_kernel: int = 7,
        head: int = 64,
    ):
        super().__init__()
        check_sizes(symbols=symbols, channels=channels, width=width, layers=layers, head=head)
        self.symbols, self.channels, self.classes = symbols, channels, classes
        stack = [SpatialLayer(width) for _ in range(layers)]
        self.net = PixelNetwork(symbols, channels, classes, 2 * width, first_kernel, stack, head)

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return of_images(data)

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, H, W, C) -> (B, H, W, C, K)."""
        check_images(self, x, context)
        return self.net(x, context)

    def program(self, p):
        """One pixel at a time; what comes from the state above is summed up a row at a time."""
        return self.net.program(p)


class SpatialLayer(nn.Module):
    """A spatial LSTM. (B, 2h, H, W) -> the same."""

    def __init__(self, width: int):
        super().__init__()
        self.inputs = nn.Conv2d(2 * width, 5 * width, 1)  # g, o, i, f_r, f_c
        self.states = nn.Parameter(torch.empty(2, width, 5 * width).uniform_(-1, 1) * (2 * width) ** -0.5)
        self.up = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        height, width = x.shape[2:]
        inputs = skewed(self.inputs(x).permute(0, 2, 3, 1))  # (H + W - 1, H, B, 5h)
        h = scan(inputs[:, None], self.states[None], (0, -1), SpatialLSTM(), diagonals(height, width))[:, 0]
        return self.up(straight(h, width).permute(0, 3, 1, 2))

    def program(self, p, x, image):
        n = self.states.shape[1]
        cell, hidden = p.memory(n), p.memory(n)
        from_left, from_above = self.states
        above = p.dense(p.at(hidden, rows=-1), weight=from_above, bias=self.inputs.bias, clock="row")
        left = torch.cat([affine(self.inputs)["weight"], from_left])
        gates = p.dense(x, p.at(hidden, columns=-1), weight=left, onto=above)
        g, (o, i, f_r, f_c) = (
            p.pointwise("tanh", gates[:n]),
            (p.pointwise("sigmoid", gates[k * n : (k + 1) * n]) for k in range(1, 5)),
        )
        kept = p.add(p.multiply(f_c, p.at(cell, columns=-1)), p.multiply(f_r, p.at(cell, rows=-1)))
        p.write(cell, p.add(p.multiply(i, g), kept))
        p.write(hidden, p.pointwise("tanh", p.multiply(cell, o)))
        return p.dense(hidden, **affine(self.up))


class SpatialLSTM:
    """Gates g, o, i, f_r, f_c; the cells to the left and above are kept in part."""

    offsets = (0, -1)

    def forward(self, gates, before, cells, hidden):
        units = cells.shape[-1]
        g, o, i, f_r, f_c = gates.split(units, -1)
        g.tanh_()
        gates[..., units:].sigmoid_()
        torch.mul(i, g, out=cells)
        cells.addcmul_(f_c, before[0]).addcmul_(f_r, before[1])
        torch.tanh(cells * o, out=hidden)

    def backward(self, gates, before, cells, by_hidden, by_cells):
        g, o, i, f_r, f_c = gates.chunk(5, -1)
        top, found = (cells * o).tanh(), torch.empty_like(gates)
        d_g, d_o, d_i, d_r, d_c = found.chunk(5, -1)
        inside = by_hidden * (1 - top * top)
        d_cell = torch.addcmul(by_cells, inside, o)
        torch.mul(inside * cells, o - o * o, out=d_o)
        torch.mul(d_cell * i, 1 - g * g, out=d_g)
        torch.mul(d_cell * g, i - i * i, out=d_i)
        torch.mul(d_cell * before[1], f_r - f_r * f_r, out=d_r)
        torch.mul(d_cell * before[0], f_c - f_c * f_c, out=d_c)
        return found, [d_cell * f_c, d_cell * f_r]
