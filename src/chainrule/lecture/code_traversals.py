"""One number of a code at a time, from its 5th to its 95th percentile: what a unit of a deep autoencoder stands for.

The code of a test image is decoded with one number replaced, the others as they are. Shown are the units that change
images most; `change` is Σ(x̂ − x̂')² between both ends of the way, the mean over test images with pixels of 0 to 1.
Nothing makes the units independent of each other: a unit of such a code seldom stands for one thing alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule import plots
from chainrule.codes.deep_autoencoder import DeepAutoencoder
from chainrule.lecture.learning import classes, error, images, learned
from chainrule.lecture.natural import Save

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"data": "digits", "layers": [64, 32, 6], "units": 3, "steps": 300},
    "laptop": {"data": "mnist", "layers": [500, 250, 10], "units": 5, "steps": 1500},
    "paper": {"data": "mnist", "layers": [1000, 500, 250, 10], "units": 8, "steps": 20_000},
}
SHOWN = (2, 4, 7)  # classes, of each the first test image
ENDS = (5, 95)  # percentiles
STEPS = 9
JUDGED = 1000  # test images that the change is the mean over


def draw(save: Save, seed: int, data: str, layers: list[int], units: int, steps: int) -> dict:
    """A picture for each digit, a row for each unit."""
    code = learned(DeepAutoencoder(layers, random_state=seed), images(data), steps)
    test, labels = images(data, "test"), classes(data, "test")
    z = code.transform(test)
    low, high = np.percentile(z, ENDS, axis=0).astype(z.dtype)
    change = np.array([changed(code, z[:JUDGED], k, low[k], high[k]) for k in range(z.shape[1])])
    order = np.argsort(-change, kind="stable")[:units]
    for name in SHOWN:
        which = int(np.argmax(labels == name))
        rows = {
            "test image,\nfrom its code": np.stack([test[which], code.inverse_transform(z[which][None])[0]])
        }
        for k in order:
            rows[f"unit {k}"] = code.inverse_transform(along(z[which], k, low[k], high[k]))
        save(f"digit-{name}", plots.image_rows(rows, levels=2, form=plots.raster))
    facts = zip(
        order.tolist(), low[order].tolist(), high[order].tolist(), change[order].tolist(), strict=True
    )
    return {"rows": [dict(zip(("unit", "low", "high", "change"), row, strict=True)) for row in facts]}


def along(z: np.ndarray, unit: int, low: float, high: float) -> np.ndarray:
    """The code z (k,) with one number from `low` to `high`, (STEPS, k)."""
    found = np.repeat(z[None], STEPS, axis=0)
    found[:, unit] = np.linspace(low, high, STEPS)
    return found


def changed(code: DeepAutoencoder, z: np.ndarray, unit: int, low: float, high: float) -> float:
    """How far apart the images of codes z (n, k) are with one number at `low` and at `high`."""
    ends = []
    for value in (low, high):
        moved = z.copy()
        moved[:, unit] = value
        ends.append(code.inverse_transform(moved))
    return error(*ends)
