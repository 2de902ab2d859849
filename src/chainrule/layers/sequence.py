"""LSTMs along a sequence, plain and multiplicative, that are given a state and give one back.

Step by step only the recurrence itself is computed: what a symbol says to the gates is looked up in a table, and the
gradient by a weight is one product over all steps.

    T time, B batch, h units, K symbols; a state (2, B, h) is the cells and the hidden units
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from chainrule.layers.recurrence import LSTM
from chainrule.model import CARRIED, Chain, pick

CHUNK = 2048  # symbols scored at a time: what a long text needs would not fit into memory at once
CELL = LSTM()


class Recurrent(Chain):
    """A chain over events of any shape, symbol by symbol, that a state sums up (abstract).

    A concrete one states `rest(batch)`, the state before the first symbol, and

        _run(before (B, T), state, context, kept (B, T) or None) -> logits (B, T, K), state

    where a symbol of `before` is K when nothing came before, and the state is zero where `kept` is not.
    """

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return {"symbols": data.levels, "classes": len(data.classes)}

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, *event) -> (B, *event, K)."""
        before = before_each(x.flatten(1).long(), self.symbols)
        return self._run(before, None, context)[0].reshape(*x.shape, self.symbols)

    def log_probs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p of every symbol (B, *event) in nats, float64; the state is carried from chunk to chunk."""
        flat = x.flatten(1).long()
        size = max(1, CHUNK // max(1, len(x)))
        stretches = zip(self.stretches(x, context, size), flat.split(size, 1), strict=True)
        return torch.cat([pick(logits, part) for logits, part in stretches], 1).reshape(x.shape)

    def stretches(self, x: Tensor, context: Tensor | None = None, size: int = CHUNK) -> Iterator[Tensor]:
        """The logits (B, size, K) of one stretch after another; the state is carried on."""
        state, weights = None, self._weights()
        for before in before_each(x.flatten(1).long(), self.symbols).split(size, 1):
            logits, state = self._run(before, state, context, weights=weights)
            yield logits

    def _weights(self) -> Any:
        """What `_run` makes of the parameters and does not change from stretch to stretch, if anything."""
        return None

    def context_rule(self) -> str:
        """The state goes on from chunk to chunk, to the end of the event."""
        return CARRIED

    @abstractmethod
    def rest(self, batch: int) -> Tensor:
        """The state before the first symbol."""

    @abstractmethod
    def _run(
        self,
        before: Tensor,
        state: Tensor | None,
        context: Tensor | None,
        kept: Tensor | None = None,
        weights: Any = None,
    ) -> tuple[Tensor, Tensor]: ...

    def loss_from(
        self, state: Tensor, x: Tensor, before: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The mean −log p of x (B, T) in nats, going on from `state`; and the state after it.

        Args:
            before: (B, T) what came before each symbol, −1 where nothing did: there the state is zero.
            context: (B, T) classes.
        """
        begins = before < 0
        logits, state = self._run(before.masked_fill(begins, self.symbols), state, context, ~begins)
        return F.cross_entropy(logits.flatten(0, 1), x.flatten().long()), state


def lstm(
    inputs: Tensor, weight: Tensor, state: Tensor, kept: Tensor | None = None, index: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Hidden units (T, B, h) of an LSTM (Hochreiter & Schmidhuber 1997), and the state after the last step.

        i, f, g, o = inputs[t] + h W        c = σ(f) c + σ(i) tanh(g)        h = σ(o) tanh(c)

    Args:
        inputs: (T, B, 4 h), or rows (R, 4 h) of which step t takes those at index[t].
        weight: W (h, 4 h).
        state: (2, B, h).
        kept: (T, B, 1), 0 where a sequence begins: what came before that step is forgotten; else 1.
        index: (T, B) of 0..R-1.
    """
    return over_time(inputs, None, weight, None, state, kept, index)


def multiplicative_lstm(
    inputs: Tensor,
    factors: Tensor,
    weight: Tensor,
    mix: Tensor,
    state: Tensor,
    kept: Tensor | None = None,
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `lstm`, the gates given m in the place of h (Krause et al. 2016, equations 16 to 20).

        m = factors[t] ∘ (h M)        i, f, g, o = inputs[t] + m W

    Args:
        inputs, factors: (T, B, 4 h) and (T, B, h), or rows: what a symbol says to the gates, and to m.
        weight, mix: W (h, 4 h), M (h, h).
    """
    return over_time(inputs, factors, weight, mix, state, kept, index)


@torch.compiler.disable  # a compiler would unroll the steps
def over_time(*parts: Tensor | None) -> tuple[Tensor, Tensor]:
    """The products of the recurrence are in bfloat16 where a training is mixed, the states in single precision."""
    mixed = torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", enabled=False):
        return OverTime.apply(*parts, mixed)


class OverTime(torch.autograd.Function):
    """The recurrence with its gradient written out; a step is a few operations, and none of them is recorded."""

    @staticmethod
    def forward(ctx: Any, inputs, factors, weight, mix, state, kept, index, half):
        short = torch.bfloat16 if half else inputs.dtype  # of what is multiplied
        w = weight.to(short)
        m: Any = None if mix is None else mix.to(short)
        steps = len(inputs if index is None else index)
        cells, hidden = state.new_empty(2, steps + 1, *state.shape[1:]).unbind()
        cells[0], hidden[0] = state
        before = hidden.new_empty(hidden[1:].shape, dtype=short)  # h, zero where a sequence begins
        sources: Any = before if mix is None else torch.empty_like(before)  # m, or h
        mixed: Any = None if mix is None else torch.empty_like(before)  # h M
        gates = []
        for t in range(steps):
            before[t] = known(hidden, kept, t)
            if mix is not None:
                torch.mm(before[t], m, out=mixed[t])
                torch.mul(rows(factors, index, t), mixed[t], out=sources[t])
            here = rows(inputs, index, t) + sources[t] @ w
            CELL.forward(here, [known(cells, kept, t)], cells[t + 1], hidden[t + 1])
            gates.append(here)
        ctx.save_for_backward(factors, weight, mix, kept, index, cells, before, sources, mixed, *gates)
        ctx.rows = None if index is None else len(inputs)
        return hidden[1:], torch.stack([cells[-1], hidden[-1]])

    @staticmethod
    def backward(ctx: Any, by_output, by_state):
        factors, weight, mix, kept, index, cells, before, sources, mixed, *gates = ctx.saved_tensors
        short = before.dtype
        w, m = weight.T.to(short), mix if mix is None else mix.T.to(short)
        by_gates = before.new_empty(len(gates), *gates[0].shape)
        by_inputs = by_gates if index is None else by_output.new_zeros(ctx.rows, by_gates.shape[-1])
        by_factors: Any = None if mix is None else torch.zeros_like(factors)
        by_mixed: Any = None if mix is None else torch.empty_like(mixed)
        by_cells, by_hidden = by_state
        for t in range(len(gates) - 1, -1, -1):
            here = gates[t], [known(cells, kept, t)], cells[t + 1]
            found, (by_cells,) = CELL.backward(*here, by_output[t] + by_hidden, by_cells)
            by_gates[t] = found
            if index is not None:
                by_inputs.index_add_(0, index[t], found)
            by_hidden = by_gates[t] @ w
            if mix is not None:
                add_rows(by_factors, index, t, by_hidden * mixed[t])
                torch.mul(by_hidden, rows(factors, index, t), out=by_mixed[t])
                by_hidden = by_mixed[t] @ m
            if kept is not None:
                by_hidden, by_cells = by_hidden * kept[t], by_cells * kept[t]
        by_weight = over_all(sources, by_gates).to(weight.dtype)
        by_mix = None if mix is None else over_all(before, by_mixed).to(mix.dtype)
        by_state = torch.stack([by_cells, by_hidden.to(by_cells.dtype)])
        return by_inputs.to(weight.dtype), by_factors, by_weight, by_mix, by_state, None, None, None


def known(states: Tensor, kept: Tensor | None, t: int) -> Tensor:
    """The states (B, h) before step t, zeros where a sequence begins."""
    return states[t] if kept is None else states[t] * kept[t]


def rows(x: Tensor, index: Tensor | None, t: int) -> Tensor:
    """What step t is given: x[t], or the rows of x at index[t]."""
    return x[t] if index is None else x.index_select(0, index[t])


def add_rows(x: Tensor, index: Tensor | None, t: int, y: Tensor) -> None:
    """The gradient of `rows`: add y where they were taken from."""
    if index is None:
        x[t] += y
    else:
        x.index_add_(0, index[t], y.to(x.dtype))


def over_all(x: Tensor, y: Tensor) -> Tensor:
    """Σ x yᵀ over time and batch: (T, B, n), (T, B, m) -> (n, m)."""
    return x.flatten(0, 1).T @ y.flatten(0, 1)


def before_each(x: Tensor, nothing: int) -> Tensor:
    """The symbol before each of x (B, T), `nothing` before the first.

    >>> before_each(torch.tensor([[1, 2, 3]]), nothing=9).tolist()
    [[9, 1, 2]]
    """
    return torch.cat([torch.full_like(x[:, :1], nothing), x[:, :-1]], 1)
