"""Sparse Transformer (Child, Gray, Radford & Sutskever 2019, "Generating Long Sequences with Sparse Transformers")."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.errors import ChainruleError
from chainrule.layers.attention import (
    check_heads,
    dense_program,
    norm_program,
    plus_class,
    plus_class_program,
)
from chainrule.layers.blocks import InBlocks, places_in_texts
from chainrule.layers.dropout import dropped
from chainrule.layers.ordered import check_given, one_shape, size_of
from chainrule.layers.sparse_attention import Fixed, Strided
from chainrule.model import Chain, at_least_zero, check_sizes

SPREAD = 0.125  # deviation of the weights at the start, times the root of how many numbers they are given
LARGER = 8  # than in the paper: tables and what layers add, at the start
STEEP = 1.702  # of the paper's form of a Gaussian error linear unit


class SparseTransformer(InBlocks):
    """Texts of any length, or images of one shape, by layers of attention to about √n of n positions.

    With s_t the symbol before position t, E and P_i tables, n a layer normalisation, and biases left out:

        input      u_t = E[s_t] + Σ_i P_i[place i of t] + class                              section 5.3
        attention  q, k, v = n(u) W of each head,  a_t = Σ_{j ∈ S_t} softmax_j(q_t · k_j / √e) v_j
                   u <- u + [a of each head] W_o                                             section 5.2
        after it   u <- u + W_b f(W_a n(u)),  f(z) = z σ(1.702 z)
        logits     n(u) W

    S_t, with l the stride, is one of two patterns (section 4.2); over two layers either reaches all positions before t.

        "strided"  t - j < l in half of the heads, (t - j) mod l = 0 in the others: for what is periodic, as images. An
                   odd head is of the one kind in every second layer, of the other kind between.
        "fixed"    ⌊j/l⌋ = ⌊t/l⌋, or j among `summary` positions of an earlier row: for texts. Both in every head, as in
                   the code of the paper, and each head has a summary of its own: see `Fixed`.

    An image is one sequence of n = H W C levels; places are its row, column and channel. A text has no end, but its
    places do: so it is seen in blocks of `window` symbols (see `chainrule.layers.blocks`), and the places of a symbol
    are ⌊t/l⌋ and t mod l in its block. A text that begins within a block of the training is a block of its own.

    With l near √n, training and scoring take O(n √n) time, and a step of the step program O(√n).

    Where this departs from the paper:

    - Before the first symbol E has a row of its own, "nothing yet".
    - What is added up in u begins eight times as large. Everything that reads u normalises it, so at the start nothing
      changes; but a step of Adam is as long as its rate, and with tables as small as the paper's some of the first
      steps turn u round, and the loss jumps.
    - The paper's row of "strided" has l + 1 positions in its text, and l in its code: here l.

    Args:
        symbols: K, 256 for bytes.
        event: the shape of all events, (H, W, C) of images; None: texts and others of any shape, in blocks.
        classes: number of classes in `context` (an embedding is added to every input); 0: none.
        attention: "strided" or "fixed".
        stride: l; None: the length of a row of the image, W C, or a power of two near √window.
        summary: of "fixed": c, positions of a row that all later ones look at; 0: rows know nothing of each other.
        window: symbols of a block; of images all are in one.
        width: D, numbers a position between the layers.
        layers: N, of attention, each followed by a feed-forward layer.
        heads: of attention; they share the D numbers.
        keys: numbers of all queries, and of all keys; None: D. The paper halves them for CIFAR-10.
        inner: hidden units of a feed-forward layer; None: 4 D. The paper has 2 D for CIFAR-10.
        dropout: share of what a layer adds that is dropped in training.

    Example:
        >>> import torch
        >>> chain = SparseTransformer(symbols=4, event=(5, 6, 3), **SparseTransformer.SIZES["tiny"])
        >>> chain.logits(torch.zeros(2, 5, 6, 3, dtype=torch.long)).shape
        torch.Size([2, 5, 6, 3, 4])
    """

    SIZES = {
        "tiny": {
            "stride": 3,
            "summary": 1,
            "window": 7,
            "width": 8,
            "layers": 2,
            "heads": 2,
            "keys": 4,
            "inner": 20,
        },
        "laptop": {"window": 512, "width": 128, "layers": 4, "heads": 4},
        # Section 7.2 (enwik8, 0.99 bits a byte): 95 million parameters, contexts of 12,288 bytes.
        "paper": {
            "stride": 128,
            "summary": 32,
            "window": 12288,
            "width": 512,
            "layers": 30,
            "heads": 8,
            "dropout": 0.4,
        },
    }
    KINDS = ("image", "text", "sound", "array")
    TRAINING = {"batch": 8, "lr": 3e-3, "window": "window", "bfloat16": True, "carry": True, "muon": True}

    def __init__(
        self,
        symbols: int = 256,
        event: tuple | None = None,
        classes: int = 0,
        attention: str = "fixed",
        stride: int | None = None,
        summary: int = 8,
        window: int = 512,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        keys: int | None = None,
        inner: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        keys, inner = width if keys is None else keys, 4 * width if inner is None else inner
        check_sizes(dropout, symbols=symbols, window=window, width=width, layers=layers, heads=heads)
        check_sizes(keys=keys, inner=inner, stride=1 if stride is None else stride)
        at_least_zero(summary=summary)
        check_heads(width, heads)
        check_heads(keys, heads, "key width")
        if keys > width:  # an `attend` has no room for more
            raise ChainruleError(f"keys is {keys}: take no more than the width, {width}")
        self.symbols, self.classes, self.nothing = symbols, classes, symbols
        self.event = None if event is None else tuple(event)
        self.window = window if self.event is None else size_of(self.event)
        stride = min(stride or usual_stride(self.event, self.window), self.window)
        self.embed = nn.Embedding(symbols + 1, width)
        self.places = Places(self.event or (-(-self.window // stride), stride), width)
        self.condition = nn.Embedding(classes, width) if classes else None
        looks = [pattern(attention, stride, summary, heads, i) for i in range(layers)]
        self.layers: Any = nn.ModuleList(Residual(look, width, heads, keys, inner, dropout) for look in looks)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, symbols, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        """By what weights are given, zeros for the output and all biases; what adds to u is `LARGER` than published.

        A layer adds less when there are more, so that u has the same size after any number of layers.
        """
        adds, sides = (2 * len(self.layers)) ** -0.5, len(self.places.tables)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                scale = adds * LARGER if name.endswith(("answer", "down")) else 1
                nn.init.normal_(module.weight, std=scale * SPREAD * module.in_features**-0.5)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=LARGER * SPREAD * module.embedding_dim**-0.5)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for table in self.places.tables:
            nn.init.normal_(table.weight, std=LARGER * SPREAD * (table.embedding_dim * sides) ** -0.5)
        nn.init.zeros_(self.out.weight)

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply: images are of one shape, and strided."""
        if data.kind == "image":
            return {**one_shape(data, "sparse-transformer"), "attention": "strided"}
        return super().configure(data)

    def context_rule(self) -> str:
        """An image is seen whole, a text in blocks; what one layer looks at is not all of it."""
        rule = super().context_rule() if self.event is None else Chain.context_rule(self)
        return rule if len(self.layers) > 1 else f"{rule}, as far as one layer looks"

    def program(self, p):
        """The same for one position, with the keys and values of the block, or of the image."""
        places = self.places.table(self.window)
        place = p.constant_cycle(places) if self.event is None else p.constant_here(places)
        u = p.embed(self.embed.weight, columns=-1, outside=self.nothing, onto=place)
        u = plus_class_program(p, u, self.condition)
        steep = p.constant([STEEP] * self.layers[0].up.out_features)
        for layer in self.layers:
            u = layer.program(p, u, steep, self.window if self.event is None else 0)
        return [p.dense(norm_program(p, u, self.norm), weight=self.out.weight.T)]

    def _run(self, before: Tensor, context: Tensor | None, begins: Tensor | None = None) -> Tensor:
        if begins is not None:
            return self._of_texts(before, context, begins)
        check_given(self.classes, context)
        u = self.embed(before) + self.places.table(before.shape[1])
        u = plus_class(u, self.condition, context)
        for layer in self.layers:
            u = layer(u)
        return self.norm(u)

    def _of_texts(self, before: Tensor, context: Tensor | None, begins: Tensor) -> Tensor:
        """Rows (R, S) in which texts begin: every text is given a row of its own, in which it stands first."""
        place = places_in_texts(begins)
        text = (place == 0).flatten().cumsum(0).view_as(place) - 1
        alone = before.new_zeros(int(text[-1, -1]) + 1, int(place.max()) + 1)
        rows = alone.index_put((text, place), before)
        classes = None if context is None else alone.index_put((text, place), context.long())
        return self._run(rows, classes)[text, place]

    def _head(self, u: Tensor) -> Tensor:
        return self.out(u)


class Residual(nn.Module):
    """Attention that looks where `look` says, then a feed-forward layer: (R, S, D) -> the same."""

    def __init__(self, look: Strided | Fixed, width: int, heads: int, keys: int, inner: int, dropout: float):
        super().__init__()
        self.look, self.heads, self.dropout = look, heads, dropout
        self.sizes = (keys, keys, width)  # of queries, keys, values, all heads together
        self.ask_norm, self.up_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask = nn.Linear(width, sum(self.sizes))
        self.answer = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, u: Tensor) -> Tensor:
        parts = self.ask(self.ask_norm(u)).split(self.sizes, -1)
        seen = self.look(*(part.unflatten(-1, (self.heads, -1)) for part in parts))  # (R, S, heads, d)
        u = u + self._dropped(self.answer(seen.flatten(2)))
        # z σ(s z) is silu(s z) / s; the factors cost nothing in the weights
        hidden = F.silu(F.linear(self.up_norm(u), STEEP * self.up.weight, STEEP * self.up.bias))
        return u + self._dropped(F.linear(hidden, self.down.weight / STEEP, self.down.bias))

    def _dropped(self, x: Tensor) -> Tensor:
        return dropped(x, self.dropout) if self.training else x

    def program(self, p, u, steep, window: int):
        n = norm_program(p, u, self.ask_norm)

        def ask(heads: range) -> list:
            return [p.dense(n, weight=weight.T, bias=bias) for weight, bias in self._asked(heads)]

        seen = self.look.program(p, ask, self.heads, window)
        u = p.add(u, p.dense(*seen, weight=self.answer.weight.T, bias=self.answer.bias))
        hidden = dense_program(p, norm_program(p, u, self.up_norm), self.up)
        hidden = p.multiply(hidden, p.pointwise("sigmoid", p.multiply(hidden, steep)))
        return p.add(u, dense_program(p, hidden, self.down))

    def _asked(self, heads: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Weights and biases of queries, keys, values of some heads: an `attend` has one width for all, that of values.

        So the others are filled up with zeros, and queries are larger by what it divides scores by too much.
        """
        width = self.sizes[2] // self.heads
        times = math.sqrt(self.sizes[2] / self.sizes[0]), 1, 1
        parts = zip(self.ask.weight.split(self.sizes), self.ask.bias.split(self.sizes), times, strict=True)
        for weight, bias, scale in parts:
            w, b = (
                z.unflatten(0, (self.heads, -1))[heads.start : heads.stop] * scale for z in (weight, bias)
            )
            short = width - b.shape[1]
            yield F.pad(w, (0, 0, 0, short)).flatten(0, 1), F.pad(b, (0, short)).flatten()


class Places(nn.Module):
    """Where positions stand in a box of some sides: a table for each side, added up."""

    def __init__(self, sides: tuple[int, ...], width: int):
        super().__init__()
        self.tables: Any = nn.ModuleList(nn.Embedding(side, width) for side in sides)

    def table(self, n: int) -> Tensor:
        """The first n positions in C order, (n, D)."""
        first, *others = (table.weight for table in self.tables)
        for one in others:
            first = (first[:, None] + one).flatten(0, 1)
        return first[:n]


def pattern(attention: str, stride: int, summary: int, heads: int, layer: int) -> Strided | Fixed:
    """Where the heads of a layer look, by name."""
    rows = (heads + 1 - layer % 2) // 2
    kinds = {"strided": Strided(stride, rows), "fixed": Fixed(stride, min(summary, stride))}
    if attention not in kinds:
        raise ChainruleError(f"there is no attention {attention!r}: choose from {', '.join(kinds)}")
    return kinds[attention]  # type: ignore[return-value]


def usual_stride(event: tuple[int, ...] | None, n: int) -> int:
    """The length of a row of an image; of other events the power of two from √n on, which is quick to compute with.

    >>> usual_stride((32, 32, 3), 3072), usual_stride(None, 512), usual_stride(None, 12288)
    (96, 32, 128)
    """
    if event and len(event) > 2:
        return math.prod(event[-2:])
    return 1 << (math.isqrt(n - 1)).bit_length()
