"""A patch as a sum of atoms, x ≈ 0.8 φ₃₆ + 0.3 φ₄₂ + 0.5 φ₆₅, with the numbers that the Lasso finds.

The patches are of photographs that the dictionary was not learned from: of those with three, with four and with
five non-zeros the one that is explained best.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule import plots
from chainrule.lecture import natural

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"patches": 2000, "atoms": 16, "penalty": 1.0, "steps": 5},
    "laptop": {"patches": 50_000, "atoms": 256, "penalty": 1.0, "steps": 1000},
    "paper": {"patches": 400_000, "atoms": 256, "penalty": 1.0, "steps": 8000},
}
COUNTS = (3, 4, 5)  # non-zeros of the patches that are shown


def draw(save: natural.Save, seed: int, patches: int, atoms: int, penalty: float, steps: int) -> dict:
    """A picture a patch, and the sums in words."""
    code = natural.learned(natural.patches(patches, seed), atoms, penalty, steps, seed)
    held = natural.patches(natural.HELD_OUT, seed, "test")
    codes = code.transform(held)
    errors = ((held - codes @ code.components_) ** 2).sum(1) / (held**2).sum(1)
    pictures, found = code.components_.reshape(-1, natural.SIDE, natural.SIDE), []
    for which in best_of_each(np.count_nonzero(codes, axis=1), errors):
        patch, weights = held[which].reshape(natural.SIDE, natural.SIDE), codes[which]
        drawn = plots.equation(patch, weights, pictures, columns=1 + max(COUNTS), form=plots.raster)
        save(f"patch-of-{np.count_nonzero(weights)}", drawn)
        found.append({"patch": which, "sum": plots.in_words(weights), "error": float(errors[which])})
    return {"rows": found}


def best_of_each(counts: np.ndarray, errors: np.ndarray) -> list[int]:
    """The place of the least error (n,) among the patches of each count (n,) that there is."""
    among = [np.flatnonzero(counts == count) for count in COUNTS]
    return [int(places[errors[places].argmin()]) for places in among if len(places)]
