"""Multi-scale image chains: a small image first, the rest of the pixels given all of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chainrule.layers.pixels import PixelNetwork, scaled


class Scales(nn.Module):
    """Multi-scale PixelRNN (van den Oord et al. 2016a, section 3.6), as one exact chain.

        p(x) = p(x[::s, ::s]) p(the other pixels | x[::s, ::s])

    Every s-th pixel of every s-th row is an image of its own with a network of its own. A second network goes over
    the whole image; before each of its layers it is given maps that a convolution and an upsampling one make of all
    of the small image, and it predicts the other pixels, each given the small image and all pixels before it.

    Args:
        scale: s.
        width: maps of the upsampled small image.
        network: makes either network, of so many given maps.
    """

    def __init__(self, scale: int, width: int, network: Callable[[int], PixelNetwork]):
        super().__init__()
        self.scale, self.small, self.large = scale, network(0), network(width)
        planes = self.small.first.weight.shape[1]
        self.around = nn.Conv2d(planes, width, 3, padding=1)
        self.enlarge = nn.ConvTranspose2d(width, width, scale, stride=scale)

    def order(self, event: tuple[int, ...]) -> np.ndarray:
        """The rank of every symbol of an image (H, W, C): those of the small image in order, then the others."""
        first = np.zeros(event, bool)
        first[:: self.scale, :: self.scale] = True
        rank = np.empty(first.size, np.int64)
        rank[np.argsort(~first.ravel(), kind="stable")] = np.arange(first.size)
        return rank

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, H, W, C) -> logits (B, H, W, C, K)."""
        s = self.scale
        small = x[:, ::s, ::s]
        maps = F.relu(self.around(scaled(small, self.small.symbols, self.around.weight)))
        given = self.enlarge(maps)[:, :, : x.shape[1], : x.shape[2]]  # (B, width, H, W)
        logits = self.large(x, context, given)
        first = torch.zeros(*x.shape[1:3], 1, 1, dtype=torch.bool, device=x.device)
        first[::s, ::s] = True
        small_logits = self.small(small, context)
        spread = small_logits.repeat_interleave(s, 1).repeat_interleave(s, 2)[:, : x.shape[1], : x.shape[2]]
        return torch.where(first, spread, logits)
