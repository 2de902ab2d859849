"""Layers of self-attention, and what they are in a step program."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SPREAD = 0.02  # standard deviation of the weights at the start


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
        seen = attended(self.ask(self.ask_norm(u)), self.heads, mask, self.dropout if self.training else 0.0)
        u = u + self._dropped(self.answer(seen))
        hidden = F.gelu(self.up(self.up_norm(u)), approximate="tanh")
        return u + self._dropped(self.down(hidden))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def program(self, p, u, window: int):
        seen = attended_program(p, norm_program(p, u, self.ask_norm), self.ask, self.heads, window)
        u = p.add(u, dense_program(p, seen, self.answer))
        hidden = p.pointwise("gelu", dense_program(p, norm_program(p, u, self.up_norm), self.up))
        return p.add(u, dense_program(p, hidden, self.down))


def attended(x: Tensor, heads: int, mask: Tensor | None, dropout: float) -> Tensor:
    """Queries, keys and values (R, S, 3 D), shared by `heads` -> what is seen (R, S, D); see `PreNorm` for `mask`."""
    q, k, v = x.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (R, heads, S, d) each
    seen = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)
    return seen.transpose(1, 2).flatten(2)


def attended_program(p, x, ask: nn.Linear, heads: int, window: int):
    """The same of `ask(x)` as operations of a step program, in blocks of `window` positions."""
    biases = [None] * 3 if ask.bias is None else ask.bias.chunk(3)
    parts = zip(ask.weight.chunk(3), biases, strict=True)
    q, k, v = (p.dense(x, weight=weight.T, bias=bias) for weight, bias in parts)
    return p.attend(q, k, v, heads, pattern="block", length=window)


def start_small(model: nn.Module, adds: int, adding: tuple[str, ...] = ("answer", "down")) -> None:
    """Normal weights; of the `adds` modules that add to u, with names that end in one of `adding`, smaller ones.

    So u has the same size after any number of layers (Radford et al. 2019, section 2.3).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            less = adds**-0.5 if name.endswith(adding) else 1.0
            nn.init.normal_(module.weight, std=SPREAD * less)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def norm_program(p, u, layer: nn.LayerNorm):
    """A `LayerNorm` as an operation of a step program."""
    return p.norm(u, layer.weight, torch.zeros_like(layer.weight) if layer.bias is None else layer.bias)


def dense_program(p, x, layer: nn.Linear):
    """A `Linear` as an operation of a step program."""
    return p.dense(x, weight=layer.weight.T, bias=layer.bias)
