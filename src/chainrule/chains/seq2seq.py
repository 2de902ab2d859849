"""Sequence to sequence (Sutskever, Vinyals & Le 2014, "Sequence to sequence learning with neural networks")."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chainrule.layers.attention import dense_program
from chainrule.layers.carried import before_each
from chainrule.layers.sequence import Recurrent, first_gates, stacked, stacked_program
from chainrule.layers.translation import (
    check_condition,
    check_source,
    for_pairs,
    lengths_of,
    log_probs_of,
    loss_of,
)
from chainrule.model import check_sizes


class Seq2Seq(Recurrent):
    """p(target | source) by two LSTMs: one reads the source, and the other goes on from its state, symbol by symbol.

    With v the state (cells and hidden units of all layers) in which the first LSTM ends, s_t the symbol before
    position t, E and E' tables,

        v = LSTM'(E'[source_S], ..., E'[source_1])          from the last symbol to the first (section 3.3)
        h_t, state_t = LSTM(E[s_t], state_{t-1})            state_0 = v
        logits_t = W h_t + b

    Backwards, because the first symbols of the source are then near those of the target that they decide. All that the
    target is told of the source is v, as many numbers of a long one as of a short one. Cost is linear in both lengths.

    Args:
        symbols: K, 256 for bytes.
        width: h, cells of each layer.
        layers: stacked LSTM layers, in either LSTM.
        embed: size of the learned vector that stands for a symbol.
        source: symbols of the source text, which `context` (B, S) then is, -1 beyond the end; 0: a language model, by
            the second LSTM alone, which begins with zeros.
        dropout: share of the units dropped between layers and before the output, in training.
        classes: number of classes in `context` of a language model (an embedding is added to every input); 0: none.

    Example:
        >>> chain = Seq2Seq(symbols=5, source=4, **Seq2Seq.SIZES["tiny"])
        >>> chain.log_prob(torch.zeros(2, 7, dtype=torch.long), torch.tensor([[1, 2, 3], [3, -1, -1]])).shape
        torch.Size([2])
    """

    SIZES = {
        "tiny": {"width": 6, "embed": 5},
        "laptop": {"width": 512, "embed": 128},
        # Section 3.4. The words of the paper: symbols=80_000, source=160_000; that makes 384 M parameters.
        "paper": {"width": 1000, "layers": 4, "embed": 1000},
    }
    KINDS = ("text", "array")
    # a compiler has nothing to gain: the steps of the recurrence are operations of their own
    TRAINING = {"batch": 32, "lr": 1e-2, "window": 64, "bfloat16": True, "carry": True, "compile": False}

    def __init__(
        self,
        symbols: int = 256,
        width: int = 512,
        layers: int = 2,
        embed: int = 128,
        source: int = 0,
        dropout: float = 0.0,
        classes: int = 0,
    ):
        super().__init__()
        check_sizes(dropout, symbols=symbols, width=width, layers=layers, embed=embed)
        check_condition(source, classes)
        self.symbols, self.width, self.source, self.classes = symbols, width, source, classes
        self.features = 2 * layers * width if source else 0
        between = dropout if layers > 1 else 0.0
        self.embed = nn.Embedding(symbols + 1, embed)  # the last row: "nothing yet"
        self.writer = nn.LSTM(embed, width, layers, dropout=between)
        self.drop, self.out = nn.Dropout(dropout), nn.Linear(width, symbols)
        self.condition = nn.Embedding(classes, embed) if classes else None
        if source:
            self.sources = nn.Embedding(source, embed)
            self.reader = nn.LSTM(embed, width, layers, dropout=between)

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return super().configure(data) if data.sources is None else for_pairs(data)

    def context_rule(self) -> str:
        """The state goes on to the end of the event, and begins as that of the source."""
        return super().context_rule() + (", and the source text" if self.source else "")

    def rest(self, batch: int) -> Tensor:
        """The state (layers, 2, B, h) before the first symbol of a language model."""
        return self.out.weight.new_zeros(self.writer.num_layers, 2, batch, self.width)

    # ---- logits ------------------------------------------------------------------------------------------------

    def stretches(self, x: Tensor, context: Tensor | None = None, *size: int):
        """The logits (B, size, K) of one stretch after another; targets may have -1 beyond their ends."""
        yield from super().stretches(x.clamp(min=0), context, *size)

    def log_probs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p of every symbol (B, *event) in nats, float64; of what stands beyond the end of a target 0."""
        return log_probs_of(self.logits(x, context), x) if self.source else super().log_probs(x, context)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean -log p of a symbol in nats; targets may have -1 beyond their ends."""
        x = x.flatten(1).long()
        return loss_of(self._run(before_each(x.clamp(min=0), self.symbols), None, context)[0], x)

    def _run(
        self,
        before: Tensor,
        state: Tensor | None,
        context: Tensor | None,
        kept: Tensor | None = None,
        weights: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """before (B, T) of 0..K, K for "nothing yet" -> logits (B, T, K) and the new state."""
        if state is None:
            state = self.encode(context) if self.source else self.rest(len(before))
        kept = None if kept is None else kept.T[..., None].to(state)  # (T, B, 1)
        condition = None if self.condition is None else self.condition.weight
        gates = first_gates(self.writer, self.embed.weight, before.T, condition, context)
        h, state = stacked(self.writer, gates, state, kept, self.training)
        return self.out(self.drop(h.transpose(0, 1))), state

    # ---- the source --------------------------------------------------------------------------------------------

    def encode(self, context: Tensor | None) -> Tensor:
        """Sources (B, S), -1 beyond their ends -> the state (layers, 2, B, h) after them; zeros of an empty one."""
        symbols, begins, full = self._places(context)
        kept = (~begins).flip(1).T[..., None].to(self.out.weight)  # (S, B, 1): the last symbol comes first
        gates = first_gates(self.reader, self.sources.weight, symbols.flip(1).T)
        _, state = stacked(self.reader, gates, self.rest(len(symbols)), kept, self.training)
        return state * full[:, None]

    def told(self, context: Tensor | None) -> Tensor:
        """What the program that reads is given at each place, (B, L, embed + 2): a row of a table, and two flags.

        They are 0 where the reading begins; and 1 where it ends, at place 0 of a source that is not empty.
        """
        symbols, begins, full = self._places(context)
        ends = full[:, None] & (torch.arange(symbols.shape[1], device=symbols.device) == 0)
        flags = torch.stack([~begins, ends], -1).to(self.out.weight)
        return torch.cat([self.sources(symbols), flags], -1)

    def _places(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The symbols (B, L >= 1), any beyond the ends; where the reading begins (B, L); which are not empty (B,)."""
        check_source(self.source, context)
        assert context is not None
        symbols = nn.functional.pad(context.long(), (0, int(not context.shape[1])), value=-1)
        lengths = lengths_of(symbols)
        begins = torch.arange(symbols.shape[1], device=symbols.device) == lengths[:, None] - 1
        return symbols.clamp(min=0), begins, lengths > 0

    # ---- step programs -----------------------------------------------------------------------------------------

    def encoder(self, p):
        """The source from its last place to its first, where the logits are the state that is reached; else zeros."""
        told = p.given_features()
        size = told.width - 2
        goes_on = p.dense(told[size : size + 1], weight=torch.ones(1, self.width))
        ends = p.dense(told[size + 1 :], weight=torch.ones(1, self.features))
        x = p.dense(told[:size], weight=self.reader.weight_ih_l0.T)

        def before(memory, i):
            return p.multiply(p.at(memory, columns=1), goes_on)

        states = stacked_program(p, self.reader, x, "back", before)
        return p.multiply(p.concat(*states, clock="pixel"), ends)

    def program(self, p):
        """The recurrence of one position; at the first one the state before is what is given, and else nothing is."""
        w_x = self.writer.weight_ih_l0.T
        x = p.embed(p.fold(self.embed.weight, w_x), columns=-1, outside=self.symbols, clock="pixel")
        if self.condition is not None:
            x = p.add(x, p.one_of_classes(p.fold(self.condition.weight, w_x)))
        read = p.given_features() if self.source else None

        def before(memory, i):
            state = p.at(memory, columns=-1)
            return state if read is None else p.add(state, read[i * self.width : (i + 1) * self.width])

        return [dense_program(p, stacked_program(p, self.writer, x, before=before)[-1], self.out)]
