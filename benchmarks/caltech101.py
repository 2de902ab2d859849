"""Self-taught classification of Caltech-101: codes learned from photographs, 15 labelled images a class.

    python benchmarks/caltech101.py [--json]

The unlabelled data are random crops of the BSDS photographs, which belong to no class; dictionaries and patch-wise
PCA are learned from these alone, so features are computed once for all splits. PCA of whole images is learned from
the training images of each split. Every image is stretched to a square (gray, `--side` pixels): the cells of the
pyramid are then the same parts of each. No mirrored copies.

Protocol: of the 30 images a class in the file, 15 are drawn to train and the other 15 to test; five random splits.
`accuracy` and `deviation` are their mean and standard deviation in per cent. The linear classifier is ridge
regression, one class against the rest, on features divided by their norm; its α, and whether the root of every
feature is taken first, are chosen by leave-one-out on the training images. The settings of the codes were found on
three other random splits of the same images. `learn_s` and `code_s` are seconds to learn and to compute the features
of all images, `classify_s` seconds of all splits together; `clock_s` and `cpu_s` are seconds since the start, by the
clock and of processor time: the machine had other work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from table import Row, show
from threadpoolctl import threadpool_limits

from chainrule.codes.contrast import ContrastNormalization
from chainrule.codes.pca import PCA
from chainrule.codes.pooled import Cells, PooledCode
from chainrule.codes.sparse_coding import Online, SparseCoding
from chainrule.codes.whitening import Whitening
from chainrule.data import load
from chainrule.data.patches import in_gray, random_patches
from chainrule.model import Code

ALPHAS = np.logspace(-3, 3, 13)
EACH = 15  # images a class to train, and as many to test
THREADS = 2  # splits that are classified at a time
SHARE = 0.1  # of the mean variance, added to that of a patch before it is divided by its contrast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--crops", type=int, default=1_500, help="of photographs to learn from")
    parser.add_argument("--side", type=int, default=96, help="pixels of an image")
    parser.add_argument("--atoms", type=int, nargs=2, default=(100, 1024), help="of the two layers")
    parser.add_argument("--splits", type=int, default=5)
    options = parser.parse_args()
    with threadpool_limits(
        1, user_api="blas"
    ):  # threads of BLAS that wait for a busy core waste the other one
        show(timed(measured(options)), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    data = load("caltech101:all")
    images = np.stack([square(image, options.side) for image in data.x])
    labels = np.asarray(data.context)
    photos = random_patches(in_gray(load("bsds:all")).x, options.side, options.crops).astype(np.float32)
    splits = [split(labels, seed) for seed in range(options.splits)]

    flat = ContrastNormalization(share=0).fit_transform(images.reshape(len(images), -1))
    yield {"features": "pixels", **accuracy(flat, labels, splits)}
    yield {"features": "PCA of images", **accuracy(flat, labels, splits, PCA(100))}
    for name, code in codes(*options.atoms).items():
        began = time.perf_counter()
        code.fit(photos)
        learned = time.perf_counter()
        features = code.transform(images)
        seconds = {"learn_s": learned - began, "code_s": time.perf_counter() - learned}
        yield {"features": name, **accuracy(features, labels, splits), **seconds}


def timed(rows: Iterator[Row]) -> Iterator[Row]:
    """Rows with the seconds since the start, by the clock and of both cores together."""
    began, used = time.perf_counter(), time.process_time()
    for row in rows:
        yield row | {"clock_s": time.perf_counter() - began, "cpu_s": time.process_time() - used}


def codes(first: int, second: int) -> dict[str, Code]:
    """What is measured: patches of 6 × 6 pixels, and patches of 4 × 4 cells of the pooled codes of those."""
    sparse = SparseCoding(first, penalty=0.9, before=Whitening(0.05))
    sparser = SparseCoding(second, penalty=4.0, before=PCA(200), training=Online(epochs=5))
    return {
        "PCA of patches": PooledCode(code=PCA(36), prepare=ContrastNormalization(SHARE)),
        "sparse codes of patches": PooledCode(code=sparse, prepare=ContrastNormalization(SHARE)),
        "PCA, two layers": two_layers(PCA(36), PCA(200)),
        "sparse codes, two layers": two_layers(sparse, sparser),
    }


def two_layers(first: Code, second: Code) -> PooledCode:
    """Codes of patches of codes."""
    below = PooledCode(code=first, prepare=ContrastNormalization(SHARE), pooling=Cells(4))
    return PooledCode(side=4, code=second, prepare=ContrastNormalization(SHARE), before=below, samples=30_000)


def square(image: np.ndarray, side: int) -> np.ndarray:
    """A gray image (H, W, 1) stretched to (side, side, 1) float32."""
    resized = Image.fromarray(image[:, :, 0]).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float32)[:, :, None]


def split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of EACH images a class to train, and of EACH others to test."""
    rng = np.random.default_rng(seed)
    mixed = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return tuple(np.concatenate([m[i : i + EACH] for m in mixed]) for i in (0, EACH))


def accuracy(features: np.ndarray, labels: np.ndarray, splits: list, code: Code | None = None) -> Row:
    """Mean and deviation over the splits; `code` is learned from the training features of each."""
    began = time.perf_counter()

    def one(places: tuple[np.ndarray, np.ndarray]) -> float:
        fitted = None if code is None else clone(code).fit(features[places[0]])
        train, test = (features[at] if fitted is None else fitted.transform(features[at]) for at in places)
        return classified(train, test, *(labels[at] for at in places))

    with ThreadPoolExecutor(THREADS) as pool:
        found = [100 * share for share in pool.map(one, splits)]
    return {
        "numbers": features.shape[1] if code is None else code.n_components,
        "accuracy": float(np.mean(found)),
        "deviation": float(np.std(found, ddof=1)) if len(found) > 1 else 0.0,
        "classify_s": time.perf_counter() - began,
    }


def classified(train: np.ndarray, test: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> float:
    """The share of test features whose class is found."""
    candidates = []
    for power in (lambda x: x, root):
        model = make_pipeline(Normalizer(), RidgeClassifierCV(ALPHAS, scoring="accuracy"))
        candidates.append((model.fit(power(train), labels)[-1].best_score_, model, power))
    _, model, power = max(candidates, key=lambda candidate: candidate[0])
    return model.score(power(test), truth)


def root(x: np.ndarray) -> np.ndarray:
    """The square root, with the sign of the number."""
    return np.sign(x) * np.sqrt(np.abs(x))


if __name__ == "__main__":
    main()
