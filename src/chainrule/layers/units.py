"""Units of the exponential family: what a number stands for, and what it costs when it is predicted badly.

    p(u | a) = exp(base(u) + a u − A(a)),        mean(a) = A'(a)

An autoencoder's output layer is such a p(x | a) (its loss is −log p), and a Boltzmann machine's two layers are
(Welling, Rosen-Zvi & Hinton 2005). `Bernoulli` gives the cross-entropy of the lecture, `Gaussian` its squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from chainrule.engine.kernels import sigmoid
from chainrule.jit import compiled

SMALLEST = 1e-12  # a spread below this share of the numbers is rounding: the data are constant
TOO_SMALL = np.float32(
    2.0**-25
)  # a chance that a draw of 24 bits knows from 0; products of much smaller ones are slow
SURE = 1e-3  # at the start no output is surer than this of being 0 or 1


@dataclass(frozen=True)
class Bernoulli:
    """u is 0 or 1, or the probability of 1: A(a) = log(1 + eᵃ), mean(a) = σ(a).

    Data are first brought to 0..1 by their smallest and largest number.
    """

    def scaling(self, rows: np.ndarray) -> tuple[np.ndarray, float]:
        """(shift (d,), scale): u = (x − shift) / scale."""
        low, high = float(rows.min()), float(rows.max())
        return np.full(rows.shape[1], low), spread(high - low, max(abs(low), abs(high)))

    def natural(self, mean: Tensor) -> Tensor:
        """a with mean(a) = mean, which is kept off 0 and 1."""
        return torch.logit(mean.clamp(SURE, 1 - SURE))

    def base(self, u: Tensor) -> Tensor:
        """Σ base of the units of each row, (B, n) -> (B,)."""
        return u.new_zeros(len(u))

    def log_partition(self, a: Tensor) -> Tensor:
        return softplus(a)

    def mean(self, a: Tensor) -> Tensor:
        return torch.sigmoid(a)

    def draw(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """(a sample of each unit, its mean); from PyTorch's own random numbers, or seeded by them."""
        if a.dtype == torch.float32 and a.is_contiguous():
            return draw_binary(a)
        mean = torch.sigmoid(a)
        return (torch.rand_like(a) < mean).to(a.dtype), mean

    def loss(self, a: Tensor, u: Tensor) -> Tensor:
        """The mean cross-entropy −u log σ(a) − (1 − u) log(1 − σ(a)) of a number, in nats."""
        return torch.nn.functional.binary_cross_entropy_with_logits(a, u)


@dataclass(frozen=True)
class Gaussian:
    """u is a real number of variance 1: A(a) = ½a², mean(a) = a.

    Data are first brought to mean 0, each number its own, and one variance for all, 1 on average.
    """

    def scaling(self, rows: np.ndarray) -> tuple[np.ndarray, float]:
        """(shift (d,), scale): u = (x − shift) / scale."""
        mean = rows.mean(0, dtype=np.float64)
        deviation = float(np.sqrt(sum(np.square(part - mean).sum() for part in in_parts(rows)) / rows.size))
        return mean, spread(deviation, float(np.abs(mean).max()))

    def natural(self, mean: Tensor) -> Tensor:
        """a with mean(a) = mean."""
        return mean

    def base(self, u: Tensor) -> Tensor:
        """Σ base of the units of each row, (B, n) -> (B,)."""
        return -0.5 * u.square().sum(1)

    def log_partition(self, a: Tensor) -> Tensor:
        return 0.5 * a.square()

    def mean(self, a: Tensor) -> Tensor:
        return a

    def draw(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """(a sample of each unit, its mean); from PyTorch's own random numbers."""
        return a + torch.randn_like(a), a

    def loss(self, a: Tensor, u: Tensor) -> Tensor:
        """The mean of ½(u − a)² of a number."""
        return 0.5 * (u - a).square().mean()


Units = Bernoulli | Gaussian
UNITS: dict[str, type] = {"bernoulli": Bernoulli, "gaussian": Gaussian}  # as parts of a code


def spread(found: float, largest: float) -> float:
    """The spread of data whose numbers reach `largest`; 1 for constant data."""
    return found if found > SMALLEST * (1e-300 + largest) else 1.0


def by_parts(function: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """`function` of rows x (n, d), part by part, (n, width): never held twice."""
    found = x.new_empty(len(x), width)
    for part, into in zip(in_parts(x), in_parts(found), strict=True):
        into[:] = function(part)
    return found


def in_parts(rows: Any, size: int = 1 << 12) -> Iterator[Any]:
    """`rows` in pieces of at most `size`, so that no second copy of all of them is made."""
    return (rows[i : i + size] for i in range(0, len(rows), size))


def scaled(rows: np.ndarray, shift: np.ndarray, scale: float) -> Tensor:
    """(rows − shift) / scale in single precision, without a second copy in double precision."""
    found = np.empty(rows.shape, np.float32)
    for part, into in zip(in_parts(rows), in_parts(found), strict=True):
        into[:] = (part - shift) / scale
    return torch.from_numpy(found)


def draw_binary(a: Tensor) -> tuple[Tensor, Tensor]:
    """(u, σ(a)) with u = 1 with probability σ(a), else 0; single precision, one pass over the numbers.

    Instead of a random number, a σ and a comparison, each a pass of its own; the key is one of PyTorch's numbers.
    """
    drawn, mean = torch.empty_like(a), torch.empty_like(a)
    key, step = torch.randint(1 << 32, (2,)).tolist()
    flat = (x.view(-1).numpy() for x in (a.detach(), mean, drawn))
    draw_bits(*flat, np.uint32(key), np.uint32(step | 1))
    return drawn, mean


@compiled
def draw_bits(a, mean, drawn, key, step):
    # Number i is drawn with a hash (Wellons 2018, lowbias32) of key + step · i. (A PCG permutation of it leaves
    # correlations of up to 0.02 between numbers that are a power of 2 apart, at some steps.)
    for i in range(a.size):
        word = np.uint32(key + step * np.uint32(i))
        word = np.uint32((word ^ (word >> np.uint32(16))) * np.uint32(0x7FEB352D))
        word = np.uint32((word ^ (word >> np.uint32(15))) * np.uint32(0x846CA68B))
        word = np.uint32(word ^ (word >> np.uint32(16)))
        share = np.float32(word >> np.uint32(8)) * np.float32(5.9604645e-08)  # 24 bits: 0 to 1 − 2⁻²⁴
        chance = sigmoid(a[i])
        chance = chance if chance > TOO_SMALL else np.float32(0.0)
        mean[i] = chance
        drawn[i] = np.float32(1.0) if share < chance else np.float32(0.0)
