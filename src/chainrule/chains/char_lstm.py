"""Character RNN: an LSTM over bytes (Hochreiter & Schmidhuber 1997; Graves 2013)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chainrule.layers.attention import dense_program
from chainrule.layers.sequence import Recurrent, first_gates, stacked, stacked_program
from chainrule.model import check_sizes


class CharLSTM(Recurrent):
    """Texts of any length, a symbol at a time, everything before it summed up in the state of an LSTM.

    Args:
        symbols: K, 256 for bytes.
        width: units of each layer.
        layers: stacked LSTM layers.
        dropout: share of the units dropped between layers and before the output, in training.
        embed: size of the learned vector that stands for a symbol; 0: one-hot.
        classes: number of classes in `context` (an embedding added to every input); 0 is unconditional.

    Example:
        >>> chain = CharLSTM(symbols=5, **CharLSTM.SIZES["tiny"])
        >>> chain.log_prob(torch.zeros(2, 7, dtype=torch.long)).shape
        torch.Size([2])
    """

    SIZES = {
        "tiny": {"width": 8, "embed": 8},
        "laptop": {"width": 384},
        # Graves 2013, section 3.1: one layer of 1000 cells, one-hot characters (4.3 M weights with 49 symbols).
        "paper": {"width": 1000, "embed": 0},
    }
    KINDS = ("text", "array")
    # a compiler has nothing to gain: the steps of the recurrence are operations of their own
    TRAINING = {"batch": 64, "lr": 3e-3, "window": 32, "bfloat16": True, "carry": True, "compile": False}

    def __init__(
        self,
        symbols: int = 256,
        width: int = 384,
        layers: int = 1,
        dropout: float = 0.0,
        classes: int = 0,
        embed: int = 384,
    ):
        super().__init__()
        check_sizes(dropout, symbols=symbols, width=width, layers=layers)
        self.symbols, self.width, self.classes = symbols, width, classes
        inputs = embed or symbols + 1
        self.embed = nn.Embedding(symbols + 1, embed) if embed else None  # the last row: "nothing yet"
        self.lstm = nn.LSTM(inputs, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(width, symbols)
        self.condition = nn.Embedding(classes, inputs) if classes else None

    def rest(self, batch: int) -> Tensor:
        """The state (layers, 2, B, h) before the first symbol."""
        return self.out.weight.new_zeros(self.lstm.num_layers, 2, batch, self.width)

    def program(self, p):
        """The recurrence; what the first layer makes of a symbol is a table."""
        z = self.embed.weight if self.embed else torch.eye(self.symbols + 1)
        x = p.embed(p.fold(z, self.lstm.weight_ih_l0.T), columns=-1, outside=self.symbols, clock="pixel")
        if self.condition is not None:
            x = p.add(x, p.one_of_classes(p.fold(self.condition.weight, self.lstm.weight_ih_l0.T)))
        return [dense_program(p, stacked_program(p, self.lstm, x)[-1], self.out)]

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
        table = self.embed.weight if self.embed else None
        condition = None if self.condition is None else self.condition.weight
        gates = first_gates(self.lstm, table, inputs.T, condition, context)
        h, state = stacked(self.lstm, gates, state, kept, self.training)
        return self.out(self.drop(h.transpose(0, 1))), state
