"""Images drawn by class, a row each: a Gated PixelCNN was told which digit to draw, and nothing else.

Van den Oord, Kalchbrenner, Vinyals et al. 2016, "Conditional Image Generation with PixelCNN Decoders". `recognised` is
the share of samples of which the three nearest training images, by vote, are of the class that was asked for,
`recognised_real` the same share of test images. `distance` is the mean of Σ(x − x')² between a sample and the
training image nearest to it, pixels of 0 to 1, `distance_real` that of test images: of a model that has learned images
by heart the first would be smaller.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from chainrule import plots
from chainrule.data import Dataset, load
from chainrule.data import draw as drawn
from chainrule.lecture import pixelwise
from chainrule.lecture.natural import Save
from chainrule.verbs.score import score
from chainrule.verbs.walk import sample

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {**pixelwise.SIZES["tiny"], "samples": 20},
    "laptop": {**pixelwise.SIZES["laptop"], "samples": 50},
    "paper": {**pixelwise.SIZES["paper"], "samples": 200},
}
SHOWN = 12  # samples of a class
VOTES = 3
SCORED = 1000  # test images


def draw(save: Save, seed: int, data: str, width: int, layers: int, steps: int, samples: int) -> dict:
    """A sheet of samples, and how many of them look like what they should be."""
    chain = pixelwise.learned(data, width, layers, steps, seed)
    train, test = load(data), load(data, split="test")
    asked = np.repeat(np.arange(chain.classes), samples)
    x = sample(chain, len(asked), test.event, torch.from_numpy(asked), seed=seed)
    sheets = {name: x[asked == k][:SHOWN] for k, name in enumerate(test.classes)}
    save("class-samples", plots.image_rows(sheets, test.levels, form=plots.raster))
    few = test.select(slice(0, SCORED))
    assert few.context is not None
    near = Nearest(train, seed)
    made, real = near.judge(x, asked), near.judge(np.asarray(few.x), np.asarray(few.context))
    rows = []
    for k, name in enumerate(test.classes):
        mine, theirs = asked == k, np.asarray(few.context) == k
        row = {"class": name, "recognised": made[0][mine].mean(), "recognised_real": real[0][theirs].mean()}
        row |= {"distance": made[1][mine].mean(), "distance_real": real[1][theirs].mean()}
        rows.append({key: float(v) if isinstance(v, np.floating) else v for key, v in row.items()})
    return {"rows": rows, "bits_per_dim": score(chain, few).bits_per_dim, "scored": len(few)}


class Nearest:
    """The training images nearest to an image."""

    def __init__(self, train: Dataset, seed: int):
        x = drawn(train, np.arange(len(train)), seed)
        self.unit = max(train.levels - 1, 1)
        self.votes = KNeighborsClassifier(VOTES).fit(self.rows(x), np.asarray(train.context))

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Images (n, H, W, C) as rows of 0 to 1."""
        return x.reshape(len(x), -1).astype(np.float32) / self.unit

    def judge(self, x: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether the nearest to x (n, H, W, C) are of `classes` (n,), and how far away the nearest is."""
        rows = self.rows(x)
        away, _ = self.votes.kneighbors(rows, 1)
        return self.votes.predict(rows) == classes, np.square(away[:, 0])
