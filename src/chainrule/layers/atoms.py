"""What codes that learn a dictionary by gradients share: data in units of its own spread, atoms of norm 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from chainrule.layers.units import Gaussian, scaled
from chainrule.randomness import BATCH, seed_of

SMALLEST = 1e-12  # a row shorter than this has no direction


@dataclass(frozen=True)
class RandomBatches:
    """step -> a batch of rows, a pure function of (seed, step); all rows when there are no more than `size`.

    Attributes:
        x: (n, d) the rows.
        size: rows a batch.
        seed: of the draws, which are with replacement.
        y: (n,) labels of the rows, if there are any.
    """

    x: Tensor
    size: int
    seed: int
    y: Tensor | None = None

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        """The batch of a step, (min(size, n), d), and its labels."""
        tensors = (self.x,) if self.y is None else (self.x, self.y)
        if len(self.x) <= self.size:
            return tensors
        generator = torch.Generator().manual_seed(seed_of(self.seed, step, BATCH))
        chosen = torch.randint(len(self.x), (self.size,), generator=generator)
        return tuple(tensor.index_select(0, chosen) for tensor in tensors)

    def some(self, count: int, step: int = 0) -> Tensor:
        """`count` different random rows, or all of them; not those that the batch of `step` drew."""
        if len(self.x) <= count:
            return self.x
        rng = np.random.default_rng((self.seed, step, count))
        return self.x[torch.from_numpy(rng.choice(len(self.x), count, replace=False))]


def standardised(rows: np.ndarray) -> tuple[Tensor, np.ndarray, float]:
    """(x, mean, scale) with x = (rows − mean) / scale in float32, (n, d), of mean square 1.

    One scale for all coordinates, so that a dictionary of x is one of the rows; 1 for constant data.
    """
    mean, scale = Gaussian().scaling(rows)
    return scaled(rows, mean, scale), mean, scale


def unit_rows(atoms: Tensor) -> Tensor:
    """Every row divided by its norm; a row without direction becomes the first axis."""
    norms = atoms.norm(dim=1, keepdim=True)
    axis = torch.eye(1, atoms.shape[1], dtype=atoms.dtype, device=atoms.device)
    return torch.where(norms > SMALLEST, atoms / norms.clamp_min(SMALLEST), axis)


def random_atoms(count: int, width: int, seed: int) -> Tensor:
    """(count, width) float32 rows that are uniform on the sphere."""
    rng = np.random.default_rng((seed, count, width))
    return unit_rows(torch.from_numpy(rng.normal(size=(count, width)).astype(np.float32)))


def keep_unit_rows(atoms: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    """From now on the rows of `atoms` stay on the sphere.

    The component of the gradient along each row is removed, since moving there only changes a norm and would
    feed the optimizer's moments with it; after every step the rows are divided by their norms.
    """

    def along_the_sphere(gradient: Tensor) -> Tensor:
        rows = atoms.detach()
        return gradient - (gradient * rows).sum(1, keepdim=True) * rows

    def back_onto_it(*_: object) -> None:
        with torch.no_grad():
            atoms.copy_(unit_rows(atoms))

    atoms.register_hook(along_the_sphere)
    optimizer.register_step_post_hook(back_onto_it)
