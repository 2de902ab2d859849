"""The patches that the sparse coding benchmarks share: natural photographs, gray, cut at random, whitened."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image


def whitened_patches(count: int = 100_000, side: int = 12, seed: int = 0, share: float = 0.1) -> np.ndarray:
    """(count, side²) float32 patches of the BSDS photographs in CHAINRULE_DATA, without their mean, ZCA-whitened.

    `share` of the mean eigenvalue is added to every eigenvalue before its root is taken, so that the highest
    frequencies, which hold the noise of the camera and of JPEG, are not blown up.
    """
    rng = np.random.default_rng(seed)
    photos = photographs()
    patches = np.empty((count, side, side), np.float64)
    for i, which in enumerate(rng.integers(len(photos), size=count)):
        height, width = photos[which].shape
        r, c = rng.integers(height - side + 1), rng.integers(width - side + 1)
        patches[i] = photos[which][r : r + side, c : c + side]
    rows = patches.reshape(count, -1)
    rows -= rows.mean(1, keepdims=True)
    rows -= rows.mean(0)
    values, vectors = np.linalg.eigh(rows.T @ rows / count)
    whiten = (vectors / np.sqrt(values + share * values.mean())) @ vectors.T
    return (rows @ whiten).astype(np.float32)


def photographs() -> list[np.ndarray]:
    """The photographs as (H, W) luminances in 0..1."""
    folder = Path(os.environ["CHAINRULE_DATA"]) / "bsds"
    files = sorted(folder.rglob("*.jpg"))
    assert files, f"there are no photographs in {folder}"
    return [np.asarray(Image.open(f).convert("L"), np.float64) / 255 for f in files]
