"""PixelRNN with the Diagonal BiLSTM (van den Oord et al. 2016a, "Pixel Recurrent Neural Networks", section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chainrule.layers.conv import affine, down
from chainrule.layers.pixels import PixelNetwork, check_images, of_images
from chainrule.layers.recurrence import LSTM, diagonals, scan, skewed, straight
from chainrule.layers.scales import Scales
from chainrule.model import Chain, check_sizes


class DiagonalBiLSTM(Chain):
    """Images of any height and width by LSTMs that run along both diagonals and so see all that came before.

    A first convolution sees what comes before a pixel in a window; residual layers follow, of two LSTMs each. The
    states of either run from a corner: with K_is a 1 × 1 convolution and K_1, K_2 two matrices (a 2 × 1 convolution of
    the skewed map), the LSTM from the left, and its mirror image from the right, are at row r and column c

        [o, f, i, g] = K_is x_rc + K_1 h_{r,c-1} + K_2 h_{r-1,c}
        c_rc = σ(f) ⊙ c_{r,c-1} + σ(i) ⊙ tanh(g)
        h_rc = σ(o) ⊙ tanh(c_rc)                                                        (h units)
        x_rc <- x_rc + U (left_rc + right_{r-1,c})                                      U: h -> 2h, 1 × 1

    The states from the right are taken from the row above, or pixels to the right would be seen. That row is complete,
    so beyond the paper the LSTM from the right is also told the pixel it stands at: without that no conditional could
    depend on the last pixel of the row above, but for those below it that see it through the first convolution.

    Args:
        symbols: K levels.
        channels: C symbols a pixel: 1 gray, 3 colour.
        classes: number of classes in `context` (an embedding is added after the first convolution); 0: none.
        width: h, units of an LSTM at every pixel.
        layers: residual layers of two LSTMs.
        first_kernel: the window of the first convolution.
        head: hidden units of the head.
        scale: s > 1: multi-scale. Every s-th pixel of every s-th row comes first, as an image of its own, and the
            others are predicted given all of it (section 3.6). Then there is no step program.

    Example:
        >>> chain = DiagonalBiLSTM(symbols=4, channels=3, **DiagonalBiLSTM.SIZES["tiny"])
        >>> chain.logits(torch.zeros(2, 5, 6, 3, dtype=torch.long)).shape
        torch.Size([2, 5, 6, 3, 4])
    """

    SIZES = {
        "tiny": {"width": 4, "layers": 2, "first_kernel": 3, "head": 8},
        "laptop": {"width": 24, "layers": 2, "head": 64},
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
        layers: int = 2,
        first_kernel: int = 7,
        head: int = 64,
        scale: int = 1,
    ):
        super().__init__()
        check_sizes(symbols=symbols, channels=channels, width=width, layers=layers, head=head, scale=scale)
        self.symbols, self.channels, self.classes, self.scale = symbols, channels, classes, scale

        def network(given: int = 0) -> PixelNetwork:
            stack = [DiagonalLayer(width, channels + 1) for _ in range(layers)]
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
        """One pixel at a time; the states from the right at the beginning of a row, from its last pixel on."""
        return None if isinstance(self.net, Scales) else self.net.program(p)


class DiagonalLayer(nn.Module):
    """Two LSTMs along the diagonals and a residual connection. x (B, 2h, H, W), image (B, planes, H, W) -> as x."""

    def __init__(self, width: int, planes: int):
        super().__init__()
        self.left = nn.Conv2d(2 * width, 4 * width, 1)
        self.right = nn.Conv2d(2 * width + planes, 4 * width, 1)
        states = torch.empty(2, 2, width, 4 * width)  # from the left, from the right; K_1, K_2
        self.states = nn.Parameter(states.uniform_(-1, 1) * (2 * width) ** -0.5)
        self.up = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        height, width = x.shape[2:]
        left = self.left(x).permute(0, 2, 3, 1)  # (B, H, W, 4h)
        right = self.right(torch.cat([x, image], 1)).permute(0, 2, 3, 1).flip(2)
        inputs = torch.stack([skewed(left), skewed(right)], 1)  # (H + W - 1, 2, H, B, 4h)
        h = scan(inputs, self.states, (0, -1), LSTM(), diagonals(height, width))
        from_left, from_right = (straight(h[:, d], width).permute(0, 3, 1, 2) for d in (0, 1))
        return x + self.up(from_left + down(from_right.flip(3)))

    def program(self, p, x, image):
        n = self.up.in_channels
        (from_left, left_above), (from_right, right_above) = self.states
        cell, hidden = p.memory(n), p.memory(n)
        above = p.dense(p.at(hidden, rows=-1), weight=left_above, bias=self.left.bias, clock="row")
        weight = torch.cat([affine(self.left)["weight"], from_left])
        gates = p.dense(x, p.at(hidden, columns=-1), weight=weight, onto=above)
        left = p.lstm(gates, cell, hidden)
        right = self._from_right(p, p.at(x, rows=-1), p.at(image, rows=-1), from_right, right_above)
        return p.add(x, p.dense(p.add(left, right), **affine(self.up)))

    def _from_right(self, p, x, image, weight, weight_above):
        """The states from the right of the row above; there is none above the first row."""
        n = self.up.in_channels
        cell, hidden, state = (p.memory(n, "back") for _ in range(3))
        known = x, image, p.at(state, columns=1), p.at(state, rows=-1)
        weight, bias = torch.cat([affine(self.right)["weight"], weight, weight_above]), self.right.bias
        p.lstm(
            p.dense(*known, weight=weight, bias=bias, clock="back"),
            cell,
            hidden,
            before=p.at(cell, columns=1),
        )
        inside = p.dense(
            image[image.width - 1 :], weight=torch.ones(1, n), clock="back"
        )  # 1, or 0 above the image
        return p.write(state, p.multiply(hidden, inside))
