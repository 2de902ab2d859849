"""What a denoising autoencoder does to its input, never to its target: Vincent et al. 2008 and 2010.

A corruption takes the input (B, d), the numbers that stand for 0 (d,), and the ends of the range of the data (2, d),
all as the network sees them, and draws from PyTorch's own random numbers. Nothing is rescaled, and nothing is
corrupted outside training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from chainrule.errors import ChainruleError


@dataclass(frozen=True)
class Masking:
    """Every number becomes 0 with probability ν = `share`."""

    share: float = 0.25

    def check(self) -> None:
        check_share(self.share)

    def __call__(self, x: Tensor, zero: Tensor, ends: Tensor) -> Tensor:
        return torch.where(torch.rand_like(x) < self.share, zero, x)


@dataclass(frozen=True)
class SaltAndPepper:
    """Every number becomes, with probability `share`, the smallest or the largest of the data, either as likely."""

    share: float = 0.25

    def check(self) -> None:
        check_share(self.share)

    def __call__(self, x: Tensor, zero: Tensor, ends: Tensor) -> Tensor:
        drawn = torch.rand_like(x)
        return torch.where(drawn < self.share, torch.where(drawn < self.share / 2, ends[0], ends[1]), x)


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of this standard deviation is added: in units of the range of the data where the output is
    Bernoulli, else of their standard deviation."""

    deviation: float = 0.25

    def check(self) -> None:
        if not 0 <= self.deviation < math.inf:
            raise ChainruleError(f"deviation is {self.deviation}: take 0 or more")

    def __call__(self, x: Tensor, zero: Tensor, ends: Tensor) -> Tensor:
        return x + self.deviation * torch.randn_like(x)


Corruption = Masking | SaltAndPepper | Noise
CORRUPTIONS: dict[str, type] = {"masking": Masking, "salt-and-pepper": SaltAndPepper, "noise": Noise}


def check_share(share: float) -> None:
    """One clear line for a share that is none, or that leaves nothing."""
    if not 0 <= share < 1:
        raise ChainruleError(f"share is {share}: take one from 0 up to, not including, 1")
