"""A dictionary learned from patches of photographs: localised, oriented edges, as simple cells of V1 prefer them.

Olshausen & Field 1996, figure 4: 192 atoms of 12 × 12 pixels; here 256 as well. Coarse atoms stand above fine
ones, and those of a row are sorted by the orientation of their stripes.
"""

from __future__ import annotations

from typing import Any

from chainrule import plots
from chainrule.layers.gabor import fit_gabors
from chainrule.lecture import natural

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"patches": 2000, "atoms": [16], "penalty": 1.0, "steps": 5},
    "laptop": {"patches": 50_000, "atoms": [192, 256], "penalty": 1.0, "steps": 1000},
    "paper": {"patches": 400_000, "atoms": [192, 256], "penalty": 1.0, "steps": 8000},
}
COLUMNS = 16


def draw(save: natural.Save, seed: int, patches: int, atoms: list[int], penalty: float, steps: int) -> dict:
    """A sheet for each number of atoms, and what their codes of other photographs are worth."""
    rows, held = natural.patches(patches, seed), natural.patches(natural.HELD_OUT, seed, "test")
    found = []
    for count in atoms:
        code = natural.learned(rows, count, penalty, steps, seed)
        pictures = code.components_.reshape(-1, natural.SIDE, natural.SIDE)
        order = natural.by_frequency(fit_gabors(pictures), COLUMNS)
        save(f"dictionary-{count}", plots.atoms_sheet(pictures, order, COLUMNS))
        found.append({"atoms": count, **natural.quality(code, held).facts()})
    return {"rows": found}
