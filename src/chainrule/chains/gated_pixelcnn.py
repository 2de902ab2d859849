"""Gated PixelCNN (van den Oord et al. 2016b, "Conditional Image Generation with PixelCNN Decoders")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.errors import ChainruleError
from chainrule.layers.conv import LeftOf, RowsAbove, affine, down, gate, left_of, right, rows_above
from chainrule.layers.levels import LevelTable
from chainrule.model import Chain, check_sizes


class GatedPixelCNN(Chain):
    """Images of any height and width, gray or colour, optionally conditioned on a class.

    Two stacks of convolutions see the past of a pixel without a blind spot: the vertical one all rows above,
    the horizontal one the pixels to the left; every layer links the first to the second. What they know of
    pixel (r, c) goes to a head that predicts its channels in order: red from the past, green from the past
    and red, blue from the past, red and green, so the conditionals of the channels are exact and the
    convolutions run once a pixel.

    Args:
        symbols: K levels.
        channels: C symbols a pixel: 1 gray, 3 colour.
        classes: number of classes in `context`; 0 is unconditional.
        width: feature maps of either stack (p in the paper).
        layers: gated layers after the first.
        kernel: n of the n × n neighbourhood of a layer; `first_kernel` that of the first.
        head: hidden units of the head.
        position: give the network the coordinates of a pixel relative to the image.
        dropout: share of the gated features dropped in training.

    Example:
        >>> chain = GatedPixelCNN(symbols=4, channels=3, **GatedPixelCNN.SIZES["tiny"])
        >>> chain.logits(torch.zeros(2, 5, 6, 3, dtype=torch.long)).shape
        torch.Size([2, 5, 6, 3, 4])
    """

    SIZES = {
        "tiny": {"width": 4, "layers": 2, "first_kernel": 3, "head": 8},
        "laptop": {"width": 32, "layers": 8, "head": 64},
        # 20 layers of 384 maps with 5 × 5 neighbourhoods: section 3.1 (ImageNet). The text gives no parameter count.
        "paper": {"width": 384, "layers": 20, "kernel": 5, "head": 1024, "position": False},
    }
    KINDS = ("image",)
    AXES = "grid"
    TRAINING = {"batch": 16, "lr": 4e-3}

    def __init__(
        self,
        symbols: int = 256,
        channels: int = 1,
        classes: int = 0,
        width: int = 32,
        layers: int = 8,
        kernel: int = 3,
        first_kernel: int = 7,
        head: int = 64,
        position: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_sizes(dropout, symbols=symbols, channels=channels, width=width, layers=layers, head=head)
        self.symbols, self.channels, self.classes, self.position = symbols, channels, classes, position
        c_in = channels + 1 + 2 * position  # levels, "inside the image", coordinates
        self.above = RowsAbove(c_in, width, first_kernel)
        self.left = LeftOf(c_in, width, first_kernel)
        self.layers = nn.ModuleList(GatedLayer(width, kernel, classes, dropout) for _ in range(layers))
        self.head = ChannelHead(width, head, channels, symbols)
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return {"symbols": data.levels, "channels": data.x[0].shape[-1], "classes": len(data.classes)}

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, H, W, C) -> (B, H, W, C, K)."""
        self._check(x, context)
        image = self._features(x)  # (B, C + 1 [+ 2], H, W)
        v, h = self.above(down(image)), self.left(right(image))  # (B, width, H, W)
        for layer in self.layers:
            v, h = layer(v, h, context)
        return self.head(h.permute(0, 2, 3, 1), x)

    def program(self, p):
        """One pixel at a time: the vertical stack a row at a time, the channels of the head one by one."""
        scale = 2 / max(self.symbols - 1, 1)
        image = p.concat(
            *[p.levels(scale, -1), p.constant([1.0])], *([p.position("done")] if self.position else [])
        )
        first_v, first_h = self.above, self.left
        v = p.dense(*rows_above(p, image, first_v, shift=1), **affine(first_v), clock="row")
        h = p.dense(*left_of(p, image, first_h, shift=1), **affine(first_h), clock="pixel")
        for layer in self.layers:
            v, h = layer.program(p, v, h)
        return self.head.program(p, h)

    def _features(self, x: Tensor) -> Tensor:
        """Levels scaled to -1..1, a plane of ones that tells the image from its padding, and coordinates."""
        weight = self.head.out_bias
        levels = x.permute(0, 3, 1, 2).to(weight) * (2 / max(self.symbols - 1, 1)) - 1
        b, _, height, width = levels.shape
        planes = [levels, torch.ones_like(levels[:, :1])]
        if self.position:
            rows = torch.linspace(-1, 1, height).to(weight).view(1, 1, -1, 1).expand(b, 1, height, width)
            columns = torch.linspace(-1, 1, width).to(weight).view(1, 1, 1, -1).expand(b, 1, height, width)
            planes += [rows, columns]
        return torch.cat(planes, 1).contiguous(memory_format=torch.channels_last)

    def _check(self, x: Tensor, context: Tensor | None) -> None:
        if x.ndim != 4 or x.shape[-1] != self.channels:
            shape = tuple(x.shape)
            raise ChainruleError(f"images have shape {shape}, the model takes (n, H, W, {self.channels})")
        if self.classes and context is None:
            raise ChainruleError(
                f"the model is conditioned on {self.classes} classes: give one for each image"
            )


class GatedLayer(nn.Module):
    """One layer of both stacks: figure 2 of the paper, with a residual connection on either stack."""

    def __init__(self, width: int, n: int, classes: int, dropout: float):
        super().__init__()
        self.vertical = RowsAbove(width, 2 * width, n)
        self.horizontal = LeftOf(width, 2 * width, n)
        self.link = nn.Conv2d(width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.condition = nn.Embedding(classes, 4 * width) if classes else None  # V of equation 4
        self.dropout = dropout

    def forward(self, v: Tensor, h: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """v (B, width, H, W) knows the rows above, h also the pixels to the left; the same shapes come back."""
        a, b = self.vertical(v), self.horizontal(h)  # (B, 2 width, H, W)
        if self.condition is not None:
            for_v, for_h = self.condition(context)[:, :, None, None].chunk(2, 1)
            a, b = a + for_v, b + for_h
        up = F.dropout(gate(a), self.dropout, self.training)
        left = F.dropout(gate(b + self.link(up)), self.dropout, self.training)
        return v + up, h + self.out(left)


    def program(self, p, v, h):
        """Everything that knows the rows above only is computed a row at a time."""
        weight, bias = affine(self.vertical).values()
        link, for_h = affine(self.link).values()
        for_h = for_h + self.horizontal.bias
        start = {"bias": bias}
        if self.condition is not None:
            table_v, table_h = self.condition.weight.chunk(2, 1)
            start = {"onto": p.one_of_classes(table_v + bias)}
            up = p.gate(p.dense(*rows_above(p, v, self.vertical), weight=weight, **start))
            before = p.dense(up, weight=link, onto=p.one_of_classes(table_h + for_h))
        else:
            up = p.gate(p.dense(*rows_above(p, v, self.vertical), weight=weight, **start))
            before = p.dense(up, weight=link, bias=for_h)
        weight = affine(self.horizontal)["weight"]
        left = p.gate(p.dense(*left_of(p, h, self.horizontal), weight=weight, onto=before))
        return p.add(v, up), p.add(h, p.dense(left, **affine(self.out)))


class ChannelHead(nn.Module):
    """h (B, H, W, D) and the pixels x (B, H, W, C) -> logits (B, H, W, C, K); channel c sees channels before c."""

    def __init__(self, width: int, hidden: int, channels: int, symbols: int):
        super().__init__()
        self.channels, self.hidden = channels, hidden
        self.from_past = nn.Linear(width, channels * hidden)
        self.from_channel = nn.ModuleList(
            LevelTable(symbols, (channels - 1 - c) * hidden) for c in range(channels - 1)
        )
        self.out = LevelTable(symbols, channels * hidden)
        self.out_bias = nn.Parameter(torch.zeros(channels, symbols))

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        a = list(self.from_past(F.relu(h)).chunk(self.channels, -1))  # C × (B, H, W, hidden)
        for c, table in enumerate(self.from_channel):
            for later, term in enumerate(table(x[..., c]).chunk(self.channels - 1 - c, -1), start=c + 1):
                a[later] = a[later] + term
        weights = self.out.table().chunk(self.channels, -1)  # C × (K, hidden)
        logits = [F.relu(a[c]) @ weights[c].T + self.out_bias[c] for c in range(self.channels)]
        return torch.stack(logits, -2)

    def program(self, p, h):
        """The logits of each channel."""
        past = p.dense(p.pointwise("relu", h), weight=self.from_past.weight.T, bias=self.from_past.bias)
        tables = [p.fold(table.basis, table.coefficients) for table in self.from_channel]
        weights = p.fold(self.out.basis, self.out.coefficients)  # (K, C · hidden)
        logits = []
        for c in range(self.channels):
            a = past[c * self.hidden : (c + 1) * self.hidden]
            for earlier, table in enumerate(tables[:c]):
                first = (c - 1 - earlier) * self.hidden
                part = table[:, first : first + self.hidden]
                a = p.embed(part, channel=earlier, onto=a, clock=f"channel {c}")
            a = p.pointwise("relu", a, clock=f"channel {c}")
            weight = weights[:, c * self.hidden : (c + 1) * self.hidden].T
            logits.append(p.dense(a, weight=weight, bias=self.out_bias[c]))
        return logits
