"""Gated PixelCNN (van den Oord et al. 2016b, "Conditional Image Generation with PixelCNN Decoders")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.errors import ChainruleError
from chainrule.layers.conv import LeftOf, RowsAbove, affine, down, gate, left_of, right, rows_above
from chainrule.layers.levels import LevelTable
from chainrule.model import Chain, check_sizes

# The pixels a level can be copied from, nearest first: rows up, columns to the left.
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (0, 3), (3, 0))


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
        self.layers = nn.ModuleList(GatedLayer(width, kernel, classes, dropout) for _ in range(layers))
        self.memory = Memory(width, memory, channels, symbols, width) if memory else None
        self.head = ChannelHead(width, head, channels, symbols, mix, memory, copies)
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return {"symbols": data.levels, "channels": data.x[0].shape[-1], "classes": len(data.classes)}

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, H, W, C) -> (B, H, W, C, K)."""
        self._check(x, context)
        image = self._features(x)  # (B, C + 1 [+ 2] [+ embedding], H, W)
        v, h = self.above(down(image)), self.left(right(image))  # (B, width, H, W)
        for i, layer in enumerate(self.layers):
            if self.memory is not None and i == len(self.layers) // 2:
                h = h + self.memory(h.permute(0, 2, 3, 1), x).permute(0, 3, 1, 2)
            v, h = layer(v, h, context)
        return self.head(h.permute(0, 2, 3, 1), x)

    def program(self, p):
        """One pixel at a time: the vertical stack a row at a time, the channels of the head one by one."""
        scale = 2 / max(self.symbols - 1, 1)
        planes = [p.levels(scale, -1), p.constant([1.0])]
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
        levels = x.permute(0, 3, 1, 2).to(weight) * (2 / max(self.symbols - 1, 1)) - 1
        b, _, height, width = levels.shape
        planes = [levels, torch.ones_like(levels[:, :1])]
        if self.position:
            like: dict = {"dtype": weight.dtype, "device": weight.device}
            rows = torch.linspace(-1, 1, height, **like).view(1, 1, -1, 1).expand(b, 1, height, width)
            columns = torch.linspace(-1, 1, width, **like).view(1, 1, 1, -1).expand(b, 1, height, width)
            planes += [rows, columns]
        if len(self.exact):
            planes.append(of_all(self.exact, x).permute(0, 3, 1, 2))
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
        return p.add(v, up), p.add(h, p.dense(left, **affine(self.out)))


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


def check_none_negative(**sizes: int) -> None:
    """One clear line for a size below 0."""
    for name, value in sizes.items():
        if value < 0:
            raise ChainruleError(f"{name} is {value}: take 0 for none, or more")


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
