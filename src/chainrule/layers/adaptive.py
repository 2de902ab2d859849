"""Linear prediction that learns as it goes: normalised least mean squares (Haykin, "Adaptive filter theory")."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from chainrule.jit import compiled

SMALL = 1e-8  # added to energies: 3.3 levels of 65,536 squared, so that what follows silence is not blown up
OUTPUTS = 4  # numbers that a filter tells: p, e, r, ln r


def predictions(d: Tensor, begins: Tensor, state: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """What a filter of P taps knows of a sequence at each position, from the numbers before it.

    With h the last P numbers and w = 0 at the beginning, it expects p = Σ w h. When the number d has come,

        e = d - p,    w <- w + rate · e h / (SMALL + Σ h²),    r = 1 / √(SMALL + Σ h² / P) with d among h

    Args:
        d: (B, T) the number before each position.
        begins: (B, T) where a sequence begins: there nothing has been learned, and nothing is expected.
        state: (B, 2 P + 4), of `at_rest`: weights, the P numbers, the last p, e, r, ln r.

    Returns:
        p, e, r, ln r of each position, (B, T, 4); the new state.
    """
    numbers, after = d.detach().cpu().numpy(), state.detach().cpu().numpy().copy()
    told = np.empty((*numbers.shape, OUTPUTS), numbers.dtype)
    filtered(np.ascontiguousarray(numbers), begins.cpu().numpy(), after, rate, told)
    return torch.from_numpy(told).to(d.device), torch.from_numpy(after).to(d.device)


def at_rest(like: Tensor, taps: int) -> Tensor:
    """The state (B, 2 P + 4) of a filter that has seen nothing."""
    return like.new_zeros(len(like), 2 * taps + OUTPUTS)


@compiled
def filtered(d, begins, state, rate, told):
    """`predictions` of each row, into `told`; the state is changed in place."""
    taps = (state.shape[1] - OUTPUTS) // 2
    number = state.dtype.type
    small, rate = number(SMALL), number(rate)
    for row in range(d.shape[0]):
        w, h, last = state[row, :taps], state[row, taps : 2 * taps], state[row, 2 * taps :]
        for t in range(d.shape[1]):
            if begins[row, t]:
                state[row] = 0
            energy, after, expected = number(0), number(0), number(0)
            for i in range(taps):
                energy += h[i] * h[i]
            error = number(0) if begins[row, t] else d[row, t] - last[0]
            pull = rate * error / (small + energy)
            for i in range(taps):
                w[i] += pull * h[i]
            for i in range(taps - 1, 0, -1):
                h[i] = h[i - 1]
            h[0] = number(0) if begins[row, t] else d[row, t]
            for i in range(taps):
                expected += w[i] * h[i]
                after += h[i] * h[i]
            last[0], last[1] = expected, error
            last[2] = number(1) / np.sqrt(small + after / number(taps))
            last[3] = np.log(last[2])
            for i in range(OUTPUTS):
                told[row, t, i] = last[i]
