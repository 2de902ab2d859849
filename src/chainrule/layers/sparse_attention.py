"""Attention over some of the positions before (Child et al. 2019): O(n √n) scores where the stride is about √n.

Positions are put into R rows of l, the stride, and queries and keys are gathered so that every score that is computed,
but for a constant factor, is one that counts: nothing of size n × n is ever made.

    B batch, n positions, h heads, d numbers of a head, l positions of a row, R rows, c positions of a summary
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from chainrule.layers.pixels import single

SCORES = (
    1 << 19
)  # of a head, computed at a time by `fixed`: a few megabytes, and few enough calls for short texts


@dataclass(frozen=True)
class Strided:
    """The first `rows` heads look along the row, the others down the column (section 4.2, "strided").

        a row: {j ≤ t : t - j < l}        a column: {j ≤ t : (t - j) mod l = 0}

    Over two layers any position reaches all before it: down the column, then along the row.

    Example:
        >>> q = k = torch.zeros(1, 4, 2, 1)  # all scores equal: the mean of what is seen
        >>> v = torch.tensor([1.0, 3.0, 5.0, 9.0]).view(1, 4, 1, 1).expand(1, 4, 2, 1)
        >>> Strided(2, rows=1)(q, k, v).flatten(2).mT
        tensor([[[1., 2., 4., 7.],
                 [1., 3., 3., 6.]]])
    """

    length: int
    rows: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k (B, n, h, e), v (B, n, h, d) -> (B, n, h, d)."""
        parts = zip((row, column), *(z.tensor_split([self.rows], 2) for z in (q, k, v)), strict=True)
        return torch.cat([look(*z, self.length) for look, *z in parts if z[0].shape[2]], 2)

    def program(self, p, ask: Callable, heads: int, window: int) -> list:
        """What is seen, in parts, as operations of a step program; `ask(heads)` gives queries, keys and values."""
        parts = {"local": range(self.rows), "strided": range(self.rows, heads)}
        return [
            p.attend(*ask(part), len(part), pattern, self.length, window=window)
            for pattern, part in parts.items()
            if part
        ]


@dataclass(frozen=True)
class Fixed:
    """Every head looks at its own row, and at a summary of each row above (section 4.2, "fixed", the two as one).

        {j ≤ t : ⌊j/l⌋ = ⌊t/l⌋  or  l - c(s + 1) ≤ j mod l < l - c s},        s = head mod ⌊l/c⌋

    So a summary is c positions, of the first head the last c of a row; other heads have others, as the paper prefers.
    Over two layers any position reaches all before it: by a summary of the first head, then along that one's row.

    Example:
        >>> q = k = torch.zeros(1, 5, 1, 1)
        >>> Fixed(2, summary=1)(q, k, torch.tensor([1.0, 3.0, 5.0, 6.0, 9.0]).view(1, 5, 1, 1)).flatten()
        tensor([1.0000, 2.0000, 4.0000, 4.6667, 6.0000])
    """

    length: int
    summary: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k (B, n, h, e), v (B, n, h, d) -> (B, n, h, d)."""
        return fixed(q, k, v, self.length, self.summary)

    def program(self, p, ask: Callable, heads: int, window: int) -> list:
        """What is seen, as an operation of a step program."""
        more = {"summary": self.summary, "window": window}
        return [p.attend(*ask(range(heads)), heads, "spread", self.length, **more)]


def row(q: Tensor, k: Tensor, v: Tensor, length: int) -> Tensor:
    """Position t looks at the j ≤ t with t - j < length: its row, or as much of that and of the one above.

    q, k (B, n, h, e), v (B, n, h, d) -> (B, n, h, d).
    """
    n = q.shape[1]
    q, k, v = (in_rows(z, length) for z in (q, k, v))  # (B, R, l, h, ·)
    seen = attention(q[:, 0], k[:, 0], v[:, 0])[:, None]  # (B, 1, l, h, d)
    if q.shape[1] > 1:
        keys, values = (torch.cat([z[:, :-1], z[:, 1:]], 2).flatten(0, 1) for z in (k, v))  # of two rows each
        others = attention(q[:, 1:].flatten(0, 1), keys, values, band(q.shape[2], q.device))
        seen = torch.cat([seen, others.unflatten(0, (len(q), q.shape[1] - 1))], 1)
    return seen.flatten(1, 2)[:, :n]


def column(q: Tensor, k: Tensor, v: Tensor, length: int) -> Tensor:
    """Position t looks at the j ≤ t with (t - j) mod length = 0, those above it.

    q, k (B, n, h, e), v (B, n, h, d) -> (B, n, h, d).
    """
    n, heads = q.shape[1:3]
    q, k, v = (in_rows(z, length).flatten(2, 3) for z in (q, k, v))  # each column as a head: (B, R, l h, ·)
    return attention(q, k, v).unflatten(2, (-1, heads)).flatten(1, 2)[:, :n]


def fixed(q: Tensor, k: Tensor, v: Tensor, length: int, summary: int) -> Tensor:
    """Position t looks at its row up to itself, and at `summary` positions of each row above: see `Fixed`.

    A long sequence is computed some rows at a time, and on the way back once more (section 5.4): what they look at was
    gathered for them, and is given up when they have seen it.

    q, k (B, n, h, e), v (B, n, h, d) -> (B, n, h, d).
    """
    n = q.shape[1]
    q, k, v = (in_rows(z, length).permute(0, 3, 1, 2, 4) for z in (q, k, v))  # (B, h, R, l, ·)
    count, length = q.shape[2:4]
    summary = min(summary, length)
    said = [summaries(z, summary) for z in (k, v)]  # (B, h, R c, ·)
    ends = list(some_rows(count, length, summary))
    sizes = [end - first for first, end in pairwise([0, *ends])]
    parts = zip(ends, *(z.split(sizes, 2) for z in (q, k, v)), strict=True)
    looks: Callable = look if len(ends) == 1 else look_again
    seen = [looks(*own, *(z[:, :, : (end - 1) * summary] for z in said), summary) for end, *own in parts]
    return torch.cat(seen, 2).permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :n]


class Again(torch.autograd.Function):
    """`look`, of which nothing is kept but what it is given: it is computed once more on the way back."""

    @staticmethod
    def forward(ctx: Any, *args):
        ctx.save_for_backward(*args[:-1])
        ctx.summary = args[-1]
        return look(*args)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_seen):
        q, k, v, *said = args = [z.detach().requires_grad_() for z in ctx.saved_tensors]
        with torch.enable_grad():
            seen = look(q, k, v, said[0], said[1], ctx.summary)
        return *torch.autograd.grad(seen, args, by_seen), None


@torch.compiler.disable  # it would wait long for a compiler, and large products gain nothing
def look_again(*args) -> Tensor:
    """`look`, computed once more on the way back."""
    return Again.apply(*args)


def look(q: Tensor, k: Tensor, v: Tensor, k_said: Tensor, v_said: Tensor, summary: int) -> Tensor:
    """m rows q, k, v (B, h, m, l, ·) look at themselves, and at summaries (B, h, s, ·) of all rows but the last one.

    (B, h, m, l, d); the m rows are the last ones, and none looks at the summary of one that does not come before it.
    """
    rows, length = q.shape[2:4]
    keys, values = (
        torch.cat([said[:, :, None].expand(-1, -1, rows, -1, -1), own], 3).flatten(0, 1)
        for own, said in ((k, k_said), (v, v_said))
    )  # (B h, m, s + l, ·)
    mask = rows_below(k_said.shape[2], rows, length, summary, q.device)
    return dot_product(q.flatten(0, 1), keys, values, mask).unflatten(0, q.shape[:2])


def in_rows(z: Tensor, length: int) -> Tensor:
    """(B, n, ...) -> (B, R, l, ...), l = length and no more than n; what the last row lacks is 0.

    In single precision where a training is mixed: PyTorch's kernel for the way back from many short sequences is
    several times slower in bfloat16.
    """
    z, n = single(z), z.shape[1]
    length = max(1, min(length, n))
    count = max(1, -(-n // length))
    return filled(z, (0, 0) * (z.ndim - 2) + (0, count * length - n)).unflatten(1, (count, length))


def filled(z: Tensor, places: tuple[int, ...]) -> Tensor:
    """`F.pad`, which makes a copy even where there is nothing to add."""
    return F.pad(z, places) if any(places) else z


def summaries(z: Tensor, summary: int) -> Tensor:
    """(B, h, R, l, d) -> (B, h, R c, d): of every row the c positions that belong to the head."""
    places = z.shape[3] // summary if summary else 1
    ends = [z.shape[3] - summary * (head % places) for head in range(z.shape[1])]
    parts = zip(
        z.unbind(1), ends, strict=True
    )  # a slice of all heads would cost as much as all on the way back
    return torch.stack([head[:, :, end - summary : end] for head, end in parts], 1).flatten(2, 3)


def some_rows(count: int, length: int, summary: int) -> Iterator[int]:
    """Where to cut so many rows: a part is one, or has no more than `SCORES` scores.

    >>> list(some_rows(5, 256, 64))
    [4, 5]
    """
    first = 0
    for end in range(1, count + 1):
        longer = (end + 1 - first) * length * (end * summary + length)
        if end == count or longer > SCORES:
            yield end
            first = end


def band(length: int, device: torch.device) -> Tensor:
    """Which of the keys of the row above and its own a query of a row looks at, (l, 2 l).

    >>> band(2, torch.device("cpu")).int()
    tensor([[0, 1, 1, 0],
            [0, 0, 1, 1]], dtype=torch.int32)
    """
    query, key = torch.arange(length, device=device)[:, None], torch.arange(-length, length, device=device)
    return (key <= query) & (query - key < length)


def rows_below(said: int, rows: int, length: int, summary: int, device: torch.device) -> Tensor:
    """What queries of the last `rows` rows look at: summaries of rows above, `said` positions, and their own row.

    (rows, l, said + l); every query looks at itself.

    >>> rows_below(1, 2, 2, 1, torch.device("cpu")).int()
    tensor([[[0, 1, 0],
             [0, 1, 1]],
    <BLANKLINE>
            [[1, 1, 0],
             [1, 1, 1]]], dtype=torch.int32)
    """
    query = torch.arange(length, device=device)
    later = torch.arange(rows - 1, -1, -1, device=device)[:, None]  # rows after it
    above = torch.arange(said, device=device) < said - later * summary  # (rows, said)
    return torch.cat(
        [above[:, None].expand(-1, length, -1), (query <= query[:, None]).expand(rows, -1, -1)], 2
    )


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of sequences, causal without a mask: (G, n, h, ·) -> (G, n, h, d)."""
    return dot_product(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask).transpose(1, 2)


def dot_product(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √e) v over the last but one axis of q, k (G, h, n, e) and v (G, h, n, d).

    PyTorch's fast kernel wants one width, so the smaller is filled up, and a mask of four axes.
    """
    e, d = q.shape[-1], v.shape[-1]
    q, k, v = (filled(z, (0, max(e, d) - z.shape[-1])) for z in (q, k, v))
    mask = None if mask is None else mask.expand(1, *[1] * (3 - mask.ndim), *mask.shape[-3:])
    with torch.autocast(q.device.type, enabled=False):
        seen = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=e**-0.5)
    return seen[..., :d]
