"""What a WaveNet makes of the samples before a position, and of what it knows of the next one: of 8 bits, and of 16.

An input gives what the layers begin with; it is called with the codes of earlier samples. A head gives the logits.

B batch, T time, K levels of a symbol, d width, J logistics, P samples that a prediction is made of
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.engine.device import log_mass_between, log_mass_within
from chainrule.layers.adaptive import OUTPUTS, SMALL, at_rest, predictions
from chainrule.model import pick

SHARE = 0.1  # of a coefficient that the network gives: a prediction is far larger than what is left of it
CODES = 255  # of mu-law: -127 to 127
EDGES = [
    math.copysign(math.expm1((abs(k + 0.5)) / 127 * math.log(256)) / 255, k + 0.5) for k in range(-127, 127)
]
GAINS = 0.25, 8.0  # by which numbers are multiplied before tanh at the start, the least and the largest
EXACT = -8.0  # the log scale of a logistic that has nearly all of its mass in one level of 256
RARE = -5.0  # what the weight of a low byte that stays as it was begins with
NEAR = 6.0  # the log scale of a logistic is within so much of that of the samples before it, of the first 0


def with_past(past: Tensor, now: Tensor, texts: Tensor | None, nothing: float, length: int) -> list[Any]:
    """`length` columns for each position: what stood so many places before it, oldest first; and the new past.

    Args:
        past, now: (B, length - 1), (B, T).
        texts: (B, T), which recording a position belongs to, 0 for that of `past`: of others nothing is seen.

    Returns:
        (B, T, length) and (B, length - 1).
    """
    every = torch.cat([past.to(now), now], 1)
    if not now.shape[1]:
        return [every.new_zeros(len(every), 0, length), every]
    seen, after = every.unfold(1, length, 1), every[:, now.shape[1] :]
    if texts is None:
        return [seen, after]
    number = torch.cat([texts.new_zeros(past.shape), texts], 1)
    seen = seen.masked_fill(number.unfold(1, length, 1) != texts[..., None], nothing)
    return [seen, after.masked_fill(number[:, now.shape[1] :] != texts[:, -1:], nothing)]


class Tables(nn.Module):
    """A causal convolution of k taps over samples as one of K: a row of a table for each tap, added up."""

    def __init__(self, symbols: int, width: int, kernel: int):
        super().__init__()
        self.symbols, self.kernel = symbols, kernel
        self.past = self.held = kernel - 1
        self.rows = nn.Embedding(kernel * (symbols + 1), width)  # the last of each tap: nothing yet

    def rest(self, like: Tensor) -> Tensor:
        """The samples before the first (B, held): none."""
        return like.new_full((len(like), self.held), float(self.symbols))

    def forward(self, codes: Tensor, past: Tensor, texts: Tensor | None) -> tuple[Tensor, None, Tensor]:
        """codes (B, T), past (B, held) -> (B, T, d); nothing; the new past."""
        seen, after = with_past(past, codes, texts, self.symbols, self.kernel)
        taps = torch.arange(self.kernel, device=codes.device) * (self.symbols + 1)
        h = self.rows(seen + taps).sum(2)
        return half(h), None, after.to(self.rows.weight.dtype)

    def program(self, p):
        """The same in a step program."""
        h = None
        for i, table in enumerate(self.rows.weight.split(self.symbols + 1)):
            h = p.embed(table, columns=i - self.kernel, outside=self.symbols, onto=h, clock="pixel")
        return h, None


class Waves(nn.Module):
    """What is known of the samples before a position, of two bytes each, taken as numbers y from -1 to 1.

        q = y_{t-1}, y_{t-1} - y_{t-2}, ..., y_{t-P+1} - y_{t-P}
        h = W_2 (tanh(e^g ⊙ W_1 (q, p, e) r + b_1), ln r, 1) + b_2
            + E_1[code of y_{t-1}] + E_2[code of y_{t-2}] + E_3[low byte of t - 1]

    p is what adaptive filters expect of y_t - y_{t-1}, e by how much they were wrong the last time (`adaptive`), the
    code that of mu-law, and the 1 stands where there is a sample. Differences are less alike than the samples
    themselves, and r of the first filter, 1 over the root of their mean square, makes soft and loud sound alike: so
    what is made of them is learned sooner.
    """

    def __init__(self, symbols: int, width: int, order: int, filters: Sequence[int], rate: float):
        super().__init__()
        self.symbols, self.order, self.filters, self.rate = symbols, order, list(filters), rate
        self.past = order - 1
        self.sizes = [order, *(2 * taps + OUTPUTS for taps in filters)]
        self.held, count = sum(self.sizes), len(filters)
        self.see = nn.Linear(order + 2 * count, 2 * width)
        self.tell = nn.Linear(2 * width + count + 1, width)
        self.gain = nn.Parameter(torch.linspace(math.log(GAINS[0]), math.log(GAINS[1]), 2 * width))
        self.rows, self.low = nn.Embedding(2 * CODES, width), nn.Embedding(symbols + 1, width)

    def rest(self, like: Tensor) -> Tensor:
        """The state before the first sample (B, held): P samples of silence, and filters that have seen nothing."""
        return torch.cat(
            [like.new_zeros(len(like), self.order), *(at_rest(like, n) for n in self.filters)], 1
        )

    def forward(self, codes: Tensor, past: Tensor, texts: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """codes (B, T), past (B, held) -> (B, T, d); (q, p, e, ln r, low byte) (B, T, P + 2 F + 2); the new past."""
        there, (samples, *states) = codes != self.symbols**2, past.split(self.sizes, 1)
        y = numbers_of(codes, self.symbols, past)
        seen, after = with_past(samples, y, texts, 0.0, self.order + 1)
        steps = seen.diff(dim=-1).flip(-1)  # (B, T, P)
        found = [predictions(steps[..., 0], ~there, state, self.rate) for state in states]
        told = torch.stack([x for x, _ in found], -1)  # (B, T, 4, F)
        z = torch.cat([seen[..., -1:], steps[..., :-1], told[..., 0, :], told[..., 1, :]], -1)
        with torch.autocast(codes.device.type, enabled=False):
            gained = self.see.weight * self.gain.exp()[:, None]
            h = torch.tanh(F.linear(z * told[..., 2, :1], gained, self.see.bias))
            h = torch.cat([h, told[..., 3, :], there[..., None].to(h)], -1)
        last = torch.stack([seen[..., -1], seen[..., -2]], -1)
        low = (codes % self.symbols).where(there, self.symbols)
        h = (
            self.tell(h)
            + self.rows(bins(last) + torch.tensor([0, CODES], device=last.device)).sum(2)
            + self.low(low)
        )
        levels = torch.tensor(levels_of(self.symbols), dtype=y.dtype, device=y.device)
        z = torch.cat([z, told[..., 3, :1] * there[..., None], levels[low][..., None]], -1)
        return half(h), z, torch.cat([after, *(x for _, x in found)], 1)

    def program(self, p):
        """The same in a step program."""
        k = self.symbols
        y = p.dense(p.levels(1.0, 0.0), weight=[[2 / (k - 1)], [2 / (k * (k - 1))]], bias=[-1 - 1 / k])
        there = p.constant([1.0], clock="done")
        step = p.add(y, p.multiply(p.at(y, columns=-1), p.constant([-1.0])))
        steps = [p.at(step, columns=-i) for i in range(1, self.order)]
        told = [p.adaptive(p.at(step, columns=-1), taps, self.rate, SMALL) for taps in self.filters]
        z = p.concat(
            p.at(y, columns=-1), *steps, *(f[i : i + 1] for i in (0, 1) for f in told), clock="pixel"
        )
        alike = p.multiply(z, p.dense(told[0][2:3], weight=torch.ones(1, z.width)))
        weight = self.see.weight * self.gain.exp()[:, None]
        h = p.pointwise("tanh", p.dense(alike, weight=weight.T, bias=self.see.bias))
        more = *(f[3:] for f in told), p.at(there, columns=-1)
        h = p.dense(h, *more, weight=self.tell.weight.T, bias=self.tell.bias)
        for i, table in enumerate(self.rows.weight.split(CODES)):
            h = p.add(h, p.bins(p.at(y, columns=-1 - i), EDGES, table))
        before = {"columns": -1, "channel": 1, "outside": k, "clock": "pixel"}
        h = p.embed(self.low.weight, **before, onto=h)
        loudness = p.multiply(told[0][3:], p.at(there, columns=-1))
        return h, p.concat(z, loudness, p.embed(np.array(levels_of(k))[:, None], **before))


def levels_of(symbols: int) -> list[float]:
    """Bytes as numbers from -1 to 1; the one that is not there is as the first."""
    return [2 * k / (symbols - 1) - 1 for k in range(symbols)] + [-1.0]


def bins(y: Tensor) -> Tensor:
    """Which code of mu-law, 0 to 254, numbers from -1 to 1 have."""
    return torch.bucketize(y, torch.tensor(EDGES, dtype=y.dtype, device=y.device), right=True)


def numbers_of(codes: Tensor, symbols: int, like: Tensor) -> Tensor:
    """Codes high · K + low as numbers: high byte k has its middle at 2 k / (K - 1) - 1; nothing is 0.

    The type is that of `like`.
    """
    k = symbols
    y = (codes.to(like) - (k - 1) / 2) * (2 / (k * (k - 1))) - 1
    return y.masked_fill(codes == k * k, 0.0)


class Levels(nn.Module):
    """The logits of the K levels of a sample."""

    def __init__(self, skip: int, symbols: int):
        super().__init__()
        self.out = nn.Linear(skip, symbols)

    def forward(self, v: Tensor, seen: None, x: Tensor) -> Tensor:
        """v (B, T, skip) -> (B, T, 1, K)."""
        return self.out(v)[:, :, None]

    def log_probs(self, v: Tensor, seen: None, x: Tensor) -> Tensor:
        """log p of samples x (B, T, 1)."""
        return pick(self(v, seen, x), x)

    def loss(self, v: Tensor, seen: None, x: Tensor) -> Tensor:
        """The mean -log p of a symbol."""
        return F.cross_entropy(self.out(v).flatten(0, 1), x.flatten())

    def program(self, p, v, seen):
        return [p.dense(v, weight=self.out.weight.T, bias=self.out.bias)]


class Bytes(nn.Module):
    """A mixture of J logistics over the K² levels of a sample of two bytes, around a prediction from the last P.

        ŷ = y_{t-1} + Σ_i (a_i + c_i / 10) z_i,    μ_j = ŷ + s_j o_j,    s_j = e^{u_j} / r
        p(high) ∝ Σ_j π_j mass_j(its K levels)
        p(low | high) ∝ Σ_j π_j mass_j(its level) + e^γ [it is that of t - 1]

    where the network gives c, o, π, u and γ of each sample, a is learned, and z = (q, p, e) and r are those of `Waves`:
    a linear prediction as in lossless sound coders, whose coefficients follow the signal, and what adaptive filters
    add. No level's mass reaches beyond its edges (Salimans et al. 2017 give the outermost what lies beyond). The term
    with γ is for recordings that had fewer bits once, whose low byte never changes; without it p(high) p(low | high) is
    the mixture over all K² levels.
    """

    def __init__(self, skip: int, symbols: int, mixtures: int, order: int, filters: int):
        super().__init__()
        self.symbols, self.mixtures, self.inputs = symbols, mixtures, order + 2 * filters
        self.out = nn.Linear(skip, 3 * mixtures + self.inputs + 1)
        mean_of_filters = [0.0] * order + [1 / max(1, filters)] * filters + [0.0] * filters
        self.a = nn.Parameter(torch.tensor(mean_of_filters))
        nn.init.normal_(self.out.weight, std=0.02)
        spread = torch.linspace(-3, 1, mixtures) if mixtures > 1 else torch.zeros(1)
        with torch.no_grad():
            self.out.bias.zero_()[2 * mixtures : 3 * mixtures] = spread
            self.out.bias[-1] = RARE

    def forward(self, v: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """v (B, T, skip), z (B, T, n), samples x (B, T, 2) -> (B, T, 2, K)."""
        high = self._mixture(v, z)
        levels = torch.arange(self.symbols, device=v.device)[:, None]  # (K, 1)
        logits = []
        for weights, mean, scale in (high[:3], self._low(*high, x)):
            masses = log_mass_within(
                levels, mean[..., None, :], scale[..., None, :], self.symbols
            )  # (B, T, K, J)
            logits.append((weights[..., None, :] + masses).logsumexp(-1))
        return torch.stack(logits, -2)

    def log_probs(self, v: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """log p of both bytes of samples x (B, T, 2), the low one given the high one."""
        return torch.stack(self._both(v, z, x), -1).double()

    def loss(self, v: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """The mean -log p of a symbol: of a sample half of it."""
        return -sum(part.mean() for part in self._both(v, z, x)) / 2  # type: ignore[return-value]

    def _both(self, v: Tensor, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p of the high byte, and of the low one, (B, T) each."""
        weights, mean, scale, same, of_same = self._mixture(v, z)
        edge = 1 + 1 / (self.symbols - 1)
        everything = (weights + log_mass_between(-edge, edge, mean, scale)).logsumexp(-1)
        high = (weights + log_mass_within(x[..., :1], mean, scale, self.symbols)).logsumexp(-1)
        low = self._low(weights, mean, scale, same, of_same, x)
        found = (low[0] + log_mass_within(x[..., 1:], low[1], low[2], self.symbols)).logsumexp(-1)
        stays = same + log_mass_between(-edge, edge, of_same, torch.full_like(of_same, EXACT))
        within = (weights + log_mass_between(-edge, edge, low[1][..., :-1], low[2][..., :-1])).logsumexp(-1)
        return high - everything, found - torch.logaddexp(within, stays[..., 0])

    def _mixture(self, v: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Log weights, means and log scales, each (B, T, J); γ and the low byte before (B, T, 1), as a number.

        The high byte k has its middle at 2 k / (K - 1) - 1.
        """
        with torch.autocast(v.device.type, enabled=False):
            parts = self.out(v.to(self.a)).split([*[self.mixtures] * 3, self.inputs, 1], -1)
            weights, offsets, near, c, same = parts
            predicted = z[..., :1] + ((self.a + SHARE * c) * z[..., : self.inputs]).sum(-1, keepdim=True)
            scale = NEAR * torch.tanh(near / NEAR) - z[..., -2:-1]
            return weights, predicted + scale.exp() * offsets, scale, same, z[..., -1:]

    def _low(self, weights, mean, scale, same, of_same, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, means, log scales (B, T, J + 1); levels within the high byte of x have the places of all K."""
        k = self.symbols
        middle = x[..., :1].to(mean) * (2 / (k - 1)) - 1
        means = torch.cat([k * (mean - middle), of_same], -1)
        scales = torch.cat([scale + math.log(k), torch.full_like(of_same, EXACT)], -1)
        return torch.cat([weights, same], -1), means, scales

    def program(self, p, v, z):
        """The logits of both bytes."""
        k, j = self.symbols, self.mixtures
        said = p.dense(v, weight=self.out.weight.T, bias=self.out.bias)
        weights, offsets, scale = said[:j], said[j : 2 * j], said[2 * j : 3 * j]
        c, same, of_same = said[3 * j : -1], said[said.width - 1 :], z[self.inputs + 1 :]
        near = scaled(p, p.pointwise("tanh", scaled(p, scale, 1 / NEAR)), NEAR)
        scale = p.dense(z[self.inputs : self.inputs + 1], weight=-torch.ones(1, j), onto=near)
        terms = p.multiply(p.add(scaled(p, c, SHARE), p.constant(self.a)), z[: self.inputs])
        moved = p.multiply(p.pointwise("exp", scale), offsets)
        mean = p.dense(z[:1], terms, weight=torch.ones(self.inputs + 1, j), onto=moved)
        high = p.logistics(p.concat(weights, mean, scale), within=True)
        middles = -k * np.array(levels_of(k)[:k])
        when = {"clock": "channel 1"}
        low = p.embed(np.repeat(middles[:, None], j, 1), channel=0, onto=scaled(p, mean, k), **when)
        wider = p.add(scale, p.constant(np.full(j, math.log(k))))
        three = weights, same, low, of_same, wider, p.constant([EXACT])
        return [high, p.logistics(p.concat(*three, **when), within=True)]


def scaled(p, x, factor: float):
    """factor · x in a step program."""
    return p.multiply(x, p.constant(np.full(x.width, float(factor))))


def half(h: Tensor) -> Tensor:
    """h in the short type of a mixed training: half as much to read and write between products."""
    return h.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else h
