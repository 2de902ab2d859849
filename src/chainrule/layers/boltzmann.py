"""The restricted Boltzmann machine: p(v, h) ∝ exp(base(v) + b v + v W h + base(h) + c h), two layers of units.

Smolensky 1986; contrastive divergence: Hinton 2002; persistent chains: Tieleman 2008; other units than binary ones:
Welling, Rosen-Zvi & Hinton 2005. With binary units base = 0; with Gaussian ones base(v) = −½v².

    B batch, C chains (B of them when they start at the data), d visible units, K hidden units
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chainrule.layers.units import Bernoulli, Units, in_parts

ENUMERATED = 20  # units of the layer whose states are summed over exactly, at most
MOMENTUM = 0.9  # Hinton 2012, section 9


@dataclass(frozen=True)
class Divergence:
    """Statistics of data v and of what the chains have reached, v⁻, each with the means of its hidden units.

    Attributes:
        v: [v, v⁻] (B + C, d).
        h: [h / B, −h⁻ / C] (B + C, K), so that [v, v⁻]ᵀ h is the gradient by the weights.
        moved: the mean of v, less that of v⁻, (d,).
        gap: the mean energy of (v, h), less that of (v⁻, h⁻).
    """

    v: Tensor
    h: Tensor
    moved: Tensor
    gap: Tensor

    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Those of the log-likelihood by W (d, K), b (d,) and c (K,), as the chains estimate them."""
        return self.v.T @ self.h, self.moved, self.h.sum(0)


class Boltzmann(nn.Module):
    """Two layers of units, and the rule by which they learn: contrastive divergence with momentum.

    Args:
        weights: W at the start, (d, K).
        visible, hidden: the units of the two layers.
        visible_bias: b at the start, (d,).
        gibbs: k, the steps of the chains.
        chains: states of the hidden units (C, K) that persist from one batch to the next; None: chains start at the
            data (CD-k).
        weight_decay: every step takes rate · weight_decay of each weight away.
    """

    chains: Tensor
    velocity: Tensor
    visible_velocity: Tensor
    hidden_velocity: Tensor

    def __init__(
        self,
        weights: Tensor,
        visible: Units,
        hidden: Units,
        visible_bias: Tensor | None = None,
        gibbs: int = 1,
        chains: Tensor | None = None,
        weight_decay: float = 0.0,
    ):
        super().__init__()
        d, K = weights.shape
        self.visible, self.hidden, self.gibbs, self.weight_decay = visible, hidden, gibbs, weight_decay
        self.weights = nn.Parameter(weights)
        self.visible_bias = nn.Parameter(weights.new_zeros(d) if visible_bias is None else visible_bias)
        self.hidden_bias = nn.Parameter(weights.new_zeros(K))
        self.persistent = chains is not None
        if chains is not None:
            self.register_buffer("chains", chains)
        self.register_buffer("velocity", torch.zeros_like(weights))
        self.register_buffer("visible_velocity", weights.new_zeros(d))
        self.register_buffer("hidden_velocity", weights.new_zeros(K))

    def up(self, v: Tensor) -> Tensor:
        """Natural parameters of the hidden units, (B, d) -> (B, K): c + vW."""
        return torch.addmm(self.hidden_bias, v, self.weights)

    def means(self, v: Tensor) -> Tensor:
        """The means of the hidden units given v, (B, d) -> (B, K)."""
        return self.hidden.mean(self.up(v))

    def down(self, h: Tensor) -> Tensor:
        """Natural parameters of the visible units, (B, K) -> (B, d): b + hWᵀ."""
        return torch.addmm(self.visible_bias, h, self.weights.T)

    def free_energy(self, v: Tensor) -> Tensor:
        """−log Σ_h exp(−E(v, h)) of each v (B, d), (B,): p(v) = exp(−F(v)) / Z."""
        seen = self.visible.base(v) + v @ self.visible_bias
        return -(seen + self.hidden.log_partition(self.up(v)).sum(1))

    @torch.no_grad()
    def learn(self, v: Tensor, rate: float) -> Tensor:
        """One step on the data v (B, d); gives the gap of energies. The velocity is m · velocity + gradient.

        The gradient by the weights is one product that is added to the velocity as it is computed.
        """
        found = self.divergence(v)
        self.velocity.addmm_(found.v.T, found.h, beta=MOMENTUM)
        self.visible_velocity.mul_(MOMENTUM).add_(found.moved)
        self.hidden_velocity.mul_(MOMENTUM).add_(found.h.sum(0))
        if self.weight_decay:
            self.weights.mul_(1 - rate * self.weight_decay)
        self.weights.add_(self.velocity, alpha=rate)
        self.visible_bias.add_(self.visible_velocity, alpha=rate)
        self.hidden_bias.add_(self.hidden_velocity, alpha=rate)
        return found.gap

    @torch.no_grad()
    def divergence(self, v: Tensor) -> Divergence:
        """The statistics of data v (B, d) and of chains that take k steps: from the data, or on from where they are.

        Hidden units drive the chains as samples; in the statistics stand their means.
        """
        a = self.up(v)
        h, mean = self.hidden.draw(a)
        if self.persistent:
            h = self.chains
        for _ in range(self.gibbs - 1):
            _, h = self.sample(h, 1)
        reached, _ = self.visible.draw(self.down(h))
        b = self.up(reached)
        h, mean_reached = self.hidden.draw(b)
        if self.persistent:
            self.chains.copy_(h)
        n, chains = len(v), len(reached)
        signs = torch.full((n + chains,), 1 / n, dtype=v.dtype)
        signs[n:] = -1 / chains
        both = torch.cat([v, reached])
        moved = signs @ both
        inner = dot(a, mean) / n - dot(b, mean_reached) / chains
        base = self.visible.base(v).mean() - self.visible.base(reached).mean()
        signed = torch.cat([mean, mean_reached]).mul_(signs[:, None])
        return Divergence(both, signed, moved, -(inner + base + moved @ self.visible_bias))

    @torch.no_grad()
    def sample(self, h: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """(v, h) after so many steps of Gibbs sampling from hidden states h (B, K)."""
        for _ in range(steps):
            v, _ = self.visible.draw(self.down(h))
            h, _ = self.hidden.draw(self.up(v))
        return v, h

    @torch.no_grad()
    def log_normaliser(self) -> Tensor:
        """log Z, exactly: over all states of a layer of binary units, the smaller one if both are.

        The other layer is summed, or integrated, by formula. Of Gaussian units the factor √2π each is left out, as it
        is in `free_energy`.
        """
        d, K = self.weights.shape
        binary = [n for n, u in ((K, self.hidden), (d, self.visible)) if isinstance(u, Bernoulli)]
        if isinstance(self.hidden, Bernoulli) and min(binary) == K:  # Σ_h exp(c h + Σᵢ A((b + h Wᵀ)ᵢ))
            parts = (h.to(self.weights) for h in in_parts(states(K)))
            found = [h @ self.hidden_bias + self.visible.log_partition(self.down(h)).sum(1) for h in parts]
        else:
            found = [-self.free_energy(v.to(self.weights)) for v in in_parts(states(d))]
        return torch.cat(found).logsumexp(0)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ ab."""
    return torch.dot(a.flatten(), b.flatten())


def states(n: int) -> Tensor:
    """All states (2ⁿ, n) of n binary units."""
    return (torch.arange(1 << n)[:, None] >> torch.arange(n)) & 1


def first_machine(
    v: Tensor,
    width: int,
    visible: Units,
    hidden: Units,
    seed: int,
    gibbs: int = 1,
    chains: int = 0,
    weight_decay: float = 0.0,
) -> Boltzmann:
    """A machine for the data v (n, d) that has learned no more than their means, so far.

    Weights are small and normal, 0.01 as in Hinton 2012, section 8; `chains` of them persist, from random states on.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = 0.01 * torch.randn(v.shape[1], width, generator=generator)
    kept = torch.randint(2, (chains, width), generator=generator).float() if chains else None
    bias = visible.natural(v.mean(0, dtype=torch.float64).float())
    return Boltzmann(weights, visible, hidden, bias, gibbs, kept, weight_decay)
