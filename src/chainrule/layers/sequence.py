"""LSTMs along a sequence, plain and multiplicative, that are given a state and give one back.

Step by step only the recurrence itself is computed: what a symbol says to the gates is looked up in a table, and the
gradient by a weight is one product over all steps.

    T time, B batch, h units, K symbols; a state (2, B, h) is the cells and the hidden units
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.errors import ChainruleError
from chainrule.layers.carried import CHUNK, Carried
from chainrule.layers.recurrence import LSTM
from chainrule.model import Code

TOGETHER = 128  # events whose states are computed side by side
CELL = LSTM()


class Recurrent(Carried):
    """A carried chain whose state is that of LSTMs: the cells and the hidden units of each (abstract)."""

    def start(self, batch: int, event: tuple[int, ...], context: Tensor | None = None):
        return {"batch": batch, "context": context, "lstm": None}

    def step(self, state, symbol: Tensor | None = None):
        """One step of the recurrence: its cost does not grow with what came before."""
        if symbol is None:
            symbol = torch.full((state["batch"],), self.symbols)
        logits, state["lstm"] = self._run(symbol.long()[:, None], state["lstm"], state["context"])
        return logits[:, 0], state

    def cells(self, x: Sequence[Any] | Tensor, context: Tensor | None = None) -> Tensor:
        """The cells (N, h) of the LSTM after the last symbol of each event: what it kept of the whole of it.

        Not the hidden units, which are what of them the output gate lets through. Radford, Jozefowicz & Sutskever
        (2017, section 3.1) take the cells of a multiplicative LSTM as features of a text.

        Args:
            x: N events of integers, of any lengths: each has the cells that it would have alone, since nothing is
                filled up. An event without symbols has those after "nothing yet".
            context: (N,) classes, for a chain that is conditioned on them.

        Returns:
            A row an event; of several layers h cells each, the first layer first.

        Example:
            >>> from chainrule.chains.mlstm import MultiplicativeLSTM
            >>> chain = MultiplicativeLSTM(symbols=5, width=16, embed=8)
            >>> chain.cells([torch.tensor([1, 2, 3]), torch.tensor([4])]).shape
            torch.Size([2, 16])
        """
        inputs = [self._with_start(event) for event in x]
        longest_first = sorted(range(len(inputs)), key=lambda i: -len(inputs[i]))
        found: dict[int, Tensor] = {}
        for start in range(0, len(inputs), TOGETHER):
            index = longest_first[start : start + TOGETHER]
            classes = None if context is None else context[index]
            found |= zip(index, self._last_cells([inputs[i] for i in index], classes), strict=True)
        return torch.stack([found[i] for i in range(len(inputs))]) if found else cells_in(self.rest(0))

    def cells_along(self, x: Any, context: Tensor | None = None) -> Tensor:
        """The cells (T, h) after each symbol of one event of T symbols; the last row is that of `cells`.

        Args:
            x: integers of any shape, T of them in C order.
            context: () or (1,), its class.

        Example:
            >>> from chainrule.chains.mlstm import MultiplicativeLSTM
            >>> chain, x = MultiplicativeLSTM(symbols=5, width=16, embed=8), torch.tensor([1, 2, 3])
            >>> torch.allclose(chain.cells_along(x)[-1], chain.cells(x[None])[0], atol=1e-6)
            True
        """
        context = None if context is None else context.reshape(1)
        inputs = self._with_start(x)
        state: Any = None
        weights, along = self._weights(), []
        for symbol in inputs:
            _, state = self._run(symbol.reshape(1, 1), state, context, weights=weights)
            along.append(cells_in(state)[0])
        return torch.stack(along[1:]) if len(along) > 1 else cells_in(self.rest(0))

    def _with_start(self, x: Any) -> Tensor:
        """The symbols of an event in C order after "nothing yet": (1 + T,) int64."""
        return F.pad(torch.as_tensor(x).reshape(-1).long(), (1, 0), value=self.symbols)

    def _last_cells(self, inputs: list[Tensor], context: Tensor | None) -> list[Tensor]:
        """The cells at the end of each of the inputs, the longest of which comes first.

        All go on side by side to the end of the shortest, which then leaves; so no step is made in vain.
        """
        state: Any = None
        weights = self._weights()
        done, found = 0, list[Tensor]()
        lengths = np.array([len(one) for one in inputs])
        for end in np.unique(lengths):
            going = int((lengths >= end).sum())  # the first so many
            classes = None if context is None else context[:going]
            state = None if state is None else state[..., :going, :]
            step = max(1, CHUNK // going)
            for begin in range(done, end, step):
                here = torch.stack([one[begin : min(begin + step, end)] for one in inputs[:going]])
                _, state = self._run(here, state, classes, weights=weights)
            last = cells_in(state)[int((lengths > end).sum()) : going]
            done, found = end, [*last, *found]
        return found


class Cells(Code):
    """The final cells of a recurrent chain as features of events of any lengths: `chainrule encode` and `probe` use it.

    The chain has learned already: there is nothing to fit, and no way back.

    Args:
        chain: a `Recurrent` that is conditioned on nothing. One that was told the class would be told the answer.

    Raises:
        ChainruleError: the chain is conditioned on classes, or an event has symbols that it does not know.

    Example:
        >>> from chainrule.chains.mlstm import MultiplicativeLSTM
        >>> code = Cells(MultiplicativeLSTM(symbols=256, width=16, embed=8))
        >>> code.transform([np.frombuffer(text, np.uint8) for text in (b"good", b"not so good")]).shape
        (2, 16)
    """

    RAGGED = True

    def __init__(self, chain: Recurrent):
        if chain.classes:
            raise ChainruleError(
                f"the chain is conditioned on {chain.classes} classes, so its cells would know the class of an event: "
                "fit it without --conditional"
            )
        self.chain = chain

    def fit(self, X, y=None):
        """Nothing is left to learn."""
        return self

    def transform(self, X) -> np.ndarray:
        """Events of integers, of any shapes -> (n, h) cells, float32."""
        chain = self.chain
        largest = max((int(np.max(x)) for x in X if np.size(x)), default=0)
        if largest >= chain.symbols:
            raise ChainruleError(
                f"an event has the symbol {largest}, the chain knows 0 to {chain.symbols - 1}: was it fitted on other "
                "data?"
            )
        chain.eval()
        with torch.inference_mode():
            return chain.cells([torch.from_numpy(np.asarray(x).astype(np.int64)) for x in X]).float().numpy()


def cells_in(state: Tensor) -> Tensor:
    """The cells (B, h) of a state (2, B, h), or those of all layers (B, layers · h) of (layers, 2, B, h)."""
    cells = state.select(-3, 0)
    return cells if cells.ndim == 2 else cells.movedim(0, 1).flatten(1)


def lstm(
    inputs: Tensor,
    weight: Tensor,
    state: Tensor,
    kept: Tensor | None = None,
    index: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Hidden units (T, B, h) of an LSTM (Hochreiter & Schmidhuber 1997), and the state after the last step.

        i, f, g, o = inputs[t] + h W        c = σ(f) c + σ(i) tanh(g)        h = σ(o) tanh(c)

    Args:
        inputs: (T, B, 4 h), or rows (R, 4 h) of which step t takes those at index[t].
        weight: W (h, 4 h).
        state: (2, B, h).
        kept: (T, B, 1), 0 where a sequence begins: what came before that step is forgotten; else 1.
        index: (T, B) of 0..R-1.
        mask: (B, h), times h in h W, at every step the same: dropout of the recurrence (Gal & Ghahramani 2016).
    """
    return over_time(inputs, None, weight, None, state, kept, index, mask)


def multiplicative_lstm(
    inputs: Tensor,
    factors: Tensor,
    weight: Tensor,
    mix: Tensor,
    state: Tensor,
    kept: Tensor | None = None,
    index: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `lstm`, the gates given m in the place of h (Krause et al. 2016, equations 16 to 20).

        m = factors[t] ∘ (h M)        i, f, g, o = inputs[t] + m W

    Args:
        inputs, factors: (T, B, 4 h) and (T, B, h), or rows: what a symbol says to the gates, and to m.
        weight, mix: W (h, 4 h), M (h, h).
        mask: (B, h), times h in h M.
    """
    return over_time(inputs, factors, weight, mix, state, kept, index, mask)


def first_gates(
    stack: nn.LSTM,
    table: Tensor | None,
    symbols: Tensor,
    condition: Tensor | None = None,
    context: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """What symbols (T, B) say to the gates of the first layer of `stack`.

    Args:
        table: (K, n), what stands for each symbol; None: one-hot.
        condition: (classes, n), added for the classes `context` (B,) or (B, T).

    Returns:
        (T, B, 4 h) and None; or, of more symbols than there are, the rows (K, 4 h) of all of them and their index.
    """
    w, _, b_x, b_h = stack.all_weights[0]
    if table is not None and symbols.numel() < len(table):
        z, index = F.linear(F.embedding(symbols, table), w), None
    else:
        z, index = w.T if table is None else F.linear(table, w), symbols
    z = z + (b_x + b_h)
    if condition is None or context is None:
        return z, index
    z = z if index is None else F.embedding(index, z)
    return z + F.linear(condition, w)[context.t()], None


def stacked(
    stack: nn.LSTM,
    gates: tuple[Tensor, Tensor | None],
    state: Tensor,
    kept: Tensor | None = None,
    training: bool = False,
) -> tuple[Tensor, Tensor]:
    """Hidden units (T, B, h) of the last of several LSTMs, each of which reads the one below, and the state of all.

    Args:
        gates: what `first_gates` gave.
        state: (layers, 2, B, h).
        kept: as `lstm` takes it.
        training: whether what goes from layer to layer is dropped in part.
    """
    (z, index), after = gates, list[Tensor]()
    h = z
    for (w_x, w_h, b_x, b_h), own in zip(stack.all_weights, state, strict=True):
        if after:
            h = F.dropout(h, stack.dropout, training)
            z, index = F.linear(h, w_x, b_x + b_h).to(h.dtype), None
        h, last = lstm(z, w_h.T, own, kept, index)  # (T, B, h)
        after.append(last)
    return h, torch.stack(after)


def stacked_program(
    p: Any, stack: nn.LSTM, x: Any, clock: str = "pixel", before: Callable[[Any, int], Any] | None = None
) -> list[Any]:
    """`stacked` in a step program: the cells and hidden units of each layer.

    Args:
        x: what a symbol says to the gates of the first layer, without a bias.
        before: (memory, i) -> what the i-th of the results was before; by default a place to the left.
    """
    states: list[Any] = []
    for layer, (w_x, w_h, b_x, b_h) in enumerate(stack.all_weights):
        memories = [p.memory(stack.hidden_size, clock) for _ in range(2)]
        cell, hidden = (
            before(m, 2 * layer + i) if before else p.at(m, columns=-1) for i, m in enumerate(memories)
        )
        if layer == 0:
            gates = p.add(p.dense(hidden, weight=w_h.T, bias=b_x + b_h), x)
        else:
            gates = p.dense(states[-1], hidden, weight=torch.cat([w_x.T, w_h.T]), bias=b_x + b_h)
        p.lstm(gates, *memories, before=cell)
        states += memories
    return states


@torch.compiler.disable  # a compiler would unroll the steps
def over_time(*parts: Tensor | None) -> tuple[Tensor, Tensor]:
    """The products of the recurrence are in bfloat16 where a training is mixed, the states in single precision."""
    mixed = torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", enabled=False):
        return OverTime.apply(*parts, mixed)


class OverTime(torch.autograd.Function):
    """The recurrence with its gradient written out; a step is a few operations, and none of them is recorded."""

    @staticmethod
    def forward(ctx: Any, inputs, factors, weight, mix, state, kept, index, mask, half):
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
            before[t] = masked(known(hidden, kept, t), mask)
            if mix is not None:
                torch.mm(before[t], m, out=mixed[t])
                torch.mul(rows(factors, index, t), mixed[t], out=sources[t])
            here = rows(inputs, index, t) + sources[t] @ w
            CELL.forward(here, [known(cells, kept, t)], cells[t + 1], hidden[t + 1])
            gates.append(here)
        ctx.save_for_backward(factors, weight, mix, kept, index, mask, cells, before, sources, mixed, *gates)
        ctx.rows = None if index is None else len(inputs)
        return hidden[1:], torch.stack([cells[-1], hidden[-1]])

    @staticmethod
    def backward(ctx: Any, by_output, by_state):
        factors, weight, mix, kept, index, mask, cells, before, sources, mixed, *gates = ctx.saved_tensors
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
            by_hidden = masked(by_hidden, mask)
            if kept is not None:
                by_hidden, by_cells = by_hidden * kept[t], by_cells * kept[t]
        by_weight = over_all(sources, by_gates).to(weight.dtype)
        by_mix = None if mix is None else over_all(before, by_mixed).to(mix.dtype)
        by_state = torch.stack([by_cells, by_hidden.to(by_cells.dtype)])
        return by_inputs.to(weight.dtype), by_factors, by_weight, by_mix, by_state, *[None] * 4


def known(states: Tensor, kept: Tensor | None, t: int) -> Tensor:
    """The states (B, h) before step t, zeros where a sequence begins."""
    return states[t] if kept is None else states[t] * kept[t]


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x times a mask, if there is one."""
    return x if mask is None else x * mask


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
