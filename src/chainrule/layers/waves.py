"""The gated residual layer of a WaveNet (van den Oord et al. 2016).

B batch, T time, k taps of a kernel, r its dilation, d numbers between layers, s numbers of the skips, e of a condition
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chainrule.layers.dilated import causal


class GatedLayer(nn.Module):
    """One layer, (B, T, d + s) -> (B, T, d + s): what goes on to the next layer, and the sum of the skips so far.

        z = tanh(W_f ∗ h + V_f c + b_f) ⊙ σ(W_g ∗ h + V_g c + b_g)          equation 5
        h <- h + W_r z,    skips <- skips + W_s z                           figure 4

    Args:
        condition: e, numbers of c; 0: there is none.
        depth: how many layers follow each other: the more, the less each adds at first.
    """

    def __init__(self, width: int, skip: int, kernel: int, dilation: int, condition: int, depth: int):
        super().__init__()
        self.at = causal(kernel, dilation)
        self.width, self.past = width, -self.at[0]
        self.gates = nn.Linear(kernel * width + condition, 2 * width)
        self.add = nn.Linear(width, width + skip, bias=False)
        nn.init.normal_(self.add.weight, std=(width * depth) ** -0.5)

    def forward(
        self, hs: Tensor, before: Tensor, texts: Tensor | None = None, c: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """hs with what the layer adds, and what its kernel will have seen, (B, past, d).

        Args:
            before: (B, past, d), what the kernel has seen.
            texts: (B, T) how many recordings have begun in this row: nothing is seen of an earlier one.
            c: (B, T, e), the condition.
        """
        steps = hs.shape[1]
        seen = torch.cat([before.to(hs), hs[:, max(0, steps - self.past) :, : self.width].detach()], 1)
        after = seen[:, seen.shape[1] - self.past :]
        owns = None
        if texts is not None:
            number = torch.cat([texts.new_zeros(len(texts), self.past), texts], 1)
            owns = [number[:, self.past + a :][:, :steps] == texts for a in self.at]
            after = after * (number[:, steps:] == texts[:, -1:])[..., None]
        weights = (w.to(hs) for w in (self.gates.weight, self.gates.bias, self.add.weight))
        return Through.apply(hs, before.to(hs), owns, c, *weights, self.at), after

    def program(self, p, hs, c=None):
        """The same in a step program; what a class says to the gates is there from the beginning."""
        h, w = hs[: self.width], self.gates.weight.T
        inner = len(self.at) * self.width
        said = self.gates.bias if c is None else p.dense(c, weight=w[inner:], bias=self.gates.bias)
        taps = [p.at(h, columns=a) for a in self.at]
        if c is None:
            gates = p.dense(*taps, weight=w, bias=said)
        else:
            gates = p.dense(*taps, weight=w[:inner], onto=said)
        return p.dense(p.gate(gates), weight=self.add.weight.T, onto=hs)


class Through(torch.autograd.Function):
    """The layer with its gradient written out: most of what PyTorch would record are copies.

    tanh is computed as 2 σ(2 f) - 1, so that both gates are one σ.
    """

    @staticmethod
    def forward(ctx: Any, hs, before, owns, c, w, b, v, at) -> Tensor:
        d, (batch, steps, _) = before.shape[-1], hs.shape
        u = hs.new_empty(batch, steps, w.shape[1])
        for i, a in enumerate(at):
            tap, missing = u[..., i * d : (i + 1) * d], min(-a, steps)
            tap[:, missing:] = hs[:, : steps - missing, :d]
            past = before.shape[1] + a
            tap[:, :missing] = before[:, past : past + missing]
            if owns is not None and a:
                tap *= owns[i][..., None]
        if c is not None:
            u[..., len(at) * d :] = c
        rows = u.flatten(0, 1)
        f = torch.addmm(b[:d], rows, w[:d].T).mul_(2).sigmoid_().mul_(2).sub_(1)
        g = torch.addmm(b[d:], rows, w[d:].T).sigmoid_()
        z = f * g
        ctx.save_for_backward(u, f, g, z, w, v)
        ctx.owns, ctx.at = owns, at
        return torch.addmm(hs.flatten(0, 1), z, v.T).view_as(hs)

    @staticmethod
    def backward(ctx: Any, by_out: Tensor) -> Any:
        u, f, g, z, w, v = ctx.saved_tensors
        d, steps, flat, rows = z.shape[1], by_out.shape[1], by_out.flatten(0, 1), u.flatten(0, 1)
        by_z, by_v = flat @ v, flat.T @ z
        by_g = (by_z * z).mul_(1 - g)  # σ' = σ (1 - σ), and f σ is z
        by_f = by_z.mul_(torch.addcmul(g, z, f, value=-1))  # tanh' = 1 - tanh²
        by_w = torch.cat([by_f.T @ rows, by_g.T @ rows])
        by_b = torch.cat([by_f.sum(0), by_g.sum(0)])
        by_u = torch.addmm(by_f @ w[:d], by_g, w[d:]).view_as(u)
        by_hs = by_out.clone()
        for i, a in enumerate(ctx.at):
            by_tap, missing = by_u[..., i * d : (i + 1) * d], min(-a, steps)
            if ctx.owns is not None and a:
                by_tap *= ctx.owns[i][..., None]
            by_hs[:, : steps - missing, :d] += by_tap[:, missing:]
        by_c = by_u[..., len(ctx.at) * d :] if ctx.needs_input_grad[3] else None
        return by_hs, None, None, by_c, by_w, by_b, by_v, None
