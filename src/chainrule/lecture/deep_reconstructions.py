"""Test images, what a deep autoencoder makes of 30 numbers, and what principal components make of as many.

Hinton & Salakhutdinov 2006, figure 2. `error` is the mean of Σ(x̂ − x)² of a test image: of digits in pixels of 0 to 1,
of patches of faces in numbers of mean 0 and variance 1 over the plain patches that were learned from. Networks learn
faces from as many blends (`chainrule.lecture.faces`), of people who are not among those of the test.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from chainrule import plots
from chainrule.codes.deep_autoencoder import DeepAutoencoder
from chainrule.codes.pca import PCA
from chainrule.layers.units import Gaussian
from chainrule.lecture.faces import face_patches
from chainrule.lecture.learning import error, images, learned, rebuilt
from chainrule.lecture.natural import Save

FACES = "faces"
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"sets": {"digits": {"layers": [64, 32, 6], "steps": 300}}},
    "laptop": {
        "sets": {
            "mnist": {"layers": [500, 250, 30], "steps": 1000},
            FACES: {"layers": [500, 250, 30], "steps": 1000, "patches": 20_000},
        }
    },
    "paper": {
        "sets": {
            "mnist": {"layers": [1000, 500, 250, 30], "steps": 20_000},
            FACES: {"layers": [2000, 1000, 500, 30], "steps": 10_000, "patches": 124_200},
        }
    },
}
DECAY = 3.0  # of the weights that learn faces: 35 people are soon known by heart
SHOWN = 10


class Split(NamedTuple):
    """Images (n, H, W, 1) as codes see them, and how they are shown: shift + scale · x is 0 to 1."""

    learn: np.ndarray
    plain: np.ndarray  # what PCA learns from
    test: np.ndarray
    shift: Any = 0.0
    scale: float = 1.0


def draw(save: Save, seed: int, sets: dict[str, dict]) -> dict:
    """A picture of three rows for each set, and the errors."""
    found = []
    for name, options in sets.items():
        found += compared(save, seed, name, **options)
    return {"rows": found}


def compared(save: Save, seed: int, name: str, layers: list[int], steps: int, patches: int = 0) -> list[dict]:
    """The picture and the errors of one set."""
    split = faces(patches, seed) if name == FACES else digits(name)
    deep = DeepAutoencoder(layers, random_state=seed)
    if name == FACES:
        deep.set_params(output=Gaussian(), weight_decay=DECAY)
    codes = {
        "deep autoencoder": learned(deep, split.learn, steps),
        "PCA": PCA(layers[-1]).fit(split.plain),
    }
    which = np.random.default_rng(seed).choice(len(split.test), SHOWN, replace=False)
    rows, found = {"test images": split.test[which]}, []
    for kind, code in codes.items():
        back = rebuilt(code, split.test)
        facts = {"data": name, "code": kind, "numbers": layers[-1], "test": len(split.test)}
        found.append({**facts, "error": error(back, split.test)})
        rows[f"{kind}\nerror {found[-1]['error']:.3g}"] = back[which]
    shown = {label: split.shift + split.scale * x for label, x in rows.items()}
    save(f"reconstructions-{name}", plots.image_rows(shown, levels=2, form=plots.raster))
    return found


def digits(name: str) -> Split:
    """A named set."""
    x = images(name)
    return Split(x, x, images(name, "test"))


def faces(count: int, seed: int) -> Split:
    """Patches of faces of mean 0 and variance 1: blends of them, plain ones, and a sixth as many for testing."""
    plain, blends = face_patches(count, seed), face_patches(count, seed, blended=True)
    test = face_patches(count // 6, seed, "test")
    shift, scale = Gaussian().scaling(plain.reshape(count, -1))
    shift = shift.reshape(plain.shape[1:])
    blends, plain, test = (((x - shift) / scale).astype(np.float32) for x in (blends, plain, test))
    return Split(blends, plain, test, shift / 255, scale / 255)
