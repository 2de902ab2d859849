"""Sparsity against error: how much of a patch is left when so many numbers describe it.

The Lasso along a path of λ, orthogonal matching pursuit with so many atoms, both on one dictionary; sparse
autoencoders, each trained for its own k; and principal components, the best linear code of so many numbers. All
of photographs that nothing was learned from. The Lasso shrinks its coefficients: "refitted" are those of least
squares on the same atoms. It also spends more non-zeros on patches of much contrast, where matching pursuit and
TopK give every patch the same number: that helps when errors are summed over patches, as here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from chainrule import plots
from chainrule.codes.pca import PCA
from chainrule.codes.sparse_autoencoder import SparseAutoencoder, TopK
from chainrule.layers.amortisation import refitted_errors
from chainrule.layers.coordinate_descent import CoordinateDescent
from chainrule.layers.pursuit import BatchOMP
from chainrule.lecture import natural
from chainrule.train import Plan

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        **{"patches": 2000, "atoms": 16, "penalty": 1.0, "steps": 5, "held": 50},
        **{"nonzeros": [1, 4], "trained": {"nonzeros": [1, 4], "steps": 5}},
    },
    "laptop": {
        **{"patches": 50_000, "atoms": 256, "penalty": 0.5, "steps": 400, "held": 1000},
        **{"nonzeros": [1, 2, 5, 10, 20, 40], "trained": {"nonzeros": [5, 10, 20], "steps": 500}},
    },
    "paper": {
        **{"patches": 200_000, "atoms": 256, "penalty": 0.5, "steps": 6000, "held": 5000},
        "nonzeros": [1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60],
        "trained": {"nonzeros": [1, 2, 5, 10, 20, 40], "steps": 10_000},
    },
}
TICKS = (1, 2, 5, 10, 20, 50)  # non-zeros
PATH = np.geomspace(4.0, 0.1, 10)  # λ

Point = tuple[str, float, float]  # method, non-zeros, share of the energy that is left


def draw(
    save: natural.Save,
    seed: int,
    patches: int,
    atoms: int,
    penalty: float,
    steps: int,
    held: int,
    nonzeros,
    trained,
) -> dict:
    """One picture of all curves; their points as rows. `trained` says which autoencoders, and for how many steps."""
    rows, test = natural.patches(patches, seed), natural.patches(held, seed, "test").astype(float)
    dictionary = natural.learned(rows, atoms, penalty, steps, seed).components_.astype(float)
    points = [*on_dictionary(test, dictionary, nonzeros), *components(rows, test, nonzeros)]
    points += autoencoders(rows, test, atoms, seed, **trained)
    save("sparsity-error", picture(points))
    return {"rows": [{"method": m, "nonzeros": n, "error": e} for m, n, e in points]}


def on_dictionary(test: np.ndarray, atoms: np.ndarray, nonzeros: list[int]) -> Iterator[Point]:
    """The Lasso, the same refitted, and matching pursuit."""
    codes = [CoordinateDescent()(test, atoms, penalty).toarray() for penalty in PATH]
    power = (test**2).sum()
    for z in codes:
        yield "Lasso", np.count_nonzero(z) / len(z), float(((test - z @ atoms) ** 2).sum() / power)
    for z in codes:
        yield (
            "Lasso, refitted",
            np.count_nonzero(z) / len(z),
            float(refitted_errors(test, atoms, z).sum() / power),
        )
    for count in nonzeros:
        z = BatchOMP(count)(test, atoms).toarray()
        yield "matching pursuit", np.count_nonzero(z) / len(z), float(((test - z @ atoms) ** 2).sum() / power)


def components(rows: np.ndarray, test: np.ndarray, nonzeros: list[int]) -> Iterator[Point]:
    """Principal components, of which a code keeps the first k."""
    for count in nonzeros:
        code = PCA(count).fit(rows)
        left = test - code.inverse_transform(code.transform(test))
        yield "PCA", float(len(code.components_)), float((left**2).sum() / (test**2).sum())


def autoencoders(
    rows: np.ndarray, test: np.ndarray, atoms: int, seed: int, nonzeros: list[int], steps: int
) -> Iterator[Point]:
    """A TopK autoencoder for each k."""
    for count in nonzeros:
        code = SparseAutoencoder(atoms, activation=TopK(count), random_state=seed)
        learner = code.learner(rows, Plan(steps=steps))
        for _ in learner:
            pass
        z = code.learned(learner).transform(test)
        left = test - code.inverse_transform(z)
        yield "TopK autoencoder", np.count_nonzero(z) / len(z), float((left**2).sum() / (test**2).sum())


def picture(points: list[Point]):
    """Error against non-zeros, a line a method."""
    figure, axes = plots.blank("non-zeros of a code, mean", "share of the energy left")
    for colour, method in zip(plots.PALETTE, dict.fromkeys(m for m, _, _ in points), strict=False):
        x, y = np.array([(n, e) for m, n, e in points if m == method]).T
        axes.plot(x, y, marker="o", ms=3.5, lw=1.6, color=colour, label=method)
    axes.set(xscale="log", ylim=(0, 1))
    axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
    axes.minorticks_off()
    axes.legend(frameon=False, labelcolor=plots.INK, fontsize=9)
    return plots.raster(figure)
