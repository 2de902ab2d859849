"""Muon: matrices are stepped by their momentum made orthogonal, everything else by Adam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Jordan et al. 2024: x <- a x + b x³ + c x⁵ five times brings every singular value in (0, 1] near 1.
FIVE = (3.4445, -4.7750, 2.0315)
TIMES = 5
MOMENTUM = 0.95
MATCHES = 0.2  # Liu et al. 2025, equation 4: the root mean square of a step of Adam


class Muon(torch.optim.AdamW):
    """Adam for `others`, Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers") for `matrices`.

    With G the gradient by a matrix W (n, m), M <- 0.95 M + 0.05 G, and N = 0.95 M + 0.05 G (Nesterov's momentum),

        W <- W - lr · 0.2 √max(n, m) · orthogonal(N)

    where orthogonal(U S Vᵀ) = U Vᵀ. The factor (Liu et al. 2025, "Muon is scalable for LLM training") makes a step
    about as large as one of Adam, so that one learning rate serves both. PyTorch has a Muon of its own: it computes in
    bfloat16 only, which many processors have to emulate, and one matrix after another.

    Args:
        half: make matrices orthogonal in bfloat16: fast where the processor multiplies such numbers itself.
        settings: of `torch.optim.AdamW`.

    Example:
        >>> w, b = nn.Parameter(torch.zeros(4, 2)), nn.Parameter(torch.zeros(4))
        >>> optimizer = Muon([w], [b], lr=0.1)
        >>> (w.sum() + b.sum()).backward()
        >>> optimizer.step()
        >>> bool((w < 0).all() and (b < 0).all())
        True
    """

    def __init__(self, matrices: Iterable[Tensor], others: Iterable[Any], half: bool = False, **settings):
        super().__init__(list(others), **settings)
        self.matrices, self.half = list(matrices), half
        for p in self.matrices:
            self.state[p]["momentum"] = torch.zeros_like(p)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """No gradient of a matrix or of anything else."""
        super().zero_grad(set_to_none)
        for p in self.matrices:
            p.grad = None

    @torch.no_grad()
    def step(self, closure=None):
        """Step along the gradients; matrices of one shape are made orthogonal together."""
        super().step(closure)
        alike: dict[torch.Size, list[Tensor]] = {}
        for p in self.matrices:
            if p.grad is not None:
                alike.setdefault(p.shape, []).append(p)
        for shape, several in alike.items():
            gradients: list[Any] = [p.grad for p in several]
            momenta = [self.state[p]["momentum"] for p in several]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
            steps = orthogonal(torch.stack(ahead), torch.bfloat16 if self.half else None)
            rate = self.param_groups[0]["lr"] * MATCHES * max(shape) ** 0.5
            torch._foreach_add_(several, list(steps.to(several[0].dtype)), alpha=-rate)


def orthogonal(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(N, n, m) -> about U Vᵀ of each U S Vᵀ, by a polynomial that is applied five times; singular values 0.7 to 1.2.

    >>> x = torch.diag(torch.tensor([3.0, 1.0, 0.5]))[None]
    >>> bool(((orthogonal(x) - torch.eye(3)).abs() < 0.35).all())
    True
    """
    tall = x.shape[1] > x.shape[2]
    y = (x.transpose(1, 2) if tall else x).to(dtype or x.dtype)
    y = y / (y.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = FIVE
    for _ in range(TIMES):
        square = y @ y.transpose(1, 2)
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        y = polynomial @ y
    return y.transpose(1, 2) if tall else y


def between_layers(model: nn.Module) -> list[Tensor]:
    """The weights of linear maps in `model.layers`: not the tables of symbols and positions, not the output."""
    inner = getattr(model, "layers", ())
    return [m.weight for layer in inner for m in layer.modules() if isinstance(m, nn.Linear)]
