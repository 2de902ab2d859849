"""Deep autoencoders beside PCA of as many numbers: with and without pretraining, the error against the clock.

    python benchmarks/deep_autoencoder.py [--json] [--sides mnist faces] [--minutes 20] [--threads 2]

MNIST: 784-1000-500-250-30, pixels 0..1, all 60,000 images to learn from and 10,000 to test (published: 3.00 against
13.87 of PCA-30, Hinton & Salakhutdinov 2006). Faces: 625-2000-1000-500-30 on patches of 25 × 25 pixels of the Olivetti
faces, 20,700 to test, of people that nothing was learned from; mean 0 and variance 1 over 124,200 training patches
(published: 126 against 135). PCA is learned from those; the networks from twice as many, of mirrored faces and of
blends of two, and `pca of blends` from the same. `error` is the mean of Σ(x̂ − x)² of a test event, `share_of_pca` that
beside PCA's; `at_3_minutes`, ... is the same on the way, while the rate is still high, and `training_error` that of the
first 10,000 events learned from. Seconds are of training alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch
from table import Row, show

from chainrule.codes.deep_autoencoder import DeepAutoencoder, Machines
from chainrule.codes.pca import PCA
from chainrule.data import load
from chainrule.layers.units import Gaussian
from chainrule.lecture.faces import face_patches
from chainrule.model import Code
from chainrule.train import Plan

CODE = 30  # numbers of a code
LOOKS = (0.15, 0.4)  # shares of the budget after which the error is looked at on the way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--codes", nargs="+", default=["pca", "direct", "pretrained"])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    for name in options.sides:
        learn, test, pca, codes = SIDES[name]()
        least = error(pca, test)
        if "pca" in options.codes:
            yield {"data": name, "code": "pca", "error": least, "share_of_pca": 1.0}
            if name == "faces":
                yield {"data": name, "code": "pca of blends", "error": error(PCA(CODE).fit(learn), test)}
        for kind in [kind for kind in codes if kind in options.codes]:
            found = trained(codes[kind], learn, test, options.minutes)
            more = {"share_of_pca": found["error"] / least, "threads": options.threads}
            yield {"data": name, "code": kind, **found, **more}


Side = tuple[np.ndarray, np.ndarray, Code, dict[str, DeepAutoencoder]]  # to learn, to test, PCA, networks


def mnist() -> Side:
    """Images (n, 784) of 0..1."""
    images = (np.asarray(load("mnist", split=split).x, np.float32) for split in ("train", "test"))
    learn, test = (x.reshape(-1, 784) / 255 for x in images)
    widths = 1000, 500, 250, CODE
    direct = DeepAutoencoder(widths)
    pretrained = DeepAutoencoder(widths, "tanh", Machines(0.2), weight_decay=0.1)
    return learn, test, PCA(CODE).fit(learn), {"direct": direct, "pretrained": pretrained}


def faces() -> Side:
    """Patches (n, 625) of mean 0 and variance 1."""
    found = [
        face_patches(124_200, 0),
        face_patches(248_400, 0, blended=True),
        face_patches(20_700, 0, "test"),
    ]
    rows = [x.reshape(len(x), -1) for x in found]
    shift, scale = Gaussian().scaling(rows[0])
    plain, learn, test = (((x - shift) / scale).astype(np.float32) for x in rows)
    widths = 2000, 1000, 500, CODE
    direct = DeepAutoencoder(widths, output=Gaussian(), weight_decay=3.0)
    pretrained = DeepAutoencoder(widths, "tanh", Machines(0.2), Gaussian(), weight_decay=3.0)
    return learn, test, PCA(CODE).fit(plain), {"direct": direct, "pretrained": pretrained}


SIDES: dict[str, Callable] = {"mnist": mnist, "faces": faces}


def trained(code: DeepAutoencoder, learn: np.ndarray, test: np.ndarray, minutes: float) -> Row:
    """The errors of a code that learns for so many minutes."""
    learner = code.learner(learn, Plan(minutes=minutes))
    looks, found = list(LOOKS), {}
    for _ in learner:
        spent = learner.plan.done(learner.step, learner.seconds)
        if looks and spent >= looks[0] and learner.stage == len(learner.stages):
            found[f"at_{looks.pop(0) * minutes:g}_minutes"] = error(code.learned(learner), test)
    code.learned(learner)
    return {
        "error": error(code, test),
        "training_error": error(code, learn[:10_000]),
        **found,
        "steps": learner.step,
        "seconds": learner.seconds,
    }


def error(code: Code, rows: np.ndarray) -> float:
    """The mean of Σ(x̂ − x)² of an event."""
    return float(np.square(code.inverse_transform(code.transform(rows)) - rows).sum(1).mean())


if __name__ == "__main__":
    main()
