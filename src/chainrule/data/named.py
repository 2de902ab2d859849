"""The named sets: a literal table, and one short reader for each."""

from __future__ import annotations

import csv
import itertools
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.data.arrays import from_array, read_members, read_npz
from chainrule.data.batches import draw
from chainrule.data.dataset import Dataset, Numbers, gather
from chainrule.data.files import load_path, read_text, read_xz
from chainrule.data.homes import (
    BSDS,
    CALTECH,
    CIFAR10,
    FSDD,
    MNIST,
    MULTI30K,
    OLIVETTI,
    PIANO,
    SHAKESPEARE,
    SST2,
    STACKS,
    Home,
)
from chainrule.data.images import read_image_from
from chainrule.data.parallel import Lines, aligned, dataset_of, read_lines
from chainrule.data.reading import file_size, reading
from chainrule.data.sound import Sound
from chainrule.errors import ChainruleError

SPLITS = ("train", "test", "all")
VALIDATION = "validation"  # a split of those sets whose authors made one
BINARISED_TEST_SEED = 28  # the test images of binarized-mnist are binarised by the random numbers of (28, 0)
DIGITS = tuple("0123456789")
STACKS_BYTES, STACKS_TEST = 27_680_851, 1_000_000  # of the text, and of its end, which is for testing
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SST2_FILES = {"train": 6920, "dev": 872, "test": 1821}  # sentences of each
MULTI30K_FILES = {"train": ("train", 29_000), VALIDATION: ("val", 1014), "test": ("test_2016_flickr", 1000)}


def digits(split: str) -> Dataset:
    """Every sixth digit, from the first on, is for testing."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = x.astype(np.uint8).reshape(-1, 8, 8, 1)
    return part(labelled(images, y, DIGITS, levels=17), np.arange(len(x)) % 6 == 0, split)


def patches(split: str) -> Dataset:
    """16 x 16 tiles of both photographs, row by row; every sixth is for testing."""
    from sklearn.datasets import load_sample_images

    with reading("scikit-learn's photographs"):
        tiles = np.concatenate([tiled(photo, 16) for photo in load_sample_images().images])
    return part(from_array(tiles), np.arange(len(tiles)) % 6 == 0, split)


def mnist(split: str) -> Dataset:
    """60,000 training and 10,000 test images, in their original order."""
    path, count = MNIST.find(), {"train": 60000, "test": 10000, "all": 70000}[split]
    arrays = read_npz(path, path.name, split)
    x, y = expect(path, arrays, "x", (count, 28, 28)), expect(path, arrays, "y", (count,))
    return labelled(x, y, DIGITS)


def binarized_mnist(split: str) -> Dataset:
    """Training images are binarised afresh at every draw, the test images once, with a fixed seed."""
    gray = replace(mnist(split), levels=2, binarise=True)
    if split != "test":
        return gray
    fixed = draw(gray, np.arange(len(gray)), seed=BINARISED_TEST_SEED, step=0)
    return replace(gray, x=fixed, binarise=False)


def cifar10_first4000(split: str) -> Dataset:
    """Rows 0-3499 are for training, 3500-3999 for testing."""
    path = CIFAR10.find()
    arrays = read_npz(path, path.name, split) if path.suffix == ".npz" else cifar10_rows(path, 4000)
    x, y = expect(path, arrays, "x", (4000, 32, 32, 3)), expect(path, arrays, "y", (4000,))
    return part(labelled(x, y, CIFAR10_CLASSES), np.arange(4000) >= 3500, split)


def cifar10_rows(path: Path, count: int) -> dict[str, np.ndarray]:
    """The first images x (count, 32, 32, 3) of batch 1: a row is a label y, then 1024 each of R, G and B."""
    with reading(path.name), tarfile.open(path, "r:gz") as archive:
        member = archive.extractfile("cifar-10-batches-bin/data_batch_1.bin")
        rows = np.frombuffer(member.read(count * 3073) if member else b"", np.uint8).reshape(count, 3073)
    return {"x": rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), "y": rows[:, 0]}


def olivetti(split: str) -> Dataset:
    """40 people, ten pictures each; people 35 to 39 are for testing. The darkest pixel of the set is 0."""
    path = OLIVETTI.find()
    arrays = read_npz(path, path.name, split) if path.suffix == ".npz" else olivetti_faces(path)
    people = np.arange(400) // 10
    faces = labelled(expect(path, arrays, "x", (400, 64, 64)), people, tuple(str(p) for p in range(40)))
    return part(faces, people >= 35, split)


def olivetti_faces(path: Path) -> dict[str, np.ndarray]:
    """x (400, 64, 64) from a MATLAB file whose columns are pictures, column by column."""
    from scipy.io import loadmat

    with reading(path.name):
        faces = loadmat(path)["faces"]
        x = (faces - faces.min()).T.reshape(400, 64, 64).transpose(0, 2, 1)
    return {"x": x.astype(np.uint8)}


def bsds(split: str) -> Dataset:
    """100 photographs of the Berkeley segmentation data set, upright and lying; every tenth is for testing."""
    photos = load_path(BSDS.find(), channels=3)
    if len(photos) != 100 or photos.kind != "image":
        raise ChainruleError(f"{BSDS.file} holds {len(photos)} {photos.kind} files, not 100 photographs")
    return part(photos, np.arange(100) % 10 == 0, split)


def caltech101(split: str) -> Dataset:
    """30 gray images of each of 101 kinds of things, of several sizes; of each the last 15 are for testing."""
    path = CALTECH.find()
    arrays = read_members(path, path.name, ("png", "offsets", "y", "classes"))
    y, ends = arrays["y"], arrays["offsets"]
    names = tuple(str(name) for name in arrays["classes"])
    count = 30 * len(names)
    if len(names) != 101 or not np.array_equal(y, np.arange(count) // 30) or ends.shape != (count + 1,):
        raise ChainruleError(
            f"{path.name} does not hold 30 images of each of 101 classes: it is another file"
        )
    data = arrays["png"].tobytes()
    images = [read_image_from(data[ends[i] : ends[i + 1]], f"image {i} of {path.name}") for i in range(count)]
    whole = Dataset(gather(images), 256, "image", Numbers(count), y.astype(np.int64), names)
    return part(whole, np.arange(count) % 30 >= 15, split)


def shakespeare(split: str) -> Dataset:
    """One text: the first 90 % is for training, the rest for testing, cut as nanoGPT does."""
    path = SHAKESPEARE.find()
    text = expect(path, {"text": read_text(path, path.name)[0]}, "text", (1115394,))
    cut = int(len(text) * 0.9)
    stretch = {"train": text[:cut], "test": text[cut:], "all": text}[split]
    return Dataset(stretch[None], 256, "text", Numbers(1))


def stacks(split: str) -> Dataset:
    """One text, the LaTeX sources of the Stacks Project: all but the last 1,000,000 bytes are for training."""
    path = STACKS.find()
    text = read_xz(path, path.name, STACKS_BYTES)
    stretch = {"train": text[:-STACKS_TEST], "test": text[-STACKS_TEST:], "all": text}[split]
    return Dataset(stretch[None], 256, "text", Numbers(1))


def sst2(split: str) -> Dataset:
    """Sentences of film reviews, as their authors divided them; "all" are those of training, validation and test."""
    files = {VALIDATION: ["dev"], "all": list(SST2_FILES)}.get(split, [split])
    rows = [row for file in files for row in labelled_lines(SST2.find() / f"{file}.csv", SST2_FILES[file])]
    texts = [np.frombuffer(text.encode(), np.uint8).copy() for _, text in rows]
    y = np.array([label for label, _ in rows])
    return Dataset(gather(texts), 256, "text", Numbers(len(texts)), y, ("negative", "positive"))


def labelled_lines(path: Path, count: int) -> list[tuple[int, str]]:
    """(0 or 1, text) of each of `count` rows of a table with the columns "label" and "sentence"."""
    name = f"{path.parent.name}/{path.name}"
    file_size(path, name)
    with reading(name), path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
        found = [(int(label), text) for label, text in rows]
    if (
        head != ["label", "sentence"]
        or len(rows) != count
        or not all(y in (0, 1) and text for y, text in found)
    ):
        raise ChainruleError(f"{name} does not hold {count:,} sentences of two classes: it is another file")
    return found


def multi30k(split: str) -> Dataset:
    """German captions of photographs, each conditioned on the English one; white space around them is left out."""
    parts = [MULTI30K_FILES[part] for part in (MULTI30K_FILES if split == "all" else [split])]
    pairs = [
        pair
        for name, count in parts
        for pair in aligned(captions(f"{name}.de.gz", count), captions(f"{name}.en.gz", count))
    ]
    return replace(dataset_of(pairs, ("German", "English"), "multi30k"), names=Numbers(len(pairs)))


def captions(file: str, count: int) -> Lines:
    """`count` lines of a file of multi30k, none of them empty."""
    found = read_lines(MULTI30K.find() / file, f"{MULTI30K.file}/{file}")
    lines = [line.strip() for line in found.lines]
    if len(lines) != count or not all(lines):
        raise ChainruleError(
            f"{found.name} holds {sum(map(bool, lines)):,} captions, not {count:,}: it is another file"
        )
    return Lines(found.name, lines)


def fsdd(split: str) -> Dataset:
    """Spoken digits, 16 bits at 8 kHz, each of one of 60 classes: which digit, and who speaks; takes 0 to 4 to test."""
    path = FSDD.find()
    arrays = read_members(path, path.name, ("audio", "offsets", "digit", "speaker", "take", "rate"))
    digit, speaker, take = (arrays[key] for key in ("digit", "speaker", "take"))
    voices = sorted({str(name) for name in speaker})
    if len(voices) != 6 or take.shape != digit.shape or take.shape != speaker.shape or (digit > 9).any():
        raise ChainruleError(f"{path.name} does not hold digits of 6 speakers: it is another file")
    clips = recordings(arrays, path.name, 3000)
    y = np.array([int(d) * 6 + voices.index(str(s)) for d, s in zip(digit, speaker, strict=True)])
    names = [f"{d}_{s}_{t}.wav" for d, s, t in zip(digit, speaker, take, strict=True)]
    classes = tuple(f"{d} {voice}" for d in range(10) for voice in voices)
    whole = Dataset(clips, 256, "sound", names, y, classes, sound=Sound(int(arrays["rate"]), "16 bit"))
    return part(whole, take < 5, split)


def piano(split: str) -> Dataset:
    """Clips of classical music, 30 seconds each, 16 bits at 12 kHz, rendered from recorded performances."""
    path = PIANO.find()
    arrays = read_members(path, path.name, ("audio", "offsets", "is_test", "source", "rate"))
    clips, test = recordings(arrays, path.name, 19), arrays["is_test"]
    if test.shape != (19,) or test.dtype != bool:
        raise ChainruleError(f"{path.name} does not say which clips are for testing: it is another file")
    names = [f"{i:02d} {Path(str(source)).stem}.wav" for i, source in enumerate(arrays["source"])]
    whole = Dataset(gather(clips), 256, "sound", names, sound=Sound(int(arrays["rate"]), "16 bit"))
    return part(whole, test, split)


def recordings(arrays: dict[str, np.ndarray], name: str, count: int) -> list[np.ndarray]:
    """The clips (T, 2) of an archive that holds them one after another as int16."""
    audio, ends = arrays["audio"], arrays["offsets"]
    fits = audio.dtype == np.int16 and ends.shape == (count + 1,) and arrays["rate"].shape == ()
    if not fits or int(ends[0]) or int(ends[-1]) != len(audio) or (np.diff(ends) <= 0).any():
        raise ChainruleError(f"{name} does not hold {count:,} recordings of 16 bits: it is another file")
    symbols = Sound(int(arrays["rate"]), "16 bit").symbols(audio)
    return [symbols[a:b] for a, b in itertools.pairwise(ends)]


@dataclass(frozen=True)
class Named:
    """One row of the table: what there is to know about a set before it is loaded."""

    read: Callable[[str], Dataset]
    kind: str
    event: tuple[int, ...] | None  # None: they differ
    levels: int
    train: int
    test: int
    licence: str
    about: str
    home: Home | None = None  # None: it comes with scikit-learn
    validation: int = 0  # events of a split of that name, when there is one


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
    "bsds": Named(
        bsds,
        "image",
        None,
        256,
        90,
        10,
        "research only",
        "photographs (JPEG originals), every 10th for testing",
        BSDS,
    ),
    "caltech101": Named(
        caltech101,
        "image",
        None,
        256,
        1515,
        1515,
        "CC BY 4.0",
        "30 gray images of each of 101 classes, the longer side 96; 15 and 15",
        CALTECH,
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
    "stacks": Named(
        stacks,
        "text",
        (STACKS_BYTES,),
        256,
        1,
        1,
        "GNU FDL 1.2",
        "LaTeX of the Stacks Project (algebraic geometry), the last 1,000,000 bytes to test",
        STACKS,
    ),
    "sst2": Named(
        sst2,
        "text",
        None,
        256,
        6920,
        1821,
        "research only",
        "sentences of film reviews, negative or positive; sst2:validation has 872 more",
        SST2,
        872,
    ),
    "multi30k": Named(
        multi30k,
        "text",
        None,
        256,
        29_000,
        1000,
        "not stated",
        "captions in German, each with its English source; multi30k:validation has 1,014 more",
        MULTI30K,
        1014,
    ),
    "fsdd": Named(
        fsdd,
        "sound",
        None,
        256,
        2700,
        300,
        "CC BY-SA 4.0",
        "spoken digits of 6 speakers, 16 bits at 8 kHz, takes 0-4 for testing",
        FSDD,
    ),
    "piano": Named(
        piano,
        "sound",
        (360_000, 2),
        256,
        16,
        3,
        "CC BY-NC-SA 4.0",
        "classical piano music, rendered, 30 seconds a clip, 16 bits at 12 kHz",
        PIANO,
    ),
}


def load_named(name: str, split: str) -> Dataset:
    """The set `name` of the table."""
    splits = (*SPLITS, VALIDATION) if NAMED[name].validation else SPLITS
    if split not in splits:
        raise ChainruleError(f"there is no split '{split}' of {name}: take {', '.join(splits)}")
    return replace(NAMED[name].read(split), source=name if split == "train" else f"{name}:{split}")


def describe() -> list[dict[str, Any]]:
    """One row a named set, without loading any."""
    return [row(name, entry) for name, entry in NAMED.items()]


def row(name: str, entry: Named) -> dict[str, Any]:
    """What `chainrule data` prints of one set."""
    home = entry.home
    available = home is None or home.local() is not None or bool(home.url and os.path.lexists(home.cached()))
    return {
        "name": name,
        "kind": entry.kind,
        "event": entry.event,
        "levels": entry.levels,
        "train": entry.train,
        "test": entry.test,
        "licence": entry.licence,
        "home": "scikit-learn" if home is None else home.url or "CHAINRULE_DATA",
        "available": available,
        "about": entry.about,
    }


def part(dataset: Dataset, test: np.ndarray, split: str) -> Dataset:
    """What belongs to `split`, when the events for testing are marked."""
    return dataset if split == "all" else dataset.select(test if split == "test" else ~test)


def labelled(x: np.ndarray, y: np.ndarray, classes: tuple[str, ...], levels: int = 256) -> Dataset:
    """Images with labels `y` as indices of `classes`."""
    dataset = from_array(x, levels, y)
    if len(dataset.classes) > len(classes):
        raise ChainruleError(f"labels reach {len(dataset.classes) - 1}, and there are {len(classes)} classes")
    return replace(dataset, classes=classes)


def tiled(photo: np.ndarray, side: int) -> np.ndarray:
    """Tiles (n, side, side, C) of a photograph (H, W, C), without overlap; rims are dropped."""
    rows, columns = photo.shape[0] // side, photo.shape[1] // side
    cut = photo[: rows * side, : columns * side].reshape(rows, side, columns, side, -1)
    return cut.swapaxes(1, 2).reshape(-1, side, side, photo.shape[2])


def expect(path: Path, arrays: dict[str, np.ndarray], key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array `key`; a file that only has the right name is refused."""
    x = arrays.get(key, np.empty(0))
    if x.shape != shape or x.dtype != np.uint8:
        raise ChainruleError(
            f"{path.name} holds {key} {x.shape} {x.dtype}, not {shape} uint8: it is another file"
        )
    return x
