"""Layers of self-attention, and what they are in a step program.

On a processor PyTorch's own attention is slow on blocks as short as a laptop trains on, above all its gradient in
bfloat16: there it is written out.

    N items times heads, R blocks, S symbols of a block, D width, d = D / heads
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.errors import ChainruleError
from chainrule.layers.blocks import of_rows
from chainrule.layers.dropout import dropped, kept

LONGEST = 512  # symbols of a block whose shares (S, S) are kept for the gradient
CACHED = 1 << 18  # shares that are worked on at a time, so that they stay in the cache
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
        return dropped(x, self.dropout) if self.training else x

    def program(self, p, u, window: int):
        seen = attended_program(p, norm_program(p, u, self.ask_norm), self.ask, self.heads, window)
        u = p.add(u, dense_program(p, seen, self.answer))
        hidden = p.pointwise("gelu", dense_program(p, norm_program(p, u, self.up_norm), self.up))
        return p.add(u, dense_program(p, hidden, self.down))


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Σ_j softmax_j(q_t · k_j / √d) v_j of blocks (R, heads, S, d) -> the same shape.

    Args:
        mask: (R, 1, S, S) the j that t looks at; None: all up to t.
        dropout: the share of the shares that is dropped.
    """
    if q.device.type != "cpu" or torch.compiler.is_compiling() or q.shape[-2] > LONGEST:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)
    size = q.shape[-2]
    if mask is None:
        mask = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()[None, None]
    added = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -math.inf)
    added = added.expand(*q.shape[:2], size, size) if len(mask) > 1 else added[0]
    stays = kept((*q.shape[:3], size), dropout, q).flatten(0, 1) if dropout else None
    return Attention.apply(*(x.flatten(0, 1) for x in (q, k, v)), added.flatten(0, -3), stays).view_as(q)


class Attention(torch.autograd.Function):
    """Attention with its gradient written out, some rows of (N, S, ·) at a time.

    With shares p = softmax(q kᵀ / √d + added), what is told is o = (p ∘ stays) v, and for the gradient g by o

        by v: (p ∘ stays)ᵀ g        by p: g vᵀ ∘ stays        by the scores: p ∘ (by p - Σ g ∘ o)
    """

    @staticmethod
    def forward(ctx: Any, q, k, v, added, stays):
        shares, told = q.new_empty(*q.shape[:2], k.shape[1]), torch.empty_like(v)
        for i in pieces(shares):
            mask = added[i] if len(added) > 1 else added
            scores = torch.baddbmm(mask, q[i], k[i].transpose(1, 2), alpha=q.shape[-1] ** -0.5)
            torch.softmax(scores, -1, out=shares[i])
            torch.bmm(times(shares[i], stays, i), v[i], out=told[i])
        ctx.save_for_backward(q, k, v, shares, told, stays)
        return told

    @staticmethod
    def backward(ctx: Any, by_told):
        q, k, v, shares, told, stays = ctx.saved_tensors
        by_q, by_k, by_v = (torch.empty_like(x) for x in (q, k, v))
        total = (by_told * told).sum(-1, keepdim=True)
        for i in pieces(shares):
            torch.bmm(times(shares[i], stays, i).transpose(1, 2), by_told[i], out=by_v[i])
            by_scores = times(torch.bmm(by_told[i], v[i].transpose(1, 2)), stays, i)
            by_scores.sub_(total[i]).mul_(shares[i]).mul_(q.shape[-1] ** -0.5)
            torch.bmm(by_scores, k[i], out=by_q[i])
            torch.bmm(by_scores.transpose(1, 2), q[i], out=by_k[i])
        return by_q, by_k, by_v, None, None


def pieces(shares: Tensor) -> list[slice]:
    """Rows of (N, S, S) that are worked on together."""
    size = max(1, CACHED // max(1, shares[:1].numel()))
    return [slice(i, i + size) for i in range(0, len(shares), size)]


def times(x: Tensor, stays: Tensor | None, rows: slice) -> Tensor:
    """x, times some rows of `stays` if there is one."""
    return x if stays is None else x * stays[rows]


def attended(x: Tensor, heads: int, mask: Tensor | None, dropout: float) -> Tensor:
    """Queries, keys and values (R, S, 3 D), shared by `heads` -> what is seen (R, S, D); see `PreNorm` for `mask`."""
    q, k, v = x.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (R, heads, S, d) each
    return attention(q, k, v, mask, dropout).transpose(1, 2).flatten(2)


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


def check_heads(width: int, heads: int, what: str = "width") -> None:
    """One clear line for numbers that heads cannot share."""
    if width % heads:
        raise ChainruleError(f"a {what} of {width} cannot be shared by {heads} heads: take a multiple")


def plus_class(u: Tensor, table: nn.Embedding | None, context: Tensor | None) -> Tensor:
    """u (R, S, D), and what a table says of classes: of items (B,) of R / B rows each, or of positions (R, S)."""
    if table is None or context is None:
        return u
    added = table(of_rows(context, len(u)))
    return u + (added if context.ndim == 2 else added[:, None])


def plus_class_program(p, u, table: nn.Embedding | None):
    """The same as an operation of a step program."""
    return u if table is None else p.add(u, p.one_of_classes(table.weight))


def norm_program(p, u, layer: nn.LayerNorm):
    """A `LayerNorm` as an operation of a step program."""
    return p.norm(u, layer.weight, torch.zeros_like(layer.weight) if layer.bias is None else layer.bias)


def dense_program(p, x, layer: nn.Linear):
    """A `Linear` as an operation of a step program."""
    return p.dense(x, weight=layer.weight.T, bias=layer.bias)
