"""Digits in a plane: codes of two numbers by a deep autoencoder, beside the first two principal components.

Hinton & Salakhutdinov 2006, figure 3. Points are test images; no code has seen a class. `accuracy` is that of the
majority of the ten nearest training images in the plane, over all test images; `error` is the mean of Σ(x̂ − x)² of a
test image with pixels of 0 to 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from chainrule import plots
from chainrule.codes.deep_autoencoder import DeepAutoencoder
from chainrule.codes.pca import PCA
from chainrule.lecture.learning import classes, error, images, learned
from chainrule.lecture.natural import Save

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"data": "digits", "layers": [64, 32, 2], "steps": 300},
    "laptop": {"data": "mnist", "layers": [500, 250, 2], "steps": 1500},
    "paper": {"data": "mnist", "layers": [1000, 500, 250, 2], "steps": 300_000},
}
NEIGHBOURS = 10
SHOWN = 5000  # points at most


def draw(save: Save, seed: int, data: str, layers: list[int], steps: int) -> dict:
    """Both maps in one picture, and how well classes are told apart in them."""
    x, test = images(data), images(data, "test")
    y, labels = classes(data), classes(data, "test")
    codes = {
        "deep autoencoder": learned(DeepAutoencoder(layers, random_state=seed), x, steps),
        "PCA": PCA(layers[-1]).fit(x),
    }
    maps, found = {}, []
    for name, code in codes.items():
        known, z = code.transform(x), code.transform(test)
        row = {"code": name, "accuracy": accuracy(known, y, z, labels)}
        found.append({**row, "error": error(code.inverse_transform(z), test)})
        maps[name] = z[:SHOWN]
    save("digits-map", plots.class_maps(maps, labels[:SHOWN], form=plots.raster))
    return {"rows": found}


def accuracy(known: np.ndarray, y: np.ndarray, z: np.ndarray, labels: np.ndarray) -> float:
    """The share of points z (m, 2) whose label (m,) is that of most of their neighbours among known (n, 2) with y."""
    nearest = KNeighborsClassifier(NEIGHBOURS).fit(known, y)
    return float((nearest.predict(z) == labels).mean())
