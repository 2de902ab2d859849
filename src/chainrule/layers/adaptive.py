"""Linear prediction that learns as it goes: normalised least mean squares (Haykin, "Adaptive Filter Theory", chapter 7)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from chainrule.jit import compiled

SMALL = 1e-6  # added to Σ h²: 33 levels of 65,536 squared, so that what follows silence does not throw a filter off


def predictions(d: Tensor, begins: Tensor, state: Tensor, rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """What a filter of P taps expects of each number of a sequence, given those before it.

    With h the P numbers before a position and w = 0 at the beginning,

        p = Σ_i w_i h_i,    and when the number d has come    e = d - p,    w <- w + rate · e h / (SMALL + Σ h²)

    Args:
        d: (B, T) the number before each position.
        begins: (B, T) where a sequence begins: nothing has been learned there, and nothing is expected.
        state: (B, 2 P + 2), of `at_rest`: weights, the P numbers, the last p and e.

    Returns:
        p (B, T) of each position, e (B, T) of the one before it, the new state.
    """
    numbers, after = d.detach().cpu().numpy(), state.detach().cpu().numpy().copy()
    p, e = np.empty_like(numbers), np.empty_like(numbers)
    filtered(np.ascontiguousarray(numbers), begins.cpu().numpy(), after, numbers.dtype.type(rate), p, e)
    return tuple(torch.from_numpy(x).to(d.device) for x in (p, e, after))  # type: ignore[return-value]


def at_rest(like: Tensor, taps: int) -> Tensor:
    """The state (B, 2 P + 2) of a filter that has seen nothing."""
    return like.new_zeros(len(like), 2 * taps + 2)


@compiled
def filtered(d, begins, state, rate, p, e):
    """`predictions` of each row, into p and e; the state is changed in place."""
    taps = (state.shape[1] - 2) // 2
    small = state.dtype.type(SMALL)
    for row in range(d.shape[0]):
        w, h, last = state[row, :taps], state[row, taps : 2 * taps], state[row, 2 * taps :]
        for t in range(d.shape[1]):
            if begins[row, t]:
                state[row] = 0
                p[row, t] = e[row, t] = 0
                continue
            energy = state.dtype.type(0)
            for i in range(taps):
                energy += h[i] * h[i]
            error = d[row, t] - last[0]
            pull = rate * error / (small + energy)
            expected = state.dtype.type(0)
            for i in range(taps - 1, -1, -1):
                w[i] += pull * h[i]
            for i in range(taps - 1, 0, -1):
                h[i] = h[i - 1]
            h[0] = d[row, t]
            for i in range(taps):
                expected += w[i] * h[i]
            last[0], last[1] = expected, error
            p[row, t], e[row, t] = expected, error
