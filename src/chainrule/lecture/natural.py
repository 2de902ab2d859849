"""What the figures of sparse coding share: filtered photographs, their patches, and a dictionary learned from them.

Patches are rows of numbers without unit: every filtered photograph has variance 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from chainrule.codes.olshausen import OlshausenFilter
from chainrule.codes.sparse_coding import SparseCoding
from chainrule.data import load
from chainrule.data.patches import random_patches
from chainrule.layers.gabor import GaborFits
from chainrule.layers.lasso import objective
from chainrule.lecture.learning import run
from chainrule.train import Plan

BORDER = 8  # pixels cut off on each side: the filter takes an image as one period, and its borders meet
SIDE = 12  # pixels of a patch, as Olshausen & Field 1996 had
HELD_OUT = 5000  # patches of photographs that nothing was learned from

Save = Callable[[str, Image.Image | bytes], None]


def patches(count: int, seed: int, split: str = "train") -> np.ndarray:
    """(count, 144) float32 patches of the photographs in "bsds", gray, through the filter of Olshausen & Field 1996."""
    drawn = random_patches([whitened(photo) for photo in photographs(split)], SIDE, count, seed)
    return drawn.reshape(count, -1)


def plain(count: int, seed: int, split: str = "train") -> np.ndarray:
    """(count, 144) float32 patches of the same photographs as they are, less the mean of each patch."""
    rows = random_patches(photographs(split), SIDE, count, seed).reshape(count, -1).astype(np.float32)
    return rows - rows.mean(1, keepdims=True)


def photographs(split: str) -> list[np.ndarray]:
    """The photographs (H, W, 1) of a split of "bsds" as luminances 0..255."""
    return [np.asarray(photo) for photo in load("bsds", split=split, gray=True).x]


def whitened(photo: np.ndarray) -> np.ndarray:
    """A photograph (H, W, 1) filtered, without its borders, at variance 1, in single precision."""
    image = photo[None].astype(np.float32)
    found = OlshausenFilter().fit(image).transform(image).reshape(photo.shape)
    found = found[BORDER:-BORDER, BORDER:-BORDER]
    return found / max(float(found.std()), 1e-6)


def learned(rows: np.ndarray, atoms: int, penalty: float, steps: int, seed: int) -> SparseCoding:
    """A dictionary learned online from rows (n, d) within so many steps."""
    code = SparseCoding(atoms, penalty=penalty, random_state=seed)
    learner = code.learner(rows, Plan(steps=steps, seed=seed))
    run(learner, f"{atoms} atoms", steps)
    return code.learned(learner)


@dataclass(frozen=True)
class Quality:
    """What the codes of some rows are worth.

    Attributes:
        nonzeros: of a code, on average.
        objective: the mean of ½‖x − zD‖² + λ‖z‖₁.
        error: Σ‖x − zD‖² / Σ‖x‖².
    """

    nonzeros: float
    objective: float
    error: float

    def facts(self) -> dict[str, float]:
        """The same as a dict."""
        return asdict(self)


def quality(code: SparseCoding, rows: np.ndarray) -> Quality:
    """The quality of a code on rows (n, d)."""
    codes = code.encode(rows, code.components_)
    left = rows - codes @ code.components_
    costs = objective(rows, code.components_, codes, code.penalty)
    return Quality(codes.nnz / len(rows), float(costs.mean()), float((left**2).sum() / (rows**2).sum()))


def by_frequency(fits: GaborFits, columns: int) -> np.ndarray:
    """The order of atoms on a sheet: row after row from coarse to fine, in each row by orientation."""
    order = np.argsort(fits.frequency, kind="stable")
    rows = [order[i : i + columns] for i in range(0, len(order), columns)]
    return np.concatenate([row[np.argsort(fits.orientation[row], kind="stable")] for row in rows])
