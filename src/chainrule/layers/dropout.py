"""Dropout whose random numbers cost little: PyTorch draws 64 bits for every number, and 15 are enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

STEPS = 1 << 15


def dropped(x: Tensor, share: float) -> Tensor:
    """x with each number 0 with probability `share`, the others larger in turn (Srivastava et al. 2014).

    >>> dropped(torch.ones(10_000), 0.5).unique().tolist()
    [0.0, 2.0]
    """
    return x * kept(x.shape, share, x) if round(share * STEPS) else x


def kept(shape: Sequence[int], share: float, like: Tensor) -> Tensor:
    """Factors of the type of `like`: 0 with probability `share`, to the nearest of 1/32768; else what keeps the mean.

    Four numbers share 64 random bits, whose drawing is most of what dropout costs on a processor.
    """
    count, threshold = math.prod(shape), round(share * STEPS)
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=like.device).random_(-(1 << 63), None)
    bits = bits.view(torch.int16)[:count].view(shape).bitwise_and_(STEPS - 1)
    stays = bits.sub_(threshold).clamp_(-1, 0).add_(1)  # 1 where the bits are not below the threshold
    return stays.to(like.dtype).mul_(STEPS / max(1, STEPS - threshold))
