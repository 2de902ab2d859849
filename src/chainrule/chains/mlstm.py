"""Multiplicative LSTM over bytes (Krause et al. 2016), as in the sentiment neuron (Radford et al. 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.layers.sequence import Recurrent, multiplicative_lstm
from chainrule.model import check_sizes


class MultiplicativeLSTM(Recurrent):
    """Texts of any length; each symbol chooses how the state before it is turned into the gates.

    With x the learned vector of the symbol before, h and c the hidden units and the cells:

        m = (x W_mx) ∘ (h W_mh)
        i, f, g, o = x W_x + m W_m + b
        c = σ(f) ∘ c + σ(i) ∘ tanh(g),    h = σ(o) ∘ tanh(c)

    The four matrices have normalised weights (Salimans & Kingma 2016).

    Args:
        symbols: K, 256 for bytes.
        width: units h.
        dropout: share of the units dropped before the output, in training.
        recurrent_dropout: share of the units that the recurrence does not see, in training, the same ones for all of a
            window (Gal & Ghahramani 2016): it keeps a long training on a small text from learning it by heart.
        embed: size of the vector x.
        classes: number of classes in `context` (an embedding added to every x); 0 is unconditional.

    Example:
        >>> chain = MultiplicativeLSTM(symbols=5, **MultiplicativeLSTM.SIZES["tiny"])
        >>> chain.log_prob(torch.zeros(2, 7, dtype=torch.long)).shape
        torch.Size([2])
    """

    SIZES = {
        "tiny": {"width": 16, "embed": 8},
        "laptop": {"width": 512, "dropout": 0.2},
        "paper": {"width": 4096},  # Radford et al. 2017, section 3
    }
    KINDS = ("text", "array")
    # a compiler has nothing to gain: the steps of the recurrence are operations of their own
    TRAINING = {"batch": 64, "lr": 3e-3, "window": 32, "bfloat16": True, "carry": True, "compile": False}

    def __init__(
        self,
        symbols: int = 256,
        width: int = 384,
        dropout: float = 0.0,
        classes: int = 0,
        embed: int = 64,
        recurrent_dropout: float = 0.0,
    ):
        super().__init__()
        check_sizes(dropout, symbols=symbols, width=width, embed=embed)
        check_sizes(recurrent_dropout)
        self.symbols, self.width, self.classes = symbols, width, classes
        self.embed = nn.Embedding(symbols + 1, embed)  # the last row: "nothing yet"
        self.condition = nn.Embedding(classes, embed) if classes else None
        self.x, self.mx = Normalised(embed, 4 * width), Normalised(embed, width)
        self.m, self.mh = Normalised(width, 4 * width), Normalised(width, width)
        self.bias = nn.Parameter(torch.zeros(4 * width))
        self.drop, self.drop_recurrent = nn.Dropout(dropout), nn.Dropout(recurrent_dropout)
        self.out = nn.Linear(width, symbols)

    def rest(self, batch: int) -> Tensor:
        """The state (2, B, h) before the first symbol: cells, then hidden units."""
        return self.out.weight.new_zeros(2, batch, self.width)

    def start(self, batch: int, event: tuple[int, ...], context: Tensor | None = None):
        weights = [w.detach() for w in self._weights()]
        return {"context": context, "state": self.rest(batch), "weights": weights}

    def step(self, state, symbol: Tensor | None = None):
        """One step of the recurrence: its cost does not grow with what came before."""
        if symbol is None:
            symbol = torch.full((state["state"].shape[1],), self.symbols)
        run = {"context": state["context"], "weights": state["weights"]}
        logits, state["state"] = self._run(symbol.long()[:, None], state["state"], **run)
        return logits[:, 0], state

    def program(self, p):
        """The recurrence; what a symbol says to m and to the gates are two tables."""
        to_gates, to_m = (normed.in_program(p) for normed in (self.x, self.mx))
        gates, factors = (
            p.embed(p.fold(self.embed.weight, w), columns=-1, outside=self.symbols, clock="pixel")
            for w in (to_gates, to_m)
        )
        if self.condition is not None:
            of_class = [p.one_of_classes(p.fold(self.condition.weight, w)) for w in (to_gates, to_m)]
            gates, factors = p.add(gates, of_class[0]), p.add(factors, of_class[1])
        cell, hidden = p.memory(self.width), p.memory(self.width)
        m = p.multiply(
            factors, p.dense(p.at(hidden, columns=-1), weight=self.mh.in_program(p), clock="pixel")
        )
        gates = p.add(p.dense(m, weight=self.m.in_program(p), bias=self.bias), gates)
        h = p.lstm(gates, cell, hidden)
        return [p.dense(h, weight=self.out.weight.T, bias=self.out.bias)]

    def _weights(self) -> list[Tensor]:
        """The four normalised matrices: of x to the gates and to m, of m to the gates, of h to m."""
        return [normed() for normed in (self.x, self.mx, self.m, self.mh)]

    def _run(
        self,
        inputs: Tensor,
        state: Tensor | None,
        context: Tensor | None,
        kept: Tensor | None = None,
        weights: Any = None,
    ):
        """inputs (B, T) of 0..K, K for "nothing yet" -> logits (B, T, K) and the new state."""
        state = self.rest(len(inputs)) if state is None else state
        kept = None if kept is None else kept.T[..., None].to(state)  # (T, B, 1)
        w_x, w_mx, w_m, w_mh = self._weights() if weights is None else weights
        x, index = self._inputs(inputs.T, context)
        gates, factors = ((x @ w).to(state) for w in (w_x, w_mx))
        mask = self.drop_recurrent(torch.ones_like(state[0])) if self._masks() else None
        h, state = multiplicative_lstm(gates + self.bias, factors, w_m, w_mh, state, kept, index, mask)
        return self.out(self.drop(h.transpose(0, 1))), state

    def _masks(self) -> bool:
        """Whether the recurrence is dropped from now."""
        return self.training and self.drop_recurrent.p > 0

    def _inputs(self, symbols: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x of symbols (T, B) and classes (B,) or (B, T): rows (K + 1, D) and their index, or (T, B, D) and None."""
        if self.condition is None and symbols.numel() > self.symbols:
            return self.embed.weight, symbols
        x = self.embed(symbols)
        return x if context is None or self.condition is None else x + self.condition(context.t()), None


class Normalised(nn.Module):
    """A matrix (in, out) of directions and lengths: each column is g v / ‖v‖."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.v = nn.Parameter(
            torch.randn(inputs, outputs) * inputs**-0.5
        )  # lengths near 1: they set the pace
        self.g = nn.Parameter(torch.ones(1, outputs))

    def forward(self) -> Tensor:
        return F.normalize(self.v, dim=0) * self.g

    def in_program(self, p) -> np.ndarray:
        """The matrix of correctly rounded operations in a fixed order: the same bits everywhere."""
        v, g = (w.detach().cpu().numpy() for w in (self.v, self.g))
        squares = p.fold(np.ones((1, len(v))), v * v)
        return v * (g / np.maximum(np.sqrt(squares), squares.dtype.type(1e-12)))  # as F.normalize
