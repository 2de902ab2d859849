"""Mixtures of discretised logistics over levels, channel after channel (Salimans et al. 2017)."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from chainrule.engine.device import log_mass
from chainrule.layers.conv import weight_of
from chainrule.layers.pixels import of_images, single
from chainrule.model import Chain


class OfLogistics(Chain):
    """A chain over images whose features of a pixel go to a `LogisticHead` (abstract).

    A concrete one has `head`, and `_features(x, context)` (B, H, W, D): what is known of each pixel from its past.
    """

    head: LogisticHead

    @classmethod
    def configure(cls, data) -> dict:
        """Constructor arguments that the data imply."""
        return of_images(data)

    @abstractmethod
    def _features(self, x: Tensor, context: Tensor | None) -> Tensor: ...

    def logits(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, H, W, C) -> (B, H, W, C, K)."""
        return self.head(self._features(x, context), x)

    def log_probs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(xᵢ | x₍<ᵢ₎) of every symbol in nats, (B, H, W, C) float64, from the mixture itself."""
        return self.head.log_probs(self._features(x, context), x).double() if x.numel() else x.double()

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean negative log-likelihood a symbol in nats."""
        return -self.head.log_probs(self._features(x, context), x).mean()


class LogisticHead(nn.Module):
    """What is known of a pixel -> the distribution of its channels, as one mixture for all of them.

    With J logistics of weights π_j, and for each channel c means μ_jc, scales s_jc, coefficients α_jcd, and levels as
    numbers x_c from -1 to 1 (equations 2 and 3 of the paper):

        p(x) = Σ_j π_j ∏_c mass(x_c; μ_jc + Σ_{d<c} tanh(α_jcd) x_d, s_jc)

    where mass is that of a level's interval, the outermost levels reaching to infinity. So given the channels before
    c the same mixture has the weights π_j ∏_{d<c} mass_jd, and its K masses are the conditional of the channel.
    """

    def __init__(self, width: int, channels: int, symbols: int, mixtures: int):
        super().__init__()
        self.channels, self.symbols, self.mixtures = channels, symbols, mixtures
        count = 1 + 2 * channels + channels * (channels - 1) // 2
        self.out = weight_norm(nn.Linear(width, count * mixtures))

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """h (B, H, W, D), x (B, H, W, C) -> logits (B, H, W, C, K)."""
        weights, means, scales = self._mixture(h, x)
        levels = torch.arange(self.symbols, device=x.device)[:, None]  # (K, 1)
        logits = []
        for c, (mean, scale) in enumerate(zip(means, scales, strict=True)):
            masses = log_mass(
                levels, mean[..., None, :], scale[..., None, :], self.symbols
            )  # (B, H, W, K, J)
            logits.append((weights[..., None, :] + masses).logsumexp(-1))
            weights = weights + log_mass(x[..., c, None], mean, scale, self.symbols)
        return torch.stack(logits, -2)

    def log_probs(self, h: Tensor, x: Tensor) -> Tensor:
        """log p of every symbol x (B, H, W, C) given those before it, without the other levels."""
        weights, means, scales = self._mixture(h, x)
        so_far, found = weights.logsumexp(-1), []
        for c, (mean, scale) in enumerate(zip(means, scales, strict=True)):
            weights = weights + log_mass(x[..., c, None], mean, scale, self.symbols)
            total = weights.logsumexp(-1)
            found.append(total - so_far)
            so_far = total
        return torch.stack(found, -1)

    def _mixture(self, h: Tensor, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Log weights (B, H, W, J), and for each channel means and log scales, given the channels before it."""
        weights, *parts = single(self.out(h)).split(self.mixtures, -1)
        c = self.channels
        means, scales, coefficients = parts[:c], parts[c : 2 * c], iter(parts[2 * c :])
        numbers = x.to(weights)[..., None] * (2 / max(self.symbols - 1, 1)) - 1  # (B, H, W, C, 1)
        for later in range(c):
            for d in range(later):
                means[later] = means[later] + next(coefficients).tanh() * numbers[..., d, :]
        return weights, means, scales

    def program(self, p, h):
        """The logits of each channel."""
        c, j = self.channels, self.mixtures
        said = p.dense(h, weight=weight_of(self.out).T, bias=self.out.bias)
        parts = [said[i * j : (i + 1) * j] for i in range(said.width // j)]
        weights, means, scales, coefficients = (
            parts[0],
            parts[1 : 1 + c],
            parts[1 + c : 1 + 2 * c],
            iter(parts[1 + 2 * c :]),
        )
        numbers = (torch.arange(self.symbols) * (2 / max(self.symbols - 1, 1)) - 1)[:, None].expand(-1, j)
        logits = []
        for later in range(c):
            when = {"clock": f"channel {later}"}
            for d in range(later):
                level = p.embed(numbers, channel=d, **when)
                means[later] = p.add(
                    means[later], p.multiply(p.pointwise("tanh", next(coefficients)), level, **when)
                )
            three = p.concat(weights, means[later], scales[later], **when)
            logits.append(p.logistics(three))
            if later + 1 < c:
                weights = p.logistic_of(three, later, clock=f"channel {later + 1}")
        return logits
