"""Filters of autoencoders at 0, 25 and 50 % masking: mottled when nothing is hidden, strokes and edges when much is.

Vincent, Larochelle, Bengio & Manzagol 2008, figure 3: tied sigmoid units, Bernoulli output. Every sheet has the same
data, steps, batches and first weights, so that a unit stands in the same place on all of them. `smoothness` is the
correlation of neighbouring weights of a filter; `error` is the mean of Σ(x̂ − x)² of test images with pixels of 0 to 1,
and `error_of_half` the same when half of the pixels given were 0. Nothing is rescaled: a code that learned from half
of the pixels does best when it is given half.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule import plots
from chainrule.codes.autoencoder import Autoencoder
from chainrule.layers.corruption import Masking
from chainrule.layers.units import Bernoulli
from chainrule.lecture.learning import error, images, learned, rebuilt
from chainrule.lecture.natural import Save

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"data": "digits", "units": 36, "shares": [0.0, 0.5], "steps": 500, "decay": 0.3},
    "laptop": {"data": "mnist", "units": 400, "shares": [0.0, 0.25, 0.5], "steps": 2500, "decay": 1.5},
    "paper": {"data": "mnist", "units": 1000, "shares": [0.0, 0.25, 0.5], "steps": 30_000, "decay": 1.5},
}
RATE, BATCH = 0.004, 100
SHOWN = 144


def draw(save: Save, seed: int, data: str, units: int, shares: list[float], steps: int, decay: float) -> dict:
    """A sheet of filters for each share that is masked, and what the codes are worth.

    The first weights are noise, which would be seen for ever where a filter has no use for a pixel: weights decay.
    """
    x, test, found = images(data), images(data, "test"), []
    half = np.where(np.random.default_rng(seed).random(test.shape) < 0.5, np.float32(0), test)
    code = Autoencoder((units,), tied=True, output=Bernoulli(), batch=BATCH, learning_rate=RATE)
    code.set_params(weight_decay=decay, random_state=seed)
    for share in shares:
        code.set_params(corruption=Masking(share) if share else None)
        filters = learned(code, x, steps).filters()
        save(f"filters-{round(100 * share)}", plots.atoms_sheet(filters[:SHOWN], scale=3))
        row = {"masked": share, "smoothness": smoothness(filters), "error": error(rebuilt(code, test), test)}
        found.append({**row, "error_of_half": error(rebuilt(code, half), test)})
    return {"rows": found}


def smoothness(filters: np.ndarray) -> float:
    """The correlation of weights beside and below each other, the mean over filters (K, h, w, C)."""
    centred = filters - filters.mean((1, 2, 3), keepdims=True)
    power = np.square(centred).mean((1, 2, 3))
    beside = (centred[:, :, 1:] * centred[:, :, :-1]).mean((1, 2, 3))
    below = (centred[:, 1:] * centred[:, :-1]).mean((1, 2, 3))
    return float(((beside + below) / 2 / power).mean())
