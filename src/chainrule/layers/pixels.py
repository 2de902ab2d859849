"""What the chains over images share: what goes in, and the head that predicts the channels of a pixel in order.

A network between the two knows of each pixel what came before it, as features (B, H, W, D).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.errors import ChainruleError
from chainrule.layers.conv import Causal
from chainrule.layers.levels import LevelTable
from chainrule.layers.ordered import check_given
from chainrule.model import Chain

# The pixels a level can be copied from, nearest first: rows up, columns to the left.
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (0, 3), (3, 0))


def check_images(chain: Chain, x: Tensor, context: Tensor | None) -> None:
    """One clear line for events that are not images of the chain's channels, or that lack their classes."""
    if x.ndim != 4 or x.shape[-1] != chain.channels:
        shape = tuple(x.shape)
        raise ChainruleError(f"images have shape {shape}, the model takes (n, H, W, {chain.channels})")
    check_given(chain.classes, context)


def of_images(data) -> dict:
    """Constructor arguments that a `Dataset` of images implies."""
    return {"symbols": data.levels, "channels": data.x[0].shape[-1], "classes": len(data.classes)}


def scaled(x: Tensor, symbols: int, like: Tensor) -> Tensor:
    """Levels from -1 to 1, and ones that tell the image from its padding: x (B, H, W, C) -> (B, C + 1, H, W)."""
    levels = x.permute(0, 3, 1, 2).to(like) * (2 / max(symbols - 1, 1)) - 1
    planes = torch.cat([levels, torch.ones_like(levels[:, :1])], 1)
    return planes.contiguous(memory_format=torch.channels_last)


def scaled_program(p) -> list:
    """The parts of `scaled` in a step program, there when the pixel is done."""
    return [p.levels(2 / max(p.symbols - 1, 1), -1), p.constant([1.0])]


def coordinates(x: Tensor, like: Tensor) -> Tensor:
    """Row and column of each pixel, from -1 to 1, as a step program's `position`: x (B, H, W, C) -> (B, 2, H, W)."""
    b, height, width, _ = x.shape
    options: dict = {"dtype": like.dtype, "device": like.device}
    rows = torch.linspace(-1, 1, height, **options).view(1, 1, -1, 1).expand(b, 1, height, width)
    columns = torch.linspace(-1, 1, width, **options).view(1, 1, 1, -1).expand(b, 1, height, width)
    return torch.cat([rows, columns], 1)


class PixelNetwork(nn.Module):
    """Levels -> a first causal convolution -> layers -> `ChannelHead`: all of a chain that has one stack.

    Args:
        width: D, features of a pixel between the layers.
        layers: modules that are given features (B, D, H, W) and the image as planes (B, C + 1, H, W), and give
            features. Of the features they may use those of a pixel and of what comes before it, of the image only
            what comes before.
        given: maps (B, given, H, W) that the caller passes for every pixel, added before each layer through
            1 × 1 convolutions; 0: none.

    A class is an embedding that is added after the first convolution.
    """

    def __init__(self, symbols, channels, classes, width, first_kernel, layers, head, given: int = 0):
        super().__init__()
        self.symbols = symbols
        self.first = Causal(channels + 1, width, first_kernel, own=False)
        self.condition = nn.Embedding(classes, width) if classes else None
        self.layers = nn.ModuleList(layers)
        self.given = nn.ModuleList(nn.Conv2d(given, width, 1) for _ in range(len(layers) if given else 0))
        self.head = ChannelHead(width, head, channels, symbols, mix=0, memory=0, copies=0)
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, context: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """x (B, H, W, C) -> (B, H, W, C, K)."""
        image = scaled(x, self.symbols, self.head.out_bias)
        h = self.first(image)  # (B, D, H, W)
        if self.condition is not None:
            h = h + self.condition(context)[:, :, None, None]
        for i, layer in enumerate(self.layers):
            h = layer(h + self.given[i](given) if given is not None else h, image)
        return self.head(h.permute(0, 2, 3, 1), x)

    def program(self, p):
        """The logits of each channel."""
        first = {}
        if self.condition is not None:
            first = {"onto": p.one_of_classes(self.condition.weight + self.first.bias)}
        image = p.concat(*scaled_program(p))
        h = self.first.program(p, image, **first)
        for layer in self.layers:
            h = layer.program(p, h, image)  # type: ignore[operator]
        return self.head.program(p, h)


class ChannelHead(nn.Module):
    """h (B, H, W, D) and the pixels x (B, H, W, C) -> logits (B, H, W, C, K); channel c sees channels before c."""

    def __init__(
        self, width: int, hidden: int, channels: int, symbols: int, mix: int, memory: int, copies: int
    ):
        super().__init__()
        self.symbols, self.channels, self.hidden, self.top = symbols, channels, hidden, mix or hidden
        self.from_past = nn.Linear(width, channels * hidden)
        self.memory = Memory(width, memory, channels, symbols, channels * hidden) if memory else None
        self.from_channel = nn.ModuleList(
            LevelTable(symbols, (channels - 1 - c) * hidden) for c in range(channels - 1)
        )
        self.mix = nn.ModuleList(nn.Linear(hidden, mix) for _ in range(channels if mix else 0))
        self.out = LevelTable(symbols, channels * self.top)
        self.out_bias = nn.Parameter(torch.zeros(channels, symbols))
        self.copies = nn.ModuleList(nn.Linear(self.top, copies) for _ in range(channels if copies else 0))

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        h = F.relu(h)
        past = self.from_past(h) if self.memory is None else self.from_past(h) + self.memory(h, x)
        a = list(past.chunk(self.channels, -1))  # C × (B, H, W, hidden)
        for c, table in enumerate(self.from_channel):
            for later, term in enumerate(table(x[..., c]).chunk(self.channels - 1 - c, -1), start=c + 1):
                a[later] = a[later] + term
        a = [F.relu(mixed) for mixed in a]
        if len(self.mix):
            a = [F.relu(mix(known)) for mix, known in zip(self.mix, a, strict=True)]
        weights = single(self.out.table()).chunk(self.channels, -1)  # C × (K, top)
        with torch.autocast("cpu", enabled=False):
            a = [single(known) for known in a]
            logits = torch.stack([a[c] @ weights[c].T + self.out_bias[c] for c in range(self.channels)], -2)
        if not len(self.copies):
            return logits
        gates = torch.stack([gate_of(known) for gate_of, known in zip(self.copies, a, strict=True)], -2)
        near = neighbours(x, gates.shape[-1])  # (B, H, W, C, copies)
        return logits.scatter_add(-1, near.clamp(min=0), (gates * (near >= 0)).to(logits))

    def program(self, p, h):
        """The logits of each channel."""
        h = p.pointwise("relu", h)
        past = p.dense(h, weight=self.from_past.weight.T, bias=self.from_past.bias)
        if self.memory is not None:
            past = self.memory.program(p, h, onto=past)
        tables = [p.fold(table.basis, table.coefficients) for table in self.from_channel]
        weights = p.fold(self.out.basis, self.out.coefficients)  # (K, C · top)
        logits = []
        for c in range(self.channels):
            a = past[c * self.hidden : (c + 1) * self.hidden]
            for earlier, table in enumerate(tables[:c]):
                first = (c - 1 - earlier) * self.hidden
                part = table[:, first : first + self.hidden]
                a = p.embed(part, channel=earlier, onto=a, clock=f"channel {c}")
            a = p.pointwise("relu", a, clock=f"channel {c}")
            if len(self.mix):
                mix = self.mix[c]
                a = p.pointwise("relu", p.dense(a, weight=mix.weight.T, bias=mix.bias))
            weight = weights[:, c * self.top : (c + 1) * self.top].T
            logits.append(self._copy(p, p.dense(a, weight=weight, bias=self.out_bias[c]), a, c))
        return logits

    def _copy(self, p, logits, a, c: int):
        """The logits of channel c with its gates added where the neighbours' levels are."""
        if not len(self.copies):
            return logits
        gates = p.dense(a, weight=self.copies[c].weight.T, bias=self.copies[c].bias)
        return p.copy(logits, gates, [(-up, -left, c) for up, left in NEIGHBOURS[: gates.width]])


def neighbours(x: Tensor, n: int) -> Tensor:
    """x (B, H, W, C) -> (B, H, W, C, n): the levels of the first n `NEIGHBOURS` of each pixel, -1 outside.

    >>> neighbours(torch.tensor([[[[5], [6]], [[7], [8]]]]), 4)[0, 1, 1]
    tensor([[ 7,  6,  5, -1]])
    """
    height, width = x.shape[1:3]
    reach = max(max(up, abs(left)) for up, left in NEIGHBOURS)
    wide = F.pad(x.long(), (0, 0, reach, reach, reach, 0), value=-1)
    return torch.stack(
        [
            wide[:, reach - up : reach - up + height, reach - left : reach - left + width]
            for up, left in NEIGHBOURS[:n]
        ],
        -1,
    )


class Memory(nn.Module):
    """What all earlier pixels said, as three running sums: over the image, over the column, over the row.

    Convolutions know a neighbourhood, and what gives an image away may lie anywhere: which levels it uses,
    how its rows and its columns were resampled. With h_t (width,) what is known of pixel t = (r, c) from its
    past, x_tc its symbols, and sums over pixels j that come before t:

        e_t = relu(A h_t + a + Σ_c T_c[x_tc])                               (3 D,), thirds e¹, e², e³
        S¹_t = Σ_{j<t} e¹_j    S²_rc = Σ_{i<r} e²_ic    S³_rc = Σ_{j<c} e³_rj              (D,) each
        m_t = R [n(S¹_t), n(S²_t), n(S³_t)] + b                                              (out,)

    where n(S) = (S - mean) / √(variance + 10⁻⁵) over the D numbers keeps the sums of large images in range.
    It is a set function (Zaheer et al. 2017, "Deep Sets") of the past, at the cost of one addition a pixel.
    """

    def __init__(self, width: int, sums: int, channels: int, symbols: int, out: int):
        super().__init__()
        self.sums = sums
        self.say = nn.Linear(width, 3 * sums)
        self.levels = nn.ModuleList(LevelTable(symbols, 3 * sums) for _ in range(channels))
        self.read = nn.Linear(3 * sums, out)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """h (B, H, W, width), x (B, H, W, C) -> (B, H, W, out), at each pixel of the pixels before it."""
        said = single(
            F.relu(self.say(h) + of_all(self.levels, x))
        )  # a long sum in bfloat16 would stop growing
        image, column, row = said.chunk(3, -1)  # (B, H, W, D)
        before = [
            before_each(image.flatten(1, 2), 1).view_as(image),
            before_each(column, 1),
            before_each(row, 2),
        ]
        return self.read(torch.cat([F.layer_norm(s, s.shape[-1:]) for s in before], -1))

    def program(self, p, h, onto):
        """The same, added `onto` a value."""
        image, column, row = (p.memory(self.sums, "done", carried=i == 0) for i in range(3))
        above, left = p.at(column, rows=-1), p.at(row, columns=-1)
        one, zero = torch.ones(self.sums), torch.zeros(self.sums)
        before = [p.norm(s, one, zero, clock="pixel") for s in (image, above, left)]
        read = p.dense(*before, weight=self.read.weight.T, bias=self.read.bias)
        said = p.dense(h, weight=self.say.weight.T, bias=self.say.bias)
        said = p.pointwise("relu", embed_all(p, self.levels, onto=said))
        for i, (total, earlier) in enumerate([(image, image), (column, above), (row, left)]):
            p.write(total, p.add(earlier, said[i * self.sums : (i + 1) * self.sums], clock="done"))
        return p.add(onto, read)


def single(x: Tensor) -> Tensor:
    """In single precision where mixed-precision training has made it less."""
    return x.float() if x.dtype == torch.bfloat16 else x


def before_each(x: Tensor, dim: int) -> Tensor:
    """The sum of all entries before each one along `dim`, which is not the last.

    >>> before_each(torch.tensor([[3.0], [4.0], [5.0]]), 0).T
    tensor([[0., 3., 7.]])
    """
    zeros = torch.zeros_like(x.narrow(dim, 0, min(1, x.shape[dim])))
    return torch.cat([zeros, x.cumsum(dim).narrow(dim, 0, max(0, x.shape[dim] - 1))], dim)


def of_all(tables: nn.ModuleList, x: Tensor) -> Tensor:
    """Σ_c tables[c][x_c]: x (..., C) -> (..., D)."""
    total = tables[0](x[..., 0])
    for c in range(1, len(tables)):
        total = total + tables[c](x[..., c])
    return total


def embed_all(p, tables: nn.ModuleList, onto=None):
    """`of_all` as operations of a step program, there when the pixel is done."""
    for c, table in enumerate(tables):
        rows = p.fold(table.basis, table.coefficients)
        onto = p.embed(rows, channel=c, clock="done", **({} if onto is None else {"onto": onto}))
    return onto
