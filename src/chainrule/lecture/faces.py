"""Patches of faces, turned and scaled, as Hinton & Salakhutdinov 2006 made them of the Olivetti faces.

Every patch is 25 × 25 numbers: the middle of a face of 64 × 64 pixels, turned by up to 90° either way, enlarged 1.4 to
1.8 times, and of that every second pixel. People 35 to 39 are never learned from.

What a network learns of 35 people's faces it knows of them only. More of them are made: mirrored, and each blended with
another one by a random share, as Zhang, Cisse, Dauphin & Lopez-Paz 2018 blend events. Faces to test with stay plain.
"""

from __future__ import annotations

import numpy as np

from chainrule.data import load

SIDE = 25  # pixels of a patch
TURN = np.pi / 2  # at most, either way
ZOOM = (1.4, 1.8)
STEP = 2  # of the enlarged picture's pixels from one of the patch to the next
PART = 1 << 12  # patches made at a time


def face_patches(count: int, seed: int, split: str = "train", blended: bool = False) -> np.ndarray:
    """(count, 25, 25, 1) float32 levels 0..255, each of a random face of the split in "olivetti", or of a blend."""
    faces = np.asarray(load("olivetti", split=split).x, np.float32)[..., 0]
    rng = np.random.default_rng((seed, count))
    if not blended:
        return turned(faces, rng.integers(len(faces), size=count), rng)
    faces = np.concatenate([faces, faces[:, :, ::-1]])
    first, second = rng.integers(len(faces), size=(2, count))
    share = rng.random(count)[:, None, None]
    seed = int(rng.integers(1 << 32))  # both are turned alike
    one, other = (turned(faces, which, np.random.default_rng(seed))[..., 0] for which in (first, second))
    return (share * one + (1 - share) * other).astype(np.float32)[..., None]


def turned(faces: np.ndarray, which: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Patches of faces (m, H, W), of each the one at `which` (n,), between pixels by bilinear interpolation."""
    count = len(which)
    angle, zoom = rng.uniform(-TURN, TURN, count), rng.uniform(*ZOOM, count)
    found = np.empty((count, SIDE, SIDE, 1), np.float32)
    for start in range(0, count, PART):
        part = slice(start, start + PART)
        down, across = places(angle[part], STEP / zoom[part], faces.shape[1:])
        found[part, :, :, 0] = between(faces, which[part], down, across)
    return found


def places(angle: np.ndarray, step: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (n, 25, 25), no whole numbers, of the pixels of patches around the middle of an image."""
    offset = np.arange(SIDE) - (SIDE - 1) / 2
    y, x = np.meshgrid(offset, offset, indexing="ij")
    cos, sin = (step * np.cos(angle))[:, None, None], (step * np.sin(angle))[:, None, None]
    return (shape[0] - 1) / 2 + cos * y - sin * x, (shape[1] - 1) / 2 + sin * y + cos * x


def between(images: np.ndarray, which: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Values (n, 25, 25) of images (m, H, W) at `which` (n,), between pixels; outside the border goes on."""
    height, width = images.shape[1:]
    down, across = down.clip(0, height - 1), across.clip(0, width - 1)
    top, left = (
        np.minimum(np.floor(x).astype(int), size - 2) for x, size in ((down, height), (across, width))
    )
    below, right = down - top, across - left
    i = which[:, None, None]
    above = (1 - right) * images[i, top, left] + right * images[i, top, left + 1]
    under = (1 - right) * images[i, top + 1, left] + right * images[i, top + 1, left + 1]
    return (1 - below) * above + below * under
