"""Gated PixelCNN (van den Oord et al. 2016b, "Conditional Image Generation with PixelCNN Decoders")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.errors import ChainruleError
from chainrule.layers.conv import LeftOf, RowsAbove, affine, down, gate, left_of, right, rows_above
from chainrule.layers.levels import LevelTable
from chainrule.layers.pixels import (
    NEIGHBOURS,
    ChannelHead,
    Memory,
    check_images,
    coordinates,
    embed_all,
    of_all,
    of_images,
    scaled,
    scaled_program,
)
from chainrule.model import Chain, check_sizes


class GatedPixelCNN(Chain):
    """Images of any height and width, gray or colour, optionally conditioned on a class.

    Two stacks of convolutions see the past of a pixel without a blind spot: the vertical one all rows above,
    the horizontal one the pixels to the left; every layer links the first to the second. What they know of
    pixel (r, c) goes to a head that predicts its channels in order: red from the past, green from the past
    and red, blue from the past, red and green, so the conditionals of the channels are exact and the
    convolutions run once a pixel.

    Beyond the paper, for pictures that use few levels or peculiar ones (scanned, resized, with stretched
    contrast): the first layer is told exact levels, not only how bright they are, a `Memory` of all earlier
    pixels is read half-way up the horizontal stack and in the head, and a level can be copied from a
    neighbour, as words are by a pointer network (Merity et al. 2017, "Pointer Sentinel Mixture Models"; here
    the gates are added to the logits). The sizes "tiny" and "laptop" have all three, "paper" has none. With
    K levels, h (width,) what the horizontal stack knows of a pixel, m and m' what the two memories say of it,
    x_c its channels, y_jc those of its j-th neighbour in `NEIGHBOURS`, [..] 1 where true and else 0, and
    biases left out:

        features   [2 x_c / (K - 1) - 1 for each c, 1, row, column, Σ_c E_c[x_c]]       of every earlier pixel
        stack      h <- h + m(h)                                                      before layer ⌊layers/2⌋
        head       a_c = relu(P_c relu(h) + m'_c(relu(h)) + Σ_{d<c} T_dc[x_d])          (head,)
                   b_c = relu(M_c a_c)                                     (mix,), or b_c = a_c where mix is 0
                   g_c = G_c b_c                                                       (copies,)
                   logits_c[k] = (O_c b_c)[k] + Σ_j g_cj [y_jc = k]                    (K,), j inside the image

    Args:
        symbols: K levels.
        channels: C symbols a pixel: 1 gray, 3 colour.
        classes: number of classes in `context`; 0 is unconditional.
        width: feature maps of either stack (p in the paper).
        layers: gated layers after the first.
        kernel: n of the n × n neighbourhood of a layer; `first_kernel` that of the first.
        head: hidden units of the head; `mix` those of its second layer, 0 for none.
        embedding: maps by which the first layer knows exact levels; 0: it knows how bright they are.
        copies: how many of the `NEIGHBOURS` a level can be copied from, 0 to 8.
        memory: numbers in each of the three running sums of a `Memory`; 0: no memory, only neighbourhoods.
        position: give the network the coordinates of a pixel relative to the image.
        vertical_residual: add what a layer of the vertical stack finds to what it was given, as the horizontal
            one does; in the paper only that does.
        dropout: share of the gated features dropped in training.

    Example:
        >>> chain = GatedPixelCNN(symbols=4, channels=3, **GatedPixelCNN.SIZES["tiny"])
        >>> chain.logits(torch.zeros(2, 5, 6, 3, dtype=torch.long)).shape
        torch.Size([2, 5, 6, 3, 4])
    """

    SIZES = {
        "tiny": {
            "width": 4,
            "layers": 2,
            "first_kernel": 3,
            "head": 8,
            "mix": 16,
            "embedding": 2,
            "memory": 3,
            "copies": 4,
        },
        "laptop": {
            "width": 32,
            "layers": 4,
            "head": 256,
            "mix": 128,
            "embedding": 12,
            "memory": 32,
            "copies": 8,
        },
        # 20 layers of 384 maps with 5 × 5 neighbourhoods: section 3.1 (ImageNet). The text gives no parameter count.
        "paper": {
            "width": 384,
            "layers": 20,
            "kernel": 5,
            "head": 1024,
            "mix": 0,
            "embedding": 0,
            "memory": 0,
            "copies": 0,
            "position": False,
            "vertical_residual": False,
        },
    }
    KINDS = ("image",)
    AXES = "grid"
    TRAINING = {"batch": 16, "lr": 4e-3, "bfloat16": True}

    def __init__(
        self,
        symbols: int = 256,
        channels: int = 1,
        classes: int = 0,
        width: int = 32,
        layers: int = 4,
        kernel: int = 3,
        first_kernel: int = 7,
        head: int = 256,
        mix: int = 128,
        embedding: int = 12,
        memory: int = 32,
        copies: int = 8,
        position: bool = True,
        vertical_residual: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_sizes(dropout, symbols=symbols, channels=channels, width=width, layers=layers, head=head)
        check_none_negative(mix=mix, embedding=embedding, memory=memory, copies=copies)
        if copies > len(NEIGHBOURS):
            raise ChainruleError(f"copies is {copies}: there are {len(NEIGHBOURS)} neighbours to copy from")
        self.symbols, self.channels, self.classes, self.position = symbols, channels, classes, position
        tables = channels if embedding else 0
        self.exact = nn.ModuleList(LevelTable(symbols, embedding) for _ in range(tables))
        c_in = (
            channels + 1 + 2 * position + embedding
        )  # levels, "inside the image", coordinates, exact levels
        self.above = RowsAbove(c_in, width, first_kernel)
        self.left = LeftOf(c_in, width, first_kernel)
        self.layers = nn.ModuleList(
            GatedLayer(width, kernel, classes, vertical_residual, dropout) for _ in range(layers)
        )
        self.memory = Memory(width, memory, channels, symbols, width) if memory else None
        self.head = ChannelHead(width, head, channels, symbols, mix, memory, copies)
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return of_images(data)

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, H, W, C) -> (B, H, W, C, K)."""
        check_images(self, x, context)
        image = self._features(x)  # (B, C + 1 [+ 2] [+ embedding], H, W)
        v, h = self.above(down(image)), self.left(right(image))  # (B, width, H, W)
        for i, layer in enumerate(self.layers):
            if self.memory is not None and i == len(self.layers) // 2:
                h = h + self.memory(h.permute(0, 2, 3, 1), x).permute(0, 3, 1, 2)
            v, h = layer(v, h, context)
        return self.head(h.permute(0, 2, 3, 1), x)

    def program(self, p):
        """One pixel at a time: the vertical stack a row at a time, the channels of the head one by one."""
        planes = scaled_program(p)
        planes += [p.position("done")] if self.position else []
        planes += [embed_all(p, self.exact)] if len(self.exact) else []
        image = p.concat(*planes)
        first_v, first_h = self.above, self.left
        v = p.dense(*rows_above(p, image, first_v, shift=1), **affine(first_v), clock="row")
        h = p.dense(*left_of(p, image, first_h, shift=1), **affine(first_h), clock="pixel")
        for i, layer in enumerate(self.layers):
            if self.memory is not None and i == len(self.layers) // 2:
                h = self.memory.program(p, h, onto=h)
            v, h = layer.program(p, v, h)  # type: ignore[operator]
        return self.head.program(p, h)

    def _features(self, x: Tensor) -> Tensor:
        """Levels scaled to -1..1, ones that tell the image from its padding, coordinates, exact levels."""
        weight = self.head.out_bias
        planes = [scaled(x, self.symbols, weight)]
        if self.position:
            planes.append(coordinates(x, weight))
        if len(self.exact):
            planes.append(of_all(self.exact, x).permute(0, 3, 1, 2))
        return torch.cat(planes, 1).contiguous(memory_format=torch.channels_last)


class GatedLayer(nn.Module):
    """One layer of both stacks: figure 2 of the paper, or with a residual connection on either stack."""

    def __init__(self, width: int, n: int, classes: int, vertical_residual: bool, dropout: float):
        super().__init__()
        self.vertical = RowsAbove(width, 2 * width, n)
        self.horizontal = LeftOf(width, 2 * width, n)
        self.link = nn.Conv2d(width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.condition = nn.Embedding(classes, 4 * width) if classes else None  # V of equation 4
        self.vertical_residual, self.dropout = vertical_residual, dropout

    def forward(self, v: Tensor, h: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """v (B, width, H, W) knows the rows above, h also the pixels to the left; the same shapes come back."""
        a, b = self.vertical(v), self.horizontal(h)  # (B, 2 width, H, W)
        if self.condition is not None:
            for_v, for_h = self.condition(context)[:, :, None, None].chunk(2, 1)
            a, b = a + for_v, b + for_h
        up = F.dropout(gate(a), self.dropout, self.training)
        left = F.dropout(gate(b + self.link(up)), self.dropout, self.training)
        return v + up if self.vertical_residual else up, h + self.out(left)

    def program(self, p, v, h):
        """Everything that knows the rows above only is computed a row at a time."""
        weight, bias = affine(self.vertical).values()
        link, for_h = affine(self.link).values()
        for_h = for_h + affine(self.horizontal)["bias"]
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
        h = p.add(h, p.dense(left, **affine(self.out)))
        return p.add(v, up) if self.vertical_residual else up, h


def check_none_negative(**sizes: int) -> None:
    """One clear line for a size below 0."""
    for name, value in sizes.items():
        if value < 0:
            raise ChainruleError(f"{name} is {value}: take 0 for none, or more")
