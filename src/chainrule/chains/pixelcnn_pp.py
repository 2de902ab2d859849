"""PixelCNN++ (Salimans, Karpathy, Chen & Kingma 2017, "PixelCNN++: Improving the PixelCNN ...")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from chainrule.layers.conv import Corner, RowsAbove, affine, corner, down, rows_above, weight_of
from chainrule.layers.gated import Gated, before, before_program
from chainrule.layers.logistic import LogisticHead, OfLogistics
from chainrule.layers.pixels import check_images, scaled, scaled_program
from chainrule.model import check_sizes

SCALES = 3  # resolutions: the image, a half and a quarter of its sides


class PixelCNNpp(OfLogistics):
    """Images of any height and width by a mixture of logistics, from two streams at three resolutions.

    One stream, u, knows all rows above a pixel, the other, l, also the pixels to the left. Both go through gated
    residual layers at full, half and quarter resolution and back up; a layer on the way up is also given what its
    counterpart on the way down made (figure 2 of the paper), and a layer of l what u knows. With ∗ a causal
    convolution, of 2 × 3 taps for u and 2 × 2 for l, all weights normalised (Salimans & Kingma 2016):

        x <- x + a ⊙ σ(b),    (a, b) = W₂ ∗ e(W₁ ∗ e(x) + W₃ e(skip)) + class,    e(x) = elu(x, -x)

    What l knows of a pixel gives a mixture of discretised logistics for its channels: see `LogisticHead`.

    Args:
        symbols: K levels.
        channels: C symbols a pixel: 1 gray, 3 colour.
        classes: number of classes in `context` (a bias of every layer); 0: none.
        width: maps of either stream.
        layers: gated residual layers at each resolution on the way down.
        mixtures: logistics.
        dropout: share of the maps dropped inside a layer, in training.

    Example:
        >>> chain = PixelCNNpp(symbols=4, channels=3, **PixelCNNpp.SIZES["tiny"])
        >>> chain.logits(torch.zeros(2, 5, 6, 3, dtype=torch.long)).shape
        torch.Size([2, 5, 6, 3, 4])
    """

    SIZES = {
        "tiny": {"width": 4, "layers": 1, "mixtures": 2},
        "laptop": {"width": 32, "layers": 1},
        # Section 3.1: 160 maps, blocks of five layers, ten logistics, dropout 0.5.
        "paper": {"width": 160, "layers": 5, "dropout": 0.5},
    }
    KINDS = ("image",)
    AXES = "grid"
    TRAINING = {"batch": 16, "lr": 2e-3, "bfloat16": True}

    def __init__(
        self,
        symbols: int = 256,
        channels: int = 1,
        classes: int = 0,
        width: int = 32,
        layers: int = 1,
        mixtures: int = 10,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_sizes(
            dropout, symbols=symbols, channels=channels, width=width, layers=layers, mixtures=mixtures
        )
        self.symbols, self.channels, self.classes = symbols, channels, classes
        pair = [width, classes, dropout]
        self.first = First(channels + 1, width)
        self.sinking: Any = nn.ModuleList(blocks([layers] * SCALES, *pair))
        self.shrink: Any = nn.ModuleList(Shrink(width) for _ in range(SCALES - 1))
        self.rising: Any = nn.ModuleList(blocks([layers] + [layers + 1] * (SCALES - 1), *pair, True))
        self.grow: Any = nn.ModuleList(Grow(width) for _ in range(SCALES - 1))
        self.head = LogisticHead(width, channels, symbols, mixtures)
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def program(self, p):
        """u a row at a time, l a pixel at a time; where they are coarser, at every second or fourth row and column."""
        kept, every = [self.first.program(p, p.concat(*scaled_program(p)))], 1
        for i, block in enumerate(self.sinking):
            if i:
                every *= 2
                kept.append(self.shrink[i - 1].program(p, *kept[-1], every))
            for pair in block:
                kept.append(pair.program(p, *kept[-1], every))
        u, left = kept.pop()
        for i, block in enumerate(self.rising):
            if i:
                every //= 2
                u, left = self.grow[i - 1].program(p, u, left, every)
            for pair in block:
                u, left = pair.program(p, u, left, every, kept.pop())
        return self.head.program(p, p.pointwise("elu", left))

    def _features(self, x: Tensor, context: Tensor | None) -> Tensor:
        """What l knows of each pixel, (B, H, W, width)."""
        check_images(self, x, context)
        kept = [self.first(scaled(x, self.symbols, self.head.out.bias))]
        for i, block in enumerate(self.sinking):
            if i:
                kept.append(self.shrink[i - 1](*kept[-1]))
            for pair in block:
                kept.append(pair(*kept[-1], context))
        u, left = kept.pop()
        for i, block in enumerate(self.rising):
            if i:
                u, left = self.grow[i - 1](u, left, kept[-1][0].shape[2:])
            for pair in block:
                u, left = pair(u, left, context, kept.pop())
        return F.elu(left).permute(0, 2, 3, 1)


def blocks(counts: list[int], *settings: Any) -> Iterator[nn.ModuleList]:
    """So many layers of both streams at each resolution."""
    for count in counts:
        yield nn.ModuleList(Pair(*settings) for _ in range(count))


class First(nn.Module):
    """The image as planes (B, planes, H, W) -> u and l (B, width, H, W): what comes before each pixel."""

    def __init__(self, planes: int, width: int):
        super().__init__()
        self.above = weight_norm(RowsAbove(planes, width, 3))
        self.row = weight_norm(nn.Conv2d(planes, width, (1, 3), padding=(0, 1)))
        self.column = weight_norm(Corner(planes, width, 2, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.above(down(image)), before(self.row, self.column, image)

    def program(self, p, image):
        u = p.dense(*rows_above(p, image, self.above, shift=1), **affine(self.above), clock="row")
        return u, before_program(p, self.row, self.column, image)


class Pair(nn.Module):
    """A layer of both streams; with `skips` each is also given what its counterpart on the way down made."""

    def __init__(self, width: int, classes: int, dropout: float, skips: bool = False):
        super().__init__()
        more: dict[str, Any] = {"classes": classes, "dropout": dropout, "signs": True}
        self.u = Gated(lambda a, b: RowsAbove(a, b, 3), width, width if skips else 0, **more)
        self.left = Gated(lambda a, b: Corner(a, b, 2, 2), width, width * (1 + skips), **more)

    def forward(
        self, u: Tensor, left: Tensor, context: Tensor | None, kept: Any = None
    ) -> tuple[Tensor, Tensor]:
        u = self.u(u, None if kept is None else kept[0], context)
        return u, self.left(left, u if kept is None else torch.cat([u, kept[1]], 1), context)

    def program(self, p, u, left, every, kept=None):
        u = self.u.program(p, u, None if kept is None else kept[0], clock="row", every=every)
        skip = u if kept is None else p.concat(u, kept[1], clock="pixel", every=every)
        return u, self.left.program(p, left, skip, clock="pixel", every=every)


class Shrink(nn.Module):
    """Both streams at every second row and column."""

    def __init__(self, width: int):
        super().__init__()
        self.u = weight_norm(RowsAbove(width, width, 3, stride=2))
        self.left = weight_norm(Corner(width, width, 2, 2, stride=2))

    def forward(self, u: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        return self.u(u), self.left(left)

    def program(self, p, u, left, every):
        u = p.dense(*rows_above(p, u, self.u), **affine(self.u), clock="row", every=every)
        left = p.dense(*corner(p, left, self.left), **affine(self.left), clock="pixel", every=every)
        return u, left


class Grow(nn.Module):
    """Both streams at twice as many rows and columns, by transposed convolutions of 2 × 3 and 2 × 2 taps."""

    def __init__(self, width: int):
        super().__init__()
        self.u = weight_norm(nn.ConvTranspose2d(width, width, (2, 3), stride=2), dim=1)
        self.left = weight_norm(nn.ConvTranspose2d(width, width, (2, 2), stride=2), dim=1)

    def forward(self, u: Tensor, left: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
        height, width = size
        return self.u(u)[:, :, :height, 1 : width + 1], self.left(left)[:, :, :height, :width]

    def program(self, p, u, left, every):
        coarse = {"clock": "row", "every": 2 * every}
        w, bias = weight_of(self.u), self.u.bias  # (in, out, 2, 3)
        right = p.at(u, columns=1)
        parts = [
            part
            for row in (0, 1)
            for part in (
                p.dense(u, weight=w[:, :, row, 1], bias=bias, **coarse),
                p.dense(u, right, weight=torch.cat([w[:, :, row, 2], w[:, :, row, 0]]), bias=bias, **coarse),
            )
        ]
        coarse, w, bias = {"clock": "pixel", "every": 2 * every}, weight_of(self.left), self.left.bias
        lefts = [p.dense(left, weight=w[:, :, i // 2, i % 2], bias=bias, **coarse) for i in range(4)]
        return finer(p, parts, "row", every), finer(p, lefts, "pixel", every)


def finer(p, parts, clock, every):
    """Of four coarse values (even and odd rows, of either even and odd columns) the one of each finer place."""
    side = 2 * every  # places are those of the image: at every second row they are 0 and 2 of 4
    chosen = [parts[r // every * 2 + c // every] for r in range(side) for c in range(side)]
    return p.select(*chosen, clock=clock, every=every)
