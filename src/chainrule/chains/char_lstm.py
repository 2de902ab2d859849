"""Character RNN: an LSTM over bytes (Hochreiter & Schmidhuber 1997; Graves 2013)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chainrule.model import Chain, check_sizes, pick

CHUNK = 2048  # symbols scored at a time: the logits of a long text would not fit into memory at once


class CharLSTM(Chain):
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
    TRAINING = {"batch": 16, "lr": 3e-3, "window": 128}

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

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return {"symbols": data.levels, "classes": len(data.classes)}

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, T) -> (B, T, K)."""
        flat = x.reshape(len(x), -1).long()
        before = torch.cat([torch.full_like(flat[:, :1], self.symbols), flat[:, :-1]], 1)
        return self._run(before, None, context)[0].reshape(*x.shape, self.symbols)

    def log_probs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p of every symbol (B, T) in nats, float64; the state is carried from chunk to chunk."""
        flat, state = x.reshape(len(x), -1).long(), None
        before = torch.cat([torch.full_like(flat[:, :1], self.symbols), flat[:, :-1]], 1)
        parts = []
        for i in range(0, flat.shape[1], CHUNK):
            logits, state = self._run(before[:, i : i + CHUNK], state, context)
            parts.append(pick(logits, flat[:, i : i + CHUNK]))
        return torch.cat(parts, 1).reshape(x.shape) if parts else x.double()

    def start(self, batch: int, event: tuple[int, ...], context: Tensor | None = None):
        return {"batch": batch, "context": context, "lstm": None}

    def step(self, state, symbol: Tensor | None = None):
        """One step of the recurrence: its cost does not grow with what came before."""
        if symbol is None:
            symbol = torch.full((state["batch"],), self.symbols)
        logits, state["lstm"] = self._run(symbol.long()[:, None], state["lstm"], state["context"])
        return logits[:, 0], state

    def program(self, p):
        """The recurrence; what the first layer makes of a symbol is a table."""
        z = self.embed.weight if self.embed else torch.eye(self.symbols + 1)
        x = p.embed(p.fold(z, self.lstm.weight_ih_l0.T), columns=-1, outside=self.symbols, clock="pixel")
        if self.condition is not None:
            x = p.add(x, p.one_of_classes(p.fold(self.condition.weight, self.lstm.weight_ih_l0.T)))
        h = None
        for layer in range(self.lstm.num_layers):
            w_x, w_h, b_x, b_h = self.lstm.all_weights[layer]
            cell, hidden = p.memory(self.width), p.memory(self.width)
            before = p.at(hidden, columns=-1)
            if layer == 0:
                gates = p.add(p.dense(before, weight=w_h.T, bias=b_x + b_h), x)
            else:
                gates = p.dense(h, before, weight=torch.cat([w_x.T, w_h.T]), bias=b_x + b_h)
            h = p.lstm(gates, cell, hidden)
        return [p.dense(h, weight=self.out.weight.T, bias=self.out.bias)]

    def _run(self, inputs: Tensor, state, context: Tensor | None):
        """inputs (B, T) of 0..K, K for "nothing yet" -> logits (B, T, K) and the new state."""
        one_hot = nn.functional.one_hot
        weight = self.out.weight
        z = self.embed(inputs) if self.embed else one_hot(inputs, self.symbols + 1).to(weight)  # (B, T, D)
        if self.condition is not None:
            z = z + self.condition(context)[:, None]
        h, state = self.lstm(z, state)
        return self.out(self.drop(h)), state
