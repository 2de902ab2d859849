"""Layers of self-attention, and what they are in a step program."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PreNorm(nn.Module):
    """Attention over the positions of a block, then a feed-forward layer: (R, S, D) -> the same."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ask_norm, self.up_norm = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
        self.ask = nn.Linear(width, 3 * width, bias=bias)  # queries, keys, values
        self.answer = nn.Linear(width, width, bias=bias)
        self.up, self.down = nn.Linear(width, 4 * width, bias=bias), nn.Linear(4 * width, width, bias=bias)

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask`: (R, 1, S, S) where a position may look; None: at its own and all before."""
        q, k, v = self.ask(self.ask_norm(u)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)
        u = u + self._dropped(self.answer(seen.transpose(1, 2).flatten(2)))  # (R, heads, S, d) -> (R, S, D)
        hidden = F.gelu(self.up(self.up_norm(u)), approximate="tanh")
        return u + self._dropped(self.down(hidden))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def program(self, p, u, window: int):
        n = norm_program(p, u, self.ask_norm)
        biases = [None] * 3 if self.ask.bias is None else self.ask.bias.chunk(3)
        q, k, v = (
            p.dense(n, weight=w.T, bias=b) for w, b in zip(self.ask.weight.chunk(3), biases, strict=True)
        )
        seen = p.attend(q, k, v, self.heads, pattern="block", length=window)
        u = p.add(u, dense_program(p, seen, self.answer))
        hidden = p.pointwise("gelu", dense_program(p, norm_program(p, u, self.up_norm), self.up))
        return p.add(u, dense_program(p, hidden, self.down))


def norm_program(p, u, layer: nn.LayerNorm):
    """A `LayerNorm` as an operation of a step program."""
    return p.norm(u, layer.weight, torch.zeros_like(layer.weight) if layer.bias is None else layer.bias)


def dense_program(p, x, layer: nn.Linear):
    """A `Linear` as an operation of a step program."""
    return p.dense(x, weight=layer.weight.T, bias=layer.bias)
