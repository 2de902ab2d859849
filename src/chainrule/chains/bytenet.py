"""ByteNet (Kalchbrenner et al. 2016, "Neural machine translation in linear time"): dilated convolutions over texts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.errors import ChainruleError
from chainrule.layers.attention import dense_program, norm_program, plus_class, plus_class_program
from chainrule.layers.carried import CHUNK, Carried, before_each
from chainrule.layers.dilated import Block, causal, centred
from chainrule.layers.dropout import dropped
from chainrule.layers.translation import (
    check_condition,
    check_source,
    for_pairs,
    lengths_of,
    log_probs_of,
    loss_of,
)
from chainrule.model import check_sizes

UNITS = ("relu", "multiplicative")


class ByteNet(Carried):
    """Texts by a stack of dilated, masked convolutions: a language model, or p(target | source) over an encoder.

    With E a table, s_t the symbol before position t, and n a layer normalisation over the numbers of one position,

        input      h_t = E[s_t] + J e_t                     the encoding e_t of the source, zero beyond its end
        layers     h <- h + block(h)                        `Block`: kernels see t, t - r, ..., t - (k - 1) r
        logits     W_b relu(W_a relu(n(h)))

    e is what blocks with centred kernels make of the source: as many positions as `stretch` times its symbols, so that
    the columns of the encoding and those of the target stand over each other, and nothing is summed up on the way
    (section 3.1). A target may outgrow the encoding (section 3.2, dynamic unfolding). Each set of blocks has the
    dilations r again. Cost is linear in the lengths of both.

    A position sees exactly the `reach` symbols before it, 1 + sets (k - 1) Σ r. Over a long text what each kernel has
    seen is carried from segment to segment: a score does not depend on how a text is cut.

    Args:
        symbols: K, 256 for bytes.
        width: d, numbers inside a block; 2 d between blocks.
        sets: of blocks, in the decoder and in the encoder.
        dilations: r of the blocks of a set.
        kernel: k, taps of a kernel; odd with a source.
        units: "relu", as the paper translates, or "multiplicative", as it models language.
        source: symbols of the source text, which `context` (B, S) then is, -1 beyond the end; 0: a language model.
        stretch: positions of the encoding for a symbol of the source (equation 2).
        dropout: share dropped in training, of what a block adds, and before the output.
        classes: number of classes in `context` of a language model (an embedding is added to every input); 0: none.

    Example:
        >>> chain = ByteNet(symbols=5, source=4, **ByteNet.SIZES["tiny"])
        >>> chain.log_prob(torch.zeros(2, 7, dtype=torch.long), torch.tensor([[1, 2, 3], [3, -1, -1]])).shape
        torch.Size([2])
    """

    SIZES = {
        "tiny": {"width": 10, "sets": 1, "dilations": [1, 2]},
        "laptop": {"width": 256, "sets": 1},
        # Section 5, the language model; section 6 translates with width=800, units="relu".
        "paper": {"width": 512, "sets": 6, "units": "multiplicative", "dropout": 0.1},
    }
    KINDS = ("text", "array")
    TRAINING = {
        "batch": 32,
        "lr": 1e-2,
        "window": 256,
        "bfloat16": True,
        "carry": True,
        "muon": True,
        "compile": False,
    }

    def __init__(
        self,
        symbols: int = 256,
        width: int = 256,
        sets: int = 1,
        dilations: Sequence[int] = (1, 2, 4, 8, 16),
        kernel: int = 3,
        units: str = "relu",
        source: int = 0,
        stretch: float = 1.2,
        dropout: float = 0.0,
        classes: int = 0,
    ):
        super().__init__()
        check_sizes(dropout, symbols=symbols, width=width, sets=sets, kernel=kernel)
        check_shape(dilations, kernel, units, source, stretch, classes)
        self.symbols, self.source, self.classes = symbols, source, classes
        self.stretch, self.dropout = stretch, dropout
        every, wide = [r for _ in range(sets) for r in dilations], 2 * width
        settings = units == "multiplicative", dropout, len(every)
        decoder = [Block(width, causal(kernel, r), *settings) for r in every]
        encoder = [Block(width, centred(kernel, r), *settings) for r in every if source]
        self.embed = nn.Embedding(symbols + 1, wide)  # the last row: "nothing yet"
        self.condition = nn.Embedding(classes, wide) if classes else None
        self.layers = nn.ModuleList([*decoder, *encoder])
        self.norm, self.last, self.out = nn.LayerNorm(wide), nn.Linear(wide, width), nn.Linear(width, symbols)
        self.features = wide if source else 0
        if source:
            self.sources = nn.Embedding(source + 1, wide)  # the last row: beyond the end
            self.encoded, self.join = nn.LayerNorm(wide), nn.Linear(wide, wide, bias=False)
        self.blocks = len(decoder)

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return super().configure(data) if data.sources is None else for_pairs(data)

    @property
    def reach(self) -> int:
        """How many symbols before it a position sees, the farthest included."""
        return 1 + sum(block.conv.past for block in self.decoder)

    @property
    def decoder(self) -> Sequence[Any]:
        """The blocks with masked kernels."""
        return self.layers[: self.blocks]  # type: ignore[return-value]

    @property
    def encoder_blocks(self) -> Sequence[Any]:
        """The blocks with centred kernels."""
        return self.layers[self.blocks :]  # type: ignore[return-value]

    def context_rule(self) -> str:
        """Only so many symbols are seen, and all of a source."""
        own = f"the {self.reach:,} symbols before it"
        return f"{own}, and the source text" if self.source else own

    # ---- logits ------------------------------------------------------------------------------------------------

    def stretches(self, x: Tensor, context: Tensor | None = None, size: int = CHUNK) -> Iterator[Tensor]:
        """The logits (B, size, K) of one stretch after another; those over a source come from one pass."""
        if not self.source:
            yield from super().stretches(x, context, size)
            return
        before = before_each(x.flatten(1).long().clamp(min=0), self.symbols)
        yield from self._run(before, None, context)[0].split(size, 1)

    def log_probs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p of every symbol (B, *event) in nats, float64; of what stands beyond the end of a target 0."""
        if not self.source:
            return super().log_probs(x, context)
        return log_probs_of(self.logits(x, context), x) if x.numel() else x.double()

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean -log p of a symbol in nats; targets may have -1 beyond their ends."""
        if not self.source:
            return super().loss(x, context)
        return loss_of(self.logits(x, context).flatten(1, -2), x.flatten(1))

    def rest(self, batch: int) -> Tensor:
        """What the kernels have seen before the first symbol, (B, places of all blocks, d): nothing."""
        past = sum(block.conv.past for block in self.decoder)
        return self.embed.weight.new_zeros(batch, past, self.embed.weight.shape[1] // 2)

    def _run(
        self,
        before: Tensor,
        state: Tensor | None,
        context: Tensor | None,
        kept: Tensor | None = None,
        weights: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """before (B, T) of 0..K, K for "nothing yet" -> logits (B, T, K) and the new state.

        Args:
            kept: (B, T), false where a text begins: there nothing is seen of what came before.
        """
        h = half(self.embed(before))
        if self.source:
            h = h + self.join(fitted(self.encode(context), before.shape[1]))
        else:
            h = plus_class(h, self.condition, context)
        state = self.rest(len(before)) if state is None else state
        pasts = state.split([block.conv.past for block in self.decoder], 1)
        texts = None if kept is None or bool(kept.all()) else (~kept).cumsum(1)
        after = []
        for block, past in zip(self.decoder, pasts, strict=True):
            seen = block.seen(h)
            h = block(h, seen, past, None if texts is None else F.pad(texts, (past.shape[1], 0)))
            after.append(carried_on(past, seen, texts))
        v = torch.relu(self.last(torch.relu(self.norm(h))))
        v = dropped(v, self.dropout) if self.training else v
        return self.out(v), torch.cat(after, 1).to(state.dtype)

    # ---- the source --------------------------------------------------------------------------------------------

    def encode(self, context: Tensor | None) -> Tensor:
        """Sources (B, S), -1 beyond their ends -> (B, L, 2 d), zero beyond the places of each source."""
        symbols, inside = self._places(context)
        h = half(self.sources(symbols))
        for block in self.encoder_blocks:
            h = block(h, block.seen(h) * inside)
        return self.encoded(h) * inside

    def told(self, context: Tensor | None) -> Tensor:
        """What the program of the encoder is given at each place, (B, L, 2 d + 1): a row of a table, and 1 inside."""
        symbols, inside = self._places(context)
        return torch.cat([self.sources(symbols), inside.to(self.sources.weight)], -1)

    def _places(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The source symbols at the places of the encoding (B, L), and (B, L, 1) whether a place is inside."""
        check_source(self.source, context)
        assert context is not None
        count = (lengths_of(context).double() * self.stretch).ceil().long()
        longest = max(1, int(count.max())) if len(count) else 1
        symbols = F.pad(context.long(), (0, longest - context.shape[1]), value=-1)
        inside = torch.arange(longest, device=context.device) < count[:, None]
        return symbols.masked_fill(symbols < 0, self.source), inside[..., None]

    # ---- step programs -----------------------------------------------------------------------------------------

    def encoder(self, p):
        """The encoding of all places at once, as a step program whose logits it is."""
        told = p.given_features()
        wide = told.width - 1
        inside = p.dense(told[wide:], weight=torch.ones(1, wide))
        h = told[:wide]
        for block in self.encoder_blocks:
            h = block.program(p, h, inside[: wide // 2])
        return p.multiply(norm_program(p, h, self.encoded), inside)

    def program(self, p):
        """The decoder for one position; what it takes from the encoding is there from the start."""
        h = p.embed(self.embed.weight, columns=-1, outside=self.symbols, clock="pixel")
        h = plus_class_program(p, h, self.condition)
        if self.source:
            h = p.add(h, p.dense(p.given_features(), weight=self.join.weight.T))
        for block in self.decoder:
            h = block.program(p, h)
        v = p.pointwise("relu", norm_program(p, h, self.norm))
        return [dense_program(p, p.pointwise("relu", dense_program(p, v, self.last)), self.out)]


def half(h: Tensor) -> Tensor:
    """h in the short type of a mixed training: half as much to read and write between products."""
    return h.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else h


def fitted(e: Tensor, length: int) -> Tensor:
    """The first positions (B, length, n) of e (B, L, n), zeros beyond them."""
    return F.pad(e, (0, 0, 0, length - e.shape[1]))


def carried_on(past: Tensor, seen: Tensor, texts: Tensor | None) -> Tensor:
    """What a kernel will have seen (B, P, d), after what it saw before (B, P, d) and now (B, T, d).

    Of other texts than the last one of a row, by their numbers (B, T), nothing is left.
    """
    if texts is not None:
        past = past * (texts[:, -1:, None] == 0)
        seen = seen * (texts == texts[:, -1:])[..., None]
    return torch.cat([past.to(seen), seen], 1)[:, seen.shape[1] :]


def check_shape(
    dilations: Sequence[int], kernel: int, units: str, source: int, stretch: float, classes: int
) -> None:
    """One clear line for a network that there cannot be."""
    if not isinstance(dilations, list | tuple) or not dilations or any(type(r) is not int for r in dilations):
        raise ChainruleError(f"dilations is {dilations!r}: take a list of numbers, such as [1, 2, 4, 8, 16]")
    check_sizes(dilations=min(dilations))
    if units not in UNITS:
        raise ChainruleError(f"units is {units!r}: choose from {', '.join(UNITS)}")
    check_condition(source, classes)
    if source and kernel % 2 == 0:
        raise ChainruleError(
            f"a kernel of {kernel} has no centre: take an odd number where there is a source"
        )
    if not 0 < stretch < math.inf:
        raise ChainruleError(f"stretch is {stretch}: take more than 0, such as 1.2")
