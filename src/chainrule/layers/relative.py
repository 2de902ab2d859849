"""Self-attention over the last positions of a text, with scores that know the distance (Dai et al. 2019, section 3.3).

B batch, T queries, m positions remembered, L distances 0..M that a query looks back over, H heads of d numbers
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.layers.attention import dense_program, norm_program
from chainrule.layers.dropout import dropped

BLOCK = 64  # queries whose scores are computed together: the longer it is, the more of them are masked


class Relative(nn.Module):
    """Attention of every position over itself and the M before it, then a feed-forward layer.

    For position t and each j of t - M..t, with u and v of all layers and R_n what stands for the distance n:

        score      ((q_t + u) · k_j + (q_t + v) · W_r R_{t-j}) / √d

    Args:
        width, heads, inner: D; heads of D / heads numbers; hidden units of the feed-forward layer.
        dropout: share dropped of what each of the two adds, and of the hidden units.
        norm_first: normalise what each of the two is given, not the sum that it ends in.
    """

    def __init__(self, width: int, heads: int, inner: int, dropout: float, norm_first: bool):
        super().__init__()
        self.heads, self.dropout, self.norm_first = heads, dropout, norm_first
        self.ask = nn.Linear(width, 3 * width, bias=False)  # queries, keys, values
        self.ask_distance = nn.Linear(width, width, bias=False)  # W_r
        self.answer = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.ask_norm, self.up_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(
        self, x: Tensor, memory: Tensor, distances: Tensor, biases: Tensor, first: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, D) -> the same, and what its keys and values were made of (B, T, D): the next memory.

        Args:
            memory: (B, m, D), what those before were made of.
            distances: (L, D), W_r R of 0..M.
            biases: u and v (2, D).
            first: (B, T), the first position that each may look at, 0 the first of the memory; None: all in reach.
        """
        given = self.ask_norm(x) if self.norm_first else x
        asked = self._by_heads(self.ask(given), 3)
        kept = self._by_heads(F.linear(memory, self.ask.weight[memory.shape[-1] :]), 2)
        distances, biases = (z.unflatten(-1, (self.heads, -1)) for z in (distances, biases))
        seen = Banded.apply(asked, kept.to(asked), distances.to(asked), biases, first)
        x = self._added(x, self.answer(seen), self.ask_norm)
        hidden = self._dropped(F.relu(self.up(self.up_norm(x) if self.norm_first else x)))
        return self._added(x, self.down(hidden), self.up_norm), given

    def program(self, p, x, distances, biases):
        """The same at one position; keys and values of the last M are kept."""
        n = norm_program(p, x, self.ask_norm) if self.norm_first else x
        q, k, v = (p.dense(n, weight=w.T) for w in self.ask.weight.chunk(3))
        queries = [p.add(q, p.constant(bias)) for bias in biases]
        table = p.fold(distances, self.ask_distance.weight.T)
        seen = p.attend_near(*queries, k, v, table=table, heads=self.heads)
        x = self._added_program(p, x, p.dense(seen, weight=self.answer.weight.T), self.ask_norm)
        n = norm_program(p, x, self.up_norm) if self.norm_first else x
        hidden = p.pointwise("relu", dense_program(p, n, self.up))
        return self._added_program(p, x, dense_program(p, hidden, self.down), self.up_norm)

    def _by_heads(self, x: Tensor, parts: int) -> Tensor:
        """(B, T, parts · D) -> (B, T, parts, H, d)."""
        return x.unflatten(-1, (parts, self.heads, -1))

    def _added(self, x: Tensor, more: Tensor, norm: nn.LayerNorm) -> Tensor:
        x = x + self._dropped(more)
        return x if self.norm_first else norm(x)

    def _added_program(self, p, x, more, norm: nn.LayerNorm):
        x = p.add(x, more)
        return x if self.norm_first else norm_program(p, x, norm)

    def _dropped(self, x: Tensor) -> Tensor:
        return dropped(x, self.dropout) if self.training else x


class Banded(torch.autograd.Function):
    """Softmax attention of every query over itself and the last positions, its gradient written out.

    Queries are taken in blocks, each with the keys that any of them can see; see `shares_of`.
    """

    @staticmethod
    def forward(ctx: Any, asked, kept, distances, biases, first):
        """asked (B, T, 3, H, d), kept (B, m, 2, H, d), distances (L, H, d), biases (2, H, d) -> (B, T, H d)."""
        length, m = asked.shape[1], kept.shape[1]
        near = max(0, min(len(distances), m + length) - 1)  # how far back there is anything
        ask_key, ask_distance = (asked[:, :, 0] + bias.to(asked) for bias in biases)
        ask_key, ask_distance = (x.permute(2, 0, 1, 3).contiguous() for x in (ask_key, ask_distance))
        keys, values = (after_memory(asked[:, :, 1 + i], kept[:, :, i], near) for i in (0, 1))
        table = distances[: near + 1].flip(0).permute(1, 2, 0).contiguous()  # (H, d, L), the largest first
        out, shares = torch.empty_like(ask_key), []
        for here, around in blocks(length, near):
            seen = None if first is None else first[:, here[2]] + (near - m - here[2].start)
            p = shares_of(ask_key[here], ask_distance[here], keys[around], table, seen)
            out[here] = torch.bmm(p, merged(values[around])).view_as(out[here])
            shares.append(p)
        ctx.save_for_backward(ask_key, ask_distance, keys, values, table, *shares)
        ctx.sizes = m, len(distances), biases.dtype
        return out.permute(1, 2, 0, 3).flatten(2)

    @staticmethod
    def backward(ctx: Any, by_out):
        ask_key, ask_distance, keys, values, table, *shares = ctx.saved_tensors
        (m, reach, kind), near, scale = ctx.sizes, table.shape[-1] - 1, ask_key.shape[-1] ** -0.5
        by_out = by_out.unflatten(-1, (len(ask_key), -1)).permute(2, 0, 1, 3)
        by_ask_key, by_ask_distance = torch.empty_like(ask_key), torch.empty_like(ask_key)
        by_keys, by_values, by_table = (
            torch.empty_like(keys),
            torch.empty_like(values),
            torch.zeros_like(table),
        )
        for (here, around), p in zip(blocks(ask_key.shape[2], near), shares, strict=True):
            by_here, query, key = merged(by_out[here]), merged(ask_key[here]), merged(keys[around])
            add_around(by_values[around], torch.bmm(p.transpose(1, 2), by_here), here, near)
            by_shares = torch.empty_like(p)  # divided by √d, and so are the gradients by scores
            by_shares.baddbmm_(by_here, merged(values[around]).transpose(1, 2), beta=0, alpha=scale)
            by_scores = torch._softmax_backward_data(by_shares, p, -1, p.dtype)
            by_ask_key[here] = torch.bmm(by_scores, key).view_as(by_ask_key[here])
            add_around(by_keys[around], torch.bmm(by_scores.transpose(1, 2), query), here, near)
            by_near = shifted_back(by_scores, near + 1).unflatten(0, ask_key.shape[:2]).flatten(1, 2)
            by_ask_distance[here] = torch.bmm(by_near, table.transpose(1, 2)).view_as(by_ask_key[here])
            by_table += torch.bmm(ask_distance[here].flatten(1, 2).transpose(1, 2), by_near)
        by_biases = torch.stack([by.sum((1, 2), dtype=kind) for by in (by_ask_key, by_ask_distance)])
        by_asked = [by_ask_key.add_(by_ask_distance), by_keys[:, :, near:], by_values[:, :, near:]]
        by_kept = [by[:, :, :near] for by in (by_keys, by_values)]
        by_kept = by_kept if m == near else [F.pad(by, (0, 0, m - near, 0)) for by in by_kept]
        by_distances = F.pad(by_table.permute(2, 0, 1).flip(0), (0, 0, 0, 0, 0, reach - near - 1))
        return *(by_position(by) for by in (by_asked, by_kept)), by_distances, by_biases, None


Places = tuple[slice, slice, slice]


def blocks(length: int, near: int) -> Iterator[tuple[Places, Places]]:
    """The places of each block of queries in (H, B, T, d), and of the keys that they see in (H, B, near + T, d)."""
    for begin in range(0, length, BLOCK):
        end = min(begin + BLOCK, length)
        yield tuple((slice(None), slice(None), slice(begin, last)) for last in (end, end + near))  # type: ignore


def after_memory(x: Tensor, memory: Tensor, near: int) -> Tensor:
    """The last `near` of the memory (B, m, H, d), or zeros, then x (B, T, H, d): (H, B, near + T, d)."""
    batch, length, heads, d = x.shape
    found, m = x.new_empty(heads, batch, near + length, d), min(memory.shape[1], near)
    found[:, :, : near - m] = 0
    found[:, :, near - m : near] = memory[:, memory.shape[1] - m :].permute(2, 0, 1, 3)
    found[:, :, near:] = x.permute(2, 0, 1, 3)
    return found


def add_around(total: Tensor, part: Tensor, here: Places, near: int) -> None:
    """Add what a block says to all around it: the first `near` are those of earlier blocks, too."""
    part, known = part.view_as(total), near if here[2].start else 0
    total[:, :, :known] += part[:, :, :known]
    total[:, :, known:] = part[:, :, known:]


def by_position(parts: list[Tensor]) -> Tensor:
    """Some (H, B, T, d) -> (B, T, parts, H, d)."""
    heads, batch, length, d = parts[0].shape
    found = parts[0].new_empty(batch, length, len(parts), heads, d)
    for i, part in enumerate(parts):
        found[:, :, i] = part.permute(1, 2, 0, 3)
    return found


def merged(x: Tensor) -> Tensor:
    """(H, B, S, d) -> (H · B, S, d)."""
    return x.flatten(0, 1)


def shares_of(
    ask_key: Tensor, ask_distance: Tensor, keys: Tensor, table: Tensor, first: Tensor | None
) -> Tensor:
    """What every query of a block takes of every value around it, (H · B, S, L - 1 + S).

    Query i sees the columns i to i + L - 1, from the largest distance to none. What the distances say, (S, L), is to
    stand in row i from column i on: it is written in rows of L + S numbers and read in rows of one less. What they are
    filled up with, -∞, is then left and right of the band.

    Args:
        ask_key, ask_distance: queries with u and with v (H, B, S, d).
        keys: (H, B, L - 1 + S, d).
        table: (H, d, L), the largest distance first.
        first: (B, S), the first column that each query may look at; None: all of the band.
    """
    (heads, batch, size, d), count = ask_key.shape, table.shape[-1]
    wide, scale = count - 1 + size, d**-0.5
    scores = torch.bmm(ask_distance.flatten(1, 2), F.pad(table, (0, size)))
    scores[..., count:] = -math.inf
    scores = scores.as_strided((heads * batch, size, wide), (size * (wide + 1), wide, 1))
    scores.baddbmm_(merged(ask_key), merged(keys).transpose(1, 2), beta=scale, alpha=scale)
    if first is not None:
        hidden = torch.arange(wide, device=first.device) < first[..., None]
        scores.unflatten(0, (heads, batch)).masked_fill_(hidden, -math.inf)
    return scores.softmax(-1)


def shifted_back(x: Tensor, count: int) -> Tensor:
    """Of row i of x (R, S, W) the columns i to i + count - 1: (R, S, count)."""
    (rows, size, wide), whole = x.shape, x.contiguous()
    return whole.as_strided((rows, size, count), (size * wide, wide + 1, 1)).contiguous()


@cache
def sinusoids(count: int, width: int) -> np.ndarray:
    """What stands for the distances n = 0..count - 1, (count, D) float32: sin(n w_i), then cos(n w_i).

    w_i is 10000^(-2i/D) (Vaswani et al. 2017, section 3.5). All this is part of the model and not in its file, so it is
    made of correctly rounded operations only: a series for n = 1, from there on rotations by w_i.

    >>> bool(np.abs(sinusoids(5000, 2)[:, 0] - np.sin(np.arange(5000))).max() < 1e-7)
    True
    """
    w = np.array([float(Decimal(10000) ** (Decimal(-2 * i) / width)) for i in range(-(-width // 2))])
    sine, cosine = np.ones_like(w), np.ones_like(w)
    for n in range(20, 0, -2):
        sine, cosine = 1 - w * w / (n * (n + 1)) * sine, 1 - w * w / (n * (n - 1)) * cosine
    sine, found = sine * w, np.empty((count, 2, len(w)))
    found[:1] = [0 * w, 0 * w + 1]
    for n in range(1, count):
        s, c = found[n - 1]
        found[n] = s * cosine + c * sine, c * cosine - s * sine
    return found.reshape(count, -1)[:, :width].astype(np.float32)
