"""Transformer-XL (Dai et al. 2019): self-attention with a memory of the positions before, and relative distances."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.layers.attention import (
    SPREAD,
    check_heads,
    norm_program,
    plus_class,
    plus_class_program,
    start_small,
)
from chainrule.layers.carried import Carried
from chainrule.layers.dropout import dropped
from chainrule.layers.relative import Relative, sinusoids
from chainrule.model import check_sizes


class TransformerXL(Carried):
    """Texts of any length by layers of self-attention, each position over itself and the `memory` before it.

    With E the table of symbols, s_t the symbol before position t, R_n sinusoids of the distance n, and M = `memory`:

        input      x_t = √D E[s_t]
        scores     ((q_t + u) · k_j + (q_t + v) · W_r R_{t-j}) / √d   of t - M ≤ j ≤ t, u and v the same in all layers
        attention  x <- n(x + [Σ_j softmax_j v_j of each head] W_o)
        after it   x <- n(x + W_b relu(W_a x))
        logits     x Eᵀ + b

    with q, k, v = x W of each head, and n layer normalisations. That is Dai et al. 2019, section 3.3, where every
    position sees as many before it as any other. With `norm_first` it is instead x <- x + f(n(x)), and n(x) before
    the logits: it learns faster at high rates, and `memory` holds n(x).

    The state is the memory: what keys and values of the last M positions are made of, in each layer. It goes on from
    window to window in training, and from segment to segment in scoring. No gradient flows back into another window.

    Args:
        symbols: K, 256 for bytes.
        width: D, numbers a position between the layers.
        layers: of attention, each followed by a feed-forward layer.
        heads: of attention; they share the D numbers.
        inner: hidden units of the feed-forward layers.
        memory: M, how far each layer looks back.
        window: symbols of a step of training.
        dropout: share dropped in training, of inputs, of what layers add, of hidden units, and before the output.
        norm_first: normalise what a layer is given, not what comes of it.
        classes: number of classes in `context` (an embedding is added to every input); 0: none.

    Example:
        >>> chain = TransformerXL(symbols=5, **TransformerXL.SIZES["tiny"])
        >>> chain.log_prob(torch.zeros(2, 7, dtype=torch.long)).shape
        torch.Size([2])
    """

    SIZES = {
        "tiny": {"width": 8, "layers": 2, "heads": 2, "inner": 16, "memory": 3, "window": 4},
        "laptop": {"width": 192, "layers": 4, "heads": 4, "inner": 768, "memory": 128, "window": 64},
        # Dai et al. 2019, table 2, 24 layers, with the widths of run_enwik8_large.sh: 277 M parameters.
        "paper": {
            "width": 1024,
            "layers": 24,
            "heads": 8,
            "inner": 3072,
            "memory": 768,
            "window": 768,
            "dropout": 0.15,
            "norm_first": False,
        },
    }
    KINDS = ("text", "array")
    TRAINING = {
        "batch": 16,
        "lr": 8e-3,
        "window": "window",
        "bfloat16": True,
        "carry": True,
        "muon": True,
        "compile": False,
    }
    distances: Tensor

    def __init__(
        self,
        symbols: int = 256,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        inner: int = 1024,
        memory: int = 128,
        window: int = 128,
        dropout: float = 0.0,
        norm_first: bool = True,
        classes: int = 0,
    ):
        super().__init__()
        sizes = {"width": width, "layers": layers, "heads": heads, "inner": inner, "memory": memory}
        check_sizes(dropout, symbols=symbols, window=window, **sizes)
        check_heads(width, heads)
        self.symbols, self.width, self.memory, self.classes = symbols, width, memory, classes
        self.dropout, self.shortest = dropout, memory
        self.embed = nn.Embedding(symbols + 1, width)  # the last row: "nothing yet"
        self.condition = nn.Embedding(classes, width) if classes else None
        self.biases = nn.Parameter(torch.empty(2, width))  # u and v
        self.layers = nn.ModuleList(Relative(width, heads, inner, dropout, norm_first) for _ in range(layers))
        self.norm = nn.LayerNorm(width) if norm_first else None
        self.bias = nn.Parameter(torch.zeros(symbols))
        self.register_buffer("distances", torch.tensor(sinusoids(memory + 1, width)), persistent=False)
        start_small(self, adds=2 * layers)
        nn.init.normal_(self.biases, std=SPREAD)

    def context_rule(self) -> str:
        """A symbol enters one position after it came; from there each layer looks back as far again."""
        layers = len(self.layers)
        most = layers * self.memory + 1
        return f"carried memory of {self.memory:,} in {layers} layers: the {most:,} symbols before it"

    def rest(self, batch: int) -> Tensor:
        """The state (B, 1 + layers · M · D) before the first symbol: how many positions are known, then the memory."""
        return self.bias.new_zeros(batch, 1 + len(self.layers) * self.memory * self.width)

    def start(self, batch: int, event: tuple[int, ...], context: Tensor | None = None):
        return {"context": context, "state": self.rest(batch), "weights": self._weights()}

    def step(self, state, symbol: Tensor | None = None):
        """One position: its cost does not grow with what came before."""
        if symbol is None:
            symbol = torch.full((len(state["state"]),), self.symbols)
        run = {"context": state["context"], "weights": state["weights"]}
        logits, state["state"] = self._run(symbol.long()[:, None], state["state"], **run)
        return logits[:, 0], state

    def program(self, p):
        """The same for one position; keys and values of the last M are kept."""
        scale = math.sqrt(self.width)
        x = p.embed(scale * self.embed.weight, columns=-1, outside=self.symbols)
        x = plus_class_program(p, x, self.condition)
        for layer in self.layers:
            x = layer.program(p, x, self.distances, self.biases)  # type: ignore[operator]
        x = x if self.norm is None else norm_program(p, x, self.norm)
        return [p.dense(x, weight=self.embed.weight[: self.symbols].T, bias=self.bias)]

    def _weights(self) -> list[Tensor]:
        """W_r R (L, D) of each layer."""
        distances = self._dropped(self.distances)
        return [layer.ask_distance(distances) for layer in self.layers]  # type: ignore[operator]

    def _run(
        self,
        before: Tensor,
        state: Tensor | None,
        context: Tensor | None,
        kept: Tensor | None = None,
        weights: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """before (B, T) of 0..K, K for "nothing yet" -> logits (B, T, K) and the new state."""
        known, memories = self._recalled(state, len(before))
        begin = begins(known, kept, before.shape[1])  # (B, T + 1)
        first = memories[0].shape[1] + begin[:, :-1]
        # all that is in reach is of the same text, but near its beginning
        whole = state is not None and bool((first <= torch.arange(first.shape[1], device=first.device)).all())
        x, after = self._input(before, context), []
        for layer, distances, memory in zip(self.layers, weights or self._weights(), memories, strict=True):
            x, given = layer(x, memory, distances, self.biases, None if whole else first)
            after.append(last_of(memory, given, self.memory).flatten(1))
        known = (before.shape[1] - begin[:, -1:]).clamp(max=self.memory)
        x = self._dropped(x if self.norm is None else self.norm(x))
        logits = F.linear(x, self.embed.weight[: self.symbols], self.bias)
        return logits, torch.cat([known.to(self.bias), *after], 1)

    def _recalled(self, state: Tensor | None, batch: int) -> tuple[Tensor, list[Tensor]]:
        """How many positions are known (B,), and the memory of each layer (B, M, D), or (B, 0, D) without a state."""
        layers = len(self.layers)
        if state is None:
            nothing = self.bias.new_zeros(batch, layers, 0, self.width)
            return torch.zeros(batch, dtype=torch.long, device=nothing.device), list(nothing.unbind(1))
        return state[:, 0].long(), list(
            state[:, 1:].unflatten(1, (layers, self.memory, self.width)).unbind(1)
        )

    def _input(self, before: Tensor, context: Tensor | None) -> Tensor:
        """x (B, T, D) of symbols (B, T) and classes (B,) or (B, T)."""
        x = plus_class(math.sqrt(self.width) * self.embed(before), self.condition, context)
        return self._dropped(x)

    def _dropped(self, x: Tensor) -> Tensor:
        return dropped(x, self.dropout) if self.training else x


def begins(known: Tensor, kept: Tensor | None, length: int) -> Tensor:
    """Where the text of each of T positions begins, and that of the position after them: (B, T + 1).

    Args:
        known: (B,), how many positions before the first are of its text.
        kept: (B, T), False where another text begins.

    >>> begins(torch.tensor([3]), torch.tensor([[True, True, False, True]]), 4).tolist()
    [[-3, -3, 2, 2, 2]]
    """
    earlier = -known[:, None]
    if kept is None:
        return earlier.expand(-1, length + 1)
    places = torch.arange(length, device=known.device).where(~kept, earlier)
    begun = torch.cat([earlier, places], 1).cummax(1).values
    return torch.cat([begun[:, 1:], begun[:, -1:]], 1)


def last_of(memory: Tensor, given: Tensor, count: int) -> Tensor:
    """The last `count` of memory (B, m, D) and what was given after it (B, T, D); zeros where there are not so many."""
    both = given if given.shape[1] >= count else torch.cat([memory, given], 1)
    return F.pad(both[:, -count:], (0, 0, max(0, count - both.shape[1]), 0))
