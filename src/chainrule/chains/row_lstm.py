"""PixelRNN with the Row LSTM (van den Oord et al. 2016a, "Pixel Recurrent Neural Networks", section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chainrule.layers.conv import LeftOf, affine, left_of
from chainrule.layers.pixels import PixelNetwork, check_images, of_images
from chainrule.layers.recurrence import LSTM, scan
from chainrule.layers.scales import Scales
from chainrule.model import Chain, check_sizes


class RowLSTM(Chain):
    """Images of any height and width, row after row, by convolutional LSTMs whose state runs down the image.

    A first convolution sees what comes before a pixel in a window; residual layers follow. In each, for row r and all
    its columns at once, with K_is a causal 1 × n convolution of the row, K_ss a 1 × n convolution of the states of the
    row above, ∗ a convolution and ⊙ a product of numbers (equation 3 of the paper):

        [o, f, i, g] = K_ss ∗ h_{r-1} + K_is ∗ x_r
        c_r = σ(f) ⊙ c_{r-1} + σ(i) ⊙ tanh(g)
        h_r = σ(o) ⊙ tanh(c_r)                                                           (h maps)
        x <- x + U h                                                                     U: h -> 2h, 1 × 1

    The state of a pixel has seen a triangle above it that widens by ⌊n/2⌋ a row, whatever the height. The head
    predicts the channels of a pixel in order, as that of the PixelCNN.

    Args:
        symbols: K levels.
        channels: C symbols a pixel: 1 gray, 3 colour.
        classes: number of classes in `context` (an embedding is added after the first convolution); 0: none.
        width: h, units of an LSTM at every pixel.
        layers: residual LSTM layers.
        kernel: n; `first_kernel`: the window of the first convolution.
        head: hidden units of the head.
        scale: s > 1: multi-scale. Every s-th pixel of every s-th row comes first, as an image of its own, and the
            others are predicted given all of it (section 3.6). Then there is no step program.

    Example:
        >>> chain = RowLSTM(symbols=4, channels=3, **RowLSTM.SIZES["tiny"])
        >>> chain.logits(torch.zeros(2, 5, 6, 3, dtype=torch.long)).shape
        torch.Size([2, 5, 6, 3, 4])
    """

    SIZES = {
        "tiny": {"width": 4, "layers": 2, "first_kernel": 3, "head": 8},
        "laptop": {"width": 24, "layers": 3, "head": 64},
        # Table 1 and section 5.3 (CIFAR-10): twelve layers, h = 128, 1024 features in the head.
        "paper": {"width": 128, "layers": 12, "head": 1024},
    }
    KINDS = ("image",)
    AXES = "grid"
    TRAINING = {"batch": 16, "lr": 3e-3, "bfloat16": True}

    def __init__(
        self,
        symbols: int = 256,
        channels: int = 1,
        classes: int = 0,
        width: int = 24,
        layers: int = 3,
        kernel: int = 3,
        first_kernel: int = 7,
        head: int = 64,
        scale: int = 1,
    ):
        super().__init__()
        check_sizes(symbols=symbols, channels=channels, width=width, layers=layers, head=head, scale=scale)
        self.symbols, self.channels, self.classes, self.scale = symbols, channels, classes, scale

        def network(given: int = 0) -> PixelNetwork:
            stack = [RowLayer(width, kernel) for _ in range(layers)]
            return PixelNetwork(symbols, channels, classes, 2 * width, first_kernel, stack, head, given)

        self.net: PixelNetwork | Scales = network() if scale == 1 else Scales(scale, 2 * width, network)

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return of_images(data)

    def order(self, event):
        """C order, or every `scale`-th pixel of every `scale`-th row first."""
        return self.net.order(event) if isinstance(self.net, Scales) else super().order(event)

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, H, W, C) -> (B, H, W, C, K)."""
        check_images(self, x, context)
        return self.net(x, context)

    def program(self, p):
        """One pixel at a time; what the states above and the taps above say is summed up a row at a time."""
        return None if isinstance(self.net, Scales) else self.net.program(p)


class RowLayer(nn.Module):
    """A residual Row LSTM: figure 5 of the paper, right. (B, 2h, H, W) -> the same."""

    def __init__(self, width: int, n: int):
        super().__init__()
        self.inputs = LeftOf(2 * width, 4 * width, n)
        self.states = nn.Parameter(torch.empty(n, width, 4 * width).uniform_(-1, 1) * (n * width) ** -0.5)
        self.up = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        inputs = self.inputs(x).permute(2, 3, 0, 1)  # (H, W, B, 4h)
        n = len(self.states)
        h = scan(inputs[:, None], self.states[None], range(-(n // 2), n // 2 + 1), LSTM())[:, 0]
        return x + self.up(h.permute(2, 3, 0, 1))

    def program(self, p, x, image):
        n, width, _ = self.states.shape
        cell, hidden = p.memory(width), p.memory(width)
        above = p.taps(hidden, (-1,), range(-(n // 2), n // 2 + 1))
        bias = affine(self.inputs)["bias"]
        states = p.dense(*above, weight=self.states.flatten(0, 1), bias=bias, clock="row")
        gates = p.dense(*left_of(p, x, self.inputs), weight=affine(self.inputs)["weight"], onto=states)
        h = p.lstm(gates, cell, hidden, before=p.at(cell, rows=-1))
        return p.add(x, p.dense(h, **affine(self.up)))
