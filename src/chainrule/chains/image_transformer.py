"""Image Transformer (Parmar et al. 2018, "Image Transformer"): self-attention over the pixels nearby."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.errors import ChainruleError
from chainrule.layers.attention import check_heads
from chainrule.layers.conv import Causal
from chainrule.layers.levels import LevelTable
from chainrule.layers.pixels import (
    ChannelHead,
    check_images,
    embed_all,
    of_all,
    of_images,
    scaled,
    scaled_program,
)
from chainrule.model import Chain, at_least_zero, check_sizes

STEEP = 8  # times PyTorch's weights, which are up to 1/√2


class ImageTransformer(Chain):
    """Images of any height and width by layers of masked self-attention that is local, in one dimension or in two.

    With u_t (D,) what is known of pixel t = (r, c) from the pixels before it, n(u) = (u - mean) / √(variance + 10⁻⁵)
    over its D numbers, S_t the pixels that t looks at, and biases left out:

        input      u_t = first causal convolution of [2 x_c / (K - 1) - 1 for each c, 1, Σ_c E_c[x_c]]
                         + W₂ tanh(W₁ [row, column]) + class
        attention  q, k, v = n(u) W of each head,  a_t = Σ_{j ∈ S_t} softmax_j(q_t · k_j / √d) v_j
                   u <- u + [a of each head] W_o                                           section 3.2
        after it   u <- u + W_b relu(W_a n(u))
        head       a_c = relu(P_c relu(n(u)) + Σ_{d<c} T_dc[x_d]),  logits_c = O_c a_c     of channel c

    "1d": S_t = {j ≤ t : t - j < length}, pixels counted in reading order. "2d": what comes before t, and t, in a
    window of `rows` rows above and `columns` columns to either side. Either is computed in blocks of queries with the
    keys that one of them can look at, in time and memory O(n · |S|); pixels that S_t leaves out have weight 0.

    Where this departs from the paper:

    - A position is a pixel, not one of its channels: attention runs once a pixel, and `ChannelHead` predicts the
      channels in order. `length` counts pixels.
    - Features are shifted once, by a causal convolution of the first layer, instead of by one position.
    - A query sees exactly `length` pixels, or its window. The paper's sees what came before in its own block and all of
      a block of memory around that, so how much depends on where in its block it stands.
    - Layers normalise what they are given, not what they give. Norms have no gains: the weights after them have.
    - Coordinates are relative to the image and go through a layer of tanh units, so that images of any size are taken;
      in the paper they are sines and cosines, or a learned table.
    - The output is a softmax over levels; the paper has mixtures of logistics as well.

    "1d" has a step program. The engine has no pattern in two dimensions: "2d" is sampled by the general step.

    Args:
        symbols: K levels.
        channels: C symbols a pixel: 1 gray, 3 colour.
        classes: number of classes in `context` (an embedding is added to the input); 0: none.
        attention: "1d" or "2d".
        length: "1d": pixels that a pixel looks at, its own included.
        rows: "2d": rows above that it looks at; `columns` the columns to either side.
        width: D, numbers a pixel between the layers.
        layers: of attention, each followed by a feed-forward layer.
        heads: of attention; they share the D numbers.
        inner: hidden units of a feed-forward layer.
        first_kernel: n of the n × n window of the first convolution.
        embedding: maps by which the first layer knows exact levels, not only how bright they are.
        units: tanh units of the coordinates; 0: the network is not told where it is.
        head: hidden units of the head.
        dropout: share of what a layer adds that is dropped in training.

    Example:
        >>> chain = ImageTransformer(symbols=4, channels=3, **ImageTransformer.SIZES["tiny"])
        >>> chain.logits(torch.zeros(2, 5, 6, 3, dtype=torch.long)).shape
        torch.Size([2, 5, 6, 3, 4])
    """

    SIZES = {
        "tiny": {
            "length": 4,
            "rows": 1,
            "columns": 1,
            "width": 8,
            "layers": 2,
            "heads": 2,
            "inner": 12,
            "first_kernel": 3,
            "embedding": 2,
            "units": 4,
            "head": 8,
        },
        "laptop": {"length": 64, "width": 64, "layers": 4, "heads": 4, "inner": 128},
        # Section 5 (CIFAR-10, 2.90 bits/dim): local 1-D attention, 12 layers, d = 512, 4 heads, feed-forward 2048,
        # dropout 0.3. Blocks are of 256 positions there, which are channels: ours are of 256 pixels. A level is 512
        # numbers there and here.
        "paper": {
            "length": 256,
            "width": 512,
            "layers": 12,
            "heads": 4,
            "inner": 2048,
            "first_kernel": 3,
            "embedding": 512,
            "units": 512,
            "head": 512,
            "dropout": 0.3,
        },
    }
    KINDS = ("image",)
    AXES = "grid"
    TRAINING = {"batch": 16, "lr": 3e-3}

    def __init__(
        self,
        symbols: int = 256,
        channels: int = 1,
        classes: int = 0,
        attention: str = "1d",
        length: int = 64,
        rows: int = 4,
        columns: int = 5,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        inner: int = 128,
        first_kernel: int = 5,
        embedding: int = 8,
        units: int = 64,
        head: int = 128,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_sizes(dropout, symbols=symbols, channels=channels, length=length, rows=rows, columns=columns)
        check_sizes(width=width, layers=layers, heads=heads, inner=inner, embedding=embedding)
        check_sizes(head=head)
        at_least_zero(units=units)
        check_heads(width, heads)
        kinds: dict[str, Any] = {"1d": Before(length), "2d": Near(rows, columns)}
        if attention not in kinds:
            raise ChainruleError(f"there is no attention {attention!r}: choose from {', '.join(kinds)}")
        self.symbols, self.channels, self.classes = symbols, channels, classes
        self.exact = nn.ModuleList(LevelTable(symbols, embedding) for _ in range(channels))
        self.first = Causal(channels + 1 + embedding, width, first_kernel, own=False)
        self.coordinates = Coordinates(units, width) if units else None
        self.condition = nn.Embedding(classes, width) if classes else None
        self.look = kinds[attention]
        self.layers = nn.ModuleList(Layer(self.look, width, heads, inner, dropout) for _ in range(layers))
        self.head = ChannelHead(width, head, channels, symbols, mix=0, memory=0, copies=0)

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return of_images(data)

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, H, W, C) -> (B, H, W, C, K)."""
        check_images(self, x, context)
        u = self._input(x, context)  # (B, H, W, D)
        for layer in self.layers:
            u = layer(u)
        return self.head(normalised(u), x)

    def program(self, p):
        """One pixel at a time, with the keys and values of the pixels before; None where attention is "2d"."""
        if isinstance(self.look, Near):
            return None
        start = p.constant(self.first.bias)
        if self.condition is not None:
            start = p.one_of_classes(self.condition.weight + self.first.bias)
        if self.coordinates is not None:
            start = self.coordinates.program(p, onto=start)
        image = p.concat(*scaled_program(p), embed_all(p, self.exact))
        u = self.first.program(p, image, onto=start)
        for layer in self.layers:
            u = layer.program(p, u)  # type: ignore[operator]
        return self.head.program(p, normalised_program(p, u))

    def _input(self, x: Tensor, context: Tensor | None) -> Tensor:
        """What a causal window, the coordinates and the class say of each pixel: (B, H, W, C) -> (B, H, W, D)."""
        levels = scaled(x, self.symbols, self.head.out_bias)  # (B, C + 1, H, W)
        image = torch.cat([levels, of_all(self.exact, x).permute(0, 3, 1, 2)], 1)
        u = self.first(image.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        if self.coordinates is not None:
            u = u + self.coordinates(*x.shape[1:3])
        return u if self.condition is None else u + self.condition(context)[:, None, None]


class Coordinates(nn.Module):
    """W₂ tanh(W₁ [row, column] + b) of every pixel, rows and columns from -1 to 1: H, W -> (H, W, D)."""

    def __init__(self, units: int, width: int):
        super().__init__()
        self.inner = nn.Linear(2, units)
        with torch.no_grad():  # steps that are some pixels wide, anywhere in the image
            self.inner.weight.mul_(STEEP)
            self.inner.bias.mul_(STEEP)
        self.out = nn.Linear(units, width, bias=False)

    def forward(self, height: int, width: int) -> Tensor:
        weight = self.inner.weight
        rows, columns = (
            torch.linspace(-1, 1, n, dtype=weight.dtype, device=weight.device) for n in (height, width)
        )
        at = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)  # (H, W, 2)
        return self.out(self.inner(at).tanh())

    def program(self, p, onto):
        units = p.pointwise("tanh", dense(p, p.position("frame"), self.inner))
        return p.dense(units, weight=self.out.weight.T, onto=onto)


class Layer(nn.Module):
    """Attention over the pixels that `look` allows, then a feed-forward layer: (B, H, W, D) -> the same."""

    def __init__(self, look: Any, width: int, heads: int, inner: int, dropout: float):
        super().__init__()
        self.look, self.heads, self.dropout = look, heads, dropout
        self.ask = nn.Linear(width, 3 * width)  # queries, keys, values
        self.answer = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, u: Tensor) -> Tensor:
        b = len(u)
        parts = self.ask(normalised(u)).unflatten(-1, (3, self.heads, -1))  # (B, H, W, 3, heads, d)
        q, k, v = parts.permute(3, 0, 4, 1, 2, 5).flatten(1, 2)  # 3 × (B · heads, H, W, d)
        seen = self.look(q, k, v).unflatten(0, (b, self.heads)).permute(0, 2, 3, 1, 4)  # (B, H, W, heads, d)
        u = u + self._dropped(self.answer(seen.flatten(3)))
        return u + self._dropped(self.down(F.relu(self.up(normalised(u)))))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def program(self, p, u):
        n = normalised_program(p, u)
        weights, biases = self.ask.weight.chunk(3), self.ask.bias.chunk(3)
        q, k, v = (p.dense(n, weight=w.T, bias=b) for w, b in zip(weights, biases, strict=True))
        seen = self.look.program(p, q, k, v, self.heads)
        u = p.add(u, dense(p, seen, self.answer))
        return p.add(u, dense(p, p.pointwise("relu", dense(p, normalised_program(p, u), self.up)), self.down))


@dataclass(frozen=True)
class Before:
    """Local attention in one dimension: pixel t, in reading order, looks at the j ≤ t with t - j < length.

    Blocks of `length` queries look at their own block of keys and at the one before. (PyTorch's fused attention wants
    a mask of four axes, the heads' among them: with three it takes a slower path.)

    Example:
        >>> q = k = torch.zeros(1, 1, 4, 1)  # all scores equal: the mean of what is seen
        >>> Before(2)(q, k, torch.tensor([[[[1.0], [3.0], [5.0], [9.0]]]])).flatten()
        tensor([1., 2., 4., 7.])
    """

    length: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(G, H, W, d) of G images and heads -> (G, H, W, d)."""
        _, height, width, _ = q.shape
        n = height * width
        size = max(1, min(self.length, n))  # of a block
        blocks = -(-n // size)
        q, k, v = (
            F.pad(z.flatten(1, 2), (0, 0, 0, blocks * size - n)).unflatten(1, (blocks, size))
            for z in (q, k, v)
        )  # (G, blocks, size, d)
        k, v = (torch.cat([F.pad(z, (0, 0, 0, 0, 1, 0))[:, :-1], z], 2) for z in (k, v))  # (.., 2 size, d)
        seen = F.scaled_dot_product_attention(q, k, v, seen_before(blocks, size, q.device)[None])
        return seen.flatten(1, 2)[:, :n].unflatten(1, (height, width))

    def program(self, p, q, k, v, heads: int):
        return p.attend(q, k, v, heads, pattern="local", length=self.length)


def seen_before(blocks: int, size: int, device: torch.device) -> Tensor:
    """Which key a query looks at, (blocks, size, 2 size): none of outside the image, and its own always.

    >>> seen_before(2, 2, torch.device("cpu")).int()[1]
    tensor([[0, 1, 1, 0],
            [0, 0, 1, 1]], dtype=torch.int32)
    """
    query, key = torch.arange(size, device=device)[:, None], torch.arange(-size, size, device=device)
    near = (key <= query) & (query - key < size)  # (size, 2 size)
    inside = torch.arange(blocks, device=device)[:, None, None] * size + key >= 0  # (blocks, 1, 2 size)
    return near & inside


@dataclass(frozen=True)
class Near:
    """Local attention in two dimensions: (r, c) looks at (r - i, c + j), 0 ≤ i ≤ rows, |j| ≤ columns.

    In its own row j ≤ 0. Blocks of queries are rectangles, so many rows high and as wide as the window; their keys are
    the same rectangle with `rows` more above and `columns` more at either side.

    Example:
        >>> q = k = torch.zeros(1, 2, 3, 1)  # all scores equal: the mean of what is seen
        >>> Near(1, 1)(q, k, torch.arange(6.0).view(1, 2, 3, 1)).flatten(1)
        tensor([[0.0000, 0.5000, 1.5000, 1.3333, 2.0000, 3.0000]])
    """

    rows: int
    columns: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(G, H, W, d) of G images and heads -> (G, H, W, d)."""
        _, height, width, _ = q.shape
        rows, columns = min(self.rows, max(height - 1, 0)), min(self.columns, max(width - 1, 0))
        high, wide = max(1, min(rows, height)), max(1, min(2 * columns + 1, width))  # of a block
        below, right = -height % high, -width % wide
        q = rectangles(F.pad(q, (0, 0, 0, right, 0, below)), high, wide, 0, 0)  # (G, blocks, high · wide, d)
        k, v = (
            rectangles(F.pad(z, (0, 0, columns, columns + right, rows, below)), high, wide, rows, 2 * columns)
            for z in (k, v)
        )  # (G, blocks, (high + rows) · (wide + 2 columns), d)
        seen = F.scaled_dot_product_attention(
            q, k, v, seen_near(height, width, high, wide, rows, columns, q.device)[None]
        )
        seen = seen.unflatten(2, (high, wide)).unflatten(1, (-1, (width + right) // wide))
        return seen.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]


def rectangles(z: Tensor, high: int, wide: int, rows: int, columns: int) -> Tensor:
    """(G, H, W, d) in steps of high × wide, each with so many more rows and columns: (G, blocks, places, d)."""
    z = z.unfold(1, high + rows, high).unfold(2, wide + columns, wide)  # (G, down, across, d, rows, columns)
    return z.permute(0, 1, 2, 4, 5, 3).flatten(3, 4).flatten(1, 2)


def seen_near(
    height: int, width: int, high: int, wide: int, rows: int, columns: int, device: torch.device
) -> Tensor:
    """Which key a query looks at, (blocks, queries, keys); its own always, so that none looks at nothing."""
    down, inside_rows = key_places(height, high, rows, 0, device)
    right, inside_columns = key_places(width, wide, columns, columns, device)
    # axes: blocks down, blocks across, rows and columns of the queries, rows and columns of the keys
    down, inside_rows = (z[:, None, :, None, :, None] for z in (down, inside_rows))
    right, inside_columns = (z[None, :, None, :, None, :] for z in (right, inside_columns))
    window = (down >= -rows) & (right.abs() <= columns) & ((down < 0) | ((down == 0) & (right <= 0)))
    own = (down == 0) & (right == 0)
    return (window & inside_rows & inside_columns | own).flatten(4).flatten(2, 3).flatten(0, 1)


def key_places(n: int, size: int, before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of an axis of n places in blocks: key minus query (1, size, keys), and if a key is inside (blocks, 1, keys)."""
    key = torch.arange(-before, size + after, device=device)
    first = torch.arange(0, n, size, device=device)[:, None, None]
    inside = (first + key >= 0) & (first + key < n)
    return (key - torch.arange(size, device=device)[:, None])[None], inside


def normalised(u: Tensor) -> Tensor:
    """n(u) = (u - mean) / √(variance + 10⁻⁵) over the last axis."""
    return F.layer_norm(u, u.shape[-1:])


def normalised_program(p, u):
    """The same as an operation of a step program."""
    return p.norm(u, torch.ones(u.width), torch.zeros(u.width))


def dense(p, x, layer: nn.Linear):
    """A `Linear` as an operation of a step program."""
    return p.dense(x, weight=layer.weight.T, bias=layer.bias)
