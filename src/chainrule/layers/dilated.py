"""Residual blocks of dilated convolutions along a sequence (Kalchbrenner et al. 2016, "ByteNet").

B batch, T time, k taps of a kernel, r its dilation, d units of a block, 2 d numbers between blocks
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.layers.attention import SPREAD, dense_program, norm_program
from chainrule.layers.dropout import dropped


def causal(kernel: int, dilation: int) -> list[int]:
    """The places that a masked kernel sees, the last of which is its own.

    >>> causal(3, 4)
    [-8, -4, 0]
    """
    return [dilation * (i + 1 - kernel) for i in range(kernel)]


def centred(kernel: int, dilation: int) -> list[int]:
    """The places that a kernel without a mask sees, as many on either side.

    >>> centred(3, 4)
    [-4, 0, 4]
    """
    return [dilation * (i - kernel // 2) for i in range(kernel)]


class Dilated(nn.Module):
    """A convolution along time that sees the places `at`: Σ_i x[t + at_i] W_i + b, (B, T, n) -> (B, T, m).

    Outside the sequence everything is zero.
    """

    def __init__(self, n: int, m: int, at: Sequence[int]):
        super().__init__()
        self.at, self.past, self.ahead = list(at), max(0, -min(at)), max(0, *at)
        self.linear = nn.Linear(n * len(at), m)

    def forward(self, x: Tensor, before: Tensor | None = None, texts: Tensor | None = None) -> Tensor:
        """The convolution.

        Args:
            before: (B, past, n), what came before x; by default nothing.
            texts: (B, past + T), which text each place belongs to, those of `before` first: no other is seen.
        """
        steps = x.shape[1]
        x = x if before is None else torch.cat([before.to(x), x], 1)
        x = F.pad(x, (0, 0, self.past if before is None else 0, self.ahead))
        starts = [self.past + a for a in self.at]
        taps = Taps.apply(x, starts, steps)
        if texts is not None:
            own = [texts[:, s : s + steps] == texts[:, self.past :] for s in starts]
            taps = (taps.unflatten(-1, (len(starts), -1)) * torch.stack(own, 2)[..., None]).flatten(-2)
        return self.linear(taps)

    def program(self, p, x, **when: Any):
        """As an operation of a step program."""
        return p.dense(
            *(p.at(x, columns=a) for a in self.at), weight=self.linear.weight.T, bias=self.linear.bias, **when
        )


class Taps(torch.autograd.Function):
    """Stretches of x (B, T, n) that begin at `starts`, side by side: (B, steps, k n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, starts: list[int], steps: int) -> Tensor:
        ctx.starts, ctx.shape = starts, x.shape
        return torch.cat([x[:, s : s + steps] for s in starts], -1)

    @staticmethod
    def backward(ctx: Any, by_taps: Tensor) -> Any:
        """The gradient is added in place: what PyTorch would record fills and copies a whole x for each stretch."""
        by_x, steps = by_taps.new_zeros(ctx.shape), by_taps.shape[1]
        for start, part in zip(ctx.starts, by_taps.chunk(len(ctx.starts), -1), strict=True):
            by_x[:, start : start + steps] += part
        return by_x, None, None


class Block(nn.Module):
    """A residual block (B, T, 2 d) -> (B, T, 2 d): narrow, look around, wide again, and added (sections 3.5, 3.6).

        v = n(W_a relu(n(h)))               h <- h + W_b relu(n(conv(relu(v))))
        or, with multiplicative units       h <- h + W_b unit(W_m w, w),   w = n(unit(conv(v), v))

    n normalises over the numbers of one place, so no statistics reach from one place to another. A multiplicative unit
    (Kalchbrenner et al. 2016, "Video Pixel Networks", section 4.1) of gates i, f, o and a proposal g is

        unit((i, f, o, g), v) = σ(i) ∘ tanh(σ(f) ∘ v + σ(o) ∘ tanh(g))

    Args:
        at: the places that the convolution sees.
        dropout: share dropped of what is added, in training.
        depth: how many blocks follow each other: the more, the less each adds at first.
    """

    def __init__(
        self, width: int, at: Sequence[int], multiplicative: bool, dropout: float = 0.0, depth: int = 1
    ):
        super().__init__()
        self.multiplicative, self.dropout = multiplicative, dropout
        self.norms: Any = nn.ModuleList(nn.LayerNorm(n) for n in (2 * width, width, width))
        self.narrow, self.wide = nn.Linear(2 * width, width), nn.Linear(width, 2 * width)
        self.conv = Dilated(width, 4 * width if multiplicative else width, at)
        self.mix = nn.Linear(width, 4 * width) if multiplicative else None
        nn.init.normal_(self.wide.weight, std=SPREAD / depth**0.5)
        nn.init.zeros_(self.wide.bias)

    def seen(self, h: Tensor) -> Tensor:
        """What of (B, T, 2 d) the convolution sees, (B, T, d)."""
        v = self.norms[1](self.narrow(torch.relu_(self.norms[0](h))))
        return v if self.multiplicative else torch.relu_(v)

    def forward(
        self, h: Tensor, seen: Tensor, before: Tensor | None = None, texts: Tensor | None = None
    ) -> Tensor:
        """h with what the block adds; `seen` is what `seen` gave, for the rest see `Dilated`."""
        v = self.conv(seen, before, texts)
        if self.mix is None:
            v = torch.relu_(self.norms[2](v))
        else:
            w = self.norms[2](unit(v, seen))
            v = unit(self.mix(w), w)
        v = self.wide(v)
        return h + (dropped(v, self.dropout) if self.training else v)

    def program(self, p, h, inside=None):
        """The same in a step program; the convolution sees nothing where `inside` (d) is 0."""
        v = dense_program(p, p.pointwise("relu", norm_program(p, h, self.norms[0])), self.narrow)
        v = norm_program(p, v, self.norms[1])
        v = v if self.multiplicative else p.pointwise("relu", v)
        v = v if inside is None else p.multiply(v, inside)
        found = self.conv.program(p, v)
        if self.mix is None:
            found = p.pointwise("relu", norm_program(p, found, self.norms[2]))
        else:
            w = norm_program(p, unit_program(p, found, v), self.norms[2])
            found = unit_program(p, dense_program(p, w, self.mix), w)
        return p.add(h, dense_program(p, found, self.wide))


def unit(gates: Tensor, v: Tensor) -> Tensor:
    """A multiplicative unit: gates (..., 4 d), v (..., d) -> (..., d)."""
    i, f, o = torch.sigmoid(gates[..., : 3 * v.shape[-1]]).chunk(3, -1)
    return i * torch.tanh(f * v + o * torch.tanh(gates[..., 3 * v.shape[-1] :]))


def unit_program(p, gates, v):
    """The same in a step program."""
    d = v.width
    open_ = p.pointwise("sigmoid", gates[: 3 * d])
    inner = p.multiply(open_[2 * d :], p.pointwise("tanh", gates[3 * d :]))
    return p.multiply(open_[:d], p.pointwise("tanh", p.add(p.multiply(open_[d : 2 * d], v), inner)))
