"""The price of one pass: codes that an encoder predicts beside exact ones, in time and in objective.

Predictive sparse decomposition and a TopK autoencoder, each beside the Lasso codes on its own dictionary: at the λ
of its training, or at the one at which exact codes are as sparse. Microseconds a patch are of one thread;
`given_up` is the amortisation gap as a share of the exact objective. Nothing was learned from these photographs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from chainrule import plots
from chainrule.codes.predictive import PredictiveSparseDecomposition
from chainrule.codes.sparse_autoencoder import SparseAutoencoder, TopK
from chainrule.layers.coordinate_descent import CoordinateDescent
from chainrule.lecture import natural
from chainrule.train import Plan

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"patches": 2000, "atoms": 16, "penalty": 1.0, "steps": 5},
    "laptop": {"patches": 50_000, "atoms": 256, "penalty": 1.0, "steps": 1000},
    "paper": {"patches": 200_000, "atoms": 256, "penalty": 1.0, "steps": 10_000},
}
RUNS = 3  # the median of so many times counts


def draw(save: natural.Save, seed: int, patches: int, atoms: int, penalty: float, steps: int) -> dict:
    """A row for each encoder, and a picture of the times and of the objectives."""
    rows, held = natural.patches(patches, seed), natural.patches(natural.HELD_OUT, seed, "test")
    codes = {
        "predictive": PredictiveSparseDecomposition(atoms, penalty=penalty, random_state=seed),
        "TopK autoencoder": SparseAutoencoder(atoms, activation=TopK(10), random_state=seed),
    }
    found = []
    for name, code in codes.items():
        learner = code.learner(rows, Plan(steps=steps))
        for _ in learner:
            pass
        found.append({"encoder": name, **compared(code.learned(learner), held)})
    save("inference", picture(found))
    return {"rows": found}


def compared(code: Any, rows: np.ndarray) -> dict[str, float]:
    """Time and objective of both kinds of codes of rows (n, d)."""
    report = code.report(rows)
    offset = getattr(code, "mean_", getattr(code, "decoder_bias_", 0.0))
    centred, positive = (rows - offset).astype(np.float32), isinstance(code, SparseAutoencoder)
    seconds = taken(lambda: code.transform(rows))
    exact = taken(
        lambda: CoordinateDescent()(centred, code.components_, report.penalty, positive=positive, threads=1)
    )
    return {
        "us": 1e6 * seconds / len(rows),
        "exact_us": 1e6 * exact / len(rows),
        "times_faster": exact / seconds,
        "nonzeros": report.l0_codes,
        "exact_nonzeros": report.l0_exact,
        "penalty": report.penalty,
        "objective": report.objective,
        "exact_objective": report.objective_exact,
        "given_up": report.gap_share,
    }


def taken(work: Callable[[], object]) -> float:
    """Seconds that some work takes in one thread."""
    seconds = []
    with threadpool_limits(1):
        work()
        for _ in range(RUNS):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def picture(found: list[dict]):
    """Objective against microseconds, an arrow from the exact codes to the predicted ones."""
    figure, axes = plots.blank("microseconds a patch", "objective, exact = 1")
    for row, colour in zip(found, plots.PALETTE, strict=False):
        x, y = [row["exact_us"], row["us"]], [1.0, 1 + row["given_up"]]
        axes.plot(x, y, lw=1.2, color=colour, alpha=0.6)
        axes.plot(x[:1], y[:1], ls="", marker="s", ms=7, color=colour, label=f"{row['encoder']}: exact")
        axes.plot(x[1:], y[1:], ls="", marker="o", ms=7, color=colour, label=f"{row['encoder']}: one pass")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, labelcolor=plots.INK, fontsize=9)
    return plots.raster(figure)
