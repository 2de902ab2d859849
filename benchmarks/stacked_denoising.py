"""Denoising autoencoders on MNIST: linear probes of one layer, and stacks that are fine-tuned on all labels.

    python benchmarks/stacked_denoising.py [--json] [--parts probe tune] [--minutes 15] [--threads 2]

`probe`: classifiers on 1,000 labels, five draws, all 10,000 test images (`chainrule probe` explains them): on raw
pixels, PCA, and one layer of 1,000 units learned without corruption and with 25 and 50 % of the pixels masked. `tune`:
layers learned one by one within a third of the minutes, then fine-tuned on all 60,000 labels in the rest, with dropout
and masked pixels (published: 1.28 %, SDAE-3 of Vincent et al. 2010); the same stack with weights as they were drawn,
fine-tuned for all the minutes, stands beside it. The test error at the end is told; nothing was chosen by it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from table import Row, show

from chainrule.codes.autoencoder import Autoencoder
from chainrule.codes.pca import PCA
from chainrule.codes.stacked_autoencoder import Convolution, StackedAutoencoder
from chainrule.data import Dataset, load
from chainrule.layers.corruption import Masking
from chainrule.layers.units import Bernoulli
from chainrule.model import Code
from chainrule.train import Plan
from chainrule.verbs.probe import probe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--parts", nargs="+", default=["probe", "tune"], choices=["probe", "tune"])
    parser.add_argument("--stacks", nargs="+", default=["dense", "convolutional"])
    parser.add_argument("--epochs", type=int, default=15, help="of the codes that are probed")
    parser.add_argument("--minutes", type=float, default=15, help="for a stack, both phases together")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    learn, test = (load("mnist", split=split) for split in ("train", "test"))
    if "probe" in options.parts:
        yield from probes(learn, test, options.epochs)
    if "tune" in options.parts:
        images = [np.asarray(data.x, np.float32) / 255 for data in (learn, test)]
        labels = [np.asarray(data.context) for data in (learn, test)]
        for name in options.stacks:
            for greedy in (True, False):
                yield {**tuned(name, greedy, *images, *labels, options.minutes), "threads": options.threads}


def probes(learn: Dataset, test: Dataset, epochs: int) -> Iterator[Row]:
    """A row for each code: what 1,000 labels are worth on top of it."""
    units = {"units": "sigmoid", "tied": True, "output": Bernoulli(), "epochs": epochs}
    codes: dict[str, Code] = {"PCA": PCA(100)}
    for share in (0.0, 0.25, 0.5):
        name = f"denoising, {share:.0%} masked" if share else "autoencoder"
        codes[name] = Autoencoder((1000,), corruption=Masking(share) if share else None, **units)
    for name, code in codes.items():
        began = time.perf_counter()
        code.fit(np.asarray(learn.x, np.float32))
        seconds = time.perf_counter() - began
        for row in probe(code, learn, test, [1000]):
            if row.features == "code" or name == "PCA":
                what = name if row.features == "code" else "raw pixels"
                found = {"code": what, "numbers": row.width, "probe": row.probe, "labels": row.labels}
                error = {"error_%": 100 * (1 - row.accuracy), "margin": 100 * (row.margin or 0.0)}
                yield {**found, **error, **({"fit_s": seconds} if what == name else {})}


def stacks() -> dict[str, StackedAutoencoder]:
    """What is stacked."""
    noise = {"corruption": Masking(0.25), "output": Bernoulli()}
    return {
        "dense": StackedAutoencoder((1000, 1000, 1000), **noise),
        "convolutional": StackedAutoencoder((32, 64), convolution=Convolution(5, 2), **noise),
    }


def tuned(name: str, greedy: bool, learn, test, labels, truth, minutes: float) -> Row:
    """The test error of a stack, fine-tuned on all labels."""
    stack = stacks()[name]
    learner = stack.learner(learn, Plan(minutes=minutes / 3) if greedy else Plan(steps=0))
    for _ in learner:
        pass
    stack.learned(learner)
    classifier = stack.to_classifier(10, dropout=0.3, corruption=Masking(0.2), weight_decay=0.01)
    tuning = classifier.learner(learn, labels, Plan(minutes=minutes * (2 / 3 if greedy else 1)))
    for _ in tuning:
        pass
    found = classifier.learned(tuning).predict(test)
    return {
        "stack": name,
        "layers": "-".join(map(str, stack.layers)),
        "pretrained": "layer by layer" if greedy else "no",
        "test_error_%": 100 * float((found != truth).mean()),
        "pretraining_s": learner.seconds,
        "fine_tuning_s": tuning.seconds,
        "epochs": tuning.step * classifier.batch / len(learn),
    }


if __name__ == "__main__":
    main()
