"""Gabor functions fitted to every atom: where an edge lies, how it is turned, how fine it is, how well that fits.

R² is the share of an atom's variance that the Gabor function of least squared distance explains
(`chainrule.layers.gabor`). The share of atoms above 0.8 depends on the whitening, on the number of atoms and on λ.
`share_of_patches` is the same share among as many whitened patches: what the fit reaches where nothing was learned.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from PIL import Image

from chainrule import plots
from chainrule.codes.whitening import Whitening
from chainrule.layers.gabor import GaborFits, fit_gabors
from chainrule.lecture import natural

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"patches": 2000, "atoms": [16], "penalties": [1.0], "steps": 5, "whitenings": ["zca", "filter"]},
    "laptop": {
        "patches": 50_000,
        "atoms": [256],
        "penalties": [1.0],
        "steps": 1000,
        "whitenings": ["filter"],
    },
    "paper": {
        "patches": 200_000,
        "atoms": [192, 256],
        "penalties": [0.5, 1.0, 1.5],
        "steps": 2000,
        "whitenings": ["zca", "filter"],
    },
}
GOOD = 0.8  # R² of an atom that is a Gabor function
COLUMNS = 32


def draw(save: natural.Save, seed: int, patches: int, steps: int, whitenings, atoms, penalties) -> dict:
    """Facts for each whitening ("filter": Olshausen & Field's), number of atoms and λ; pictures of the best."""
    rows: list[dict[str, Any]] = []
    found: list[tuple[np.ndarray, GaborFits]] = []
    for whitening in whitenings:
        learn, held = data(whitening, patches, seed)
        for count, penalty in product(atoms, penalties):
            code = natural.learned(learn, count, penalty, steps, seed)
            pictures = as_pictures(code.components_)
            fits = fit_gabors(pictures)
            facts = {"whitening": whitening, "atoms": count, "penalty": penalty}
            facts |= {"share": share(fits), "share_of_patches": share(fit_gabors(as_pictures(held[:count])))}
            facts["median_r2"] = float(np.median(fits.r2))
            rows.append({**facts, **natural.quality(code, held).facts()})
            found.append((pictures, fits))
    best = max(range(len(rows)), key=lambda i: rows[i]["share"])
    draw_fits(save, *found[best])
    return {"rows": rows}


def as_pictures(rows: np.ndarray) -> np.ndarray:
    """Rows (n, 144) as (n, 12, 12)."""
    return rows.reshape(-1, natural.SIDE, natural.SIDE)


def share(fits: GaborFits) -> float:
    """The share of good fits."""
    return float((fits.r2 > GOOD).mean())


def data(whitening: str, patches: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches to learn from, and patches of other photographs, of variance 1."""
    if whitening == "filter":
        return natural.patches(patches, seed), natural.patches(natural.HELD_OUT, seed, "test")
    learn = natural.plain(patches, seed)
    white = Whitening().fit(learn)
    learn, held = white.transform(learn), white.transform(natural.plain(natural.HELD_OUT, seed, "test"))
    return learn / learn.std(), held / learn.std()


def draw_fits(save: natural.Save, pictures: np.ndarray, fits: GaborFits) -> None:
    """The sheet of atoms above their fits, a plot of the good fits, and how R² is spread."""
    order, drawn = natural.by_frequency(fits, COLUMNS), fits.draw(natural.SIDE, natural.SIDE)
    lines = [order[i : i + COLUMNS] for i in range(0, len(order), COLUMNS)]
    pairs = [np.concatenate([pictures[line], drawn[line]]) for line in lines]
    sheets = [plots.atoms_sheet(pair, columns=len(pair) // 2, scale=3) for pair in pairs]
    save("atoms-and-fits", one_below_the_other(sheets))
    save("gabors", plots.gabor_plot(fits.select(fits.r2 > GOOD), natural.SIDE, form=plots.raster))
    save("r2", plots.histogram({"atoms": fits.r2}, "R² of the Gabor function", "atoms", form=plots.raster))


def one_below_the_other(sheets: list[Image.Image], gap: int = 10) -> Image.Image:
    """Pictures as one, with transparent gaps between them."""
    size = max(s.width for s in sheets), sum(s.height + gap for s in sheets) - gap
    whole, y = Image.new("RGBA", size), 0
    for sheet in sheets:
        whole.paste(sheet, (0, y))
        y += sheet.height + gap
    return whole
