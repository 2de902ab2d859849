"""The named sets: a literal table, and one short reader for each."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chainrule.data.arrays import read_npz
from chainrule.data.batches import draw
from chainrule.data.dataset import Dataset, Numbers
from chainrule.data.homes import CIFAR10, MNIST, OLIVETTI, SHAKESPEARE, Home
from chainrule.data.reading import reading
from chainrule.errors import ChainruleError

SPLITS = ("train", "test", "all")
BINARISED_TEST_SEED = 28  # the test images of binarized-mnist are binarised by the random numbers of (28, 0)
DIGITS = tuple("0123456789")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def digits(split: str) -> Dataset:
    """Every sixth digit, from the first on, is for testing."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = x.astype(np.uint8).reshape(-1, 8, 8, 1)
    return part(images, y, DIGITS, np.arange(len(x)) % 6 == 0, split, levels=17)


def patches(split: str) -> Dataset:
    """16 x 16 tiles of both photographs, row by row; every sixth is for testing."""
    from sklearn.datasets import load_sample_images

    with reading("scikit-learn's photographs"):
        tiles = np.concatenate([tiled(photo, 16) for photo in load_sample_images().images])
    return part(tiles, None, (), np.arange(len(tiles)) % 6 == 0, split)


def mnist(split: str) -> Dataset:
    """60,000 training and 10,000 test images, in their original order."""
    path = MNIST.find()
    arrays = read_npz(path, path.name, split)
    expect(path.name, arrays["x"], ({"train": 60000, "test": 10000, "all": 70000}[split], 28, 28))
    return labelled(arrays["x"][..., None], arrays["y"], DIGITS)


def binarized_mnist(split: str) -> Dataset:
    """Training images are binarised afresh at every draw, the test images once, with a fixed seed."""
    gray = replace(mnist(split), levels=2, binarise=True)
    if split != "test":
        return gray
    fixed = draw(gray, np.arange(len(gray)), seed=BINARISED_TEST_SEED, step=0)
    return replace(gray, x=fixed, binarise=False)


def cifar10_first4000(split: str) -> Dataset:
    """Rows 0-3499 are for training, 3500-3999 for testing."""
    local = CIFAR10.local()
    if local:
        arrays = read_npz(local, local.name, split)
        x, y = arrays["x"], arrays["y"]
    else:
        x, y = cifar10_rows(4000)
    expect(CIFAR10.file, x, (4000, 32, 32, 3))
    return part(x, y, CIFAR10_CLASSES, np.arange(4000) >= 3500, split)


def cifar10_rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images (count, 32, 32, 3) of batch 1: a row is a label, then 1024 each of R, G and B."""
    path = CIFAR10.find()
    with reading(path.name), tarfile.open(path, "r:gz") as archive:
        member = archive.extractfile("cifar-10-batches-bin/data_batch_1.bin")
        rows = np.frombuffer(member.read(count * 3073) if member else b"", np.uint8).reshape(count, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), rows[:, 0]


def olivetti(split: str) -> Dataset:
    """40 people, ten pictures each; people 35 to 39 are for testing. The darkest pixel of the set is 0."""
    local = OLIVETTI.local()
    if local:
        arrays = read_npz(local, local.name, split)
        x = arrays["x"]
    else:
        x = olivetti_faces()
    expect(OLIVETTI.file, x, (400, 64, 64))
    people = np.arange(400) // 10
    return part(x[..., None], people, tuple(str(p) for p in range(40)), people >= 35, split)


def olivetti_faces() -> np.ndarray:
    """(400, 64, 64) from the MATLAB file, whose columns are pictures stored column by column."""
    from scipy.io import loadmat

    path = OLIVETTI.find()
    with reading(path.name):
        faces = loadmat(path)["faces"]
        return (faces - faces.min()).T.reshape(400, 64, 64).transpose(0, 2, 1).astype(np.uint8)


def shakespeare(split: str) -> Dataset:
    """One text: the first 90 % is for training, the rest for testing, cut as nanoGPT does."""
    path = SHAKESPEARE.find()
    with reading(path.name):
        text = np.fromfile(path, np.uint8)
    expect(path.name, text, (1115394,))
    cut = int(len(text) * 0.9)
    stretch = {"train": text[:cut], "test": text[cut:], "all": text}[split]
    return Dataset(stretch[None], 256, "text", Numbers(1))


@dataclass(frozen=True)
class Named:
    """One row of the table: what there is to know about a set before it is loaded."""

    read: Callable[[str], Dataset]
    kind: str
    event: tuple[int, ...]
    levels: int
    train: int
    test: int
    licence: str
    about: str
    home: Home | None = None  # None: it comes with scikit-learn


NAMED = {
    "digits": Named(
        digits, "image", (8, 8, 1), 17, 1497, 300, "CC BY 4.0", "handwritten digits, every 6th for testing"
    ),
    "patches": Named(
        patches,
        "image",
        (16, 16, 3),
        256,
        1733,
        347,
        "CC BY 2.0",
        "tiles of two photographs (JPEG originals)",
    ),
    "mnist": Named(
        mnist, "image", (28, 28, 1), 256, 60000, 10000, "CC BY-SA 3.0", "handwritten digits", MNIST
    ),
    "binarized-mnist": Named(
        binarized_mnist,
        "image",
        (28, 28, 1),
        2,
        60000,
        10000,
        "CC BY-SA 3.0",
        "mnist, training images binarised at every draw, test images once",
        MNIST,
    ),
    "cifar10-first4000": Named(
        cifar10_first4000,
        "image",
        (32, 32, 3),
        256,
        3500,
        500,
        "none stated",
        "the first photographs of CIFAR-10, the last 500 for testing",
        CIFAR10,
    ),
    "olivetti": Named(
        olivetti,
        "image",
        (64, 64, 1),
        256,
        350,
        50,
        "research only",
        "faces, people 35-39 for testing",
        OLIVETTI,
    ),
    "shakespeare": Named(
        shakespeare,
        "text",
        (1115394,),
        256,
        1,
        1,
        "public domain",
        "first 90 % to train, the rest to test",
        SHAKESPEARE,
    ),
}


def load_named(name: str, split: str) -> Dataset:
    """The set `name` of the table."""
    if split not in SPLITS:
        raise ChainruleError(f"there is no split '{split}' of {name}: take {', '.join(SPLITS)}")
    return replace(NAMED[name].read(split), source=name if split == "train" else f"{name}:{split}")


def describe() -> list[dict[str, Any]]:
    """One row a named set, without loading any."""
    return [row(name, entry) for name, entry in NAMED.items()]


def row(name: str, entry: Named) -> dict[str, Any]:
    """What `chainrule data` prints of one set."""
    home = entry.home
    available = home is None or home.local() is not None or home.cached().exists()
    return {
        "name": name,
        "kind": entry.kind,
        "event": entry.event,
        "levels": entry.levels,
        "train": entry.train,
        "test": entry.test,
        "licence": entry.licence,
        "home": home.url if home else "scikit-learn",
        "available": available,
        "about": entry.about,
    }


def part(x, y, classes: tuple[str, ...], test: np.ndarray, split: str, levels: int = 256) -> Dataset:
    """The rows of `x` that belong to `split`, when those for testing are marked."""
    every = labelled(x, y, classes, levels)
    return every if split == "all" else every.select(test if split == "test" else ~test)


def labelled(x: np.ndarray, y: np.ndarray | None, classes: tuple[str, ...], levels: int = 256) -> Dataset:
    """Images with class indices as context."""
    context = None if y is None else np.asarray(y).astype(np.int64)
    return Dataset(x, levels, "image", Numbers(len(x)), context, classes)


def tiled(photo: np.ndarray, side: int) -> np.ndarray:
    """Tiles (n, side, side, C) of a photograph (H, W, C), without overlap; rims are dropped."""
    rows, columns = photo.shape[0] // side, photo.shape[1] // side
    cut = photo[: rows * side, : columns * side].reshape(rows, side, columns, side, -1)
    return cut.swapaxes(1, 2).reshape(-1, side, side, photo.shape[2])


def expect(name: str, x: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse a file that only has the right name."""
    if x.shape != shape or x.dtype != np.uint8:
        raise ChainruleError(
            f"{name} holds {x.shape} {x.dtype}, not {shape} uint8: it is another file of that name"
        )
